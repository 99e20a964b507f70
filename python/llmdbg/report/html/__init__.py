"""One HTML file that opens from disk, offline: the answer, the charts, the table and the details."""

from llmdbg.report.html.page import render, write_html

__all__ = ["render", "write_html"]
