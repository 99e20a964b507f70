"""From states and findings to the answer: one outcome, its culprit, one sentence."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from llmdbg.verdict.model import Finding, Outcome, State
from llmdbg.verdict.standing import FAIL_FACTOR, MIN_CONFIDENCE, beyond

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmdbg.verdict.calls import Row


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Keep one finding per operator, the first, with the evidence of what has no step of its own.

    A weight or parameter that differs is why its operator is wrong, not a second fault.
    """
    kept: dict[tuple[str, int | None], Finding] = {}
    explained: set[tuple[str, int | None]] = set()
    for finding in findings:
        same = [k for k, f in kept.items() if f.golden == finding.golden]
        key = same[0] if same else (finding.golden, finding.rank)
        first = kept.get(key)
        if first is None:
            kept[key] = finding
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
            kept[key] = replace(finding, kind=kind, evidence=evidence)
        else:
            told = tuple(e for e in finding.evidence[:1] if e not in first.evidence)
            kept[key] = replace(first, evidence=(*first.evidence, *told))
    return list(kept.values())


def outcome_of(
    states: list[State], rows: list[Row], floors: list[float | None], culprit: Finding | None
) -> Outcome:
    """Return the answer; what cannot be read, or is off with too little to judge by, is open."""
    if culprit is not None or State.FAIL in states:
        return "diverged"
    for state, row, floor in zip(states, rows, floors, strict=True):
        if state is State.UNDECIDED and row.paired:
            guessed = (row.number("confidence") or 1.0) < MIN_CONFIDENCE
            if row.cells["cmp_fail_reason"] or (not guessed and beyond(row, floor, FAIL_FACTOR)):
                return "undecided"
    return "clean" if State.PASS in states else "undecided"


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
    proven = next(
        (i for i, r in enumerate(rows) if states[i] is State.SUSPECT and r.error is None), None
    )
    first = (
        "" if proven is None else f"; {rows[proven].title} is off for certain: {reasons[proven]}"
    )
    return f"undecided: {judged} of {len(states)} rows could be judged{cause}{first}"
