"""What a row is before anyone is blamed for it: at its floor, off, or not to be judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdbg.verdict.floor import grown, unit_roundoff
from llmdbg.verdict.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmdbg.verdict.calibration import Calibration
    from llmdbg.verdict.calls import Call, Row

PASS_FACTOR = 3.0
"""Up to so many floors a difference is rounding."""
FAIL_FACTOR = 10.0
"""From so many floors on it is not, whatever the operator."""
MIN_CONFIDENCE = 0.6
"""Below this an alignment is a guess and nothing is judged by it."""
MIN_ELEMENTS = 64
"""Below this a relative error says nothing about rounding."""
# Measured on bases 1e4 and 1e6 at position 511: 0.026 and 0.038 of a roundoff for each position.
_ROTARY = 0.05


class Standing:
    """The rows with their noise floors, and their states while they are being made.

    Parameters
    ----------
    rows : list of Row
    calls : list of Call
    calibration : Calibration, optional

    Attributes
    ----------
    states, reasons : list
        One per row; None is not settled yet.
    floors, own : list of float or None
        What rounding explains in a row, and what the one operator that made it adds.
    firm : set of int
        Rows whose floor was measured, or is a bound: beyond it is beyond rounding.
    """

    def __init__(self, rows: list[Row], calls: list[Call], calibration: Calibration | None) -> None:
        self.rows = rows
        self.states: list[State | None] = [None] * len(rows)
        self.reasons = [""] * len(rows)
        self.floors: list[float | None] = [r.floor for r in rows]
        self.own: list[float | None] = [r.floor for r in rows]
        self.firm: set[int] = set()
        self._grow_floors(calls, calibration)

    def _grow_floors(self, calls: list[Call], calibration: Calibration | None) -> None:
        """Give each row the floor of the coarsest dtype met so far, grown by depth.

        A float32 result computed from bfloat16 values has their precision, not its own. Measured
        floors need neither.
        """
        coarsest: dict[tuple[int | None, int | None], float] = {}
        for call in calls:
            run, rows = (call.step, call.rank), (*call.inputs, *call.outputs)
            own = [r.floor for r in rows if r.floor is not None]
            coarsest[run] = max(coarsest.get(run, 0.0), *own, 0.0)
            bound = grown(coarsest[run], call.depth)
            turned = 0.0
            if any("Rotary" in (r.cells["golden_op_type"] or "") for r in call.outputs):
                turned = _rotary_floor(rows)
            for row in rows:
                if not row.rounds or not bound:
                    continue
                measured = calibration.floor_of(row) if calibration else None
                if measured is not None or turned > bound:
                    self.firm.add(row.index)
                self.floors[row.index] = max(bound, turned) if measured is None else measured
                self.own[row.index] = coarsest[run]

    def off(self, row: Row) -> bool:
        """Whether it is further from golden than rounding explains."""
        return not row.same and (
            row.shape_differs
            or row.mismatched_nonfinite
            or beyond(row, self.floors[row.index], PASS_FACTOR)
        )

    def known(self, row: Row) -> bool:
        """Whether it is known to be at its floor or off: statistics that agree prove nothing."""
        return row.error is not None or bool(row.same) or self.off(row)

    def undecidable(self, row: Row, *, small_is_fine: bool = False) -> bool:
        """Settle a row that cannot be judged by its error; True when it was settled."""
        cells = row.cells
        confidence = row.number("confidence")
        if not row.paired:
            self.set(row, State.UNDECIDED, cells["cmp_fail_reason"] or "no counterpart")
        elif confidence is not None and confidence < MIN_CONFIDENCE:
            reason = f"the two sides were lined up with confidence {confidence:.2f} only"
            self.set(row, State.UNDECIDED, reason)
        elif row.same:
            self.set(row, State.PASS, row.same)
        elif row.error is None and not self.off(row):
            self.set(row, State.UNDECIDED, cells["cmp_fail_reason"] or "not measured")
        elif (
            row.rounds
            and not small_is_fine
            and not row.mismatched_nonfinite
            and row.elements is not None
            and row.elements < MIN_ELEMENTS
            and (row.at_least or 0.0) > PASS_FACTOR * (self.floors[row.index] or 0.0)
        ):
            reason = f"{row.elements} elements are too few to tell rounding from a fault"
            self.set(row, State.UNDECIDED, reason)
        else:
            return False
        return True

    def set(self, row: Row, state: State, reason: str) -> None:
        """Settle a row."""
        self.states[row.index] = state
        self.reasons[row.index] = reason


def _rotary_floor(rows: Iterable[Row]) -> float:
    """Return the error of a rotary table whose frequencies were rounded: it grows with position."""
    positions = [r.number("golden_max_value") or 0.0 for r in rows if not r.rounds]
    rounding = max((unit_roundoff(r.cells["my_dtype"]) for r in rows if r.rounds), default=0.0)
    return _ROTARY * rounding * max(positions, default=0.0)


def beyond(row: Row, bound: float | None, factor: float) -> bool:
    """Whether its error is more than so many times a bound; any is where values do not round."""
    if row.at_least is None:
        return False
    return row.at_least > factor * bound if row.rounds and bound is not None else row.at_least > 0
