"""The page: a template, a style sheet, a script and the data, in one file that needs no network."""

from __future__ import annotations

import html
import importlib.resources
import importlib.util
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from llmdbg.errors import UserError
from llmdbg.report.html.payload import payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmdbg.report.model import Report

_MARK = {"clean": "✓ clean", "diverged": "✗ diverged", "undecided": "? undecided"}
_INSTALL_HINT = "the HTML report needs plotly for its charts: pip install 'llmdbg-ascend[report]'"


def render(report: Report, *, details: int = 24) -> str:
    """Return the report as one HTML page.

    Parameters
    ----------
    report : Report
        What to show.
    details : int
        How many rows, worst first, carry histograms, profiles and a difference tile; for these the
        tensors are read again.

    Returns
    -------
    str
        HTML with script, style and data inside; a content security policy forbids it any network.

    Raises
    ------
    UserError
        plotly, whose script draws the charts, is not installed.
    """
    return _page(report, plotly_script(), details)


def write_html(report: Report, path: Path, *, details: int = 24) -> None:
    """Write `render` of the report to `path`."""
    write_page(lambda plotly: _page(report, plotly, details), path)


def write_page(page: Callable[[str], str], path: Path) -> None:
    """Write a page that holds the chart script.

    Parameters
    ----------
    page : callable
        Gives the page around a script.
    path : Path
        The file.

    Raises
    ------
    UserError
        plotly is not installed.
    """
    # Five megabytes of script go in as the bytes they are. No name can spell the mark: in names and
    # data `<` is an escape.
    before, after = page("<plotly>").split("<plotly>")
    path.write_bytes(b"".join([before.encode(), _plotly(), after.encode()]))


def _page(report: Report, plotly: str, details: int) -> str:
    assets = importlib.resources.files("llmdbg.report.html") / "assets"
    verdict = report.verdict
    template = Template((assets / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"llmdbg: {verdict.outcome}"),
        outcome=html.escape(verdict.outcome),
        mark=html.escape(_MARK[verdict.outcome]),
        sentence=html.escape(verdict.sentence),
        style=(assets / "page.css").read_text(encoding="utf-8"),
        data=embedded(payload(report, details=details)),
        plotly=plotly,
        script=(assets / "page.js").read_text(encoding="utf-8"),
    )


def embedded(data: dict[str, object]) -> str:
    """Return JSON that no name inside can break out of: `<` is spelled as an escape."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plotly_script() -> str:
    """Return the script that draws the charts, fit to stand inside a page.

    Raises
    ------
    UserError
        plotly is not installed.
    """
    return _plotly().decode()


def _plotly() -> bytes:
    # Found without importing it: only the script that the package carries is wanted.
    spec = importlib.util.find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(_INSTALL_HINT)
    script = Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    return script.read_bytes().replace(b"</script", b"<\\/script")
