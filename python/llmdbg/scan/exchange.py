"""A scan as JUnit XML and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmdbg.report.junit import Case, case_name, gate_cases, suite
from llmdbg.report.markdown import text
from llmdbg.scan.model import Level
from llmdbg.scan.terminal import next_command, worst_rows

if TYPE_CHECKING:
    from llmdbg.scan.model import Finding, Scan

_MARK = {"clean": "✓", "anomalous": "✗", "suspect": "?"}


def junit(scan: Scan) -> str:
    """Return JUnit XML: an error is a failure, a tensor that was not read is skipped.

    Parameters
    ----------
    scan : Scan
        What to show.

    Returns
    -------
    str
        One ``testcase`` per tensor, in the ``classname`` of its operator; one per finding that is
        of no single tensor; one per gate.
    """
    found: dict[int | None, list[Finding]] = {}
    for finding in scan.findings:
        found.setdefault(finding.row, []).append(finding)
    cases = [
        _case(row["node"] or "", case_name(row), found.get(i, []), row["reason"])
        for i, row in enumerate(scan.frame.iter_rows(named=True))
    ]
    cases += [_case(f.node, f.kind, [f], None) for f in found.get(None, [])]
    return suite("llmdbg scan-anomaly", [*cases, *gate_cases(scan.gates)])


def _case(node: str, name: str, findings: list[Finding], reason: str | None) -> Case:
    told = "; ".join(finding.sentence for finding in findings)
    errors = [finding for finding in findings if finding.level is Level.ERROR]
    if errors:
        return Case(node, name, "failed", told, errors[0].kind)
    if reason:
        return Case(node, name, "skipped", told or reason)
    return Case(node, name, "passed", told)


def markdown(scan: Scan) -> str:
    """Return the answer, its evidence, the findings and the worst tensors as Markdown.

    Parameters
    ----------
    scan : Scan
        What to show.
    """
    lines = [f"**{_MARK[scan.outcome]} {scan.outcome}**: {text(scan.sentence)}", ""]
    if scan.findings and scan.findings[0].evidence:
        lines += [*(f"- {text(line)}" for line in scan.findings[0].evidence), ""]
    counts = scan.counts
    levels = ", ".join(f"{counts[level]} {level}" for level in map(str, Level))
    lines += [f"{counts['tensors']} tensors, {counts['read']} read; findings: {levels}.", ""]
    lines += [f"- {text(gate)}" for gate in scan.gates]
    if len(scan.findings) > 1:
        lines += ["", "| level | kind | step | finding |", "|---" * 4 + "|"]
        lines += [
            _line(f.level, f.kind, f.step, f.sentence) for f in scan.findings[1 : 1 + _FINDINGS]
        ]
    lines += ["", "| finding | step | tensor | dtype | NaN | Inf | \\|x\\| max | headroom |"]
    lines += ["|---" * 8 + "|", *map(_row, worst_rows(scan))]
    lines += ["", f"Of {', '.join(text(path) for path in scan.paths)} ({text(scan.layout)})."]
    lines += ["", f"    {next_command(scan)}", ""]
    return "\n".join(lines)


_FINDINGS = 20


def _row(row: dict[str, Any]) -> str:
    infinite = (row["pos_inf"] or 0) + (row["neg_inf"] or 0)
    return _line(
        row["findings"],
        row["step"],
        f"{row['node'] or ''} {row['role'] or ''} {row['slot'] or ''}",
        row["dtype"],
        row["nan"],
        infinite,
        None if row["abs_max"] is None else f"{row['abs_max']:.4g}",
        None if row["headroom_bits"] is None else f"{row['headroom_bits']:.1f} bits",
    )


def _line(*cells: Any) -> str:
    return "| " + " | ".join("" if cell is None else text(cell) for cell in cells) + " |"
