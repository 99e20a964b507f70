"""Scanning, from paths to findings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg._core import LlmdbgError
from llmdbg.dump import open_dump
from llmdbg.errors import UserError
from llmdbg.report.text import ranges as shown_ranges
from llmdbg.scan import growth, health, opdebug, origin, overwritten, ranks, rules, runs
from llmdbg.scan.model import Finding, Level, Scan, in_order
from llmdbg.scan.passes import passes
from llmdbg.scan.tensors import Tensors
from llmdbg.verdict import Gate

if TYPE_CHECKING:
    from llmdbg.dump import Dump
    from llmdbg.scan.health import Row

StrPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]


def scan(
    *paths: StrPath,
    step: int | Sequence[int] | None = None,
    rank: int | Sequence[int] | None = None,
    threads: int = 0,
    gates: Sequence[str] = (),
    progress: Progress | None = None,
) -> Scan:
    """Look for anomalies in recorded runs.

    Parameters
    ----------
    *paths : path
        One dump of any layout, a folder of tensors, a tensor file, a safetensors checkpoint, or
        CANN's overflow dumps (``Opdebug.…``).
        Several are recordings of one run, held against the first bit by bit.
    step, rank : int or sequence of int, optional
        Look at these only.
    threads : int
        Worker threads; 0 takes all cores. The result is the same for any number.
    gates : sequence of str
        Bounds such as ``headroom_bits>=2``; see `llmdbg.verdict.Gate`. What they met stands in
        ``scan.gates``.
    progress : callable, optional
        Called with tensors done and in all.

    Returns
    -------
    Scan

    Raises
    ------
    LlmdbgError
        A path holds nothing that can be scanned; the message says what it holds.
    OSError
        The operating system refuses to read a path.

    Examples
    --------
    >>> scan("dumps/candidate").sentence  # doctest: +SKIP
    """
    if not paths:
        raise UserError("a dump is needed: llmdbg scan-anomaly DUMP")
    bounds = [Gate.parse(gate) for gate in gates]
    found = _scan(paths, step, rank, threads, progress)
    return replace(
        found, gates=tuple(gate.hold(found.frame, found.counts, "node") for gate in bounds)
    )


def _scan(
    paths: Sequence[StrPath],
    step: int | Sequence[int] | None,
    rank: int | Sequence[int] | None,
    threads: int,
    progress: Progress | None,
) -> Scan:
    debug = opdebug.find(Path(paths[0])) if len(paths) == 1 else []
    try:
        dump = open_dump(paths[0])
    except LlmdbgError:
        if not debug:
            raise
        reported, problems = opdebug.overflows(Path(paths[0]), debug)
        told = tuple(os.fspath(path) for path in paths)
        return Scan(told, "opdebug", health.frame([]), in_order(reported), tuple(problems))
    rows = _wanted(health.table(dump, threads=threads, progress=progress), dump, step, rank)
    findings = examine(rows, dump, threads=threads)
    if len(paths) == 1:
        reported, problems = opdebug.overflows(Path(paths[0]), debug) if debug else ([], [])
        return conclude(paths, dump, rows, [*findings, *reported], problems=problems)
    spread = runs.Spread()
    for path in paths[1:]:
        spread.add(rows, dump, open_dump(path), threads=threads, progress=progress)
    findings += runs.nondeterminism(rows, spread)
    for row in rows:
        row["spread"] = spread.relative_l2.get(row["row"])
    equal = len(rows) - len(spread.differs)
    notes = [f"{equal} of {len(rows)} tensors are bitwise equal in all {len(paths)} runs"]
    found = conclude(paths, dump, rows, findings, notes=[*notes, *spread.missing])
    calibration = spread.calibration(rows, [os.fspath(path) for path in paths])
    return replace(found, calibration=calibration)


def examine(rows: list[Row], dump: Dump, *, threads: int = 0) -> list[Finding]:
    """Apply every rule for one dump to its tensors' health."""
    tensors = Tensors(dump)
    overwritten.mark_weights(rows, dump)
    calls = passes(overwritten.without_kernels(rows, dump))
    findings = origin.nonfinite(calls, tensors)
    findings += overwritten.overwritten(rows, dump, tensors, threads=threads)
    findings += ranks.across_ranks(calls, rows, dump, tensors)
    findings += growth.growth(calls)
    findings += rules.finite_anomalies(calls)
    loose = [row for row in rows if row["role"] not in ("input", "output")]
    known = {finding.row for finding in findings}
    findings += [f for f in rules.loose_anomalies(loose) if f.row not in known]
    findings += _unreadable(rows)
    return findings


def conclude(
    paths: Sequence[StrPath],
    dump: Dump,
    rows: list[Row],
    findings: list[Finding],
    *,
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Scan:
    """Put findings and rows together; rows are renumbered as the frame has them."""
    place = {row["row"]: i for i, row in enumerate(rows)}
    ordered = []
    for finding in in_order(findings):
        row = None if finding.row is None else place.get(finding.row)
        ordered.append(_at(finding, row))
        if row is not None:
            rows[row].setdefault("level", str(finding.level))
            told = rows[row].get("findings")
            rows[row]["findings"] = f"{told}; {finding.kind}" if told else finding.kind
    return Scan(
        paths=tuple(os.fspath(path) for path in paths),
        layout=dump.layout,
        frame=health.frame(rows),
        findings=tuple(ordered),
        problems=(*dump.problems, *problems),
        notes=tuple(notes),
    )


def _at(finding: Finding, row: int | None) -> Finding:
    return replace(finding, row=row)


def _wanted(
    rows: list[Row],
    dump: Dump,
    step: int | Sequence[int] | None,
    rank: int | Sequence[int] | None,
) -> list[Row]:
    steps, ranks = _numbers(step), _numbers(rank)
    chosen = [
        row
        for row in rows
        if (not steps or row["step"] in steps or row["role"] == "param")
        and (not ranks or row["rank"] in ranks)
    ]
    if rows and not chosen:
        raise UserError(
            "no tensor of that step and rank; "
            f"steps: {shown_ranges(dump.steps)}, ranks: {shown_ranges(dump.ranks)}"
        )
    return chosen


def _numbers(given: int | Sequence[int] | None) -> frozenset[int]:
    if given is None:
        return frozenset()
    return frozenset([given] if isinstance(given, int) else given)


def _unreadable(rows: list[Row]) -> list[Finding]:
    broken = [
        row
        for row in rows
        # What a producer left out on purpose is no damage.
        if row["reason"] and row["path"] and not row["reason"].startswith("dtype ")
    ]
    if not broken:
        return []
    first = broken[0]
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    return [
        Finding(
            Level.WARNING,
            "unreadable",
            first["node"],
            first["step"],
            first["rank"],
            f"{first['node']} {first['role']} {first['slot']} could not be read{more}: "
            f"{first['reason']}",
            tuple(f"{row['path']}: {row['reason']}" for row in broken[1:4]),
            first["row"],
            {"count": len(broken)},
        )
    ]
