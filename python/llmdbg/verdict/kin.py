"""The same operator in the other layers: what is usual for it, and what is not.

Where no golden operator can be computed, an operator's *gain*, error out over error in, is held
against that of its kin. That needs no absolute number: norms and rotary tables multiply errors in
every correct run.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmdbg.golden import operator_for
from llmdbg.verdict.floor import unit_roundoff
from llmdbg.verdict.gaps import shape_of

if TYPE_CHECKING:
    from llmdbg.verdict.calibration import Calibration
    from llmdbg.verdict.calls import Row
    from llmdbg.verdict.flow import Work

MIN_KIN = 6
OUTLIER_Z = 5.0
_MIN_SPREAD = 0.15
_BEYOND = 3.0
# How much of an error has to be a common factor. A matrix makes none of its inputs' errors; norms
# and attention do, where few values carry what they are given.
_PARALLEL, _PARALLEL_OF_PRODUCT = 0.5, 0.2
_QUESTION = 1.5
_SCATTER = 3.0
_SHARE_OF_ONE = 0.3
_FEW_ROUNDINGS = 6.0
# Two clean runs are within a sixth of each other; decode steps, of few values, within a half.
_CLEAN_FACTOR = 2.0
# Rows and channels are judged by their worst, which scatters more than the whole.
_MEASURES = (
    ("relative_euclidean_distance", 2.2, "error out over error in"),
    ("worst_row_relative_l2", 3.0, "worst row's error out over error in"),
    ("worst_channel_relative_l2", 6.0, "worst channel's error over the tensor's"),
)


@dataclass(frozen=True)
class Outlier:
    """How far, and in what, an operator is unlike its kin."""

    factor: float
    words: str


def outliers(
    works: dict[int, Work],
    floors: dict[int, float | None],
    calibration: Calibration | None = None,
) -> dict[int, Outlier]:
    """Find the works whose gain is unlike that of their kin.

    Parameters
    ----------
    works : dict of int to Work
        The ones to look at, by any number.
    floors : dict of int to float or None
        Their noise floors.
    calibration : Calibration, optional
        A clean run: what it says of an operator's gain comes before what its kin say.

    Returns
    -------
    dict of int to Outlier
    """
    found = {} if calibration is None else _unlike_the_clean_run(works, floors, calibration)
    for measure, least, words in _MEASURES:
        gains = {n: _gain(w, floors[n], measure) for n, w in works.items()}
        logs = {n: math.log(g) for n, g in gains.items() if g is not None}
        for number, (middle, spread) in _kin_of(works, logs).items():
            factor = math.exp(logs[number] - middle)
            z = (logs[number] - middle) / max(spread, _MIN_SPREAD)
            if (
                z > OUTLIER_Z
                and factor > least * _scatter(works[number].outputs[0], measure)
                and _is_beyond(works[number], floors[number], measure)
                and not _is_rounding_of_one(works[number].outputs[0])
            ):
                reason = f"{words} is {factor:.1f}× that of the same operator elsewhere"
                found.setdefault(number, Outlier(factor, reason))
    for number, outlier in _scaled(works, floors).items():
        found.setdefault(number, outlier)
    return found


def _unlike_the_clean_run(
    works: dict[int, Work], floors: dict[int, float | None], calibration: Calibration
) -> dict[int, Outlier]:
    found = {}
    for number, work in works.items():
        usual = calibration.gain_of(work.inputs, work.outputs)
        gain = _gain(work, floors[number], "relative_euclidean_distance")
        if usual is None or gain is None:
            continue
        floor = calibration.floor_of(work.outputs[0]) or math.inf
        factor = gain / max(usual, 1e-9)
        error = work.outputs[0].error or 0.0
        if factor > _CLEAN_FACTOR and error > _CLEAN_FACTOR * floor:
            words = f"error out over error in is {factor:.1f}× that of the clean run"
            found[number] = Outlier(factor, words)
    return found


def in_question(works: dict[int, Work], floors: dict[int, float | None]) -> dict[int, float]:
    """Return, for works that deserve a closer look, how much of their error wants explaining.

    That is error out over what the usual gain of the kin makes of error in, for the whole tensor
    and the worst row; from `_QUESTION` on.
    """
    scores: dict[int, float] = {}
    for measure, _, _ in _MEASURES[:2]:
        families: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, work in works.items():
            gain = _gain(work, floors[number], measure)
            if gain is not None:
                families[work.family].append((number, gain))
        for kin in families.values():
            usual = statistics.median(g for _, g in kin) if len(kin) >= MIN_KIN else 1.0
            for number, gain in kin:
                score = gain / usual
                if score > _QUESTION and score > scores.get(number, 0.0):
                    scores[number] = score
    for number, work in works.items():
        row, floor = work.outputs[0], floors[number]
        scale = scale_of(row)
        parallel = abs(scale - 1.0) / row.error if scale is not None and row.error else 0.0
        if row.mismatched_nonfinite:
            scores[number] = math.inf
        elif floor and parallel > _PARALLEL and (row.error or 0.0) > floor:
            scores[number] = max(scores.get(number, 0.0), 2.0 * parallel)
    return scores


def scale_of(row: Row) -> float | None:
    """Return the factor that takes golden nearest to the candidate, ⟨a, b⟩ / ⟨a, a⟩."""
    cosine, golden, candidate = (
        row.number(c) for c in ("cosine_similarity", "golden_rms", "candidate_rms")
    )
    if cosine is None or candidate is None or not golden:
        return None
    return cosine * candidate / golden


def _scaled(works: dict[int, Work], floors: dict[int, float | None]) -> dict[int, Outlier]:
    """Find outputs whose error is mostly a constant factor that their inputs do not have."""
    families: dict[tuple[str, int | None], dict[int, float]] = defaultdict(dict)
    for number, work in works.items():
        scale = scale_of(work.outputs[0])
        if scale is not None and work.outputs[0].rounds:
            families[work.family, work.step][number] = scale - 1.0
    found = {}
    for kin in families.values():
        if len(kin) < MIN_KIN:
            continue
        middle, spread = middle_and_spread(list(kin.values()))
        for number, off in kin.items():
            work, floor = works[number], floors[number]
            error = work.outputs[0].error
            if (
                floor is not None
                and error
                and abs(off) > _BEYOND * floor
                and abs(off - middle) > OUTLIER_Z * max(spread, floor / 3)
                and abs(off) > _share_of_scale(work) * error
                and abs(off) > 3.0 * _scale_given(work)
                and not _is_rounding_of_one(work.outputs[0])
            ):
                factor = abs(off - middle) / max(spread, floor / 3)
                words = f"it is {1.0 + off:.4f} times what it should be, throughout"
                found[number] = Outlier(factor, words)
    return found


def _scale_given(work: Work) -> float:
    """Return by how much the inputs are scaled, at most."""
    scales = map(scale_of, work.inputs)
    return max((abs(scale - 1.0) for scale in scales if scale is not None), default=0.0)


def _is_rounding_of_one(row: Row) -> bool:
    """Whether the error is mostly that of one value, which is off by what a few roundings do.

    LLMs have values a thousand times their neighbours: the norm, and the error, sit in them.
    """
    worst, value, rms = (
        row.number(c) for c in ("max_absolute_error", "golden_at_max_abs", "golden_rms")
    )
    if worst is None or not value or not rms or not row.error or not row.elements:
        return False
    share = worst**2 / (row.error * rms) ** 2 / row.elements
    rounding = max(unit_roundoff(row.cells[c]) for c in ("golden_dtype", "my_dtype"))
    return share > _SHARE_OF_ONE and worst <= _FEW_ROUNDINGS * rounding * abs(value)


def _carriers(row: Row, parts: int = 1) -> float:
    """Return how many values of a part carry its norm, at least: size · mean square / largest²."""
    low, high, rms = (row.number(c) for c in ("golden_min_value", "golden_max_value", "golden_rms"))
    if low is None or high is None or not rms or not row.elements:
        return math.inf
    return max(1.0, row.elements / parts * rms**2 / max(abs(low), abs(high)) ** 2)


def _share_of_scale(work: Work) -> float:
    operator = None if work.gap else operator_for(work.outputs[0].cells["golden_op_type"] or "")
    least = _PARALLEL_OF_PRODUCT if operator is not None and operator.by_columns else _PARALLEL
    return max(least, OUTLIER_Z / math.sqrt(_carriers(work.outputs[0])))


def _scatter(row: Row, measure: str) -> float:
    """Return by how much a measure of few values may exceed what is usual, as for R (`check`)."""
    if measure == "worst_channel_relative_l2":
        return 1.0
    parts = 1
    if measure == "worst_row_relative_l2":
        parts = math.prod(shape_of(row)[:-1])
    return 1.0 + _SCATTER / math.sqrt(_carriers(row, max(1, parts)))


def _kin_of(works: dict[int, Work], values: dict[int, float]) -> dict[int, tuple[float, float]]:
    """Return what is usual beside each value: in its family, or for its type in the same step."""
    families: dict[Any, list[float]] = defaultdict(list)
    types: dict[Any, list[float]] = defaultdict(list)
    for number, value in values.items():
        families[works[number].family].append(value)
        types[_type_of(works[number]), works[number].step].append(value)
    usual = {
        key: middle_and_spread(kin)
        for key, kin in (*families.items(), *types.items())
        if len(kin) >= MIN_KIN
    }
    found = {}
    for number in values:
        work = works[number]
        kin = usual.get(work.family)
        if kin is None and not work.gap:
            kin = usual.get((_type_of(work), work.step))
        if kin is not None:
            found[number] = kin
    return found


def _type_of(work: Work) -> str:
    return work.outputs[0].cells["golden_op_type"] or work.family


def middle_and_spread(values: list[float]) -> tuple[float, float]:
    """Return the median, and the median deviation as a standard deviation."""
    middle = statistics.median(values)
    return middle, 1.4826 * statistics.median(abs(v - middle) for v in values)


def _gain(work: Work, floor: float | None, measure: str) -> float | None:
    if floor is None:
        return None
    out = _largest(work.outputs, measure)
    if not 0.0 < out < math.inf:
        return None
    if measure == "worst_channel_relative_l2":
        base = _largest(work.outputs, "relative_euclidean_distance")
    else:
        base = _largest(work.inputs, measure)
    return out / max(base, floor) if base < math.inf else None


def _is_beyond(work: Work, floor: float | None, measure: str) -> bool:
    return floor is not None and _largest(work.outputs, measure) > _BEYOND * floor


def _largest(rows: list[Row], measure: str) -> float:
    return max((r.number(measure) or 0.0 for r in rows if r.rounds), default=0.0)
