"""Evidence in words."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from llmdbg.verdict.gaps import shape_of
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    from llmdbg.verdict.calls import Row
    from llmdbg.verdict.check import Check
    from llmdbg.verdict.flow import Work

_SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}


def factor(number: float) -> str:
    """Return a factor for a person: three digits, more only when it is large."""
    if not math.isfinite(number):
        return "infinitely many times"
    return f"{number:.0f}×" if number >= 100 else f"{number:.1f}×"


def floor_name(row: Row) -> str:
    """Return the name of a pair's noise floor: its coarser dtype's."""
    names = [(row.cells[c] or "").removeprefix("torch.") for c in ("golden_dtype", "my_dtype")]
    order = list(_SHORT)
    known = [n for n in names if n in _SHORT]
    return (
        f"{_SHORT[max(known, key=lambda n: _coarse(n, order))]} floor" if known else "noise floor"
    )


def _coarse(name: str, order: list[str]) -> int:
    return {"bfloat16": 4, "float16": 3, "float32": 2, "float64": 1}[name] if name in order else 0


def place_of(row: Row, index: int) -> str:
    """Return a flattened row index as a person counts: ``token 5``, ``head 2, token 5``."""
    shape = shape_of(row)[:-1]
    places = []
    for size in reversed(shape):
        index, at = divmod(index, max(1, size))
        places.append(at)
    places.reverse()
    if len(shape) == 1:
        return f"token {places[0]}"
    batch = f"sequence {places[0]}, " if shape and shape[0] > 1 else ""
    if len(shape) == 2:
        return f"{batch}token {places[1]}"
    return f"{batch}index [{', '.join(map(str, places))}]"


def gap_label(work: Work, operator: str | None) -> str:
    """Return what to call the code between two modules."""
    owner = shown_node(work.node)
    target = work.target_call
    what = operator or "own code"
    if target is None:
        after = _last_child(work)
        return f"{what} after {after} in {owner}" if after else f"{what} of {owner}"
    end = _leaf(target.node)
    start = _last_child(work)
    if target.node == work.node:
        return f"what comes before {owner}"
    between = f"between {start} and {end}" if start else f"before {end}"
    return f"{what} {between} of {owner}"


def _last_child(work: Work) -> str:
    for row in reversed(work.inputs):
        node = row.cells["golden_node"]
        if row.cells["role"] == "output" and node != work.node:
            return _leaf(node)
    return ""


def _leaf(node: str) -> str:
    parts = [p for p in re.split(r"[./]", node) if p]
    if parts and parts[-1].isdigit() and len(parts) > 1:
        return ".".join(parts[-2:])
    return parts[-1] if parts else node


def alignment_words(row: Row) -> str:
    """Return why the two sides were taken for the same tensor."""
    confidence = row.number("confidence")
    if confidence is None:
        return ""
    evidence = row.cells["evidence"]
    return (
        f"aligned by {evidence} ({confidence:.2f})" if evidence else f"aligned ({confidence:.2f})"
    )


def evidence_of(
    row: Row,
    work: Work,
    check: Check | None,
    dirty: list[Row],
    reason: str,
    floors: list[float | None],
) -> tuple[str, ...]:
    """Return what supports an accusation: how far, where, what its inputs were, how lined up."""
    evidence = [reason]
    if check is not None and check.row is not None and check.row_ratio > 1.5 * check.ratio:
        where = place_of(row, check.row)
        evidence.append(f"worst at {where} ({factor(check.row_ratio)})")
    elif check is None and row.number("worst_row_relative_l2") is not None and row.error:
        worst, at = row.number("worst_row_relative_l2") or 0.0, row.cells["worst_row"]
        floor = floors[row.index]
        if at is not None and floor and worst > 1.5 * row.error:
            where = place_of(row, int(at))
            evidence.append(f"worst at {where} ({factor(worst / floor)})")
    evidence.append(_inputs_in_words(list(check.uses) if check else work.inputs, dirty, floors))
    aligned = alignment_words(row)
    if aligned:
        evidence.append(aligned)
    return tuple(e for e in evidence if e)


def _inputs_in_words(uses: list[Row], dirty: list[Row], floors: list[float | None]) -> str:
    used = {r.index for r in uses}
    off = [r for r in dirty if r.index in used]
    if off:
        names = ", ".join(r.title for r in off[:2])
        return f"its inputs were off before ({names}), but do not explain this"
    ratios = [
        r.error / floor
        for r in uses
        if r.error is not None and not r.same and (floor := floors[r.index]) and r.rounds
    ]
    if not uses:
        return ""
    if any(r.error is None and not r.same for r in uses):
        return "of its inputs only statistics are known: they show nothing that explains this"
    return f"its inputs are clean ({factor(max(ratios, default=0.0))})"
