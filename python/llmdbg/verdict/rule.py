"""Judging every row and naming what went wrong first.

Work by work, in execution order: a work is an innermost module or a piece of a module's own code
(`flow`). The strongest evidence is a golden operator computed from the candidate's own inputs
(`shadow`); where there is none, clean inputs with a dirty output, and a gain unlike the same
operator's in the other layers (`kin`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmdbg.verdict import words
from llmdbg.verdict.answer import merged, outcome_of, sentence_of
from llmdbg.verdict.calls import Call, Row, calls_of, encloses, rows_of
from llmdbg.verdict.check import SUSPECT, accused
from llmdbg.verdict.flow import Flow, Work, flow_of
from llmdbg.verdict.kin import Outlier, outliers
from llmdbg.verdict.model import Finding, State, Verdict
from llmdbg.verdict.patterns import patterns
from llmdbg.verdict.standing import FAIL_FACTOR, PASS_FACTOR, Standing, beyond

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import polars as pl

    from llmdbg.verdict.calibration import Calibration
    from llmdbg.verdict.check import Check
    from llmdbg.verdict.parameters import ParameterDifference
    from llmdbg.verdict.shadow import Checker

_WEIGHT_PART_FACTOR = 20.0
_MOST_EXPLAINED = 3
# Measured on norms of Gemma 3 270M: 2.9 to 3.5 times, since few channels carry their inputs.
_USUAL_GAIN = 3.0
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
    works = dict(enumerate(flow.works))
    own = {i: judgement.at.own[w.outputs[0].index] for i, w in works.items()}
    unlike = outliers(works, own, calibration)
    checks = {} if checker is None else checker.checks(rows, flow, own, sorted(unlike))
    judgement.judge_works(checks, unlike)
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
        self.at = Standing(rows, calls, calibration)
        self.introduced: list[float | None] = [None] * len(rows)
        self.findings: list[tuple[float, Finding]] = []

    # -- works --------------------------------------------------------------------------------

    def judge_works(self, checks: Mapping[int, Check], unlike: Mapping[int, Outlier]) -> None:
        self._settle_given()
        for i, work in enumerate(self.flow.works):
            self._judge_work(work, checks.get(i), unlike.get(i))
        for index in sorted(self.flow.copies):
            self._copy(index)
        for index in self.flow.states:
            row = self.rows[index]
            if self.at.off(row) and not self.at.undecidable(row):
                self.at.set(row, State.INHERITED, "a cache: judged where it is used")

    def _settle_given(self) -> None:
        """Settle what no work made: what the run was given."""
        made = {r.index for w in self.flow.works for r in w.outputs}
        for work in self.flow.works:
            for row in work.inputs:
                known = self.at.states[row.index] is not None or row.index in made
                if known or row.index in self.flow.copies or row.cells["role"] != "input":
                    continue
                if self._settle_input(row) and not row.rounds and row.at_least:
                    reason = "the two runs were not given the same values here"
                    self.at.set(row, State.FAIL, reason)
                    self._accuse(work.position - 0.5, row, "input", (reason,))

    def _judge_work(self, work: Work, check: Check | None, outlier: Outlier | None) -> None:
        dirty = [r for r in work.inputs if self.at.off(r)]
        after = self._accused(work.call)
        if outlier is not None and after and outlier.factor <= _SECOND_FAULT_FACTOR:
            outlier = None
        for row in work.outputs:
            # What is computed again is held against as many values, however few.
            if self.at.undecidable(row, small_is_fine=check is not None):
                continue
            self._note_introduced(row, work, check)
            found = self._accusation(row, work, check, dirty, outlier)
            if found is None:
                self._settle_output(row, work, check, dirty, after=after)
                continue
            inner = self._inside(work)
            if inner is not None:
                self.at.set(row, State.INHERITED, f"the error starts inside, at {inner}")
                continue
            kind, reason = found
            self.at.set(row, State.FAIL, reason)
            evidence = words.evidence_of(row, work, check, dirty, reason, self.at.floors)
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
            return accused(row, check)
        if row.mismatched_nonfinite:
            if any(r.mismatched_nonfinite for r in dirty):
                return None
            count = int(row.cells["finiteness_mismatch"])
            return (
                "nonfinite",
                f"NaN or infinity on one side only at {count} positions, none in its inputs",
            )
        if row.at_least is None:
            return None
        if outlier is not None:
            return "operator", outlier.words
        floor = self.at.floors[row.index]
        # A look-up by equal indices rounds once.
        looked_up = work.inputs and all(_equal(r) and not r.rounds for r in work.inputs)
        if looked_up and row.at_least > PASS_FACTOR * (row.floor or 0.0):
            return "operator", self._how_far(row, row.floor)
        if dirty or not all(map(self.at.known, work.inputs)):
            return None
        if not row.rounds or row.index in self.at.firm:
            wrong = beyond(row, floor, PASS_FACTOR)
        else:
            # Inputs may be clean by a floor that is wider than this one.
            own = row.at_least**2 - (_USUAL_GAIN * _error_in(work)) ** 2
            wrong = own > (FAIL_FACTOR * (floor or 0.0)) ** 2
        return ("operator", self._how_far(row, floor)) if wrong else None

    def _how_far(self, row: Row, floor: float | None) -> str:
        error = row.at_least or 0.0
        least = "" if row.error is not None else "at least "
        if not floor:
            return f"error {least}{error:.1e}, where values are not rounded"
        return (
            f"error introduced here is {least}{words.factor(error / floor)} the "
            f"{words.floor_name(row)} ({error:.1e} against {floor:.1e})"
        )

    def _settle_output(
        self, row: Row, work: Work, check: Check | None, dirty: list[Row], *, after: bool
    ) -> None:
        off = self.at.off(row)
        if check is not None and check.ratio > SUSPECT:
            reason = f"{words.factor(check.ratio)} the error of {check.operator} done right"
            self.at.set(row, State.SUSPECT, reason)
        elif not off:
            self.at.set(row, State.PASS, "at the noise floor" if row.error else "equal")
        elif check is not None and (dirty or after):
            right = f"what is done here is right ({check.ratio:.1f}×)"
            source = f"its {dirty[0].title} was already off; " if dirty else ""
            self.at.set(row, State.INHERITED, source + right)
        elif check is not None:
            reason = f"what its inputs explain: what is done here is right ({check.ratio:.1f}×)"
            self.at.set(row, State.PASS, reason)
        elif dirty:
            self.at.set(row, State.INHERITED, f"its {dirty[0].title} was already off")
        elif after:
            self.at.set(row, State.INHERITED, "runs after the first fault")
        elif row.error is not None and row.error <= _USUAL_GAIN * _error_in(work):
            self.at.set(row, State.PASS, "no more than its inputs explain")
        elif row.error is None and (floor := self.at.floors[row.index]):
            ratio = words.factor((row.at_least or 0.0) / floor)
            reason = f"at least {ratio} the {words.floor_name(row)}, by its statistics alone"
            self.at.set(row, State.SUSPECT, reason)
        else:
            ratio = words.factor((row.error or 0.0) / (self.at.floors[row.index] or 1.0))
            self.at.set(row, State.SUSPECT, f"more than rounding as a rule leaves ({ratio})")

    def _settle_input(self, row: Row) -> bool:
        """Settle an input; True when it is off."""
        if self.at.undecidable(row):
            return bool(row.error)
        off = self.at.off(row)
        if off:
            self.at.set(row, State.INHERITED, "already off when it came in")
        else:
            self.at.set(row, State.PASS, "at the noise floor")
        return off

    def _copy(self, index: int) -> None:
        """Judge a further record of a tensor as the first one was."""
        first = index
        while first in self.flow.copies and self.flow.copies[first] != first:
            first = self.flow.copies[first]
        state = self.at.states[first]
        row = self.rows[index]
        if first == index or state is None or self.at.states[index] is not None:
            return
        if self.at.undecidable(row):
            return
        if state is State.FAIL:
            reason = f"the same tensor as {self.rows[first].title}, where the error starts"
            self.at.set(row, State.INHERITED, reason)
        elif state is not State.UNDECIDED:
            self.at.set(row, state, self.at.reasons[first])

    # -- the rest -----------------------------------------------------------------------------

    def judge_weights(self, calls: list[Call]) -> None:
        first_use = {c.node: i for i, c in reversed(list(enumerate(calls)))}
        for row in self.rows:
            if row.cells["role"] != "param" or self.at.undecidable(row, small_is_fine=True):
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
                self.at.set(row, State.FAIL, reason)
                position = first_use.get(row.cells["golden_node"], len(calls))
                aligned = words.alignment_words(row)
                self._accuse(
                    position - 0.25, row, "weight", (reason, *([aligned] if aligned else []))
                )
            else:
                self.at.set(row, State.PASS, "equal up to rounding")

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
            if self.at.states[row.index] is None and not self.at.undecidable(row):
                if self.at.off(row):
                    self.at.set(row, State.INHERITED, "not judged by itself")
                else:
                    self.at.set(row, State.PASS, "at the noise floor" if row.error else "equal")

    # -- what a row is ------------------------------------------------------------------------

    def _note_introduced(self, row: Row, work: Work, check: Check | None) -> None:
        """Note what the work adds: measured, or err_out² − err_in² where it was not."""
        if check is not None:
            self.introduced[row.index] = _finite(check.device)
        elif row.error is not None and row.rounds:
            given = _error_in(work)
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
        floor = self.at.floors[row.index]
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
        states = [s if s is not None else State.UNDECIDED for s in self.at.states]
        findings = merged(f for _, f in sorted(self.findings, key=lambda pair: pair[0]))
        if checker is not None:
            first = [self._explained(f, checker) for f in findings[:_MOST_EXPLAINED]]
            findings[: len(first)] = first
        culprit = findings[0] if findings else None
        outcome = outcome_of(states, self.rows, self.at.floors, culprit)
        ratios = [
            (0.0 if r.same else _finite(r.error / f)) if r.error is not None and f else None
            for r, f in zip(self.rows, self.at.floors, strict=True)
        ]
        return Verdict(
            outcome=outcome,
            sentence=sentence_of(outcome, culprit, states, self.rows, self.at.reasons, ratios),
            culprit=culprit,
            suspects=tuple(findings[1:]),
            states=states,
            reasons=self.at.reasons,
            ratios=ratios,
            floors=self.at.floors,
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


def _error_in(work: Work) -> float:
    return max((r.error or 0.0 for r in work.inputs if r.rounds and not r.same), default=0.0)


def _equal(row: Row) -> bool:
    return bool(row.same) or row.error == 0.0


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
