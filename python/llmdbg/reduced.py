"""Comparing what is left of tensors: sketches, statistics, hashes, with each other or with bytes.

A pair of which one side has no bytes is measured by the most that both sides can tell: a side with
bytes is reduced to what the other has. What such a pair says is an estimate or a bound, and its
``note`` says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llmdbg import _core
from llmdbg._core import LlmdbgError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llmdbg.dump import Dump

Columns = dict[str, Any]

_NUMBERS = ("min", "max", "mean", "norm")
_COUNTS = ("nan", "pos_inf", "neg_inf", "zero")
_NONFINITE = ("nan", "pos_inf", "neg_inf")
UNKNOWN_FLAG = 255
"""In `bitwise_equal`: neither yes nor no is known."""
SKETCH_DEVIATION = math.sqrt(0.5 / 193)
"""Relative standard deviation of a relative L2 error that two sketches estimate, about."""


def measure(
    golden: Dump, candidate: Dump, pairs: Mapping[str, Sequence[int]], measures: Columns
) -> Columns:
    """Fill in the rows whose tensors cannot be held against each other byte by byte.

    Parameters
    ----------
    golden, candidate : Dump
        The two runs.
    pairs : mapping
        ``golden`` and ``candidate``: record indices of each pair.
    measures : dict
        As `llmdbg._core.compare_pairs` gives them; its arrays are filled in place.

    Returns
    -------
    dict
        Further columns, one element per pair; empty when every pair has its bytes:
        ``basis`` (``tensors``, ``sketches``, ``statistics``, ``hashes``, null when nothing),
        ``relative_l2_at_least`` and ``max_absolute_error_at_least``.
    """
    rows = [i for i, reason in enumerate(measures["cmp_fail_reason"]) if reason]
    if not rows:
        return {}
    sides = (_Records(golden), _Records(candidate))
    basis: list[str | None] = ["tensors"] * len(measures["cmp_fail_reason"])
    bounds = {name: np.full(len(basis), np.nan) for name in _BOUNDS}
    found = False
    for row in rows:
        a, b = (
            records.side(pairs[name][row])
            for records, name in zip(sides, ("golden", "candidate"), strict=True)
        )
        if a.readable and b.readable:
            continue  # the reason is another one: shapes, dtypes
        basis[row] = _measure_pair(_Row(measures, bounds, row), a, b)
        found = True
    return {"basis": basis, **bounds} if found else {}


# Producers add up in float32: a difference below this need not be one.
_PRECISION = 1e-6
_BOUNDS = ("relative_l2_at_least", "max_absolute_error_at_least")


class _Records:
    """What the records of one dump can tell."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        self._dump.core.describe()
        return self._dump.core.columns()

    def side(self, index: int) -> _Side:
        cells = {name: column[index] for name, column in self._columns.items()}
        return _Side(self._dump.core, index, cells)


@dataclass
class _Side:
    """What one record can tell."""

    core: _core.Dump
    index: int
    cells: dict[str, Any]

    @cached_property
    def readable(self) -> bool:
        if self.cells["path"] is None:
            return False
        try:
            self.core.tensor(self.index)
        except (LlmdbgError, OSError):
            return False
        return True

    @property
    def shape(self) -> list[int] | None:
        shape: list[int] | None = self.cells["shape"]
        return shape

    @property
    def elements(self) -> int | None:
        return None if self.shape is None else math.prod(self.shape)

    @property
    def has_sketch(self) -> bool:
        return self.readable or self.cells["sketch_path"] is not None

    @property
    def has_statistics(self) -> bool:
        return self.readable or any(self.cells[name] is not None for name in _NUMBERS)

    @property
    def words(self) -> str:
        """What there is of it."""
        if self.readable:
            return "bytes"
        if self.cells["sketch_path"] is not None:
            return "a sketch"
        if self.has_statistics:
            return "statistics"
        return "a hash" if self.cells["hash"] else "nothing"

    @cached_property
    def _summary(self) -> dict[str, Any]:
        return _core.summarize_record(self.core, self.index, sketch=True)

    @cached_property
    def statistics(self) -> dict[str, float | None]:
        """Numbers and counts; None for what the producer did not tell."""
        source = self._summary if self.readable else self.cells
        return {name: source[name] for name in (*_NUMBERS, *_COUNTS)}

    @cached_property
    def sketch(self) -> NDArray[np.float64]:
        if self.readable:
            return np.asarray(self._summary["sketch"], np.float64)
        stored = _core.open_tensor(self.cells["sketch_path"], self.cells["sketch_key"])
        numbers: NDArray[np.float64] = np.frombuffer(memoryview(stored), np.float32).astype(float)
        return numbers

    def hash(self, algorithm: str) -> str | None:
        """Return the hash by `algorithm`, computed where the bytes are there."""
        own = self.cells["hash"]
        if own is not None and own.startswith(f"{algorithm}:"):
            return str(own)
        if algorithm == "xxh3" and self.readable:
            return f"xxh3:{_core.hash_record(self.core, self.index)}"
        return None


@dataclass
class _Row:
    """One row of the measures, to be filled in."""

    measures: Columns
    bounds: dict[str, NDArray[np.float64]]
    row: int

    def __setitem__(self, column: str, value: float | str | list[int] | None) -> None:
        target = self.bounds if column in self.bounds else self.measures
        target[column][self.row] = value

    def note(self, text: str) -> None:
        before = self.measures["note"][self.row]
        self.measures["note"][self.row] = f"{before}; {text}" if before else text


def _measure_pair(row: _Row, a: _Side, b: _Side) -> str | None:
    row["golden_dtype"], row["golden_shape"] = a.cells["dtype"], a.shape
    row["candidate_dtype"], row["candidate_shape"] = b.cells["dtype"], b.shape
    row["bitwise_equal"] = UNKNOWN_FLAG
    try:
        same = _same_hash(a, b)
        if same is not None:
            row["bitwise_equal"] = same
        if a.has_statistics and b.has_statistics:
            _fill_statistics(row, a, b)
            if a.has_sketch and b.has_sketch and a.shape == b.shape and a.elements:
                return _by_sketch(row, a, b)
            return _by_statistics(row, a, b)
    except (LlmdbgError, OSError) as error:
        row["cmp_fail_reason"] = str(error)
        return None
    if same is None:
        row["cmp_fail_reason"] = f"the golden dump has {a.words} of it, the candidate {b.words}" + (
            f" by another algorithm ({a.cells['hash'].partition(':')[0]}, "
            f"{b.cells['hash'].partition(':')[0]})"
            if a.cells["hash"] and b.cells["hash"]
            else ": nothing that both can tell"
        )
        return None
    row["cmp_fail_reason"] = (
        None if same else "only hashes are known: the bytes differ, by how much cannot be seen"
    )
    row.note("from hashes: only whether the bytes are the same is known")
    return "hashes"


def _same_hash(a: _Side, b: _Side) -> bool | None:
    """Tell whether the bytes are the same, where one side left a hash and both can have it."""
    if a.cells["dtype"] != b.cells["dtype"]:
        return None
    for own in (a.cells["hash"], b.cells["hash"]):
        if own is None:
            continue
        algorithm = own.partition(":")[0]
        hashes = a.hash(algorithm), b.hash(algorithm)
        if None not in hashes:
            return hashes[0] == hashes[1]
    return None


def _fill_statistics(row: _Row, a: _Side, b: _Side) -> None:
    row["elements"] = a.elements if a.elements is not None else -1
    for name, side in (("golden", a), ("candidate", b)):
        stats = side.statistics
        for number in ("min", "max", "mean"):
            row[f"{name}_{number}"] = _number(stats[number])
        for count in _COUNTS:
            value = stats[count]
            row[f"{name}_{count}"] = -1 if value is None else value
        norm = _number(stats["norm"])
        finite = _finite_elements(side)
        row[f"{name}_rms"] = norm / math.sqrt(finite) if finite else math.nan
    counts = [(a.statistics[c], b.statistics[c]) for c in _NONFINITE]
    if any(x is not None and y is not None and x != y for x, y in counts):
        row["finiteness_mismatch"] = max(abs((x or 0) - (y or 0)) for x, y in counts)
        row.note("finiteness_mismatch is a lower bound, from the counts")


def _by_statistics(row: _Row, a: _Side, b: _Side) -> str:
    if a.shape is not None and b.shape is not None and a.shape != b.shape:
        row["cmp_fail_reason"] = "shape differs"
        row.note("from statistics")
        return "statistics"
    least, largest = _bounds(a, b)
    if least < _PRECISION:
        least = 0.0
    row["relative_l2_at_least"], row["max_absolute_error_at_least"] = least, largest
    if least == 0 and largest == 0:
        found = "they agree, which does not prove that the tensors do"
    elif math.isnan(least):
        found = "they bound nothing"
    else:
        found = f"relative L2 is at least {least:.2e}, max absolute error at least {largest:.2e}"
    row["cmp_fail_reason"] = f"only statistics are known: {found}"
    row.note("from statistics: swapped values or tokens cannot be seen")
    return "statistics"


def _by_sketch(row: _Row, a: _Side, b: _Side) -> str:
    assert a.shape is not None
    buckets, rows_each, norms, places = _core.sketch_layout(a.shape)
    x, y = a.sketch, b.sketch
    size = buckets + norms + len(places)
    if x.size != size or y.size != size:
        raise LlmdbgError(f"a sketch of {size} numbers is expected, found {x.size} and {y.size}")
    if np.array_equal(x, y, equal_nan=True) and a.statistics == b.statistics:
        distance = 0.0
    else:
        distance = float(np.linalg.norm(y[:buckets] - x[:buckets]))
        if a.cells["dtype"] == b.cells["dtype"]:
            row["bitwise_equal"] = 0
    norm_a, norm_b = (_number(s.statistics["norm"]) for s in (a, b))
    least, largest = _bounds(a, b)
    # The projection may come out short; the norms bound it from below.
    distance = max(distance, abs(norm_a - norm_b))
    row["relative_l2"] = distance / norm_a if norm_a else (math.inf if distance else 0.0)
    if norm_a and norm_b:
        gap = norm_a - norm_b
        cosine = max(0.0, (distance**2 - gap**2) / (2 * norm_a * norm_b))
        row["one_minus_cosine"], row["cosine_similarity"] = min(cosine, 2.0), 1 - min(cosine, 2.0)
    elif not norm_a and not norm_b:
        row["one_minus_cosine"], row["cosine_similarity"] = 0.0, 1.0
    of_rows = slice(buckets, buckets + norms)
    worst, error = _worst(x[of_rows], y[of_rows])
    row["worst_row"], row["worst_row_relative_l2"] = worst * rows_each, error
    samples = np.abs(y[buckets + norms :] - x[buckets + norms :])
    samples = samples[np.isfinite(samples)]
    if a.elements == _finite_elements(a) == _finite_elements(b):
        row["finiteness_mismatch"] = 0
    row["relative_l2_at_least"] = least
    row["max_absolute_error_at_least"] = max(largest, float(samples.max(initial=0.0)))
    row["cmp_fail_reason"] = None
    rows = "worst row" if rows_each == 1 else f"worst of rows taken {rows_each} at a time"
    row.note(
        f"from sketches: relative L2 and cosine are estimates (±{2 * SKETCH_DEVIATION:.0%}), "
        f"{rows} at least; other errors are not known"
    )
    return "sketches"


def _worst(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[int, float]:
    """Return the row whose norm differs most, and its relative L2 at least."""
    difference = np.abs(y - x)
    relative = np.divide(difference, x, out=np.where(difference > 0, np.inf, 0.0), where=x > 0)
    worst = int(np.argmax(relative))
    return worst, float(relative[worst])


def _bounds(a: _Side, b: _Side) -> tuple[float, float]:
    """Bound relative L2 and max absolute error from below, by norms, means and extremes."""
    x, y = ({n: _number(s.statistics[n]) for n in _NUMBERS} for s in (a, b))
    edges = [abs(x[n] - y[n]) for n in ("min", "max")]
    distances = [abs(x["norm"] - y["norm"])]
    if a.elements and _finite_elements(a) == _finite_elements(b) == a.elements:
        distances += [math.sqrt(a.elements) * abs(x["mean"] - y["mean"]), *edges]
    known = [d for d in distances if math.isfinite(d)]
    least = max(known) / x["norm"] if known and x["norm"] > 0 else math.nan
    if known and x["norm"] == 0:
        least = math.inf if max(known) else 0.0
    finite = [e for e in edges if math.isfinite(e)]
    return least, max(finite) if finite else math.nan


def _finite_elements(side: _Side) -> int | None:
    """Count the finite elements; all of them where the producer counted none."""
    counts = [side.statistics[name] for name in _NONFINITE]
    if side.elements is None:
        return None
    return side.elements - int(sum(c for c in counts if c is not None))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
