"""How far a result is from what it should be: the candidate's, by what rounding alone leaves.

``R = (‖D − G‖ + δ) / (‖C − G‖ + δ) / s``, norms relative to ‖G‖: D is what the candidate gave, G
the golden operator in float64, C the same rounded as the candidate's dtype rounds, δ an eighth of
that dtype's unit roundoff, and s = 1 + 3/√n for the scatter of n values that carry the norm; per
row and channel likewise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmdbg.verdict import words
from llmdbg.verdict.floor import storage_floor, unit_roundoff

if TYPE_CHECKING:
    from llmdbg.golden.precision import Array
    from llmdbg.verdict.calls import Row

SUSPECT, FAIL = 2.0, 3.0
"""Device error over trusted error, R."""
KIN_FACTOR, KIN_Z = 1.7, 5.0
"""Between SUSPECT and FAIL: beyond what is usual for the same work elsewhere, by so many times and
so many robust standard deviations of the logarithm, is FAIL too."""
ROW_FAIL, CHANNEL_FAIL = 4.0, 6.0
"""The same for the worst row and the worst channel."""
_MIN_WIDTH = 32
_MIN_ROWS_PER_CHANNEL = 16
_SCATTER = 3.0


@dataclass(frozen=True)
class Check:
    """What a shadow check found.

    Attributes
    ----------
    operator : str
        The golden operator, for a person.
    ratio : float
        R of the whole tensor.
    row_ratio : float
        R of its worst row; 0 where rows are too short to be judged.
    row : int or None
        That row.
    channel_ratio : float
        R of its worst channel; 0 where there are too few rows.
    device, trusted : float
        Relative L2 error of the candidate's output, and of the rounded golden operator.
    nonfinite : int
        Values that are NaN or infinite where the golden operator is finite.
    overflow : bool
        Whether the golden operator, too, leaves the dtype's range there.
    uses : tuple of Row
        What the operator was computed from.
    partial : bool
        Whether only some rows or columns were computed.
    usual, spread : float or None
        The median `ratio` of the same work, of as many rows, in the other layers and steps, and the
        robust standard deviation of its logarithm.
    """

    operator: str
    ratio: float
    row_ratio: float
    row: int | None
    channel_ratio: float
    device: float
    trusted: float
    nonfinite: int = 0
    overflow: bool = False
    uses: tuple[Row, ...] = ()
    partial: bool = False
    usual: float | None = None
    spread: float = 0.0

    @property
    def unlike_kin(self) -> bool:
        """Whether `ratio` stands out from that of the same work elsewhere."""
        if self.usual is None or not 0.0 < self.ratio < math.inf:
            return False
        return math.log(self.ratio / self.usual) > max(math.log(KIN_FACTOR), KIN_Z * self.spread)


def accused(row: Row, check: Check) -> tuple[str, str] | None:
    """Return kind and reason when a check accuses what made this row."""
    if check.nonfinite:
        what = "overflow" if check.overflow else "NaN or infinity"
        return (
            "nonfinite",
            f"{what} at {check.nonfinite} positions where {check.operator}, computed in float64 "
            "from the same inputs, is finite",
        )
    floor = f"({check.device:.1e} against {check.trusted:.1e})"
    if check.ratio > FAIL:
        return "operator", (
            f"error introduced here is {words.factor(check.ratio)} the "
            f"{words.floor_name(row)} {floor}"
        )
    if check.ratio > SUSPECT and check.unlike_kin:
        return "operator", (
            f"error introduced here is {words.factor(check.ratio)} the {words.floor_name(row)} "
            f"{floor}; the same operator elsewhere has {words.factor(check.usual or 0.0)}"
        )
    if check.row_ratio > ROW_FAIL and check.row is not None:
        return "operator", (
            f"error introduced at {words.place_of(row, check.row)} is "
            f"{words.factor(check.row_ratio)} the {words.floor_name(row)}, "
            f"{words.factor(check.ratio)} over the whole {floor}"
        )
    if check.channel_ratio > CHANNEL_FAIL and check.operator.startswith("linear"):
        return "operator", (
            f"error introduced in its worst channel is {words.factor(check.channel_ratio)} the "
            f"{words.floor_name(row)}, {words.factor(check.ratio)} over the whole {floor}"
        )
    return None


def compared(
    actual: Array, exact: Array, rounded: Array, dtype: str | None, shared: int = 1
) -> Check:
    """Measure D against G, by C.

    Parameters
    ----------
    actual, exact, rounded : ndarray, shape (rows, channels)
        D, G and C.
    dtype : str or None
        What C is rounded to.
    shared : int
        So many neighbouring channels err together: those of one head, by their softmax.
    """
    delta = unit_roundoff(dtype) / 8
    limit = _largest_finite(dtype)
    good = np.isfinite(exact)
    bad = good & ~np.isfinite(actual)
    overflow = bool(bad.any() and (np.abs(exact[bad]) > 0.99 * limit).all())
    whole = good.all(1) & np.isfinite(actual).all(1)
    if not whole.any():
        ratio = math.inf if bad.any() else 1.0
        return Check("", ratio, 0.0, None, 0.0, math.nan, math.nan, int(bad.sum()), overflow)
    g = exact[whole]
    device, trusted = actual[whole] - g, rounded[whole] - g
    e_device, e_trusted = relative(device, g), relative(trusted, g)
    if dtype in ("float32", "float64"):
        # Summed in their own width, in an order of each stack's own.
        e_trusted = max(e_trusted, storage_floor(dtype) or 0.0)
    row_ratio, row = 0.0, None
    if g.shape[1] >= _MIN_WIDTH and g.shape[0] > 1:
        ratios = _ratios(device, trusted, g, e_trusted, delta, axis=1, shared=shared)
        worst = int(np.argmax(ratios))
        row_ratio, row = float(ratios[worst]), int(np.flatnonzero(whole)[worst])
    channel_ratio = 0.0
    if g.shape[0] >= _MIN_ROWS_PER_CHANNEL:
        channel_ratio = float(_ratios(device, trusted, g, e_trusted, delta, axis=0).max())
    return Check(
        "",
        (e_device + delta) / (e_trusted + delta) / float(_scatter(g, shared=shared)),
        row_ratio,
        row,
        channel_ratio,
        e_device,
        e_trusted,
        int(bad.sum()),
        overflow,
    )


def _ratios(
    device: Array,
    trusted: Array,
    g: Array,
    overall: float,
    delta: float,
    axis: int,
    shared: int = 1,
) -> Array:
    """Return R along one axis, less what few values scatter."""
    size = np.sqrt(np.square(g).sum(axis))
    # What is nearly zero beside its neighbours has no relative error of its own.
    size = np.maximum(size, 1e-3 * np.sqrt(np.square(size).mean()))
    size = np.where(size > 0, size, 1.0)
    d = np.sqrt(np.square(device).sum(axis)) / size
    t = np.sqrt(np.square(trusted).sum(axis)) / size
    return np.asarray((d + delta) / (np.maximum(t, overall) + delta) / _scatter(g, axis, shared))


def _scatter(g: Array, axis: int | None = None, shared: int = 1) -> Array:
    """Return by how much a root mean square of rounding errors may exceed its expectation.

    One value alone errs by up to 2.4 times its root mean square, and a tensor whose norm sits in a
    few values is like one of that few: n = (Σg²)² / Σg⁴.
    """
    square = np.square(g)
    if shared > 1:
        square = square.reshape(g.shape[0], -1, shared).sum(-1)
    fourth = np.square(square).sum(axis)
    few = np.square(square.sum(axis)) / np.where(fourth > 0, fourth, 1.0)
    return np.asarray(1.0 + _SCATTER / np.sqrt(np.maximum(few, 1.0)))


def relative(difference: Array, reference: Array) -> float:
    """Return the norm of one over that of the other; beside nothing, infinity."""
    norm = float(np.sqrt(np.square(reference).sum()))
    size = float(np.sqrt(np.square(difference).sum()))
    if not math.isfinite(size):
        return math.inf
    return size / norm if norm else (0.0 if size == 0 else math.inf)


def _largest_finite(dtype: str | None) -> float:
    return {"float16": 65504.0}.get(dtype or "", 3.3e38)
