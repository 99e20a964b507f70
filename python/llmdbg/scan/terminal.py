"""The scan in a terminal: the answer, the findings, the worst tensors, the next command."""

from __future__ import annotations

import shlex
from typing import IO, TYPE_CHECKING, Any

from llmdbg.report.console import Side, console_for, ending, headline, table_for
from llmdbg.report.text import printable
from llmdbg.scan.model import Level
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    from rich.console import Console

    from llmdbg.scan.model import Scan

_ROWS = 10
_FINDINGS = 12
_STYLE = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.INFO: "dim"}
_COLUMNS: tuple[tuple[str, Side], ...] = (
    ("finding", "left"), ("step", "right"), ("tensor", "left"), ("dtype", "left"),
    ("NaN", "right"), ("+Inf", "right"), ("−Inf", "right"), ("near max", "right"),
    ("zero", "right"), ("|x| max", "right"), ("headroom", "right"),
)  # fmt: skip


def render(scan: Scan, stream: IO[str], *, files: dict[str, str] | None = None) -> None:
    """Print a scan; colour only to a terminal, and nothing said by colour alone.

    Parameters
    ----------
    scan : Scan
        What to print.
    stream : text stream
        Where to.
    files : dict, optional
        Where the full report lies.
    """
    from rich.text import Text

    console = console_for(stream)
    headline(console, scan.sentence, scan.outcome)
    if scan.findings:
        for line in scan.findings[0].evidence:
            console.print(f"  {printable(line)}", soft_wrap=True)
    counts = scan.counts
    found = ", ".join(f"{counts[level]} {level}" for level in map(str, Level))
    console.print(
        f"{counts['tensors']} tensors, {counts['read']} read; findings: {found}", soft_wrap=True
    )
    for gate in scan.gates:
        console.print(printable(str(gate)), soft_wrap=True)
    for note in scan.notes:
        console.print(printable(f"note: {note}"), soft_wrap=True)
    for problem in scan.problems[:3]:
        console.print(printable(f"problem: {problem}"), soft_wrap=True)
    if len(scan.problems) > 3:
        console.print(f"{len(scan.problems) - 3} more problems, all in summary.json")
    if len(scan.findings) > 1:
        console.print()
        for finding in scan.findings[1:_FINDINGS]:
            level = Text(f"{finding.level:<7} ", style=_STYLE[finding.level])
            console.print(level + Text(printable(finding.sentence), style=""), soft_wrap=True)
        if len(scan.findings) > _FINDINGS:
            console.print(f"{len(scan.findings) - _FINDINGS} more in the report")
    console.print()
    _print_rows(scan, console)
    console.print()
    ending(console, files, next_command(scan))


def next_command(scan: Scan) -> str:
    """Return the command line that looks closer at the answer."""
    command = ["llmdbg", "show", scan.paths[0]]
    if scan.findings and scan.findings[0].row is not None:
        finding = scan.findings[0]
        row = scan.frame.row(finding.row or 0, named=True)
        if row["node"]:
            command += ["--node", row["node"]]
            if row["step"] is not None:
                command += ["--step", str(row["step"])]
    return shlex.join(command)


def worst_rows(scan: Scan, count: int = _ROWS) -> list[dict[str, Any]]:
    """Return the rows that deserve a look: those of findings, then the least headroom."""
    frame = scan.frame
    named = dict.fromkeys(f.row for f in scan.findings if f.row is not None)
    headroom = frame["headroom_bits"].to_list()
    rest = sorted(
        (i for i, bits in enumerate(headroom) if bits is not None and i not in named),
        key=lambda i: (headroom[i], i),
    )
    return [frame.row(i, named=True) for i in [*named, *rest][:count]]


def _print_rows(scan: Scan, console: Console) -> None:
    from rich.text import Text

    table = table_for(console, _COLUMNS)
    for row in worst_rows(scan):
        name = " ".join(
            str(p)
            for p in (shown_node(row["node"]), row["role"], row["slot"])
            if p not in (None, "")
        )
        level = row["level"]
        style = _STYLE[Level(level)] if level else ""
        table.add_row(
            Text(row["findings"] or "", style=style),
            "" if row["step"] is None else str(row["step"]),
            Text(printable(name)),
            row["dtype"] or "",
            *(_count(row[c]) for c in ("nan", "pos_inf", "neg_inf", "near_max")),
            "" if not row["numbers"] else f"{row['zero'] / row['numbers']:.0%}",
            "" if row["abs_max"] is None else f"{row['abs_max']:.3g}",
            "" if row["headroom_bits"] is None else f"{row['headroom_bits']:.1f} bits",
        )
    console.print(table)


def _count(value: int | None) -> str:
    return str(value) if value else ""
