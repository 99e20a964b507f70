"""What computed what: the modules that have nothing inside, and the code between modules.

A module with submodules is taken apart. What it was given, and what its submodules give back, is
in its *scope*; a tensor that one of its submodules is given, or that it gives back itself, and that
is in no scope, was made by its own code: a *gap*. Two records hold the same tensor when the golden
run's bytes stand in one place, or have the same size, extremes and mean.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmdbg.verdict.calls import Call, Row, path_of

# Caches travel through every module; where their content is used it is judged.
_STATE = re.compile(
    r"(^|\.)(cache|past_key_values?|key_cache|value_cache)\b|layers\.\d+\.(keys|values)$"
)
# A module's own code uses what is near; the top level of a flat dump has everything in scope.
_LATEST = 32


@dataclass
class Work:
    """Something that computes: an innermost module, or a piece of a module's own code.

    Attributes
    ----------
    node : str
        The golden module; of a gap, the one whose own code it is.
    gap : bool
        Which of the two it is.
    inputs : list of Row
        What it was given; of a gap, everything that was in scope, latest last.
    outputs : list of Row
        What it made; of a gap, the first record of the tensor.
    position : float
        In execution order, over all steps.
    call : Call
        The module's call.
    """

    node: str
    gap: bool
    inputs: list[Row]
    outputs: list[Row]
    position: float
    call: Call
    target_call: Call | None = None

    @property
    def step(self) -> int | None:
        """The step it belongs to."""
        return self.call.step

    @property
    def rank(self) -> int | None:
        """The rank it belongs to."""
        return self.call.rank

    @cached_property
    def family(self) -> str:
        """The same work in every layer and step."""
        family = self.call.family
        if not self.gap:
            return family
        row = self.outputs[0]
        target = "" if self.target_call is None else self.target_call.family
        return f"{family} -> {target} {row.cells['role']} {row.cells['slot']}"


@dataclass
class Flow:
    """All work of a comparison.

    Attributes
    ----------
    works : list of Work
        In execution order.
    copies : dict of int to int
        By row: the row that showed the same tensor first.
    states : set of int
        Rows of caches, judged where they are used.
    """

    works: list[Work]
    copies: dict[int, int]
    states: set[int]


def is_state(row: Row) -> bool:
    """Whether a record is a cache's content."""
    return bool(_STATE.search(row.cells["slot"] or ""))


def flow_of(calls: list[Call]) -> Flow:
    """Find out what computed what.

    Parameters
    ----------
    calls : list of Call
        As `calls_of` gives them: by step, rank and completion.

    Returns
    -------
    Flow
    """
    flow = Flow([], {}, set())
    children, roots = _tree(calls)
    if not _linked(calls):
        # Nothing says what goes where: every call is judged by what it was given and gave back.
        for i, call in enumerate(calls):
            given = call.inputs or _previous(flow, call)
            flow.works.append(Work(call.node, False, given, call.outputs, float(i), call))
        flow.works = [w for w in flow.works if w.outputs]
        return flow
    position = {id(call): i for i, call in enumerate(calls)}
    scopes: dict[Any, dict[Any, Row]] = {}
    for root in roots:
        # What nobody's code made is a run's own: the top has no gaps.
        top = scopes.setdefault((root.step, root.rank), {})
        _Walk(flow, children, position).visit(root, top, None)
    flow.works.sort(key=lambda w: w.position)
    return flow


def _linked(calls: list[Call]) -> bool:
    """Whether some operator is given what another one gave back."""
    made = {r.tensor for c in calls for r in c.outputs if r.rounds}
    return any(r.tensor in made for c in calls for r in c.inputs if r.rounds)


def _previous(flow: Flow, call: Call) -> list[Row]:
    """Return what the operator before gave back, where a dump has no inputs."""
    last = flow.works[-1] if flow.works else None
    same = last is not None and (last.step, last.rank) == (call.step, call.rank)
    return list(last.outputs) if last is not None and same else []


def _tree(calls: list[Call]) -> tuple[dict[int, list[Call]], list[Call]]:
    """Return the calls directly inside each call, by id, and those inside none."""
    children: dict[int, list[Call]] = {}
    # By step, rank and path: what has run below it.
    below: dict[Any, list[Call]] = defaultdict(list)
    inside: set[int] = set()
    for call in calls:
        run, path = (call.step, call.rank), path_of(call.node)
        found = [c for c in below.pop((run, path), ()) if id(c) not in inside]
        if found:
            children[id(call)] = found
            inside.update(map(id, found))
        for length in range(len(path)):
            below[run, path[:length]].append(call)
    return children, [c for c in calls if id(c) not in inside]


class _Walk:
    def __init__(
        self, flow: Flow, children: dict[int, list[Call]], position: dict[int, int]
    ) -> None:
        self._flow, self._children, self._position = flow, children, position

    def visit(self, call: Call, scope: dict[Any, Row], parent: Call | None) -> None:
        """Note a call's work, and what it leaves in the scope it was made in."""
        own: dict[Any, Row] = {}
        start = self._start(call)
        for row in call.inputs:
            self._enter(row, scope, parent, call, start)
            own.setdefault(row.tensor, row)
        inside = self._children.get(id(call), [])
        for child in inside:
            self.visit(child, own, call)
        at = self._position[id(call)]
        if not inside:
            given = [r for r in call.inputs if not is_state(r)]
            outputs = [r for r in call.outputs if not is_state(r)]
            self._flow.states.update(r.index for r in call.outputs if is_state(r))
            if outputs:
                self._flow.works.append(Work(call.node, False, given, outputs, at, call))
        else:
            for row in call.outputs:
                self._enter(row, own, call, None, at - 0.125)
        for row in call.outputs:
            if not is_state(row):
                scope.setdefault(row.tensor, row)
                self._flow.copies.setdefault(row.index, scope[row.tensor].index)

    def _enter(
        self,
        row: Row,
        scope: dict[Any, Row],
        owner: Call | None,
        target: Call | None,
        position: float,
    ) -> None:
        """Tell where a tensor comes from that appears in `scope`, the owner's."""
        if is_state(row):
            self._flow.states.add(row.index)
            return
        tensor = row.tensor
        known = scope.get(tensor)
        if known is not None and _unchanged(known, row):
            self._flow.copies[row.index] = known.index
            return
        maker = owner or (target if scope else None)
        if maker is not None:
            given = [known] if known is not None else list(scope.values())[-_LATEST:]
            work = Work(maker.node, True, given, [row], position - 0.25, maker)
            work.target_call = target
            self._flow.works.append(work)
        scope.setdefault(tensor, row)

    def _start(self, call: Call) -> float:
        inside = self._children.get(id(call))
        return self._start(inside[0]) - 0.0625 if inside else float(self._position[id(call)])


def _unchanged(first: Row, later: Row) -> bool:
    """Whether the candidate, too, passed a tensor on as it was."""
    if bool(first.mismatched_nonfinite) != bool(later.mismatched_nonfinite):
        return False
    if first.error is None or later.error is None:
        return True
    worst = [r.number("max_absolute_error") or 0.0 for r in (first, later)]
    return math.isclose(first.error, later.error, rel_tol=1e-3, abs_tol=1e-12) and math.isclose(
        worst[0], worst[1], rel_tol=1e-6, abs_tol=1e-30
    )
