"""The first rule: clean inputs, dirty output, and unlike the same operator in other layers.

Two tests accuse an operator. *Alone*: its inputs are at the floor of their depth and its output is
more than `FAIL_FACTOR` floors off. *Among its kin*: error out over error in, compared with the same
operator in the other layers, is an outlier (robust z-score of the logarithm). The second needs no
absolute number, which is what makes norms and rotary tables, whose gain is large in every correct
run, innocent. Both look at the whole tensor; the second also at the worst row and worst channel.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from llmdbg.verdict.calls import Call, Row, calls_of, encloses, rows_of
from llmdbg.verdict.floor import grown
from llmdbg.verdict.model import Finding, Outcome, State, Verdict, shown_node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import polars as pl

PASS_FACTOR = 3.0
"""Up to so many floors a difference is rounding."""
FAIL_FACTOR = 10.0
"""From so many floors on it is not, whatever the operator."""
MIN_CONFIDENCE = 0.6
"""Below this an alignment is a guess and nothing is judged by it."""
MIN_ELEMENTS = 64
"""Below this a relative error says nothing about rounding."""
_MIN_KIN = 6
_OUTLIER_Z = 4.0
# Rows and channels are judged by their worst, which scatters more than the whole.
_MEASURES = (
    ("relative_euclidean_distance", 2.0, "error out over error in"),
    ("worst_row_relative_l2", 3.0, "worst row's error out over error in"),
    ("worst_channel_relative_l2", 6.0, "worst channel's error over the tensor's"),
)
# What follows a fault is fed values unlike any other layer's: only a second fault stands out so.
_SECOND_FAULT_FACTOR = 6.0
_MIN_SPREAD = 0.15


def judge(frame: pl.DataFrame, graph: Mapping[str, Any] | None = None) -> Verdict:  # noqa: ARG001
    """Judge every row and name the first operator that goes wrong.

    Parameters
    ----------
    frame : polars.DataFrame
        As `llmdbg.compare` builds it; `calls.JUDGED` lists the columns that are read.
    graph : mapping, optional
        The golden graph where the dump has one. Execution order serves where it has none.

    Returns
    -------
    Verdict
    """
    rows = rows_of(frame)
    calls = calls_of(rows)
    judgement = _Judgement(rows)
    floors = _run_floors(calls)
    outliers = _outliers(calls, floors)
    for position, call in enumerate(calls):
        judgement.judge_call(position, call, floors[position], outliers.get(position))
    judgement.judge_weights(calls)
    judgement.judge_rest()
    return judgement.verdict()


class _Judgement:
    """States and findings while they are being made."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.states: list[State | None] = [None] * len(rows)
        self.reasons = [""] * len(rows)
        self.floors: list[float | None] = [r.floor for r in rows]
        self.findings: list[tuple[float, Finding]] = []

    def judge_call(
        self, position: int, call: Call, floor: float | None, unlike: tuple[float, str] | None
    ) -> None:
        bound = None if floor is None else grown(floor, call.depth)
        for row in (*call.inputs, *call.outputs):
            if row.rounds and bound is not None:
                self.floors[row.index] = bound
        dirty = [r for r in call.inputs if self._settle_input(r, bound)]
        self._note_given(position, call, dirty)
        outlier = None
        if unlike is not None and (unlike[0] > _SECOND_FAULT_FACTOR or not self._accused(call)):
            outlier = unlike[1]
        for row in call.outputs:
            if self._undecidable(row):
                continue
            finding = self._accusation(row, bound, dirty, outlier)
            if finding is None:
                self._settle_output(row, bound, dirty, after=self._accused(call))
                continue
            inner = self._inside(call, position)
            if inner is not None:
                self._set(row, State.INHERITED, f"the error starts inside, at {shown_node(inner)}")
                continue
            kind, reason = finding
            self._set(row, State.FAIL, reason)
            self._accuse(position, row, kind, self._evidence(row, bound, dirty, reason))

    def judge_weights(self, calls: list[Call]) -> None:
        first_use = {c.node: i for i, c in reversed(list(enumerate(calls)))}
        for row in self.rows:
            if row.cells["role"] != "param" or self._undecidable(row, small_is_fine=True):
                continue
            limit = PASS_FACTOR * (row.floor or 0.0)
            if row.error is not None and row.error > limit:
                reason = (
                    f"the weight itself differs by {row.error:.1e}{_times(row.error, row.floor)}"
                )
                self._set(row, State.FAIL, reason)
                position = first_use.get(row.cells["golden_node"], len(calls))
                self._accuse(position - 0.25, row, "weight", (f"{row.title}: {reason}",))
            else:
                self._set(row, State.PASS, "equal up to rounding")

    def judge_rest(self) -> None:
        for row in self.rows:
            if self.states[row.index] is None and not self._undecidable(row):
                self._settle_output(row, row.floor, [], after=False)

    def verdict(self) -> Verdict:
        states = [s if s is not None else State.UNDECIDED for s in self.states]
        findings = _merge(f for _, f in sorted(self.findings, key=lambda pair: pair[0]))
        culprit = findings[0] if findings else None
        outcome = _outcome(states, self.rows, culprit)
        ratios = [
            _finite(r.error / f) if r.error is not None and f else None
            for r, f in zip(self.rows, self.floors, strict=True)
        ]
        return Verdict(
            outcome=outcome,
            sentence=_sentence(outcome, culprit, states, self.rows, self.reasons, ratios),
            culprit=culprit,
            suspects=tuple(findings[1:]),
            states=states,
            reasons=self.reasons,
            ratios=ratios,
            floors=self.floors,
        )

    def _set(self, row: Row, state: State, reason: str) -> None:
        self.states[row.index] = state
        self.reasons[row.index] = reason

    def _undecidable(self, row: Row, *, small_is_fine: bool = False) -> bool:
        """Settle a row that cannot be judged by its error; True when it was settled."""
        cells = row.cells
        confidence = row.number("confidence")
        if not row.paired:
            self._set(row, State.UNDECIDED, cells["cmp_fail_reason"] or "no counterpart")
        elif confidence is not None and confidence < MIN_CONFIDENCE:
            reason = f"the two sides were lined up with confidence {confidence:.2f} only"
            self._set(row, State.UNDECIDED, reason)
        elif row.same:
            self._set(row, State.PASS, row.same)
        elif row.error is None and not (row.shape_differs or row.mismatched_nonfinite):
            self._set(row, State.UNDECIDED, cells["cmp_fail_reason"] or "not measured")
        elif (
            row.error is not None
            and row.error > 0
            and row.rounds
            and not small_is_fine
            and not row.mismatched_nonfinite
            and row.elements is not None
            and row.elements < MIN_ELEMENTS
            and row.error > PASS_FACTOR * (self.floors[row.index] or 0.0)
        ):
            reason = f"{row.elements} elements are too few to tell rounding from a fault"
            self._set(row, State.UNDECIDED, reason)
        else:
            return False
        return True

    def _settle_input(self, row: Row, bound: float | None) -> bool:
        """Settle an input; True when it is off."""
        if self._undecidable(row):
            return bool(row.error)
        off = row.shape_differs or row.mismatched_nonfinite or _beyond(row, bound, PASS_FACTOR)
        if off:
            self._set(row, State.INHERITED, "already off when it came in")
        else:
            self._set(row, State.PASS, "at the noise floor")
        return off

    def _settle_output(
        self, row: Row, bound: float | None, dirty: list[Row], *, after: bool
    ) -> None:
        if not _beyond(row, bound, PASS_FACTOR):
            self._set(row, State.PASS, "at the noise floor" if row.error else "equal")
        elif dirty:
            self._set(row, State.INHERITED, f"its {dirty[0].title} was already off")
        elif after:
            self._set(row, State.INHERITED, "runs after the first fault")
        else:
            reason = f"more than rounding as a rule leaves{_times(row.error, bound)}"
            self._set(row, State.SUSPECT, reason)

    def _accusation(
        self, row: Row, bound: float | None, dirty: list[Row], outlier: str | None
    ) -> tuple[str, str] | None:
        """Return kind and reason when this output is wrong though its inputs do not explain it."""
        if row.shape_differs and not any(r.shape_differs for r in dirty):
            golden, candidate = row.cells["golden_shape"], row.cells["my_shape"]
            return "shape", f"its shape differs: golden {golden}, candidate {candidate}"
        if row.mismatched_nonfinite and not any(r.mismatched_nonfinite for r in dirty):
            count = int(row.cells["finiteness_mismatch"])
            reason = f"NaN or infinity on one side only at {count} positions, none in its inputs"
            return "nonfinite", reason
        if row.error is None:
            return None
        if outlier is not None:
            return "operator", outlier
        if not dirty and _beyond(row, bound, FAIL_FACTOR if row.rounds else PASS_FACTOR):
            reason = f"error {row.error:.1e}{_times(row.error, bound)}"
            return "operator", reason
        return None

    def _note_given(self, position: int, call: Call, dirty: list[Row]) -> None:
        """Accuse what the run was given, when integers that no earlier operator made differ."""
        given = [r for r in dirty if not r.rounds and r.error]
        if given and not self._accused(call):
            reason = "the two runs were not given the same values here"
            self._set(given[0], State.FAIL, reason)
            evidence = (f"{given[0].title}: {reason}",)
            self._accuse(min(position, call.first_inside) - 0.5, given[0], "input", evidence)

    def _accused(self, call: Call) -> bool:
        """Whether something was accused before this call, in its step and rank."""
        return any(f.step == call.step and f.rank == call.rank for _, f in self.findings)

    def _inside(self, call: Call, position: int) -> str | None:
        """Return an accused operator that lies inside this one and ran in the same step."""
        for place, finding in self.findings:
            same = finding.step == call.step and finding.rank == call.rank
            if (
                same
                and call.first_inside <= place < position
                and encloses(call.node, finding.golden)
            ):
                return finding.golden
        return None

    def _evidence(
        self, row: Row, bound: float | None, dirty: list[Row], reason: str
    ) -> tuple[str, ...]:
        evidence = [f"{row.cells['role'] or 'tensor'} {row.cells['slot'] or ''}: {reason}"]
        if row.error is not None:
            evidence.append(f"relative L2 error {row.error:.2e}{_times(row.error, bound)}")
        worst = row.number("worst_row_relative_l2")
        if worst is not None:
            where = row.cells["worst_row"]
            evidence.append(f"worst at row {where}: {worst:.2e}")
        evidence.append(
            f"inputs already off: {', '.join(r.title for r in dirty)}" if dirty else "inputs clean"
        )
        confidence = row.number("confidence")
        if confidence is not None:
            evidence.append(f"lined up with confidence {confidence:.2f}")
        return tuple(evidence)

    def _accuse(self, place: float, row: Row, kind: str, evidence: tuple[str, ...]) -> None:
        cells = row.cells
        floor = self.floors[row.index]
        ratio = _finite(row.error / floor) if row.error is not None and floor else None
        finding = Finding(
            golden=cells["golden_node"],
            candidate=cells["candidate_node"],
            step=cells["step"],
            rank=cells["rank"],
            kind=kind,
            ratio=ratio,
            confidence=row.number("confidence"),
            evidence=evidence,
            row=row.index,
        )
        self.findings.append((place, finding))


def _run_floors(calls: list[Call]) -> list[float | None]:
    """Return per call the floor of the coarsest dtype met so far in its step and rank.

    A float32 result computed from bfloat16 values has their precision, not its own.
    """
    coarsest: dict[tuple[int | None, int | None], float] = {}
    floors: list[float | None] = []
    for call in calls:
        run = (call.step, call.rank)
        own = [r.floor for r in (*call.inputs, *call.outputs) if r.floor is not None]
        if own:
            coarsest[run] = max(coarsest.get(run, 0.0), *own)
        floors.append(coarsest.get(run))
    return floors


def _outliers(calls: list[Call], floors: list[float | None]) -> dict[int, tuple[float, str]]:
    """Return, by position, how far and why a call's gain is unlike its kin's in other layers."""
    found: dict[int, tuple[float, str]] = {}
    for measure, least, words in _MEASURES:
        families: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for position, (call, floor) in enumerate(zip(calls, floors, strict=True)):
            gain = _gain(call, floor, measure)
            if gain is not None:
                families[call.family].append((position, math.log(gain)))
        for kin in families.values():
            if len(kin) < _MIN_KIN:
                continue
            middle = statistics.median(g for _, g in kin)
            spread = 1.4826 * statistics.median(abs(g - middle) for _, g in kin)
            for position, gain in kin:
                floor = floors[position]
                factor = math.exp(gain - middle)
                z = (gain - middle) / max(spread, _MIN_SPREAD)
                beyond = floor is not None and _largest(calls[position].outputs, measure) > (
                    PASS_FACTOR * floor
                )
                if z > _OUTLIER_Z and factor > least and beyond:
                    reason = f"{words} is {factor:.1f}× that of the same operator elsewhere"
                    found.setdefault(position, (factor, reason))
    return found


def _gain(call: Call, floor: float | None, measure: str) -> float | None:
    if floor is None:
        return None
    out = _largest(call.outputs, measure)
    if not 0.0 < out < math.inf:
        return None
    if measure == "worst_channel_relative_l2":
        base = _largest(call.outputs, "relative_euclidean_distance")
    else:
        base = _largest(call.inputs, measure)
    return out / max(base, floor) if base < math.inf else None


def _largest(rows: list[Row], measure: str) -> float:
    return max((r.number(measure) or 0.0 for r in rows if r.rounds), default=0.0)


def _beyond(row: Row, bound: float | None, factor: float) -> bool:
    if row.error is None:
        return False
    return row.error > factor * bound if row.rounds and bound is not None else row.error > 0


def _times(error: float | None, floor: float | None) -> str:
    if error is None or not floor:
        return ""
    return f" ({error / floor:.1f}× the noise floor of {floor:.1e})"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _merge(findings: Iterable[Finding]) -> list[Finding]:
    """Keep one finding per operator, with the evidence of all its findings of the same step."""
    merged: dict[tuple[str, int | None], Finding] = {}
    for finding in findings:
        same = [k for k, f in merged.items() if f.golden == finding.golden]
        # A weight has no step: it is evidence for the operator's first finding.
        key = same[0] if same else (finding.golden, finding.rank)
        first = merged.get(key)
        if first is None:
            merged[key] = finding
        elif first.kind == "weight" and finding.kind != "weight":
            merged[key] = Finding(
                **{
                    **{k: getattr(finding, k) for k in Finding.__dataclass_fields__},
                    "kind": "weight",
                    "evidence": (*first.evidence, *finding.evidence),
                }
            )
    return list(merged.values())


def _outcome(states: list[State], rows: list[Row], culprit: Finding | None) -> Outcome:
    if culprit is not None or State.FAIL in states:
        return "diverged"
    unread = any(
        s is State.UNDECIDED and r.paired and r.cells["cmp_fail_reason"]
        for s, r in zip(states, rows, strict=True)
    )
    if unread or State.PASS not in states:
        return "undecided"
    return "clean"


def _sentence(
    outcome: Outcome,
    culprit: Finding | None,
    states: list[State],
    rows: list[Row],
    reasons: list[str],
    ratios: list[float | None],
) -> str:
    if culprit is not None:
        where = "" if culprit.step is None else f" (step {culprit.step})"
        return (
            f"diverged: first wrong is {shown_node(culprit.golden)}{where}: {culprit.evidence[0]}"
        )
    judged = sum(s is not State.UNDECIDED for s in states)
    if outcome == "clean":
        worst = max(
            (i for i, r in enumerate(ratios) if r is not None and states[i] is not State.UNDECIDED),
            key=lambda i: ratios[i] or 0.0,
            default=None,
        )
        detail = ""
        if worst is not None:
            detail = (
                f"; the largest is {ratios[worst]:.1f}× the noise floor, at {rows[worst].title}"
            )
        return f"clean: all differences of {judged} pairs are rounding{detail}"
    why = Counter(
        reason for s, reason in zip(states, reasons, strict=True) if s is State.UNDECIDED
    ).most_common(1)
    cause = f": {why[0][1]} rows: {why[0][0]}" if why else ""
    return f"undecided: {judged} of {len(states)} rows could be judged{cause}"
