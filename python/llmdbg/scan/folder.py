"""The report folder of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdbg.report import folder as folders
from llmdbg.report import tables
from llmdbg.report.summary import to_json
from llmdbg.scan.summary import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmdbg.scan.model import Scan

FILES = {
    "csv": "scan.csv",
    "parquet": "scan.parquet",
    "html": "report.html",
    "xlsx": "scan.xlsx",
    "jsonl": "scan.jsonl",
    "markdown": "report.md",
    "junit": "junit.xml",
    "calibration": "calibration.json",
    "summary": "summary.json",
}


def write(
    scan: Scan,
    folder: Path,
    *,
    force: bool = False,
    formats: Sequence[str] | None = None,
) -> dict[str, str]:
    """Write every file of a scan's report: all of them or none.

    Parameters
    ----------
    scan : Scan
        What to write.
    folder : Path
        From `llmdbg.report.destination.destination`.
    force : bool
        Replace the files of an earlier report in `folder`.
    formats : sequence of str, optional
        What to write beside CSV, Parquet and summary: ``html``, ``xlsx``, ``jsonl``, ``markdown``,
        ``junit``. None is ``html`` where plotly is installed.

    Returns
    -------
    dict
        The absolute path of each file by kind, and of the folder as ``directory``.
    """
    from llmdbg.scan import exchange, page

    chosen = folders.default_formats() if formats is None else formats
    wanted = {"csv", "parquet", "summary", *chosen} | (
        {"calibration"} if scan.calibration else set()
    )
    files = {kind: name for kind, name in FILES.items() if kind in wanted}
    writers: dict[str, Callable[[Path], object]] = {
        "csv": lambda path: tables.write_csv(scan.frame, path),
        "parquet": lambda path: tables.write_parquet(scan.frame, path),
        "html": lambda path: page.write_html(scan, path),
        "xlsx": lambda path: tables.write_xlsx(scan.frame, path),
        "jsonl": lambda path: tables.write_jsonl(scan.frame, path),
        "markdown": lambda path: path.write_text(exchange.markdown(scan), encoding="utf-8"),
        "junit": lambda path: path.write_text(exchange.junit(scan), encoding="utf-8"),
        "calibration": lambda path: path.write_text(scan.calibration or "", encoding="utf-8"),
        # Names, not paths: a report may be moved.
        "summary": lambda path: path.write_text(to_json(summary(scan, files)), encoding="utf-8"),
    }

    def write_into(partial: Path) -> None:
        for kind, name in files.items():
            writers[kind](partial / name)

    return folders.publish(folder, files, write_into, FILES, force=force)
