"""The report in a terminal: the answer, then the ten worst rows, then what to type next."""

from __future__ import annotations

import shlex
from typing import IO, TYPE_CHECKING, Any

from llmdbg.report.console import Side, console_for, ending, headline, table_for
from llmdbg.report.text import printable
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from llmdbg.report.model import Report

WORST_ROWS = 10
OTHER_FINDINGS = 5
_RANK = {"FAIL": 0, "SUSPECT": 1, "INHERITED": 2, "UNDECIDED": 3, "PASS": 4}
_STYLE = {"FAIL": "bold red", "SUSPECT": "yellow", "INHERITED": "magenta", "UNDECIDED": "dim"}
_COLUMNS: tuple[tuple[str, Side], ...] = (
    ("state", "left"), ("step", "right"), ("tensor", "left"), ("rel L2", "right"),
    ("× floor", "right"), ("worst row", "right"), ("1 - cos", "right"), ("max |d|", "right"),
    ("why", "left"),
)  # fmt: skip


def render(report: Report, stream: IO[str], *, files: dict[str, str] | None = None) -> None:
    """Print a report; colour only to a terminal, and nothing said by colour alone.

    Parameters
    ----------
    report : Report
        What to print.
    stream : text stream
        Where to.
    files : dict, optional
        From `folder.write`: where the full report lies.
    """
    console = console_for(stream)
    verdict = report.verdict
    headline(console, verdict.sentence, verdict.outcome)
    if verdict.culprit is not None:
        for line in verdict.culprit.patterns:
            console.print(f"  {printable(line)}", soft_wrap=True)
    for finding in verdict.suspects[:OTHER_FINDINGS]:
        where = "" if finding.step is None else f" (step {finding.step})"
        line = f"also: {finding.shown}{where}: {'; '.join(finding.evidence[:2])}"
        console.print(printable(line), soft_wrap=True)
    if len(verdict.suspects) > OTHER_FINDINGS:
        console.print(f"also: {len(verdict.suspects) - OTHER_FINDINGS} more, all in summary.json")
    for line in _context(report):
        console.print(printable(line), soft_wrap=True)
    console.print()
    _print_worst(report, console)
    console.print()
    ending(console, files, next_command(report))


def next_command(report: Report) -> str:
    """Return the command line that looks closer at the answer."""
    culprit = report.verdict.culprit
    if culprit is None:
        return f"llmdbg show {shlex.quote(report.candidate.path)}"
    command = ["llmdbg", "show", report.candidate.path, "--node", culprit.candidate]
    if culprit.step is not None:
        command += ["--step", str(culprit.step)]
    return shlex.join(command)


def worst_rows(report: Report, count: int = WORST_ROWS) -> list[dict[str, Any]]:
    """Return the rows that deserve a look: accused first, then by error over floor."""
    frame = report.frame
    ranked = sorted(
        range(frame.height),
        key=lambda i: (_RANK[report.verdict.states[i]], -(report.verdict.ratios[i] or 0.0), i),
    )
    return [frame.row(i, named=True) for i in ranked[:count]]


def _context(report: Report) -> list[str]:
    counts = report.counts
    states = ", ".join(f"{n} {s}" for s, n in counts["states"].items() if n)
    lines = [f"{counts['pairs']} pairs, {counts['measured']} measured; rows: {states}"]
    lines += [str(gate) for gate in report.gates]
    lines += [f"note: {note}" for note in report.notes]
    for side, unmatched in (("golden", "unmatched_golden"), ("candidate", "unmatched_candidate")):
        if counts[unmatched]:
            has, lacks = ("golden_node", "candidate_node")[:: 1 if side == "golden" else -1]
            names = [
                here
                for here, there in report.frame.select(has, lacks).iter_rows()
                if here is not None and there is None
            ]
            shown = ", ".join(dict.fromkeys(shown_node(n) for n in names[:3]))
            more = ", …" if len(names) > 3 else ""
            lines.append(f"{counts[unmatched]} {side} records without counterpart: {shown}{more}")
    for name, side_model in (("golden", report.golden), ("candidate", report.candidate)):
        problems = side_model.problems
        lines += [f"{name}: {p}" for p in problems[:3]]
        if len(problems) > 3:
            lines.append(f"{name}: {len(problems) - 3} more problems, all in summary.json")
    return lines


def _print_worst(report: Report, console: Console) -> None:
    table = table_for(console, _COLUMNS)
    for row in worst_rows(report):
        _add(table, row)
    console.print(table)


def _add(table: Table, row: dict[str, Any]) -> None:
    from rich.text import Text

    name = next((row[c] for c in ("golden_node", "candidate_node") if row[c] is not None), "?")
    name = shown_node(name)
    place = " ".join(str(p) for p in (name, row["role"], row["slot"]) if p not in (None, ""))
    worst = _number(row.get("worst_row_relative_l2"))
    where = row.get("worst_row")
    table.add_row(
        Text(row["state"], style=_STYLE.get(row["state"], "")),
        "" if row["step"] is None else str(row["step"]),
        Text(printable(place)),
        _number(row["relative_euclidean_distance"]),
        "" if row["ratio"] is None else f"{row['ratio']:.1f}",
        f"{worst} @{where}" if worst and where is not None else worst,
        _number(row.get("one_minus_cosine")),
        _number(row["max_absolute_error"]),
        Text(printable(row["reason"] or "")),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"
