"""Overwritten memory: tensors that changed while nothing was meant to write them.

What one operator left after it ran must be what the next one finds before it runs. The topology
tells which of their tensors are one; operators that ran in between and left the very bytes that are
there now did it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmdbg import _core
from llmdbg.scan.content import Change, describe
from llmdbg.scan.model import Finding, Level

if TYPE_CHECKING:
    from llmdbg.dump import Dump
    from llmdbg.scan.health import Row
    from llmdbg.scan.tensors import Tensors

_WEIGHT = re.compile(r"_weight_\d+$")
_CACHE = re.compile(r"_[kv]Cache_\d+$")
_WRITES_INPUTS = ("reshapeandcache", "kvcache", "inplace", "setvalue")
Place = tuple[int | None, int | None, str]


@dataclass(frozen=True)
class _Event:
    """A tensor as one operator found or left it."""

    tensor: str
    row: Row
    writes: bool
    at: int
    writer: str = ""


@dataclass(frozen=True)
class _Question:
    """Two rows that should hold the same bytes, and what it means if they do not."""

    kind: str
    left: _Event
    found: _Event
    between: tuple[str, ...]


def overwritten(
    rows: list[Row], dump: Dump, tensors: Tensors, *, threads: int = 0
) -> list[Finding]:
    """Report tensors whose bytes changed between their writer and a reader.

    Parameters
    ----------
    rows : list of dict
        Health of the dump's tensors.
    dump : Dump
        The dump; without a topology that names tensors only inputs before and after one operator
        can be held against each other.
    tensors : Tensors
        Reads values.
    threads : int
        Worker threads; 0 takes all cores.
    """
    by_place: dict[Place, list[Row]] = defaultdict(list)
    for row in rows:
        if row["phase"] is not None and not row["reason"]:
            by_place[row["step"], row["rank"], row["node"]].append(row)
    if not by_place:
        return []
    names = tensor_names(dump)
    questions = [*_inside(by_place, names), *_between(by_place, names)]
    differences = _core.byte_differences(
        dump.core,
        dump.core,
        [q.left.row["row"] for q in questions],
        [q.found.row["row"] for q in questions],
        threads=threads,
    )
    findings: list[Finding] = []
    told: set[tuple[str, Any, Any]] = set()
    for i, question in enumerate(questions):
        if differences["reason"][i] or not differences["count"][i]:
            continue
        place = question.left.tensor, question.found.row["step"], question.found.row["rank"]
        if place in told:
            continue  # every later reader finds the same
        told.add(place)
        change = Change(
            int(differences["first"][i]), int(differences["last"][i]), int(differences["count"][i])
        )
        findings.append(_tell(question, change, by_place, tensors))
    return [*findings, *_caches(by_place, tensors)]


def mark_weights(rows: list[Row], dump: Dump) -> None:
    """Mark the inputs that a topology calls weights."""
    names = tensor_names(dump)
    for row in rows:
        slot = _slot(row)
        reads = names.get(row["node"], ([], []))[0]
        if row["role"] == "input" and slot is not None and slot < len(reads):
            row["weight"] = bool(_WEIGHT.search(reads[slot]))


def without_kernels(rows: list[Row], dump: Dump) -> list[Row]:
    """Leave out the kernels that an operator of the topology consists of: they are inside it."""
    names = tensor_names(dump)

    def is_kernel(node: str) -> bool:
        parts = node.split("/")
        return any("/".join(parts[:i]) in names for i in range(1, len(parts)))

    return [row for row in rows if not is_kernel(row["node"])] if names else rows


def tensor_names(dump: Dump) -> dict[str, tuple[list[str], list[str]]]:
    """Return the tensors that each smallest operator reads and writes, by its node."""
    graph = dump.graph
    if graph is None:
        return {}
    nodes, tensors = graph["nodes"], graph["tensors"]
    # Kernels are nodes of their operator, without tensors of their own.
    parents = {node["parent"] for node in nodes if node["inputs"] or node["outputs"]}
    return {
        node["name"]: ([tensors[t] for t in node["inputs"]], [tensors[t] for t in node["outputs"]])
        for i, node in enumerate(nodes)
        if i not in parents and (node["inputs"] or node["outputs"])
    }


def _slot(row: Row) -> int | None:
    text = str(row["slot"]).split("_")[0]
    return int(text) if text.isdigit() else None


def _writes_its_inputs(node: str, row: Row, names: dict[str, tuple[list[str], list[str]]]) -> bool:
    kind = f"{node.rsplit('/', 1)[-1]} {row['op_type'] or ''}".lower()
    if any(word in kind for word in _WRITES_INPUTS):
        return True
    reads, writes = names.get(node, ([], []))
    slot = _slot(row)
    return slot is not None and slot < len(reads) and reads[slot] in writes


def _inside(
    by_place: dict[Place, list[Row]], names: dict[str, tuple[list[str], list[str]]]
) -> list[_Question]:
    """Hold each operator's inputs before it ran against the same after it ran."""
    questions = []
    parents = {node.rsplit("/", 1)[0] for _, _, node in by_place if "/" in node}
    for (_, _, node), rows in by_place.items():
        if node in parents if not names else node not in names:
            continue  # what changed inside is told of the operator that did it
        before = {r["slot"]: r for r in rows if r["role"] == "input" and r["phase"] == "before"}
        for after in rows:
            known = before.get(after["slot"])
            if after["role"] != "input" or after["phase"] != "after" or known is None:
                continue
            if _writes_its_inputs(node, after, names):
                continue
            name = f"{node} input {after['slot']}"
            left, found = _Event(name, known, False, 0), _Event(name, after, False, 0)
            questions.append(_Question("changed_input", left, found, (node,)))
    return questions


def _between(
    by_place: dict[Place, list[Row]], names: dict[str, tuple[list[str], list[str]]]
) -> list[_Question]:
    """Hold what an operator finds against what was last known of the same tensor."""
    runs: dict[int | None, list[tuple[int | None, int, str, list[Row]]]] = defaultdict(list)
    for (step, rank, node), rows in by_place.items():
        if node in names:
            runs[rank].append((step, min(r["order"] for r in rows), node, rows))
    questions = []
    for calls in runs.values():
        calls.sort(key=lambda call: (-1 if call[0] is None else call[0], call[1]))
        known: dict[str, _Event] = {}
        current: int | None = None
        for at, (step, _, node, rows) in enumerate(calls):
            if step != current:
                current = step
                # Weights and caches outlive a step; what was computed in it does not.
                known = {t: e for t, e in known.items() if _WEIGHT.search(t) or _CACHE.search(t)}
            for event in _events(rows, names[node], at):
                earlier = known.get(event.tensor)
                if not event.writes and earlier is not None:
                    # Who was seen to find it intact ran after that, and may have written it.
                    after = earlier.at + (earlier.row["phase"] == "after")
                    between = tuple(c[2] for c in calls[after:at])
                    kind = "changed_weight" if _WEIGHT.search(event.tensor) else "overwritten"
                    questions.append(_Question(kind, earlier, event, between))
                writer = node if event.row["role"] == "output" else earlier and earlier.writer
                known[event.tensor] = replace(event, writer=writer or "")
    return questions


def _events(rows: list[Row], names: tuple[list[str], list[str]], at: int) -> list[_Event]:
    reads, writes = names
    events = []
    for row in rows:
        slot = _slot(row)
        tensors = reads if row["role"] == "input" else writes
        if slot is None or slot >= len(tensors):
            continue
        if row["role"] == "input" and row["phase"] == "before":
            events.append(_Event(tensors[slot], row, False, at))
    for row in rows:
        slot = _slot(row)
        if slot is None or row["phase"] != "after":
            continue
        tensors = reads if row["role"] == "input" else writes
        if slot >= len(tensors):
            continue
        # An input that is still there after the operator is known from then on, without a
        # question: `_inside` asks it.
        if row["role"] == "output" or tensors[slot] not in writes:
            events.append(_Event(tensors[slot], row, True, at))
    return events


def _tell(
    question: _Question, change: Change, by_place: dict[Place, list[Row]], tensors: Tensors
) -> Finding:
    left, found = question.left.row, question.found.row
    suspects = [
        row
        for node in question.between
        for row in by_place.get((found["step"], found["rank"], node), [])
        if (row["role"], row["phase"]) == ("output", "after")
    ]
    others = [
        row
        for (step, rank, _), rows in by_place.items()
        if (step, rank) == (found["step"], found["rank"])
        for row in rows
        # Who reads the tensor later finds the same bytes in it.
        if row["order"] < found["order"] and row["row"] != left["row"]
    ]
    looks = describe(change, left, found, suspects, others, tensors)
    writers = list(dict.fromkeys(question.between))
    told = ", ".join(writers[:4]) + (", …" if len(writers) > 4 else "")
    size = found["numbers"]
    at = f"bytes {change.first}–{change.last} ({change.count} changed of a tensor of {size} values)"
    if question.kind == "changed_input":
        sentence = (
            f"{found['node']} changed its own input {found['slot']} while it ran, and is not "
            f"in-place: {at}"
        )
        node = found["node"]
    elif question.kind == "changed_weight":
        sentence = (
            f"the weight {question.left.tensor} changed between step {left['step']} and step "
            f"{found['step']}, where {found['node']} reads it: {at}"
        )
        node = found["node"]
    else:
        node = question.left.writer or left["node"]
        sentence = (
            f"{question.left.tensor}, the result of {node}, was overwritten before "
            if question.left.writer
            else f"{question.left.tensor}, as {node} found it, was overwritten before "
        ) + f"{found['node']} read it: {at}"
    evidence = [f"the bytes are {looks.sentence}"]
    if question.kind != "changed_input":
        nobody = (
            "nothing that was recorded ran in between: a copy, another stream or another process"
        )
        evidence.append(f"ran in between and may have written: {told}" if told else nobody)
    return Finding(
        Level.ERROR,
        question.kind,
        node,
        found["step"],
        found["rank"],
        sentence,
        tuple(evidence),
        found["row"],
        {
            "tensor": question.left.tensor,
            "writer": question.left.writer,
            "intact_at": left["node"],
            "reader": found["node"],
            "bytes": [change.first, change.last],
            "changed_bytes": change.count,
            "candidates": writers[:32],
            "looks": looks.kind,
            "content_of": looks.source,
        },
    )


def _caches(by_place: dict[Place, list[Row]], tensors: Tensors) -> list[Finding]:
    """Report cache slots that an operator changed although this step does not own them."""
    findings = []
    for (step, rank, node), rows in by_place.items():
        kind = f"{node.rsplit('/', 1)[-1]}".lower()
        if "reshapeandcache" not in kind:
            continue
        before = {_slot(r): r for r in rows if (r["role"], r["phase"]) == ("input", "before")}
        after = {_slot(r): r for r in rows if (r["role"], r["phase"]) == ("output", "after")}
        # key, value, key cache, value cache, slot mapping -> key cache, value cache.
        slots = _slots(before.get(4), tensors)
        if slots is None:
            continue
        for cache, result in ((2, 0), (3, 1)):
            if cache not in before or result not in after:
                continue
            stray = _stray(before[cache], after[result], slots, tensors)
            if not stray:
                continue
            shown = ", ".join(map(str, stray[:6])) + (", …" if len(stray) > 6 else "")
            name = "key" if cache == 2 else "value"
            findings.append(
                Finding(
                    Level.ERROR,
                    "kv_cache",
                    node,
                    step,
                    rank,
                    f"{node} changed {len(stray)} slots of the {name} cache that are not this "
                    f"step's: slots {shown}",
                    (f"this step's slots: {', '.join(map(str, sorted(slots)[:8]))}",),
                    after[result]["row"],
                    {"slots": stray[:64], "own": sorted(slots)[:64]},
                )
            )
    return findings


def _slots(row: Row | None, tensors: Tensors) -> set[int] | None:
    array = None if row is None else tensors.stored(row)
    return None if array is None else {int(v) for v in array.reshape(-1)}


def _stray(before: Row, after: Row, own: set[int], tensors: Tensors) -> list[int]:
    """Return changed slots, block · block size + place in the block, that are not `own`."""
    import numpy as np

    a, b = tensors.stored(before), tensors.stored(after)
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype or a.ndim < 3:
        return []
    count = a.shape[0] * a.shape[1]
    bytes_of = [np.ascontiguousarray(x).view(np.uint8).reshape(count, -1) for x in (a, b)]
    changed = np.flatnonzero((bytes_of[0] != bytes_of[1]).any(axis=1))
    return [int(slot) for slot in changed if int(slot) not in own]
