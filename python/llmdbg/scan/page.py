"""The page of a scan: health bars of every tensor and the growth of values, in one file."""

from __future__ import annotations

import html
import importlib.resources
from string import Template
from typing import TYPE_CHECKING, Any

from llmdbg.report.html.page import embedded, plotly_script, write_page
from llmdbg.scan.growth import family
from llmdbg.scan.terminal import next_command

if TYPE_CHECKING:
    from pathlib import Path

    from llmdbg.scan.model import Scan

_MARK = {"clean": "✓ clean", "anomalous": "✗ anomalous", "suspect": "? suspect"}
_COLUMNS = (
    "step", "rank", "node", "role", "slot", "dtype", "shape", "numbers", "nan", "pos_inf",
    "neg_inf", "zero", "subnormal", "near_max", "saturated", "abs_max", "rms", "headroom_bits",
    "range_bits", "dead_rows", "dead_channels", "repeated_rows", "level", "findings", "reason",
)  # fmt: skip
_SERIES = 40


def render(scan: Scan) -> str:
    """Return the scan as one HTML page that opens offline.

    Parameters
    ----------
    scan : Scan
        What to show.

    Returns
    -------
    str
        HTML with script, style and data inside; a content security policy forbids it any network.

    Raises
    ------
    UserError
        plotly, whose script draws the charts, is not installed.
    """
    return _page(scan, plotly_script())


def write_html(scan: Scan, path: Path) -> None:
    """Write `render` of the scan to `path`."""
    write_page(lambda plotly: _page(scan, plotly), path)


def _page(scan: Scan, plotly: str) -> str:
    assets = importlib.resources.files("llmdbg.scan") / "assets"
    shared = importlib.resources.files("llmdbg.report.html") / "assets"
    template = Template((assets / "scan.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"llmdbg scan: {scan.outcome}"),
        outcome=html.escape("diverged" if scan.outcome == "anomalous" else scan.outcome),
        mark=html.escape(_MARK[scan.outcome]),
        sentence=html.escape(scan.sentence),
        style=(shared / "page.css").read_text(encoding="utf-8")
        + (assets / "scan.css").read_text(encoding="utf-8"),
        data=embedded(payload(scan)),
        plotly=plotly,
        script=(assets / "scan.js").read_text(encoding="utf-8"),
    )


def payload(scan: Scan) -> dict[str, Any]:
    """Return everything the page shows, as plain data."""
    frame = scan.frame
    columns = {name: [_plain(v) for v in frame[name]] for name in _COLUMNS}
    return {
        "outcome": scan.outcome,
        "counts": scan.counts,
        "dumps": list(scan.paths),
        "layout": scan.layout,
        "problems": list(scan.problems),
        "notes": [*map(str, scan.gates), *scan.notes],
        "next": next_command(scan),
        "findings": [finding.as_dict() | {"details": {}} for finding in scan.findings],
        "columns": columns,
        "growth": _growth(scan),
    }


def _growth(scan: Scan) -> list[dict[str, Any]]:
    """Return |x| max of the results of one operator of every layer, along execution order."""
    found: dict[str, list[int]] = {}
    roles, nodes = scan.frame["role"].to_list(), scan.frame["node"].to_list()
    values = scan.frame["abs_max"].to_list()
    for i, (role, node) in enumerate(zip(roles, nodes, strict=True)):
        if role == "output" and values[i]:
            found.setdefault(family(node), []).append(i)
    chosen = sorted(found.items(), key=lambda item: (-len(item[1]), item[1][0]))[:_SERIES]
    return [{"name": name, "rows": rows} for name, rows in sorted(chosen, key=lambda c: c[1][0])]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        return float(f"{value:.4g}")
    return value
