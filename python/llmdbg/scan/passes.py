"""The calls of a run: which tensors each operator was given and gave back, and how they nest."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmdbg.scan.health import Row

_SEPARATORS = re.compile(r"[./]")


@dataclass
class Call:
    """One call of an operator or module.

    Attributes
    ----------
    node : str
        Its name.
    start, end : int
        Where it lies in execution order, everything it contains included.
    inputs, outputs, params : list of dict
        Rows of health.
    children : list of Call
        The calls inside it, in execution order.
    """

    node: str
    number: int
    start: int
    end: int
    op_type: str | None = None
    inputs: list[Row] = field(default_factory=list)
    outputs: list[Row] = field(default_factory=list)
    params: list[Row] = field(default_factory=list)
    parent: Call | None = None
    children: list[Call] = field(default_factory=list)


@dataclass
class Pass:
    """One step on one rank: its calls in execution order, those that contain others after them."""

    step: int | None
    rank: int | None
    calls: list[Call]

    @property
    def leaves(self) -> list[Call]:
        """Calls that contain no other."""
        return [call for call in self.calls if not call.children]


def passes(rows: list[Row]) -> list[Pass]:
    """Group rows into passes and calls.

    Tensors that were stale when they were taken (an output before its operator ran) and inputs
    taken after the operator ran are left out: `overwritten` is about those.
    """
    groups: dict[tuple[int | None, int | None], dict[tuple[str, int], Call]] = defaultdict(dict)
    params: dict[tuple[int | None, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["role"] == "param":
            params[row["rank"], row["node"]].append(row)
            continue
        if row["role"] not in ("input", "output"):
            continue
        if (row["role"], row["phase"]) in (("output", "before"), ("input", "after")):
            continue
        calls = groups[row["step"], row["rank"]]
        key = row["node"], row["call"]
        if key not in calls:
            order = row["order"]
            calls[key] = Call(row["node"], row["call"], order, order, row["op_type"])
        call = calls[key]
        (call.inputs if row["role"] == "input" else call.outputs).append(row)
    result = []
    for (step, rank), calls in sorted(groups.items(), key=lambda item: _none_first(item[0])):
        for call in calls.values():
            call.params = params.get((rank, call.node)) or params.get((None, call.node), [])
        result.append(Pass(step, rank, _nested(list(calls.values()))))
    return result


def _none_first(place: tuple[int | None, int | None]) -> tuple[int, int]:
    step, rank = place
    return (-1 if step is None else step, -1 if rank is None else rank)


def _nested(calls: list[Call]) -> list[Call]:
    """Tie calls to the call around them, and order them so that contained ones come first."""
    by_name: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_name[call.node].append(call)
    for call in calls:
        parent = _enclosing(call, by_name)
        if parent is not None:
            call.parent = parent
            parent.children.append(call)
    depth = {id(call): _depth(call) for call in calls}
    for call in sorted(calls, key=lambda call: -depth[id(call)]):
        call.children.sort(key=lambda child: (child.end, child.node))
        if call.children:
            call.start = min(call.start, *(child.start for child in call.children))
            call.end = max(call.end, *(child.end for child in call.children))
    return sorted(calls, key=lambda call: (call.end, -depth[id(call)], call.start))


def _enclosing(call: Call, by_name: dict[str, list[Call]]) -> Call | None:
    name = call.node
    while name:
        cuts = [match.start() for match in _SEPARATORS.finditer(name)]
        name = name[: cuts[-1]] if cuts else ""
        # Called several times, a module finishes after what it contains.
        around = [other for other in by_name.get(name, ()) if other is not call]
        if around:
            later = [other for other in around if other.start >= call.start]
            return min(later, key=lambda o: o.start) if later else around[-1]
    return None


def _depth(call: Call) -> int:
    depth = 0
    while call.parent is not None:
        call, depth = call.parent, depth + 1
    return depth
