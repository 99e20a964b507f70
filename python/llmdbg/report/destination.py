"""Where a report goes, which is settled before the work that it reports begins."""

from __future__ import annotations

import errno
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

COMPLETE = "summary.json"
"""The file that marks a report as complete."""


def destination(
    output: str | os.PathLike[str] | None, *, force: bool = False, command: str = "compare"
) -> Path:
    """Return the folder a report will be written to, before the work that it reports begins.

    Parameters
    ----------
    output : path or None
        A folder that does not exist or is empty is used itself. In any other folder a new one named
        ``llmdbg_<command>_<time>`` is made, so ``-o .`` is safe. None means ``.``.
    force : bool
        Replace the report that `output` holds.
    command : str
        Whose report it is.

    Raises
    ------
    FileExistsError
        `output` holds an earlier report and `force` is not set.
    NotADirectoryError
        `output` is a file.
    """
    folder = Path.cwd() if output is None else Path(output)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, "a report is a folder, and this is a file", str(folder)
        )
    if output is not None and not folder.exists():
        return folder
    if output is not None and (folder / COMPLETE).exists():
        if force:
            return folder
        raise FileExistsError(
            errno.EEXIST,
            "holds an earlier report; --force replaces it, -o names another folder",
            str(folder),
        )
    if output is not None and not any(folder.iterdir()):
        return folder
    name = f"llmdbg_{command}_{datetime.now():%Y%m%d%H%M%S}"
    return _free(folder / name)


def journal(output: str | os.PathLike[str] | None, destination: Path) -> Path:
    """Return where finished rows are kept until the report of `destination` is written.

    The same `output` always gives the same path: beside a folder that is used itself, and in a
    folder that takes one report after the other.
    """
    if output is not None and Path(output).absolute() == destination.absolute():
        return destination.with_name(f"{destination.name}.journal")
    return destination.with_name("llmdbg_compare.journal")


def _free(folder: Path) -> Path:
    candidate, number = folder, 2
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}_{number}")
        number += 1
    return candidate
