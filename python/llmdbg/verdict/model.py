"""What a judgement is: plain data, no rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Outcome = Literal["clean", "diverged", "undecided"]


class State(StrEnum):
    """The judgement of one row."""

    PASS = "PASS"
    """At the noise floor, or no further from it than its inputs explain."""
    SUSPECT = "SUSPECT"
    """Beyond the floor, but not by enough to accuse the operator."""
    FAIL = "FAIL"
    """An error that starts here."""
    INHERITED = "INHERITED"
    """Beyond the floor because what it was computed from already was."""
    UNDECIDED = "UNDECIDED"
    """Not measured, or measured without enough to judge by."""


def shown_node(name: str) -> str:
    """Return a node's name for a person; that of a whole model is empty."""
    return name or "(whole model)"


@dataclass(frozen=True)
class Finding:
    """An operator that is held responsible, with the reasons.

    Attributes
    ----------
    golden, candidate : str
        The operator's name on either side; of a gap, the module whose own code is meant.
    step, rank : int or None
        Where it happened; None where the dump has no such notion.
    kind : str
        ``operator``, ``gap``, ``weight``, ``parameter``, ``input``, ``nonfinite`` or ``shape``.
    ratio : float or None
        Error over the noise floor; None where it cannot be a number.
    confidence : float or None
        Of the alignment of the two operators, 0 to 1.
    evidence : tuple of str
        What supports the finding, in words.
    row : int
        The row of the frame that shows it best.
    label : str
        What to call it in a sentence; empty for the golden name.
    patterns : tuple of str
        What the error looks like, each with the number of the test that says so.
    """

    golden: str
    candidate: str
    step: int | None
    rank: int | None
    kind: str
    ratio: float | None
    confidence: float | None
    evidence: tuple[str, ...]
    row: int
    label: str = ""
    patterns: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """What to call it in a sentence."""
        return self.label or shown_node(self.golden)

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as the summary spells it."""
        return {
            "golden": self.golden,
            "candidate": self.candidate,
            "name": self.shown,
            "step": self.step,
            "rank": self.rank,
            "kind": self.kind,
            "ratio": self.ratio,
            "confidence": self.confidence,
            "evidence": list(self.evidence),
            "patterns": list(self.patterns),
        }


@dataclass(frozen=True)
class Verdict:
    """The judgement of one comparison.

    Attributes
    ----------
    outcome : {"clean", "diverged", "undecided"}
        The answer.
    sentence : str
        The answer for a person.
    culprit : Finding or None
        The first operator with clean inputs and a wrong output.
    suspects : tuple of Finding
        Further findings, in execution order.
    states, reasons : list
        One per row of the frame.
    ratios, floors : list of float or None
        Per row: relative L2 error over the row's noise floor, and that floor.
    more : dict of str to list
        Further columns, one value per row: ``introduced``, ``required_factor``, ``shadow_ratio``,
        ``shadow_row_ratio``.
    """

    outcome: Outcome
    sentence: str
    culprit: Finding | None
    suspects: tuple[Finding, ...]
    states: list[State] = field(repr=False)
    reasons: list[str] = field(repr=False)
    ratios: list[float | None] = field(repr=False)
    floors: list[float | None] = field(repr=False)
    more: dict[str, list[float | None]] = field(default_factory=dict, repr=False)
