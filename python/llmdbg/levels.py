"""Comparing less than everything: what blocks give, or the last output of each step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmdbg import _core
    from llmdbg.dump import Dump
    from llmdbg.verdict import Finding

# `model.layers.3` in a module's path; the outermost operation of an ATB path.
_MODULE_BLOCK = re.compile(r"(?:[^.]+\.)*?\d+(?=\.|$)")
_ATB_BLOCK = re.compile(r"\d+_[^/]+(?=/|$)")
_JUDGED = 0.6


def block(node: str) -> str | None:
    """Return the outermost repeated block that an operator is in or is, by its name."""
    pattern = _ATB_BLOCK if "/" in node or _ATB_BLOCK.fullmatch(node) else _MODULE_BLOCK
    found = pattern.match(node)
    return found.group() if found else None


def blamed(
    alignment: _core.Alignment,
    pairs: Sequence[int],
    golden: Dump,
    culprit: Callable[[list[int]], Finding | None],
) -> tuple[list[int], str]:
    """Compare blocks, and choose what to look at within the first wrong one.

    Parameters
    ----------
    alignment : Alignment
        Of the two runs.
    pairs : sequence of int
        The pairs to choose among.
    golden : Dump
        The golden run.
    culprit : callable
        Measures and judges some pairs; what it blames.

    Returns
    -------
    list of int
        The blocks' pairs, and the pairs within the block to blame.
    str
        What was done, in words.
    """
    records, nodes = alignment.columns()["golden"], golden.core.columns()["node"]
    names = {pair: nodes[records[pair]] for pair in pairs}
    outer = [pair for pair in pairs if block(names[pair]) in (names[pair], None)]
    blocks = {names[pair] for pair in outer if block(names[pair]) is not None}
    if not blocks:
        return list(pairs), "no tensor of a whole block was recorded: all operators are compared"
    finding = culprit(outer)
    name = None if finding is None else _within(finding, blocks)
    if name is None:
        return outer, f"{len(blocks)} blocks compared, no operator within them"
    inside = [pair for pair in pairs if block(names[pair]) == name]
    chosen = sorted({*outer, *inside})
    return chosen, f"{len(blocks)} blocks compared, then the operators of {name}"


def _within(finding: Finding, blocks: set[str]) -> str | None:
    name = block(finding.golden)
    return name if name in blocks else None


def last_outputs(alignment: _core.Alignment, pairs: Sequence[int], golden: Dump) -> list[int]:
    """Return the pair of the last output of every golden step and rank: the logits.

    Raises
    ------
    UserError
        The last outputs of the two runs are in no pair.
    """
    columns, found = golden.core.columns(), alignment.columns()
    last: dict[tuple[Any, Any], tuple[int, bool, int]] = {}
    for pair in pairs:
        record = found["golden"][pair]
        if columns["role"][record] not in ("output", "tensor"):
            continue
        place = columns["step"][record], columns["rank"][record]
        # Of several partners the surest, then the first.
        key = columns["order"][record], found["confidence"][pair] >= _JUDGED, -pair
        last[place] = max(last.get(place, key), key)
    if not last:
        raise UserError("no output of the golden run has a counterpart, so there are no tokens")
    return sorted(-key[2] for key in last.values())
