"""Values that grow: an operator that amplifies as in no other layer, or depth that does."""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from llmdbg.scan.health import Row, is_bad, is_float, is_mask
from llmdbg.scan.model import Finding, Level

if TYPE_CHECKING:
    from llmdbg.scan.passes import Call, Pass

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])|(?<=^)\d+(?=_)|(?<=/)\d+(?=_)")
# Gain of one operator over the largest of its like in the other layers.
_ODD, _WRONG = 20.0, 1000.0
# Layers from which on "the other layers" mean something.
_LAYERS = 4
# Growth per layer, kept up over all layers, that ends at the dtype's maximum sooner or later.
_PER_LAYER, _TOTAL = 1.5, 1e4


def growth(passes: list[Pass]) -> list[Finding]:
    """Report operators whose gain is out of line with their like, and exponential growth."""
    findings: dict[str, Finding] = {}
    for one in passes:
        for finding in [*_odd_gains(one), *_depth(one)]:
            findings.setdefault(finding.kind + finding.node, finding)
    return list(findings.values())


def family(node: str) -> str:
    """Return a name with the layer's number taken out: the same for one operator of every layer."""
    return _NUMBER.sub("*", node)


def series(one: Pass) -> dict[tuple[str, str], list[tuple[Call, Row]]]:
    """Return the results of one operator of every layer, in execution order."""
    found: dict[tuple[str, str], list[tuple[Call, Row]]] = defaultdict(list)
    for call in one.calls:
        for row in call.outputs:
            if is_float(row) and row["numbers"] and not is_mask(row) and row["rms"] > 0:
                found[family(call.node), row["slot"]].append((call, row))
    return {
        key: rows for key, rows in found.items() if len({call.node for call, _ in rows}) >= _LAYERS
    }


def _odd_gains(one: Pass) -> list[Finding]:
    odd = []
    for rows in series(one).values():
        gains = [(call, row, _gain(call, row)) for call, row in rows if not call.children]
        known = [(call, row, gain) for call, row, gain in gains if gain is not None]
        if len(known) < _LAYERS:
            continue
        call, row, gain = max(known, key=lambda item: item[2])
        others = [other for c, _, other in known if c.node != call.node]
        if not others or max(others) <= 0 or gain < _ODD * max(others):
            continue
        # A norm amplifies what is small and damps what is large: its result is no larger for it.
        earlier = [r["rms"] for c, r, _ in known if c.end < call.start]
        if row["rms"] < _ODD * max(earlier, default=0) or (not earlier and _is_norm(call)):
            continue
        ratio = gain / max(others)
        odd.append(
            Finding(
                Level.ERROR if ratio >= _WRONG else Level.WARNING,
                "growth",
                call.node,
                one.step,
                one.rank,
                f"{call.node} amplifies {gain:.3g} times, {ratio:.3g} times more than in any other "
                f"layer (median {statistics.median(others):.3g})",
                (
                    f"its result's rms is {row['rms']:.4g}, |x| reaches {row['abs_max']:.4g}"
                    + _left(row),
                ),
                row["row"],
                {"gain": gain, "others": max(others)},
            )
        )
    # What a wrong operator leads to may look odd as well: the first is told, the rest is in it.
    odd.sort(key=lambda finding: finding.row or 0)
    return odd[:1]


def _is_norm(call: Call) -> bool:
    return "norm" in f"{call.node} {call.op_type or ''}".lower()


def _gain(call: Call, row: Row) -> float | None:
    given = [r["rms"] for r in call.inputs if is_float(r) and r["rms"] > 0 and not is_bad(r)]
    return row["rms"] / max(given) if given else None


def _depth(one: Pass) -> list[Finding]:
    worst: tuple[float, Call, Row, list[float]] | None = None
    for rows in series(one).values():
        first_calls: dict[str, tuple[Call, Row]] = {}
        for call, row in rows:
            first_calls.setdefault(call.node, (call, row))
        chosen = list(first_calls.values())
        values = [row["rms"] for _, row in chosen]
        # The first layers of a healthy model grow from the embedding's size; what matters is that
        # it never stops.
        steps = [math.log(b / a) for a, b in pairwise(values) if a > 0 < b]
        if len(steps) < _LAYERS or values[-1] / values[0] < _TOTAL:
            continue
        if min(statistics.median(steps), statistics.median(steps[len(steps) // 2 :])) < math.log(
            _PER_LAYER
        ):
            continue
        call, row = chosen[-1]
        total = values[-1] / values[0]
        if worst is None or total > worst[0]:
            worst = (total, call, row, values)
    if worst is None:
        return []
    total, call, row, values = worst
    per_layer = total ** (1 / (len(values) - 1))
    return [
        Finding(
            Level.WARNING,
            "growth",
            call.node,
            one.step,
            one.rank,
            f"values explode with depth: {family(call.node)} grows {per_layer:.2f} times per "
            f"layer, {total:.3g} times over {len(values)} layers",
            ("rms by layer: " + ", ".join(f"{v:.3g}" for v in values) + _left(row),),
            row["row"],
            {"rms": values},
        )
    ]


def _left(row: Row) -> str:
    headroom = row["headroom_bits"]
    return "" if headroom is None else f", {headroom:.1f} bits below the {row['dtype']} maximum"
