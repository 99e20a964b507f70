"""The report as Markdown, to be pasted into an issue tracker."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llmdbg.report.terminal import next_command, worst_rows

if TYPE_CHECKING:
    from llmdbg.report.model import Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~-])")
_MARK = {"clean": "✓", "diverged": "✗", "undecided": "?"}


def render(report: Report) -> str:
    """Return the answer, its evidence, the two runs and the ten worst rows as Markdown.

    Parameters
    ----------
    report : Report
        What to show.
    """
    verdict = report.verdict
    lines = [f"**{_MARK[verdict.outcome]} {verdict.outcome}**: {text(verdict.sentence)}", ""]
    if verdict.culprit is not None:
        lines += [f"- {text(reason)}" for reason in verdict.culprit.evidence]
        lines.append("")
    counts = report.counts
    states = ", ".join(f"{count} {state}" for state, count in counts["states"].items())
    alone = f"{counts['unmatched_golden']} golden, {counts['unmatched_candidate']} candidate"
    lines += [f"{counts['pairs']} pairs: {states}; without counterpart: {alone}.", ""]
    if report.gates:
        lines += [*(f"- {text(gate)}" for gate in report.gates), ""]
    lines += ["| state | step | golden | tensor | × floor | relative L2 | why |", "|---" * 7 + "|"]
    lines += [_row(row) for row in worst_rows(report)]
    lines += ["", "| | golden | candidate |", "|---|---|---|"]
    golden, candidate = report.golden, report.candidate
    facts: list[tuple[str, Any, Any]] = [
        ("path", golden.path, candidate.path),
        ("layout", f"{golden.layout} {golden.variant}", f"{candidate.layout} {candidate.variant}"),
        ("tensors", golden.records, candidate.records),
    ]
    about = sorted({*golden.about, *candidate.about})
    facts += [(name, golden.about.get(name, ""), candidate.about.get(name, "")) for name in about]
    lines += [f"| {text(name)} | {text(a)} | {text(b)} |" for name, a, b in facts]
    lines += ["", f"    {next_command(report)}", ""]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    cells = (
        row["state"],
        "" if row["step"] is None else row["step"],
        row["golden_node"] or row["candidate_node"],
        f"{row['role'] or ''} {row['slot'] or ''}".strip(),
        "" if row["ratio"] is None else f"{row['ratio']:.3g}",
        ""
        if row["relative_euclidean_distance"] is None
        else f"{row['relative_euclidean_distance']:.2e}",
        row["reason"] or row["cmp_fail_reason"] or "",
    )
    return "| " + " | ".join(text(cell) for cell in cells) + " |"


def text(value: Any) -> str:
    """Return `value` as text that Markdown does not interpret; names in a dump are anyone's."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
