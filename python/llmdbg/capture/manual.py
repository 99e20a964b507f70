"""Pairs that a script names by hand: ``dump_data``, the manual dump of ``ait llm``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmdbg._core import LlmdbgError

if TYPE_CHECKING:
    from collections.abc import Iterator


def dump_data(
    token_id: int,
    data_id: int | str,
    golden_data: torch.Tensor,
    my_path: str | Path,
    output_path: str | Path = "./",
) -> Path:
    """Save a golden tensor and note which file of the candidate it belongs to.

    ``<output_path>/ait_dump/<pid>_<device index>/golden_tensor/`` gets
    ``<token_id>/<data_id>_tensor.pth`` and a line in ``metadata.json``; the device index of the
    CPU is -1. ``llmdbg compare`` takes that directory as both of its sides.

    Parameters
    ----------
    token_id
        The step, from 0.
    data_id
        A name for the pair. Every token of one name is kept.
    golden_data
        The golden tensor.
    my_path
        The candidate's file; it may be written later.
    output_path
        The directory below which ``ait_dump`` is made.

    Returns
    -------
    Path
        The golden file.

    Raises
    ------
    LlmdbgError
        If an argument cannot be right, or the pair exists already.
    OSError
        If the path cannot be written.
    """
    if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
        raise LlmdbgError(f"token_id is a whole number from 0 upwards, found {token_id!r}")
    if not isinstance(golden_data, torch.Tensor):
        raise LlmdbgError(f"golden_data is a tensor, found a {type(golden_data).__name__}")
    name = str(data_id)
    if not name or name != Path(name).name or name in (".", ".."):
        raise LlmdbgError(f"data_id becomes part of a file name, found {name!r}")
    if not str(my_path):
        raise LlmdbgError("my_path is empty; it names the candidate's file")
    index = -1 if golden_data.device.index is None else golden_data.device.index
    folder = Path(output_path) / "ait_dump" / f"{os.getpid()}_{index}" / "golden_tensor"
    golden = folder / str(token_id) / f"{name}_tensor.pth"
    golden.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        if golden.exists():
            raise LlmdbgError(
                f"data_id {name!r} has a tensor of token {token_id} already, which is never "
                f"overwritten: {golden}"
            )
        _save(golden_data, golden)
        _add(
            folder / "metadata.json",
            name,
            str(token_id),
            [str(golden.absolute()), str(Path(my_path).absolute())],
        )
    return golden


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the one lock of a directory: threads and processes read, change and write in turn."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _save(tensor: torch.Tensor, path: Path) -> None:
    part = path.with_suffix(".part")
    # A clone, because a view would be saved with all of the storage that it looks at.
    torch.save(tensor.detach().clone().cpu(), part)
    part.replace(path)


def _add(path: Path, data_id: str, token_id: str, pair: list[str]) -> None:
    table: dict[str, dict[str, Any]] = {}
    if path.exists():
        table = json.loads(path.read_text(encoding="utf-8"))
    table.setdefault(data_id, {})[token_id] = pair
    part = path.with_suffix(".part")
    part.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
