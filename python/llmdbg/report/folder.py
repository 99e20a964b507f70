"""The report folder: complete or not there at all, and never over an earlier one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg.report import html, markdown, tables
from llmdbg.report.destination import COMPLETE
from llmdbg.report.summary import summary, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmdbg.report.model import Report

ALWAYS = ("csv", "parquet", "alignment")
FILES = {
    "csv": "compare.csv",
    "parquet": "compare.parquet",
    "alignment": "alignment.json",
    "calibration": "calibration.json",
    "html": "report.html",
    "xlsx": "compare.xlsx",
    "jsonl": "compare.jsonl",
    "markdown": "report.md",
    "junit": "junit.xml",
    # Written last.
    "summary": COMPLETE,
}
_WRITERS: dict[str, Callable[[Report, Path], object]] = {
    "csv": lambda report, path: tables.write_csv(report.frame, path),
    "parquet": lambda report, path: tables.write_parquet(report.frame, path),
    "alignment": lambda report, path: path.write_text(report.alignment, encoding="utf-8"),
    "calibration": lambda report, path: _write_calibration(report, path),
    "html": html.write_html,
    "xlsx": lambda report, path: tables.write_xlsx(report.frame, path),
    "jsonl": lambda report, path: tables.write_jsonl(report.frame, path),
    "markdown": lambda report, path: path.write_text(markdown.render(report), encoding="utf-8"),
    "junit": lambda report, path: _write_junit(report, path),
}


def _write_junit(report: Report, path: Path) -> None:
    # Few reports are JUnit, and its module takes longer to import than to run.
    from llmdbg.report import junit

    path.write_text(junit.render(report), encoding="utf-8")


def _write_calibration(report: Report, path: Path) -> None:
    if report.calibration is not None:
        report.calibration.write(path)


def default_formats() -> tuple[str, ...]:
    """Return what is written beside the tables: the page, where its charts can be drawn."""
    return ("html",) if find_spec("plotly") else ()


def write(
    report: Report,
    folder: Path,
    *,
    force: bool = False,
    formats: Iterable[str] | None = None,
) -> dict[str, str]:
    """Write every file of a report, as `publish` does.

    Parameters
    ----------
    report : Report
        What to write.
    folder : Path
        From `llmdbg.report.destination.destination`.
    force : bool
        Replace the files of an earlier report in `folder`; other files there stay.
    formats : iterable of str, optional
        What to write beside CSV, Parquet, alignment and summary: ``html``, ``xlsx``, ``jsonl``,
        ``markdown``, ``junit``. None is ``html`` where plotly is installed.

    Returns
    -------
    dict
        The absolute path of each file by kind, and of the folder as ``directory``.

    Raises
    ------
    OSError
        With the folder as its file name when something could not be written.
    UserError
        A format needs a package that is not installed; the message says how to get it.
    """
    wanted = {*ALWAYS, *(default_formats() if formats is None else formats)}
    if report.calibration is not None:
        wanted.add("calibration")
    files = {kind: FILES[kind] for kind in FILES if kind in wanted or kind == "summary"}
    return publish(
        folder, files, lambda partial: _write_files(report, partial, files), FILES, force=force
    )


def publish(
    folder: Path,
    files: dict[str, str],
    write_into: Callable[[Path], None],
    every_file: dict[str, str],
    *,
    force: bool,
) -> dict[str, str]:
    """Write files beside their folder first and then move them.

    So a full disk or an interrupt leaves nothing behind and destroys nothing.

    Parameters
    ----------
    folder : Path
        From `llmdbg.report.destination.destination`.
    files : dict
        Names of the files that `write_into` writes, by kind.
    write_into : callable
        Writes them all into the folder it is given.
    every_file : dict
        Names that an earlier report may have used; with `force` those not written again are
        removed.
    force : bool
        Replace the files of an earlier report in `folder`; other files there stay.

    Returns
    -------
    dict
        The absolute path of each file by kind, and of the folder as ``directory``.

    Raises
    ------
    OSError
        With the folder as its file name when something could not be written.
    """
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _about(folder, error) from error
    try:
        write_into(partial)
        if force and folder.is_dir():
            for kind, name in every_file.items():
                if kind in files:
                    (partial / name).replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
        else:
            partial.chmod(0o777 & ~_umask())
            partial.rename(folder)
    except OSError as error:
        raise _about(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"directory": str(folder)} | {k: str(folder / v) for k, v in files.items()}


def _write_files(report: Report, folder: Path, files: dict[str, str]) -> None:
    for kind, name in files.items():
        if kind != "summary":
            _WRITERS[kind](report, folder / name)
    # Names, not paths: a report may be moved.
    text = to_json(summary(report, files))
    (folder / FILES["summary"]).write_text(text, encoding="utf-8")


def _about(folder: Path, error: OSError) -> OSError:
    words = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, f"cannot write the report: {words}", str(folder))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
