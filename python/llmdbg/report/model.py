"""The one model that every report is a function of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from llmdbg.verdict import Calibration, GateResult, Verdict


@dataclass(frozen=True)
class Side:
    """One of the two runs that were compared.

    Attributes
    ----------
    path : str
        As the user gave it.
    layout, variant : str
        What the dump was recognised as.
    records : int
        Tensors it holds.
    problems : tuple of str
        What could not be read of it, in words.
    about : dict
        What its producer said about the run.
    """

    path: str
    layout: str
    variant: str
    records: int
    problems: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the side as the summary spells it."""
        return {
            "path": self.path,
            "layout": self.layout,
            "variant": self.variant,
            "records": self.records,
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class Report:
    """Everything a report shows; nothing in it depends on when, or with how many threads.

    Attributes
    ----------
    golden, candidate : Side
        The two runs.
    frame : polars.DataFrame
        One row per pair in golden order, then the unmatched records; columns as in `columns`.
    verdict : Verdict
        The judgement.
    alignment : str
        JSON of the alignment, to be edited and given back with ``--mapping-file``.
    notes : tuple of str
        What the aligner wants known: steps that are shifted, ranks that differ.
    gates : tuple of GateResult
        The gates that were asked for, and what they met.
    calibration : Calibration, optional
        The measured noise floors that the verdict rests on.
    """

    golden: Side
    candidate: Side
    frame: pl.DataFrame = field(repr=False)
    verdict: Verdict
    alignment: str = field(repr=False)
    notes: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    calibration: Calibration | None = field(default=None, repr=False)

    @property
    def counts(self) -> dict[str, Any]:
        """How many records, pairs and rows in each state there are."""
        names = self.frame.select("golden_node", "candidate_node", "cmp_fail_reason").rows()
        pairs = [
            reason
            for golden, candidate, reason in names
            if golden is not None and candidate is not None
        ]
        states = [str(s) for s in self.verdict.states]
        return {
            "golden_records": self.golden.records,
            "candidate_records": self.candidate.records,
            "pairs": len(pairs),
            "measured": sum(not reason for reason in pairs),
            "unmeasured": sum(bool(reason) for reason in pairs),
            "unmatched_golden": sum(candidate is None for _, candidate, _ in names),
            "unmatched_candidate": sum(golden is None for golden, _, _ in names),
            "states": {
                s: states.count(s) for s in ("PASS", "SUSPECT", "FAIL", "INHERITED", "UNDECIDED")
            },
        }
