"""Several recordings of one run: what differs between them, where it begins, how much."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from llmdbg import _core
from llmdbg.scan.model import Finding, Level
from llmdbg.scan.passes import Call, passes
from llmdbg.verdict.calibration import Calibration, Floor
from llmdbg.verdict.floor import storage_floor
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmdbg.dump import Dump
    from llmdbg.scan.health import Row

# Beyond this many storage roundings a spread is not the order of a sum any more.
_LARGE = 16.0
_KEY = ("step", "rank", "node", "call", "role", "phase", "slot")


class Spread:
    """How far the runs are apart, tensor by tensor.

    Attributes
    ----------
    differs : set of int
        Rows of the first run whose bytes are not the same in every run.
    relative_l2, worst_row : dict of int to float
        Largest relative L2 distance of a row's tensor between the first run and another.
    samples : int
        Runs that were held against the first.
    missing : list of str
        What only some runs have, in words.
    """

    def __init__(self) -> None:
        self.differs: set[int] = set()
        self.relative_l2: dict[int, float] = {}
        self.worst_row: dict[int, float] = {}
        self.samples = 0
        self.missing: list[str] = []

    def add(
        self,
        rows: list[Row],
        first: Dump,
        other: Dump,
        *,
        threads: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Hold another run against the first."""
        columns = other.core.columns()
        theirs = {tuple(columns[name][i] for name in _KEY): i for i in range(len(other))}
        pairs = [
            (row["row"], theirs[key])
            for row in rows
            if row["path"] and (key := tuple(row[name] for name in _KEY)) in theirs
        ]
        if len(pairs) < len(rows):
            count = len(rows) - len(pairs)
            self.missing.append(f"{count} tensors of the first run are not in {other.root}")
        if len(other) > len(pairs):
            self.missing.append(f"{len(other) - len(pairs)} tensors are only in {other.root}")
        measured = _core.compare_pairs(
            first.core,
            other.core,
            [a for a, _ in pairs],
            [b for _, b in pairs],
            threads=threads,
            kl=False,
            progress=progress,
        )
        self.samples += 1
        for at, (row, _) in enumerate(pairs):
            if measured["bitwise_equal"][at]:
                distance = worst = 0.0
            else:
                self.differs.add(row)
                distance = float(measured["relative_l2"][at])
                worst = float(measured["worst_row_relative_l2"][at])
                if measured["finiteness_mismatch"][at] > 0:
                    distance = math.inf
            if not math.isnan(distance):
                self.relative_l2[row] = max(self.relative_l2.get(row, 0.0), distance)
                worst = distance if math.isnan(worst) else worst
                self.worst_row[row] = max(self.worst_row.get(row, 0.0), worst)

    def calibration(self, rows: list[Row], paths: Sequence[str]) -> str:
        """Return the spread as the JSON that ``llmdbg compare --calibrate`` takes."""
        floors: dict[tuple[str, str, str], Floor] = {}
        for row in rows:
            distance = self.relative_l2.get(row["row"])
            if distance is None or not math.isfinite(distance):
                continue
            key = row["node"], row["role"] or "", row["slot"] or ""
            known = floors.get(key, Floor(0.0, 0.0, 0))
            floors[key] = Floor(
                max(known.relative_l2, distance),
                max(known.worst_row_relative_l2, self.worst_row[row["row"]]),
                known.samples + self.samples,
            )
        return _text_of(Calibration(floors, f"spread of {len(paths)} runs: {', '.join(paths)}"))


def _text_of(calibration: Calibration) -> str:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.json"
        calibration.write(path)
        return path.read_text(encoding="utf-8")


def nondeterminism(rows: list[Row], spread: Spread) -> list[Finding]:
    """Report each pass's first operator with equal inputs and unequal results, and the tree."""
    if not spread.differs:
        return []
    by_row = {row["row"]: row for row in rows}
    findings = []
    told: set[str] = set()
    for one in passes(rows):
        origin = _first(one.calls, spread)
        if origin is None:
            continue
        call, row, kind = origin
        if call.node in told:
            continue
        told.add(call.node)
        distance = spread.relative_l2.get(row["row"], math.nan)
        floor = storage_floor(row["dtype"] or "")
        large = not distance <= _LARGE * (floor or 0.0)
        apart = _spread_words(distance, floor, row)
        name = shown_node(call.node)
        sentence = {
            "operator": f"{name} gives unequal results for equal inputs: {apart}",
            "code": f"the code before {name} gives it unequal inputs: {apart}",
            "input": f"the runs were given unequal inputs: {name} input {row['slot']}, {apart}",
        }[kind]
        findings.append(
            Finding(
                Level.ERROR if large and kind != "input" else Level.WARNING,
                "nondeterministic",
                call.node,
                one.step,
                one.rank,
                sentence,
                _tree(rows, spread),
                row["row"],
                {"origin": kind, "relative_l2": distance, "differing": len(spread.differs)},
            )
        )
    weights = [
        by_row[i] for i in sorted(spread.differs) if by_row[i]["role"] in ("param", "tensor")
    ]
    if weights and not findings:
        first = weights[0]
        findings.append(
            Finding(
                Level.WARNING,
                "nondeterministic",
                first["node"],
                first["step"],
                first["rank"],
                f"{first['node']} {first['role']} {first['slot']} differs between the runs, as do "
                f"{len(weights) - 1} others",
                _tree(rows, spread),
                first["row"],
                {"origin": "tensor"},
            )
        )
    return findings


def _first(calls: list[Call], spread: Spread) -> tuple[Call, Row, str] | None:
    leaves = [call for call in calls if not call.children]
    for at, call in enumerate(leaves):
        given = next((r for r in call.inputs if r["row"] in spread.differs), None)
        made = next((r for r in call.outputs if r["row"] in spread.differs), None)
        if given is not None:
            outermost = call
            while outermost.parent is not None and any(
                r["row"] in spread.differs for r in outermost.parent.inputs
            ):
                outermost = outermost.parent
            if at == 0 or outermost.start <= leaves[0].start:
                return outermost, given, "input"
            return call, given, "code"
        if made is not None:
            return call, made, "operator"
    for call in calls:
        made = next((r for r in call.outputs if r["row"] in spread.differs), None)
        if made is not None:
            return call, made, "operator"
    return None


def _spread_words(distance: float, floor: float | None, row: Row) -> str:
    if math.isinf(distance):
        return "finite in one run and not in another"
    if math.isnan(distance):
        return "the bytes differ"
    text = f"relative L2 spread {distance:.2e}"
    if floor:
        text += f", {distance / floor:.2g} times the rounding of {row['dtype']}"
    return text


def _tree(rows: list[Row], spread: Spread, most: int = 8) -> tuple[str, ...]:
    """Say which branches of the model differ: the topmost that differ throughout, with counts."""
    differ: Counter[str] = Counter()
    total: Counter[str] = Counter()
    depth: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["role"] != "output":
            continue
        for name, level in _branches(row["node"]):
            total[name] += 1
            depth[name] = level
            differ[name] += row["row"] in spread.differs
    lines = []
    covered: list[str] = []
    for name in sorted(total, key=lambda n: (depth[n], list(total).index(n))):
        if not differ[name] or any(name.startswith(c) for c in covered):
            continue
        if differ[name] == total[name] or depth[name] >= 3:
            lines.append(f"{name or '(all)'}: {differ[name]} of {total[name]} results differ")
            covered.append(name)
    more = (f"and {len(lines) - most} more branches",) if len(lines) > most else ()
    return (*lines[:most], *more)


def _branches(node: str) -> list[tuple[str, int]]:
    separator = "/" if "/" in node else "."
    parts = node.split(separator)
    return [(separator.join(parts[:level]), level) for level in range(len(parts) + 1)]
