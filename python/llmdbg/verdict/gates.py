"""Gates for CI: ``max_ratio<=3`` and the like, each a measure, a comparator and a number."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmdbg.errors import UserError
from llmdbg.verdict.model import State, shown_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import polars as pl

_COMPARATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_GATE = re.compile(
    r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(<=|>=|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
)
_COUNTS = {state.value.lower(): state.value for state in State}
_REDUCED = ("max", "min", "mean")


@dataclass(frozen=True)
class GateResult:
    """One gate and what it met.

    Attributes
    ----------
    gate : str
        As it was given.
    holds : bool
        Whether it holds.
    measured : float or None
        What was found; None where no row has the measure, and then the gate does not hold.
    where : str
        The tensor that decided it; empty for counts and means.
    """

    gate: str
    holds: bool
    measured: float | None
    where: str

    def __str__(self) -> str:
        found = "no row has it" if self.measured is None else f"{self.measured:.6g}"
        where = f" at {self.where}" if self.where else ""
        return f"gate {self.gate} {'holds' if self.holds else 'does not hold'}: {found}{where}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as the summary spells it."""
        return {
            "gate": self.gate,
            "holds": self.holds,
            "measured": self.measured,
            "where": self.where,
        }


@dataclass(frozen=True)
class Gate:
    """A bound on one number of a comparison or a scan.

    Attributes
    ----------
    text : str
        As it was given.
    measure : str
        A column, which every row must keep within the bound; ``max_``, ``min_`` or ``mean_`` and
        a column; or a count. Of a comparison these are the states (``fail``, ``suspect``, …) and
        ``unmatched``, of a scan its levels, ``tensors``, ``read`` and ``unread``.
    comparator : str
        ``<=``, ``>=``, ``<`` or ``>``.
    limit : float
    """

    text: str
    measure: str
    comparator: str
    limit: float

    @staticmethod
    def parse(text: str) -> Gate:
        """Read a gate.

        Raises
        ------
        UserError
            It is no gate; the message shows what one looks like.
        """
        found = _GATE.fullmatch(text)
        if found is None:
            raise UserError(
                f"not a gate: {text!r}; one is a measure, <=, >=, < or >, and a number, such as "
                "'max_ratio<=3', 'relative_l2<0.01' or 'fail<=0'"
            )
        measure, comparator, limit = found.groups()
        return Gate(text.strip(), measure, comparator, float(limit))

    def check(self, frame: pl.DataFrame) -> GateResult:
        """Hold a judged comparison against the gate.

        Raises
        ------
        UserError
            The frame has no such measure; the message names some it has.
        """
        alone = frame["golden_node"].is_null() | frame["candidate_node"].is_null()
        counts = {name: int((frame["state"] == state).sum()) for name, state in _COUNTS.items()}
        counts["unmatched"] = int(alone.sum())
        paired = frame.drop_nulls(["golden_node", "candidate_node"])
        return self.hold(paired, counts, "golden_node")

    def hold(self, frame: pl.DataFrame, counts: Mapping[str, int], node: str) -> GateResult:
        """Hold numbers against the gate: those of a frame's rows, or a count of the whole.

        Parameters
        ----------
        frame : polars.DataFrame
            One row per tensor, with ``role`` and ``slot``.
        counts : mapping
            Numbers that are not of one row, by the name that a gate gives them.
        node : str
            The column with a tensor's node.

        Raises
        ------
        UserError
            There is no such measure; the message names those there are.
        """
        if self.measure in counts:
            return self._result(float(counts[self.measure]), "")
        reduction, column = self._column(frame, counts)
        values = [
            (float(value), row)
            for row, value in enumerate(frame[column])
            if value is not None and not math.isnan(value)
        ]
        if not values:
            return GateResult(self.text, False, None, "")
        if reduction == "mean":
            return self._result(math.fsum(v for v, _ in values) / len(values), "")
        largest = reduction == "max" or (reduction == "" and self.comparator in ("<=", "<"))
        value, row = (max if largest else min)(values, key=lambda pair: pair[0])
        cells = frame.row(row, named=True)
        where = f"{shown_node(cells[node])} {cells['role']} {cells['slot'] or ''}".rstrip()
        return self._result(value, where)

    def _column(self, frame: pl.DataFrame, counts: Iterable[str]) -> tuple[str, str]:
        numeric = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
        if self.measure in numeric:
            return "", self.measure
        reduction, _, column = self.measure.partition("_")
        if reduction in _REDUCED and column in numeric:
            return reduction, column
        known = ", ".join(n for n in numeric if n not in ("step", "rank", "order", "call"))
        raise UserError(
            f"no measure {self.measure!r} for the gate {self.text!r}; there are {known}, each also "
            f"with max_, min_ or mean_ in front, and {', '.join(counts)}"
        )

    def _result(self, value: float, where: str) -> GateResult:
        holds = _COMPARATORS[self.comparator](value, self.limit)
        return GateResult(self.text, holds, value, where)
