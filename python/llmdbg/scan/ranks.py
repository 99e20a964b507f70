"""Ranks held against each other: collectives, and tensors that every rank should have alike."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from llmdbg import _core
from llmdbg.scan.growth import family
from llmdbg.scan.health import Row, is_bad, is_float
from llmdbg.scan.model import Finding, Level
from llmdbg.verdict.floor import storage_floor
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmdbg.dump import Dump
    from llmdbg.scan.passes import Call, Pass
    from llmdbg.scan.tensors import Tensors

_SUMS = ("allreduce", "all_reduce", "reduce_scatter", "reducescatter")
_GATHERS = ("allgather", "all_gather")
_COPIES = ("broadcast",)
# Share of layers in which a tensor must be alike on all ranks to count as replicated.
_REPLICATED = 0.6
_LAYERS = 3
# Ranks add in an order of their own, in the dtype itself.
_SUM_ROUNDINGS = 8.0


def collective_kind(node: str, op_type: str | None) -> str | None:
    """Return ``sum``, ``gather``, ``copy`` or None of an operator by its name."""
    name = f"{node.rsplit('/', 1)[-1].rsplit('.', 2)[-1]} {node} {op_type or ''}".lower()
    for kind, words in (("sum", _SUMS), ("gather", _GATHERS), ("copy", _COPIES)):
        if any(word in name for word in words):
            return kind
    return None


def across_ranks(
    passes: list[Pass], rows: list[Row], dump: Dump, tensors: Tensors
) -> list[Finding]:
    """Report collectives whose result is wrong, and replicated tensors that differ."""
    if len({one.rank for one in passes}) < 2:
        return []
    findings = _collectives(passes, tensors)
    return findings + _replicated(rows, dump, {f.node for f in findings})


def through_collective(call: Call, step: int | None, passes: list[Pass], bad: Any) -> int | None:
    """Return the rank whose bad input reached a call through a collective; None if none did."""
    if collective_kind(call.node, call.op_type) is None:
        return None
    for one in passes:
        if one.step != step or call in one.calls:
            continue
        for other in one.calls:
            same = (other.node, other.number) == (call.node, call.number)
            if same and any(bad(row) for row in other.inputs):
                return one.rank
    return None


def _collectives(passes: list[Pass], tensors: Tensors) -> list[Finding]:
    groups: dict[tuple[Any, str, int], list[tuple[int | None, Call]]] = defaultdict(list)
    for one in passes:
        for call in one.leaves:
            if collective_kind(call.node, call.op_type):
                groups[one.step, call.node, call.number].append((one.rank, call))
    findings: list[Finding] = []
    told: set[str] = set()
    for (step, node, _), members in groups.items():
        if len(members) < 2 or node in told:
            continue
        kind = collective_kind(node, members[0][1].op_type)
        wrong = _wrong_member(kind or "", members, tensors)
        if wrong is None:
            continue
        told.add(node)
        rank, row, text = wrong
        findings.append(
            Finding(
                Level.ERROR,
                "collective",
                node,
                step,
                rank,
                f"{shown_node(node)} on rank {rank}: {text}",
                (f"of {len(members)} ranks",),
                row["row"],
            )
        )
    return findings


def _wrong_member(
    kind: str, members: list[tuple[int | None, Call]], tensors: Tensors
) -> tuple[int | None, Row, str] | None:
    import numpy as np

    given, made = [], []
    for rank, call in members:
        first_in = next((r for r in call.inputs if is_float(r)), None)
        first_out = next((r for r in call.outputs if is_float(r)), None)
        if first_in is None or first_out is None or is_bad(first_in) or is_bad(first_out):
            return None
        a, b = tensors.stored(first_in), tensors.stored(first_out)
        if a is None or b is None:
            return None
        given.append(a)
        made.append((rank, first_out, b))
    floor = storage_floor(made[0][1]["dtype"]) or 0.0
    if kind == "sum":
        if any(a.shape != given[0].shape for a in given):
            return None
        total = np.sum([a.astype(np.float64) for a in given], axis=0)
        limit = _SUM_ROUNDINGS * len(members) * max(floor, 1e-9)
        for at, (rank, row, result) in enumerate(made):
            wanted = total if result.shape == total.shape else _share(total, result.shape, at)
            if wanted is None:
                return None
            candidates = (wanted, wanted / len(members))
            error = min(_distance(result, c) for c in candidates)
            if error > limit:
                return (
                    rank,
                    row,
                    f"its result is not the sum of the ranks' inputs: off by {error:.2g}",
                )
        return None
    if kind == "gather":
        for rank, row, result in made:
            if not any(
                joined.shape == result.shape and np.array_equal(joined, result)
                for joined in _joined(given, result)
            ):
                return rank, row, "its result is not the ranks' inputs put together"
        return None
    for rank, row, result in made:
        if not any(np.array_equal(a, result) for a in given):
            return rank, row, "its result is no rank's input"
    return None


def _share(total: NDArray[np.float64], shape: tuple[int, ...], at: int) -> Any:
    """Return the part of a sum that one rank keeps."""
    import numpy as np

    for axis in range(total.ndim):
        if total.shape[axis] % shape[axis] == 0 and total.shape[axis] > shape[axis]:
            parts = np.split(total, total.shape[axis] // shape[axis], axis)
            if at < len(parts) and parts[at].shape == shape:
                return parts[at]
    return None


def _joined(given: list[NDArray[Any]], result: NDArray[Any]) -> list[NDArray[Any]]:
    import numpy as np

    ways = [np.concatenate(given, axis) for axis in range(given[0].ndim)]
    if result.ndim == given[0].ndim + 1:
        ways.append(np.stack(given))
    return ways


def _distance(result: NDArray[Any], wanted: NDArray[np.float64]) -> float:
    import numpy as np

    size = float(np.linalg.norm(wanted))
    error = float(np.linalg.norm(result.astype(np.float64) - wanted))
    return error / size if size else error


def _replicated(rows: list[Row], dump: Dump, known: set[str]) -> list[Finding]:
    """Tell tensors that are alike on all ranks in most layers, and differ in one."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["role"] in ("input", "output", "param") and is_float(row) and not row["reason"]:
            key = row["step"], row["node"], row["call"], row["role"], row["slot"], row["phase"]
            groups[key].append(row)
    pairs, owners = [], []
    for key, members in groups.items():
        for other in members[1:]:
            if other["shape"] == members[0]["shape"]:
                pairs.append((members[0]["row"], other["row"]))
                owners.append((key, members[0], other))
    if not pairs:
        return []
    differences = _core.byte_differences(
        dump.core, dump.core, [a for a, _ in pairs], [b for _, b in pairs]
    )
    equal: dict[tuple[Any, ...], bool] = {}
    for at, (key, _, _) in enumerate(owners):
        same = not differences["reason"][at] and not differences["count"][at]
        equal[key] = equal.get(key, True) and same
    families: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for key, same in equal.items():
        families[family(key[1]), key[3], key[4]].append(same)
    for at, (key, first, other) in enumerate(owners):
        like = families[family(key[1]), key[3], key[4]]
        always = len(like) >= _LAYERS and sum(like) / len(like) >= _REPLICATED
        collective = collective_kind(key[1], first["op_type"]) in ("sum", "gather", "copy")
        must = always or (collective and key[3] == "output" and not _scatters(key[1]))
        if equal[key] or not must or key[1] in known:
            continue
        if differences["reason"][at] or not differences["count"][at]:
            continue
        # What follows from it differs as well: the first is told.
        place = f"{shown_node(key[1])} {key[3]} {key[4]}"
        return [
            Finding(
                Level.ERROR,
                "replicated",
                key[1],
                key[0],
                other["rank"],
                f"{place} differs between rank {first['rank']} and rank {other['rank']}; ranks "
                f"have it alike in {sum(like)} of {len(like)} places",
                (
                    f"bytes {differences['first'][at]}–{differences['last'][at]}, "
                    f"{differences['count'][at]} in all",
                ),
                other["row"],
            )
        ]
    return []


def _scatters(node: str) -> bool:
    return "scatter" in node.lower()
