"""What a dump or a tensor is, as plain data; `llmdbg.report.shown` prints it."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg import _core
from llmdbg.errors import UserError
from llmdbg.report.text import ranges

if TYPE_CHECKING:
    import numpy as np

    from llmdbg.dump import Dump

SCHEMA = "llmdbg.show/1"
Place = tuple[str, str | None]
_ONE_BYTE = ("bool", "string", "int4", "uint1")
_SLICE = re.compile(r"(-?\d+)?(:(-?\d+)?(:(-?[1-9]\d*)?)?)?")


def describe_dump(path: str | os.PathLike[str], dump: Dump) -> dict[str, Any]:
    """Return what a dump holds: layout, steps, ranks, nodes, tensors, bytes, dtypes, problems."""
    columns = dump.core.columns()
    dtypes: Counter[str] = Counter()
    stored: dict[tuple[Any, ...], int] = {}
    for row, (dtype, shape) in enumerate(zip(columns["dtype"], columns["shape"], strict=True)):
        dtypes[dtype or "unknown"] += 1
        if dtype is not None and shape is not None:
            # Several records may name one stored tensor.
            place = (columns["path"][row], columns["key"][row])
            stored[place] = math.prod(shape) * item_size(dtype)
    return {
        "schema": SCHEMA,
        "kind": "dump",
        "path": os.fspath(path),
        "layout": dump.layout,
        "variant": dump.variant,
        "root": dump.root,
        "about": dump.about,
        "steps": dump.steps,
        "ranks": dump.ranks,
        "nodes": len(dump.nodes),
        "first_nodes": dump.nodes[:5],
        "tensors": len(dump),
        "bytes": sum(stored.values()),
        "dtypes": dict(sorted(dtypes.items(), key=lambda item: (-item[1], item[0]))),
        "graph": dump.graph is not None,
        "problems": dump.problems,
    }


def select(
    dump: Dump, *, node: str | None = None, step: int | None = None, rank: int | None = None
) -> list[int]:
    """Return the indices of a dump's records that fit.

    Raises
    ------
    UserError
        None fits; the message offers names that look alike.
    """
    columns = dump.core.columns()
    rows = [
        i
        for i in range(len(dump))
        if (node is None or columns["node"][i] == node)
        and (step is None or columns["step"][i] in (step, None))
        and (rank is None or columns["rank"][i] in (rank, None))
    ]
    if rows:
        return rows
    if node is not None and node not in dump.nodes:
        from difflib import get_close_matches

        alike = [n for n in dump.nodes if node in n] or get_close_matches(
            node, dump.nodes, cutoff=0.3
        )
        hint = f"; did you mean {', '.join(alike[:3])}?" if alike else ""
        raise UserError(f"no node {node!r} in this {dump.layout} dump{hint}")
    steps, ranks = ranges(dump.steps), ranges(dump.ranks)
    raise UserError(f"no tensor of that step and rank; steps: {steps}, ranks: {ranks}")


def describe_records(dump: Dump, rows: list[int]) -> list[dict[str, Any]]:
    """Return name, place, dtype, shape and statistics of some records."""
    columns = dump.core.columns()
    described = []
    for i in rows:
        record = {c: columns[c][i] for c in ("step", "rank", "node", "call", "role", "slot")}
        record |= {c: columns[c][i] for c in ("dtype", "shape", "path", "key")}
        try:
            record["statistics"] = statistics(*place(dump, i))
            record["problem"] = None
        except (_core.LlmdbgError, OSError) as error:
            record["statistics"] = {c: columns[c][i] for c in ("min", "max", "mean", "norm")}
            record["problem"] = str(error)
        described.append(record)
    return described


def describe_tensor(path: str, place: Place) -> dict[str, Any]:
    """Return what a tensor is: dtype, shape, bytes, statistics, histogram."""
    buffer = _core.open_tensor(*place)
    stats = statistics(*place)
    counts = stats.pop("histogram")
    return {
        "schema": SCHEMA,
        "kind": "tensor",
        "path": path,
        "dtype": buffer.dtype,
        "shape": list(buffer.shape),
        "bytes": math.prod(buffer.shape) * item_size(buffer.dtype),
        "notes": buffer.notes,
        "statistics": stats,
        "histogram": {"low": stats["min"], "high": stats["max"], "counts": counts}
        if counts
        else None,
    }


def place_of(path: str) -> Place:
    """Return file and name of a tensor: ``container#name`` names one tensor of several."""
    if not Path(path).exists() and "#" in path:
        container, _, key = path.rpartition("#")
        return container, key
    return path, None


def place(dump: Dump, record: int) -> Place:
    """Return file and name of a record's tensor.

    Raises
    ------
    UserError
        The record has statistics only.
    """
    columns = dump.core.columns()
    if columns["path"][record] is None:
        raise UserError("no values were dumped for this tensor, only statistics")
    return columns["path"][record], columns["key"][record]


def statistics(path: str, key: str | None) -> dict[str, Any]:
    """Return counts, extremes, mean and norms of a stored tensor's values, with a histogram.

    Returns
    -------
    dict
        What `llmdbg._core.tensor_stats` gives, NaN ("no such number") as None. ``histogram`` is a
        list of counts in equal bins from ``min`` to ``max``.
    """
    stats = dict(_core.tensor_stats(path, key, histogram=True))
    counts = [int(n) for n in stats.pop("histogram")]
    for known in ("dtype", "shape"):
        stats.pop(known)
    numbers = {k: None if v != v else v for k, v in stats.items()}
    return numbers | {"histogram": counts}


def parse_slice(text: str, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Parse ``0,:4,:4`` as numpy would read it between brackets.

    Raises
    ------
    UserError
        Not a slice, more axes than the tensor has, or an index outside it.
    """
    parts = [p.strip() for p in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if len(parts) > len(shape):
        raise UserError(f"--slice {text!r} has {len(parts)} axes, the tensor {list(shape)} fewer")
    index: list[int | slice] = []
    for axis, part in enumerate(parts):
        match = _SLICE.fullmatch(part)
        if not part or match is None:
            raise UserError(f"--slice {text!r}: {part!r} is no index or range, as in 0,:4,2:8:2")
        start, colon, stop, _, step = match.groups()
        if colon:
            index.append(slice(*(None if n is None else int(n) for n in (start, stop, step))))
            continue
        number = int(part)
        if not -shape[axis] <= number < shape[axis]:
            raise UserError(
                f"--slice {text!r}: index {number} is outside axis {axis} of {list(shape)}"
            )
        index.append(number)
    return tuple(index)


def save(array: np.ndarray[Any, Any], target: Path, *, force: bool = False) -> str:
    """Write an array as ``.npy``; numpy has no bfloat16 or float8, so those become float32.

    Returns
    -------
    str
        The dtype that was written.

    Raises
    ------
    UserError
        `target` does not end in ``.npy``, or exists and `force` is not set.
    """
    import numpy as np

    if target.suffix != ".npy":
        raise UserError(f"--to writes .npy files: {target}")
    if target.exists() and not force:
        raise UserError(f"exists already; --force replaces it: {target}")
    if array.dtype.kind == "V" or not array.dtype.isbuiltin:
        array = array.astype(np.float32)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("xb") as stream:
            np.save(stream, array, allow_pickle=False)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return str(array.dtype)


def item_size(dtype: str) -> int:
    """Return the bytes per element of a dtype by torch's name; packed types count one each."""
    if dtype in _ONE_BYTE or dtype.startswith(("float4", "float6")):
        return 1
    bits = re.search(r"\d+", dtype)
    return int(bits.group()) // 8 if bits else 1
