"""Judging every row and naming what went wrong first.

Work by work, in execution order: a work is an innermost module or a piece of a module's own code
(`flow`). The strongest evidence is a golden operator computed from the candidate's own inputs
(`shadow`); where there is none, clean inputs with a dirty output, and a gain unlike the same
operator's in the other layers (`kin`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmdbg.verdict import words
from llmdbg.verdict.calls import Call, Row, calls_of, encloses, rows_of
from llmdbg.verdict.floor import grown, unit_roundoff
from llmdbg.verdict.flow import Flow, Work, flow_of
from llmdbg.verdict.kin import Outlier, outliers
from llmdbg.verdict.model import Finding, Outcome, State, Verdict
from llmdbg.verdict.patterns import patterns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import polars as pl

    from llmdbg.verdict.calibration import Calibration
    from llmdbg.verdict.parameters import ParameterDifference
    from llmdbg.verdict.shadow import Check, Checker

PASS_FACTOR = 3.0
"""Up to so many floors a difference is rounding."""
FAIL_FACTOR = 10.0
"""From so many floors on it is not, whatever the operator."""
MIN_CONFIDENCE = 0.6
"""Below this an alignment is a guess and nothing is judged by it."""
MIN_ELEMENTS = 64
"""Below this a relative error says nothing about rounding."""
SHADOW_SUSPECT, SHADOW_FAIL = 2.0, 3.0
"""Device error over trusted error, where a golden operator could be computed."""
SHADOW_KIN_FACTOR = 1.7
"""Between SUSPECT and FAIL: so many times what is usual for the same work elsewhere is FAIL too."""
SHADOW_ROW_FAIL, SHADOW_CHANNEL_FAIL = 4.0, 6.0
"""The same for the worst row and the worst channel."""
_WEIGHT_PART_FACTOR = 20.0
_MOST_EXPLAINED = 3
# Measured on bases 1e4 and 1e6 at position 511: 0.026 and 0.038 of a roundoff for each position.
_ROTARY = 0.05
# What follows a fault is fed values unlike any other layer's: only a second fault stands out so.
_SECOND_FAULT_FACTOR = 6.0


def judge(
    frame: pl.DataFrame,
    graph: Mapping[str, Any] | None = None,  # noqa: ARG001
    *,
    checker: Checker | None = None,
    calibration: Calibration | None = None,
    parameters: Iterable[ParameterDifference] = (),
) -> Verdict:
    """Judge every row and name the first operator that goes wrong.

    Parameters
    ----------
    frame : polars.DataFrame
        As `llmdbg.compare` builds it; `calls.JUDGED` lists the columns that are read.
    graph : mapping, optional
        The golden graph where the dump has one. The dataflow is read off the records themselves.
    checker : Checker, optional
        Makes the shadow checks. None makes none.
    calibration : Calibration, optional
        Noise floors measured on a clean run, used where there is one for the tensor.
    parameters : iterable of ParameterDifference, optional
        Numbers that configure a module and differ.

    Returns
    -------
    Verdict
    """
    rows = rows_of(frame)
    calls = calls_of(rows)
    flow = flow_of(calls)
    judgement = _Judgement(rows, flow, calls, calibration)
    checks = {} if checker is None else checker.checks(rows, flow, judgement.floors)
    judgement.judge_works(checks)
    judgement.judge_weights(calls)
    judgement.judge_parameters(calls, parameters)
    judgement.judge_rest()
    return judgement.verdict(checks, checker)


class _Judgement:
    """States and findings while they are being made."""

    def __init__(
        self, rows: list[Row], flow: Flow, calls: list[Call], calibration: Calibration | None
    ) -> None:
        self.rows, self.flow = rows, flow
        self.states: list[State | None] = [None] * len(rows)
        self.reasons = [""] * len(rows)
        self.floors: list[float | None] = [r.floor for r in rows]
        # The same before it grew: what one operator adds.
        self._own: list[float | None] = [r.floor for r in rows]
        self.introduced: list[float | None] = [None] * len(rows)
        self.findings: list[tuple[float, Finding]] = []
        self._calibration = calibration
        self._calibrated: set[int] = set()
        self._grow_floors(calls)

    def _grow_floors(self, calls: list[Call]) -> None:
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
            if any("Rotary" in (r.cells["golden_op_type"] or "") for r in call.outputs):
                bound = max(bound, _rotary_floor(rows))
            for row in rows:
                if not row.rounds or not bound:
                    continue
                measured = self._calibration.floor_of(row) if self._calibration else None
                if measured is not None:
                    self._calibrated.add(row.index)
                self.floors[row.index] = bound if measured is None else measured
                self._own[row.index] = coarsest[run]

    # -- works --------------------------------------------------------------------------------

    def judge_works(self, checks: Mapping[int, Check]) -> None:
        works = self.flow.works
        self._settle_given()
        unchecked = {i: w for i, w in enumerate(works) if i not in checks}
        floors = {i: self._own[w.outputs[0].index] for i, w in unchecked.items()}
        unlike = outliers(unchecked, floors, self._calibration)
        for i, work in enumerate(works):
            self._judge_work(work, checks.get(i), unlike.get(i))
        for index in sorted(self.flow.copies):
            self._copy(index)
        for index in self.flow.states:
            row = self.rows[index]
            if self._off(row) and not self._undecidable(row):
                self._set(row, State.INHERITED, "a cache: judged where it is used")

    def _settle_given(self) -> None:
        """Settle what no work made: what the run was given."""
        made = {r.index for w in self.flow.works for r in w.outputs}
        for work in self.flow.works:
            for row in work.inputs:
                known = self.states[row.index] is not None or row.index in made
                if known or row.index in self.flow.copies or row.cells["role"] != "input":
                    continue
                if self._settle_input(row) and not row.rounds and row.error:
                    reason = "the two runs were not given the same values here"
                    self._set(row, State.FAIL, reason)
                    self._accuse(work.position - 0.5, row, "input", (reason,))

    def _judge_work(self, work: Work, check: Check | None, outlier: Outlier | None) -> None:
        dirty = [r for r in work.inputs if self._off(r)]
        after = self._accused(work.call)
        if outlier is not None and after and outlier.factor <= _SECOND_FAULT_FACTOR:
            outlier = None
        for row in work.outputs:
            if self._undecidable(row):
                continue
            self._note_introduced(row, work, check)
            found = self._accusation(row, work, check, dirty, outlier)
            if found is None:
                self._settle_output(row, check, dirty, after=after)
                continue
            inner = self._inside(work)
            if inner is not None:
                self._set(row, State.INHERITED, f"the error starts inside, at {inner}")
                continue
            kind, reason = found
            self._set(row, State.FAIL, reason)
            evidence = self._evidence(row, work, check, dirty, reason)
            label = ""
            if work.gap:
                label = words.gap_label(work, None if check is None else check.operator)
                kind = "gap" if kind == "operator" else kind
            self._accuse(work.position, row, kind, evidence, work, check, label)

    def _accusation(
        self,
        row: Row,
        work: Work,
        check: Check | None,
        dirty: list[Row],
        outlier: Outlier | None,
    ) -> tuple[str, str] | None:
        """Return kind and reason when this output is wrong though its inputs do not explain it."""
        if row.shape_differs:
            if any(r.shape_differs for r in dirty):
                return None
            golden, candidate = row.cells["golden_shape"], row.cells["my_shape"]
            return "shape", f"its shape differs: golden {golden}, candidate {candidate}"
        if check is not None:
            return _accused_by_check(row, check)
        if row.mismatched_nonfinite:
            if any(r.mismatched_nonfinite for r in dirty):
                return None
            count = int(row.cells["finiteness_mismatch"])
            return (
                "nonfinite",
                f"NaN or infinity on one side only at {count} positions, none in its inputs",
            )
        if row.error is None:
            return None
        if outlier is not None:
            return "operator", outlier.words
        floor = self.floors[row.index]
        # A look-up by equal indices rounds once.
        looked_up = work.inputs and all(_equal(r) and not r.rounds for r in work.inputs)
        if looked_up and row.error > PASS_FACTOR * (row.floor or 0.0):
            return "operator", self._how_far(row, row.floor)
        exact = not row.rounds or row.index in self._calibrated
        if not dirty and _beyond(row, floor, PASS_FACTOR if exact else FAIL_FACTOR):
            return "operator", self._how_far(row, floor)
        return None

    def _how_far(self, row: Row, floor: float | None) -> str:
        assert row.error is not None
        if not floor:
            return f"error {row.error:.1e}, where values are not rounded"
        return (
            f"error introduced here is {words.factor(row.error / floor)} the "
            f"{words.floor_name(row)} ({row.error:.1e} against {floor:.1e})"
        )

    def _settle_output(
        self, row: Row, check: Check | None, dirty: list[Row], *, after: bool
    ) -> None:
        off = self._off(row)
        if check is not None and check.ratio > SHADOW_SUSPECT:
            reason = f"{words.factor(check.ratio)} the error of {check.operator} done right"
            self._set(row, State.SUSPECT, reason)
        elif not off:
            self._set(row, State.PASS, "at the noise floor" if row.error else "equal")
        elif check is not None and (dirty or after):
            right = f"what is done here is right ({check.ratio:.1f}×)"
            source = f"its {dirty[0].title} was already off; " if dirty else ""
            self._set(row, State.INHERITED, source + right)
        elif check is not None:
            reason = f"what its inputs explain: what is done here is right ({check.ratio:.1f}×)"
            self._set(row, State.PASS, reason)
        elif dirty:
            self._set(row, State.INHERITED, f"its {dirty[0].title} was already off")
        elif after:
            self._set(row, State.INHERITED, "runs after the first fault")
        else:
            ratio = words.factor((row.error or 0.0) / (self.floors[row.index] or 1.0))
            self._set(row, State.SUSPECT, f"more than rounding as a rule leaves ({ratio})")

    def _settle_input(self, row: Row) -> bool:
        """Settle an input; True when it is off."""
        if self._undecidable(row):
            return bool(row.error)
        off = self._off(row)
        if off:
            self._set(row, State.INHERITED, "already off when it came in")
        else:
            self._set(row, State.PASS, "at the noise floor")
        return off

    def _copy(self, index: int) -> None:
        """Judge a further record of a tensor as the first one was."""
        first = index
        while first in self.flow.copies and self.flow.copies[first] != first:
            first = self.flow.copies[first]
        state = self.states[first]
        row = self.rows[index]
        if first == index or state is None or self.states[index] is not None:
            return
        if self._undecidable(row):
            return
        if state is State.FAIL:
            reason = f"the same tensor as {self.rows[first].title}, where the error starts"
            self._set(row, State.INHERITED, reason)
        elif state is not State.UNDECIDED:
            self._set(row, state, self.reasons[first])

    # -- the rest -----------------------------------------------------------------------------

    def judge_weights(self, calls: list[Call]) -> None:
        first_use = {c.node: i for i, c in reversed(list(enumerate(calls)))}
        for row in self.rows:
            if row.cells["role"] != "param" or self._undecidable(row, small_is_fine=True):
                continue
            floor = row.floor or 0.0
            worst = max(
                row.number("worst_row_relative_l2") or 0.0,
                row.number("worst_channel_relative_l2") or 0.0,
            )
            part = worst > _WEIGHT_PART_FACTOR * floor and (row.error or 0.0) > floor * 1.2
            if row.error is not None and (row.error > PASS_FACTOR * floor or part):
                times = (
                    f" ({words.factor(row.error / floor)} the rounding of its dtype)"
                    if floor
                    else ""
                )
                where = f", its worst row or channel by {worst:.1e}" if part else ""
                reason = f"its {row.cells['slot']} differs by {row.error:.1e}{times}{where}"
                self._set(row, State.FAIL, reason)
                position = first_use.get(row.cells["golden_node"], len(calls))
                aligned = words.alignment_words(row)
                self._accuse(
                    position - 0.25, row, "weight", (reason, *([aligned] if aligned else []))
                )
            else:
                self._set(row, State.PASS, "equal up to rounding")

    def judge_parameters(
        self, calls: list[Call], differences: Iterable[ParameterDifference]
    ) -> None:
        first_use = {c.node: (i, c) for i, c in reversed(list(enumerate(calls)))}
        for difference in differences:
            if difference.node not in first_use:
                continue
            position, call = first_use[difference.node]
            row = (call.outputs or call.inputs)[0]
            reason = f"{difference.name} is {difference.candidate}, golden has {difference.golden}"
            self._accuse(position - 0.3, row, "parameter", (reason,))

    def judge_rest(self) -> None:
        for row in self.rows:
            if self.states[row.index] is None and not self._undecidable(row):
                if self._off(row):
                    self._set(row, State.INHERITED, "not judged by itself")
                else:
                    self._set(row, State.PASS, "at the noise floor" if row.error else "equal")

    # -- what a row is ------------------------------------------------------------------------

    def _off(self, row: Row) -> bool:
        return not row.same and (
            row.shape_differs
            or row.mismatched_nonfinite
            or _beyond(row, self.floors[row.index], PASS_FACTOR)
        )

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

    def _set(self, row: Row, state: State, reason: str) -> None:
        self.states[row.index] = state
        self.reasons[row.index] = reason

    def _note_introduced(self, row: Row, work: Work, check: Check | None) -> None:
        """Note what the work adds: measured, or err_out² − err_in² where it was not."""
        if check is not None:
            self.introduced[row.index] = _finite(check.device)
        elif row.error is not None and row.rounds:
            given = max((r.error or 0.0 for r in work.inputs if r.rounds), default=0.0)
            if math.isfinite(given):
                self.introduced[row.index] = _finite(math.sqrt(max(0.0, row.error**2 - given**2)))

    # -- findings -----------------------------------------------------------------------------

    def _accused(self, call: Call) -> bool:
        """Whether something was accused before this call, in its step and rank."""
        return any(f.step == call.step and f.rank == call.rank for _, f in self.findings)

    def _inside(self, work: Work) -> str | None:
        """Return an accused operator that lies inside this one and ran in the same step."""
        if work.gap:
            return None
        for place, finding in self.findings:
            same = finding.step == work.step and finding.rank == work.rank
            within = work.call.first_inside <= place < work.position
            if same and within and encloses(work.node, finding.golden):
                return finding.shown
        return None

    def _evidence(
        self, row: Row, work: Work, check: Check | None, dirty: list[Row], reason: str
    ) -> tuple[str, ...]:
        evidence = [reason]
        if check is not None and check.row is not None and check.row_ratio > 1.5 * check.ratio:
            where = words.place_of(row, check.row)
            evidence.append(f"worst at {where} ({words.factor(check.row_ratio)})")
        elif check is None and row.number("worst_row_relative_l2") is not None and row.error:
            worst, at = row.number("worst_row_relative_l2") or 0.0, row.cells["worst_row"]
            floor = self.floors[row.index]
            if at is not None and floor and worst > 1.5 * row.error:
                where = words.place_of(row, int(at))
                evidence.append(f"worst at {where} ({words.factor(worst / floor)})")
        evidence.append(self._inputs_in_words(list(check.uses) if check else work.inputs, dirty))
        aligned = words.alignment_words(row)
        if aligned:
            evidence.append(aligned)
        return tuple(e for e in evidence if e)

    def _inputs_in_words(self, uses: list[Row], dirty: list[Row]) -> str:
        used = {r.index for r in uses}
        off = [r for r in dirty if r.index in used]
        if off:
            names = ", ".join(r.title for r in off[:2])
            return f"its inputs were off before ({names}), but do not explain this"
        ratios = [
            r.error / floor
            for r in uses
            if r.error is not None and (floor := self.floors[r.index]) and r.rounds
        ]
        if not uses:
            return ""
        return f"its inputs are clean ({words.factor(max(ratios, default=0.0))})"

    def _accuse(
        self,
        place: float,
        row: Row,
        kind: str,
        evidence: tuple[str, ...],
        work: Work | None = None,
        check: Check | None = None,
        label: str = "",
    ) -> None:
        cells = row.cells
        floor = self.floors[row.index]
        ratio = _finite(row.error / floor) if row.error is not None and floor else None
        if check is not None:
            ratio = _finite(max(check.ratio, check.row_ratio))
        golden, candidate = cells["golden_node"], cells["candidate_node"]
        if work is not None and work.gap and work.node != golden:
            golden, candidate = work.node, self._candidate_of(work)
        finding = Finding(
            golden=golden,
            candidate=candidate,
            step=cells["step"],
            rank=cells["rank"],
            kind=kind,
            ratio=ratio,
            confidence=row.number("confidence"),
            evidence=evidence,
            row=row.index,
            label=label,
        )
        self.findings.append((place, finding))

    def _candidate_of(self, work: Work) -> str:
        rows = (*work.call.outputs, *work.call.inputs)
        names = [r.cells["candidate_node"] for r in rows if r.cells["candidate_node"] is not None]
        return names[0] if names else work.node

    def verdict(self, checks: Mapping[int, Check], checker: Checker | None) -> Verdict:
        states = [s if s is not None else State.UNDECIDED for s in self.states]
        findings = _merge(f for _, f in sorted(self.findings, key=lambda pair: pair[0]))
        if checker is not None:
            first = [self._explained(f, checker) for f in findings[:_MOST_EXPLAINED]]
            findings[: len(first)] = first
        culprit = findings[0] if findings else None
        outcome = _outcome(states, self.rows, culprit)
        ratios = [
            _finite(r.error / f) if r.error is not None and f else None
            for r, f in zip(self.rows, self.floors, strict=True)
        ]
        return Verdict(
            outcome=outcome,
            sentence=sentence_of(outcome, culprit, states, self.rows, self.reasons, ratios),
            culprit=culprit,
            suspects=tuple(findings[1:]),
            states=states,
            reasons=self.reasons,
            ratios=ratios,
            floors=self.floors,
            more=self._more(checks, ratios),
        )

    def _explained(self, finding: Finding, checker: Checker) -> Finding:
        """Say what the error looks like, which takes reading the tensors again."""
        work = next((w for w in self.flow.works if w.outputs[0].index == finding.row), None)
        evidence = None if work is None else checker.evidence(work)
        return finding if evidence is None else replace(finding, patterns=patterns(evidence))

    def _more(
        self, checks: Mapping[int, Check], ratios: list[float | None]
    ) -> dict[str, list[float | None]]:
        whole: list[float | None] = [None] * len(self.rows)
        by_row: list[float | None] = [None] * len(self.rows)
        for number, check in checks.items():
            for row in self.flow.works[number].outputs:
                whole[row.index] = _finite(check.ratio)
                by_row[row.index] = _finite(check.row_ratio) if check.row is not None else None
        required = [
            max(w, b or 0.0) if w is not None else r
            for w, b, r in zip(whole, by_row, ratios, strict=True)
        ]
        return {
            "introduced": self.introduced,
            "required_factor": required,
            "shadow_ratio": whole,
            "shadow_row_ratio": by_row,
        }


def _accused_by_check(row: Row, check: Check) -> tuple[str, str] | None:
    if check.nonfinite:
        what = "overflow" if check.overflow else "NaN or infinity"
        return (
            "nonfinite",
            f"{what} at {check.nonfinite} positions where {check.operator}, computed in float64 "
            "from the same inputs, is finite",
        )
    floor = f"({check.device:.1e} against {check.trusted:.1e})"
    if check.ratio > SHADOW_FAIL:
        return "operator", (
            f"error introduced here is {words.factor(check.ratio)} the "
            f"{words.floor_name(row)} {floor}"
        )
    unlike = check.usual is not None and check.ratio > SHADOW_KIN_FACTOR * check.usual
    if unlike and check.ratio > SHADOW_SUSPECT:
        return "operator", (
            f"error introduced here is {words.factor(check.ratio)} the {words.floor_name(row)} "
            f"{floor}; the same operator elsewhere has {words.factor(check.usual or 0.0)}"
        )
    if check.row_ratio > SHADOW_ROW_FAIL and check.row is not None:
        return "operator", (
            f"error introduced at {words.place_of(row, check.row)} is "
            f"{words.factor(check.row_ratio)} the {words.floor_name(row)}, "
            f"{words.factor(check.ratio)} over the whole {floor}"
        )
    if check.channel_ratio > SHADOW_CHANNEL_FAIL and check.operator.startswith("linear"):
        return "operator", (
            f"error introduced in its worst channel is {words.factor(check.channel_ratio)} the "
            f"{words.floor_name(row)}, {words.factor(check.ratio)} over the whole {floor}"
        )
    return None


def _rotary_floor(rows: Iterable[Row]) -> float:
    """Return the error of a rotary table whose frequencies were rounded: it grows with position."""
    positions = [r.number("golden_max_value") or 0.0 for r in rows if not r.rounds]
    rounding = max((unit_roundoff(r.cells["my_dtype"]) for r in rows if r.rounds), default=0.0)
    return _ROTARY * rounding * max(positions, default=0.0)


def _equal(row: Row) -> bool:
    return bool(row.same) or row.error == 0.0


def _beyond(row: Row, bound: float | None, factor: float) -> bool:
    if row.error is None:
        return False
    return row.error > factor * bound if row.rounds and bound is not None else row.error > 0


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _merge(findings: Iterable[Finding]) -> list[Finding]:
    """Keep one finding per operator, the first, with the evidence of what has no step of its own.

    A weight or parameter that differs is why its operator is wrong, not a second fault.
    """
    merged: dict[tuple[str, int | None], Finding] = {}
    explained: set[tuple[str, int | None]] = set()
    for finding in findings:
        same = [k for k, f in merged.items() if f.golden == finding.golden]
        key = same[0] if same else (finding.golden, finding.rank)
        first = merged.get(key)
        if first is None:
            merged[key] = finding
        elif finding.kind not in ("weight", "parameter"):
            # What the operator does wrong in its first step says it all; later steps repeat it.
            if first.kind not in ("weight", "parameter") or key in explained:
                continue
            explained.add(key)
            kind = first.kind if first.kind == "weight" else finding.kind
            told = first.evidence
            evidence = (
                (*told, *finding.evidence) if kind == "weight" else (*finding.evidence, *told)
            )
            merged[key] = replace(finding, kind=kind, evidence=evidence)
        else:
            told = tuple(e for e in finding.evidence[:1] if e not in first.evidence)
            merged[key] = replace(first, evidence=(*first.evidence, *told))
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


def sentence_of(
    outcome: Outcome,
    culprit: Finding | None,
    states: list[State],
    rows: list[Row],
    reasons: list[str],
    ratios: list[float | None],
) -> str:
    """Return the answer for a person."""
    if culprit is not None:
        where = "" if culprit.step is None else f" (step {culprit.step})"
        return f"diverged: {culprit.shown}{where} FAIL: {'; '.join(culprit.evidence)}"
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
