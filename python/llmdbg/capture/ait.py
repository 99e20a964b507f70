"""The directories of ``ait llm``'s torch hook: one ``.pth`` file per tensor.

``torch_tensors/<device>_<pid>/<token>/<module>/{input_<i>…,output…}.pth``, with ``weights/`` and
``model_tree.json``. Keyword arguments, dictionaries and repeated calls, which that hook leaves
out, get file names of the same kind (``input_kwargs_<name>.pth``, ``output_<key>.pth``) and
directories of their own (``call_<n>/``). ``llmdbg.jsonl`` beside the tree says what the layout has
no place for: execution order, exact paths, values that are no tensors, and what was skipped.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import torch

from llmdbg._core import LlmdbgError
from llmdbg.capture.background import Background
from llmdbg.capture.encode import to_json

if TYPE_CHECKING:
    from pathlib import Path

    from llmdbg.capture.seen import Same

FORMAT = "llmdbg.ait/1"
_MAX_NAME = 200


class AitSink:
    """Writes one process's part of a dump below `folder`, its ``torch_tensors`` directory's parent.

    Raises
    ------
    LlmdbgError
        If this process has written a dump there before.
    """

    # A lone output is `output.pth`, told from a tuple's first by the missing number.
    lone = ""
    # A file holds one shape of its tensor.
    same: Same = "tensor"

    def __init__(self, folder: Path, header: dict[str, Any], max_queue_bytes: int) -> None:
        self.folder = process_folder(folder, header)
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError as error:
            raise LlmdbgError(
                "this process has a dump at the path already, which is never overwritten; "
                f"choose another path: {self.folder}"
            ) from error
        tree = json.dumps(module_tree(header["modules"]), indent=1, ensure_ascii=False)
        (self.folder / "model_tree.json").write_text(tree + "\n", encoding="utf-8")
        self._journal = (self.folder / "llmdbg.jsonl").open("x", encoding="utf-8", newline="\n")
        self._journal.write(to_json({"format": FORMAT, **header}) + "\n")
        self._journal.flush()
        self._background = Background(max_queue_bytes)
        self._names: set[str] = set()
        self.bytes_written = 0
        self.records_written = 0

    @property
    def error(self) -> BaseException | None:
        """What stopped the writing, if anything did."""
        return self._background.error

    def store(self, tensor: torch.Tensor, record: dict[str, Any]) -> dict[str, Any]:
        """Copy `tensor` as it is now; where its file will be."""
        nbytes = tensor.numel() * tensor.element_size()
        self._background.reserve(nbytes)
        # Made in inference mode, a copy could not be pickled outside of it.
        try:
            with torch.inference_mode(False):
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            copy.copy_(tensor)
        except BaseException:
            self._background.release(nbytes)
            raise
        name = self._name(record)
        is_weight = record["role"] == "param"
        self._background.submit(lambda: self._save(copy, name, nbytes, is_weight), nbytes)
        return {"file": name}

    def again(self, place: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        """Give a tensor that was kept before a second name."""
        name = self._name(record)
        self._background.submit(lambda: self._link(place["file"], name))
        return {"file": name}

    def emit(self, records: list[dict[str, Any]]) -> None:
        """Add finished records."""
        self._background.submit(lambda: self._write(records))

    def end_step(self, _step: dict[str, Any]) -> None:
        """Note that a step is over: its file names cannot come again."""
        self._names.clear()

    def close(self, problems: list[str], failure: Exception | None) -> None:
        """Write what is left."""
        self._background.close()
        cause = self.error or failure
        if cause is not None:
            problems = [*problems, f"recording stopped early: {cause}"]
        if problems:
            self._journal.write(to_json({"problems": problems}) + "\n")
        self._journal.close()

    def _save(self, tensor: torch.Tensor, name: str, nbytes: int, is_weight: bool) -> None:  # noqa: FBT001
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # ait's own reader takes either, but what it writes for a weight is a Parameter.
        value = torch.nn.Parameter(tensor, requires_grad=False) if is_weight else tensor
        # torch's own writer says of a full disk only that some position is unexpected.
        whole = io.BytesIO()
        torch.save(value, whole)
        try:
            path.write_bytes(whole.getbuffer())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.bytes_written += nbytes

    def _link(self, first: str, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(self.folder / first)
        except OSError:
            # Not every file system has hard links.
            shutil.copyfile(self.folder / first, path)

    def _write(self, records: list[dict[str, Any]]) -> None:
        self._journal.write("".join(to_json(record) + "\n" for record in records))
        self._journal.flush()
        self.records_written += len(records)

    def _name(self, record: dict[str, Any]) -> str:
        node = _safe(f"root.{record['node']}" if record["node"] else "root")
        if record["role"] == "param":
            stem = f"weights/{node}.{_safe(record['slot'])}"
        else:
            call = f"call_{record['call']}/" if record["call"] else ""
            slot = _safe(record["slot"].replace(".", "_"))
            stem = f"{record['step']}/{node}/{call}{record['role']}" + (f"_{slot}" if slot else "")
        name, n = stem, 1
        while name in self._names:
            n += 1
            name = f"{stem}~{n}"
        self._names.add(name)
        return f"{name}.pth"


def process_folder(folder: Path, header: dict[str, Any]) -> Path:
    """Return where this process's dump lies below `folder`."""
    device = header["about"]["device"].replace(":", "")
    return folder / "torch_tensors" / f"{device}_{os.getpid()}"


def module_tree(modules: list[dict[str, Any]]) -> dict[str, Any]:
    """Nest the entries of :func:`llmdbg.capture.modules.describe` as ``model_tree.json`` does."""
    nodes = {}
    for module in modules:
        name = f"root.{module['name']}" if module["name"] else "root"
        node = {"name": name, "type": module["type"], "children": []}
        nodes[module["name"]] = node
        if module["parent"] is not None:
            nodes[module["parent"]]["children"].append(node)
    return nodes[""]


def _safe(name: str) -> str:
    """Make a file name of what may hold any character."""
    return re.sub(r"[^\w.\-]", "_", name)[:_MAX_NAME]
