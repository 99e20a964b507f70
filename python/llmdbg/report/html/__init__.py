"""One HTML file that opens from disk, offline: the answer, charts, the table and details."""

from llmdbg.report.html.page import render, write_html

__all__ = ["render", "write_html"]
