"""Rows of the frame, grouped into the calls of operators they belong to."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from llmdbg.verdict.floor import pair_floor
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    import polars as pl

# What a rule reads of the frame. Absent columns read as None.
JUDGED = (
    "step",
    "rank",
    "order",
    "call",
    "role",
    "slot",
    "golden_node",
    "candidate_node",
    "golden_dtype",
    "my_dtype",
    "golden_shape",
    "my_shape",
    "confidence",
    "evidence",
    "cmp_fail_reason",
    "relative_euclidean_distance",
    "worst_row",
    "worst_row_relative_l2",
    "worst_channel",
    "worst_channel_relative_l2",
    "finiteness_mismatch",
    "bitwise_equal",
    "relative_l2_at_least",
    "golden_record",
    "candidate_record",
    "golden_data_path",
    "golden_op_type",
    "transform",
    "golden_min_value",
    "golden_max_value",
    "golden_mean_value",
    "max_absolute_error",
    "golden_at_max_abs",
    "cosine_similarity",
    "golden_rms",
    "candidate_rms",
    "my_min_value",
    "my_max_value",
    "golden_zero",
    "candidate_zero",
    "golden_zero_candidate_nonzero",
)

_DIGITS = 9


@dataclass
class Row:
    """One row of the frame, with what follows from it directly."""

    index: int
    cells: dict[str, Any]
    floor: float | None
    error: float | None
    elements: int | None

    def number(self, column: str) -> float | None:
        """Return a measure; None where there is none or it is NaN."""
        value = self.cells.get(column)
        # NaN alone is not itself; this is asked for twenty times a row.
        return None if value is None or value != value else float(value)

    @property
    def at_least(self) -> float | None:
        """The error, or, where only statistics are known, what it cannot be less than."""
        return self.number("relative_l2_at_least") if self.error is None else self.error

    @cached_property
    def tensor(self) -> Any:
        """What tells one tensor of the golden run from another."""
        numbers = [self.number(f"golden_{m}_value") for m in ("min", "max", "mean")]
        if self.elements is None or any(n is None or not math.isfinite(n) for n in numbers):
            return self.cells["golden_data_path"] or self.index
        low, high, mean = (float(n) for n in numbers if n is not None)
        size = max(abs(low), abs(high)) or 1.0
        return (self.elements, low, high, round(mean / size, _DIGITS))

    @property
    def paired(self) -> bool:
        """Whether both sides have this tensor."""
        return None not in (self.cells["golden_node"], self.cells["candidate_node"])

    @property
    def shape_differs(self) -> bool:
        """Whether the shapes differ by more than axes of size 1, which are measured without."""
        golden, candidate = self.cells["golden_shape"], self.cells["my_shape"]
        return self.error is None and bool(golden) and bool(candidate) and golden != candidate

    @cached_property
    def same(self) -> str:
        """Why the two sides are the same whatever the error, or though none was measured."""
        if self.shape_differs:
            return ""
        if self.error is None and self.cells["bitwise_equal"]:
            return "the same bytes"
        if self.error is None and self.elements == 0:
            return "empty on both sides"
        if self._same_mask:
            return "the same mask: its large negative numbers stand for minus infinity"
        if self.error is None and self.cells["finiteness_mismatch"] == 0:
            return "nothing finite, and the same on both sides"
        return ""

    @property
    def _same_mask(self) -> bool:
        """Whether this is an attention mask that lets the same positions through on both sides.

        Stacks write the least number of their dtype for minus infinity: float32's and float16's
        differ by 33 orders of magnitude and mean the same.
        """
        if "mask" not in (self.cells["slot"] or ""):
            return False
        lows = [self.number(f"{side}_min_value") for side in ("golden", "my")]
        highs = [self.number(f"{side}_max_value") for side in ("golden", "my")]
        counts = [self.cells[f"{side}_zero"] for side in ("golden", "candidate")]
        return (
            all(low is not None and low < -1e4 for low in lows)
            and highs == [0.0, 0.0]
            and counts[0] == counts[1]
            and self.cells["golden_zero_candidate_nonzero"] == 0
        )

    @property
    def rounds(self) -> bool:
        """Whether the values are rounded at all: floats are, integers and bools are not."""
        return self.floor is not None

    @property
    def readable(self) -> bool:
        """Whether both sides' tensors can be read, the golden one as it was recorded."""
        cells = self.cells
        return (
            cells["golden_record"] is not None
            and cells["candidate_record"] is not None
            and not cells["cmp_fail_reason"]
            and "golden:" not in (cells["transform"] or "")
        )

    @property
    def mismatched_nonfinite(self) -> bool:
        """Whether NaN or infinity stands on one side only, at some position."""
        return bool(self.cells["finiteness_mismatch"])

    @property
    def title(self) -> str:
        """Golden name, role and slot: ``model.norm output 0``."""
        nodes = (self.cells["golden_node"], self.cells["candidate_node"])
        name = next((n for n in nodes if n is not None), "?")
        role, slot = self.cells["role"] or "tensor", self.cells["slot"] or ""
        return f"{shown_node(name)} {role} {slot}".rstrip()


@dataclass
class Call:
    """One execution of one operator: its rows by role."""

    node: str
    step: int | None
    rank: int | None
    order: int
    inputs: list[Row] = field(default_factory=list)
    outputs: list[Row] = field(default_factory=list)
    leaf: bool = True
    depth: int = 1
    first_inside: int = 0

    @cached_property
    def family(self) -> str:
        """The name with its numbers lifted out: the same operator in every layer."""
        return re.sub(r"\d+", "#", self.node)


def rows_of(frame: pl.DataFrame) -> list[Row]:
    """Return the frame's rows as the rule reads them."""
    present = [c for c in JUDGED if c in frame.columns]
    absent = dict.fromkeys(c for c in JUDGED if c not in present)
    rows = []
    for index, cells in enumerate(frame.select(present).iter_rows(named=True)):
        cells.update(absent)
        row = Row(
            index=index,
            cells=cells,
            floor=pair_floor(cells["golden_dtype"], cells["my_dtype"]),
            error=None,
            elements=_elements(cells["golden_shape"]),
        )
        row.error = row.number("relative_euclidean_distance")
        rows.append(row)
    return rows


def calls_of(rows: list[Row]) -> list[Call]:
    """Group paired inputs and outputs into calls, in execution order, with their depth."""
    calls: dict[tuple[Any, ...], Call] = {}
    for row in rows:
        cells = row.cells
        if not row.paired or cells["role"] == "param":
            continue
        # A tensor of unknown role is the result of an operator that left nothing else.
        alone = cells["role"] not in ("input", "output")
        key = (
            cells["step"],
            cells["rank"],
            cells["golden_node"],
            cells["call"],
            row.index if alone else None,
        )
        call = calls.get(key)
        if call is None:
            order = cells["order"] or 0
            call = Call(cells["golden_node"], cells["step"], cells["rank"], order)
            calls[key] = call
        (call.inputs if cells["role"] == "input" else call.outputs).append(row)
    # Operators that complete at the same place in the order: the inner one is the earlier one.
    in_order = sorted(
        calls.values(),
        key=lambda c: (_first(c.step), _first(c.rank), c.order, -len(path_of(c.node)), c.node),
    )
    _place(in_order)
    return in_order


def encloses(outer: str, inner: str) -> bool:
    """Whether `inner` names something inside the module or graph operation `outer`."""
    outer_path, inner_path = path_of(outer), path_of(inner)
    return len(inner_path) > len(outer_path) and inner_path[: len(outer_path)] == outer_path


def _place(calls: list[Call]) -> None:
    """Fill in leaf, depth (leaves so far) and the place of the first call inside each."""
    insides: dict[tuple[Any, ...], int] = {}
    depth: dict[tuple[Any, ...], int] = {}
    for position, call in enumerate(calls):
        run = (call.step, call.rank)
        path = path_of(call.node)
        first = insides.get((*run, path))
        call.leaf = first is None
        call.first_inside = position if first is None else first
        for length in range(len(path)):
            insides.setdefault((*run, path[:length]), position)
        depth[run] = depth.get(run, 0) + call.leaf
        call.depth = max(1, depth[run])


@lru_cache(maxsize=1 << 16)
def path_of(node: str) -> tuple[str, ...]:
    """Return a node's name in its parts, outermost first."""
    return tuple(part for part in re.split(r"[./]", node) if part)


def _first(number: int | None) -> int:
    return -1 if number is None else number


@lru_cache(maxsize=1 << 12)
def _elements(shape: str | None) -> int | None:
    if not shape:
        return None
    sizes: list[int] = json.loads(shape)
    return math.prod(sizes)
