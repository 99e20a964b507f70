"""The directories of ``ait llm``'s torch hook: one ``.pth`` file per tensor.

``torch_tensors/<device>_<pid>/<token>/<module>/{input_<i>…,output…}.pth``, with ``weights/`` and
``model_tree.json``. Keyword arguments, dictionaries and repeated calls, which that hook leaves
out, get file names of the same kind (``input_kwargs_<name>.pth``, ``output_<key>.pth``) and
directories of their own (``call_<n>/``). Functions lie in ``<module>.<function>[.<n>]``, and
``statistics.csv`` has a line per tensor of its directory. ``llmdbg.jsonl`` beside the tree says
what the layout has no place for: execution order, exact paths, values that are no tensors, and
what was skipped.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from llmdbg._core import LlmdbgError
from llmdbg.capture.background import Background
from llmdbg.capture.encode import to_json
from llmdbg.capture.reduce import reduce

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmdbg.capture.seen import Same

FORMAT = "llmdbg.ait/1"
_MAX_NAME = 200
_STATISTICS = "statistics.csv"
_COLUMNS = (
    "NodeName",
    "NodeType",
    "InputOutput",
    "Index",
    "DataType",
    "Shape",
    "Max",
    "Min",
    "Mean",
    "L2Norm",
)


class AitSink:
    """Writes one process's part of a dump below `folder`, its ``torch_tensors`` directory's parent.

    Parameters
    ----------
    folder, header, max_queue_bytes
        Where, what the run is, and how much may wait for the disk.
    tensors
        Write tensors. Weights are written in any case.
    statistics
        Write ``statistics.csv``.

    Raises
    ------
    LlmdbgError
        If this process has written a dump there before.
    """

    # A lone output is `output.pth`, told from a tuple's first by the missing number.
    lone = ""
    # A file holds one shape of its tensor.
    same: Same = "tensor"

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        max_queue_bytes: int,
        *,
        tensors: bool = True,
        statistics: bool = False,
    ) -> None:
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
        self._tensors, self._statistics = tensors, statistics
        self._types = {module["name"]: module["type"] for module in header["modules"]}
        self._names: set[str] = set()
        self._functions: dict[tuple[str, int], str] = {}
        self._function_calls: Counter[str] = Counter()
        self.bytes_written = 0
        self.records_written = 0

    @property
    def error(self) -> BaseException | None:
        """What stopped the writing, if anything did."""
        return self._background.error

    def store(self, tensor: torch.Tensor, record: dict[str, Any]) -> dict[str, Any]:
        """Keep `tensor` as it is now; where its file will be, and its statistics."""
        place: dict[str, Any] = {}
        is_weight = record["role"] == "param"
        if self._statistics and not is_weight:
            reduced = reduce(tensor, "statistics")
            place["stats"] = reduced.fields["stats"]
            self._add_row(record, place["stats"], reduced.fill)
        if self._tensors or is_weight:
            place["file"] = self._copy(tensor, record, is_weight=is_weight)
        return place

    def again(self, place: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        """Give a tensor that was kept before a second name."""
        place = dict(place)
        if "stats" in place and record["role"] != "param":
            self._add_row(record, place["stats"], None)
        if "file" in place:
            first, name = place["file"], self._name(record)
            self._background.submit(lambda: self._link(first, name))
            place["file"] = name
        return place

    def emit(self, records: list[dict[str, Any]]) -> None:
        """Add finished records."""
        self._background.submit(lambda: self._write(records))

    def end_step(self, _step: dict[str, Any]) -> None:
        """Note that a step is over: its file names cannot come again."""
        self._names.clear()
        self._functions.clear()
        self._function_calls.clear()

    def close(self, problems: list[str], failure: Exception | None) -> None:
        """Write what is left."""
        self._background.close()
        cause = self.error or failure
        if cause is not None:
            problems = [*problems, f"recording stopped early: {cause}"]
        if problems:
            self._journal.write(to_json({"problems": problems}) + "\n")
        self._journal.close()

    def _copy(self, tensor: torch.Tensor, record: dict[str, Any], *, is_weight: bool) -> str:
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
        self._background.submit(lambda: self._save(copy, name, nbytes, is_weight), nbytes)
        return name

    def _add_row(
        self, record: dict[str, Any], stats: dict[str, Any], fill: Callable[[], None] | None
    ) -> None:
        """Add a line to the statistics of the record's directory."""
        folder = self.folder / self._place(record)
        kind = record.get("type") or self._types.get(record["node"], "")
        index = record["slot"].rpartition(".")[2] or "0"
        shape = str(tuple(record["shape"]))
        about = (folder.name, kind, record["role"], index, f"torch.{record['dtype']}", shape)

        def write() -> None:
            if fill is not None:
                fill()
            folder.mkdir(parents=True, exist_ok=True)
            numbers = [
                "nan" if stats[k] is None else stats[k] for k in ("max", "min", "mean", "norm")
            ]
            path = folder / _STATISTICS
            is_new = not path.exists()
            with path.open("a", encoding="utf-8", newline="") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerows([_COLUMNS] if is_new else [])
                rows.writerow([*about, *("nan" if x is None else x for x in numbers)])

        self._background.submit(write)

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
        slot = _safe(record["slot"].replace(".", "_"))
        if record["role"] == "param":
            stem = f"weights/{_rooted(record['node'])}.{_safe(record['slot'])}"
        else:
            stem = f"{self._place(record)}/{record['role']}" + (f"_{slot}" if slot else "")
        name, n = stem, 1
        while name in self._names:
            n += 1
            name = f"{stem}~{n}"
        self._names.add(name)
        return f"{name}.pth"

    def _place(self, record: dict[str, Any]) -> str:
        """Return the directory of a call's tensors."""
        node, call = record["node"], record["call"]
        if "type" not in record:
            folder = _rooted(node) + (f"/call_{call}" if call else "")
        elif (node, call) in self._functions:
            folder = self._functions[node, call]
        else:
            module = node.removesuffix(record["type"]).removesuffix("/")
            first = f"{_rooted(module)}.{_safe(record['type'].rpartition('.')[2])}"
            # `torch.add` and `torch.Tensor.add` are one name here.
            n = self._function_calls[first]
            self._function_calls[first] += 1
            folder = self._functions[node, call] = f"{first}.{n}" if n else first
        return f"{record['step']}/{folder}"


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


def _rooted(node: str) -> str:
    return _safe(f"root.{node}" if node else "root")


def _safe(name: str) -> str:
    """Make a file name of what may hold any character."""
    return re.sub(r"[^\w.\-]", "_", name)[:_MAX_NAME]
