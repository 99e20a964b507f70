"""What a scan found: plain data, no rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import polars as pl

    from llmdbg.verdict import GateResult

Outcome = Literal["clean", "suspect", "anomalous"]


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Values that no right run has."""
    WARNING = "warning"
    """About to go wrong, or odd."""
    INFO = "info"
    """Worth knowing."""


@dataclass(frozen=True)
class Finding:
    """One anomaly, told where it starts.

    Attributes
    ----------
    level : Level
        How bad it is.
    kind : str
        A name from `KINDS`.
    node : str
        The operator, module or tensor where it starts.
    step, rank : int or None
        Where the dump has such a notion.
    sentence : str
        The finding for a person.
    evidence : tuple of str
        What supports it, in words.
    row : int or None
        The row of the frame that shows it best.
    details : dict
        Numbers behind the evidence: elements, values, frames, byte ranges.
    """

    level: Level
    kind: str
    node: str
    step: int | None
    rank: int | None
    sentence: str
    evidence: tuple[str, ...] = ()
    row: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as the summary spells it."""
        return {
            "level": str(self.level),
            "kind": self.kind,
            "node": self.node,
            "step": self.step,
            "rank": self.rank,
            "sentence": self.sentence,
            "evidence": list(self.evidence),
            "row": self.row,
            "details": self.details,
        }


KINDS = {
    "overflow": "a finite result beyond the dtype's range",
    "nan": "NaN made from finite inputs",
    "input": "the run was given values that are not finite",
    "weight": "a weight that is not finite",
    "nonfinite": "a tensor that is not finite, without an operator around it",
    "masked_row": "a softmax row of −Inf only",
    "near_max": "values near the dtype's maximum",
    "subnormal": "mostly values too small for the dtype",
    "saturated": "values pinned to the end of the dtype's range",
    "growth": "one operator amplifies as it does nowhere else, or depth does",
    "all_zero": "a result of zeros only",
    "dead_rows": "rows that became zero",
    "dead_channels": "channels that became zero",
    "constant": "a result of one value only",
    "repeated_rows": "rows that became equal",
    "overwritten": "a tensor changed between its writer and its reader",
    "changed_input": "an operator's input changed while it ran",
    "changed_weight": "a weight differs between steps",
    "kv_cache": "a cache changed outside the slots of this step",
    "nondeterministic": "equal inputs, unequal outputs",
    "replicated": "a tensor that ranks share differs between them",
    "collective": "a collective whose result is not made of its inputs",
    "npu_overflow": "the device reported an overflow",
    "unreadable": "a tensor that could not be read",
}


@dataclass(frozen=True)
class Scan:
    """Everything a report shows.

    Attributes
    ----------
    paths : tuple of str
        The dumps, as the user gave them.
    layout : str
        What the first was recognised as.
    frame : polars.DataFrame
        One row per tensor in execution order; columns as in `health.COLUMNS`.
    findings : tuple of Finding
        Errors first, each level in execution order.
    problems : tuple of str
        What could not be read, in words.
    notes : tuple of str
        What was not looked at, and why.
    calibration : str or None
        JSON of the spread between several runs.
    gates : tuple of GateResult
        The gates that were asked for, and what they met.
    """

    paths: tuple[str, ...]
    layout: str
    frame: pl.DataFrame = field(repr=False)
    findings: tuple[Finding, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calibration: str | None = field(default=None, repr=False)
    gates: tuple[GateResult, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """``anomalous`` with an error, ``suspect`` with a warning, else ``clean``."""
        levels = {finding.level for finding in self.findings}
        if Level.ERROR in levels:
            return "anomalous"
        return "suspect" if Level.WARNING in levels else "clean"

    @property
    def sentence(self) -> str:
        """The answer for a person."""
        if self.outcome == "clean":
            return f"clean: no anomaly in {self.frame.height} tensors"
        return self.findings[0].sentence

    @property
    def counts(self) -> dict[str, int]:
        """Tensors, how many could be read, and findings of each level."""
        read = self.frame["reason"].null_count()
        levels = [finding.level for finding in self.findings]
        return {
            "tensors": self.frame.height,
            "read": read,
            "unread": self.frame.height - read,
            **{str(level): levels.count(level) for level in Level},
        }


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return findings errors first, each level in the order they are given."""
    rank = {Level.ERROR: 0, Level.WARNING: 1, Level.INFO: 2}
    return tuple(sorted(findings, key=lambda finding: rank[finding.level]))
