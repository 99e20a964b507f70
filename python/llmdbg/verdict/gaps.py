"""What the code between modules may have computed: formulas to try on the golden run.

A gap has no type, so its formula is found: each one here is computed from what was in scope in the
golden run, and one that gives the golden tensor is what that code does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from llmdbg.golden.activation import ACTIVATIONS, gated
from llmdbg.golden.attention import attention, causal_mask, rotate
from llmdbg.golden.precision import Array, Precision

if TYPE_CHECKING:
    from llmdbg.verdict.calls import Row
    from llmdbg.verdict.flow import Work

Formula = Callable[["Source", Precision], Array]


class Source(Protocol):
    """One run's tensors."""

    def array(self, row: Row) -> npt.NDArray[Any]:
        """Return a row's tensor in this run."""

    def rows(self, row: Row) -> Array:
        """Return the chosen rows of a tensor as a float64 matrix."""


@dataclass(frozen=True)
class Trial:
    """A formula with what it is computed from.

    Attributes
    ----------
    key : str
        Tells it from others of the same gap, the same in every layer.
    name : str
        What it computes, for a person.
    formula : callable
        From a run and a precision to the chosen rows of the output.
    uses : list of Row
        What it reads.
    rounds_once : bool
        Whether the device rounds the result alone: rounding the exact one is then the same.
    """

    key: str
    name: str
    formula: Formula
    uses: list[Row]
    rounds_once: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What attention needs to know beyond its scope.

    Attributes
    ----------
    params : dict
        The module's plain attributes.
    before : callable
        Records of the same place in earlier steps, oldest first.
    rows : ndarray of int or None
        The chosen rows of the output.
    """

    params: dict[str, Any]
    before: Callable[[Row], list[Row]]
    rows: npt.NDArray[np.int64] | None


def trials(work: Work, around: Surroundings) -> Iterator[Trial]:
    """Give formulas for a gap, likeliest first."""
    target = work.outputs[0]
    shape = shape_of(target)
    floats = [r for r in work.inputs if r.rounds and (r.error is not None or r.same)]
    alike = [r for r in floats if shape_of(r) == shape][::-1]
    only = work.inputs[0]
    if len(work.inputs) == 1 and only.elements == target.elements:
        yield Trial("passes on", "what is passed on", lambda s, p: p(s.rows(only)), [only], True)
    pairs = [(i, j) for i in range(len(alike)) for j in range(i + 1, len(alike))]
    for i, j in pairs:
        yield _of_two("sum", np.add, alike, i, j)
    for i, j in pairs:
        yield _of_two("product", np.multiply, alike, i, j)
    yield from _attention_trials(work, around)
    for i, j in pairs:
        for name in ACTIVATIONS:
            yield _gated(name, alike, i, j)
            yield _gated(name, alike, j, i)
    for i, row in enumerate(alike):
        for name in ACTIVATIONS:
            yield _activated(name, row, i)
    if len(shape) > 1 and around.rows is None:
        for i, row in enumerate(floats[::-1]):
            other = shape_of(row)
            if len(other) == len(shape) and other[-1] == shape[-1] and other[:-2] == shape[:-2]:
                yield _last_rows(row, shape[-2], i)


def _of_two(
    name: str, function: Callable[[Array, Array], Array], rows: list[Row], i: int, j: int
) -> Trial:
    a, b = rows[i], rows[j]
    formula: Formula = lambda s, p: p(function(s.rows(a), s.rows(b)))  # noqa: E731
    return Trial(f"{name} {i} {j}", name, formula, [a, b], True)


def _gated(name: str, rows: list[Row], i: int, j: int) -> Trial:
    a, b = rows[i], rows[j]
    formula: Formula = lambda s, p: gated(s.rows(a), s.rows(b), name, p)  # noqa: E731
    return Trial(f"gated {name} {i} {j}", f"product with {name}", formula, [a, b])


def _activated(name: str, row: Row, i: int) -> Trial:
    formula: Formula = lambda s, p: p(ACTIVATIONS[name](s.rows(row)))  # noqa: E731
    return Trial(f"{name} {i}", name, formula, [row], True)


def _last_rows(row: Row, count: int, i: int) -> Trial:
    formula: Formula = lambda s, p: p(_last(s, row, count))  # noqa: E731
    return Trial(f"last {i}", "the last rows", formula, [row], True)


def shape_of(row: Row) -> tuple[int, ...]:
    """Return the golden shape."""
    return _shape(row.cells["golden_shape"] or "")


@lru_cache(maxsize=1 << 12)
def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _last(source: Source, row: Row, count: int) -> Array:
    found = source.array(row)
    return np.asarray(found[..., -count:, :], np.float64).reshape(-1, found.shape[-1])


# -- attention --------------------------------------------------------------------------------

_NORMED = r"(?:^|[._]){0}_?(?:norm|layernorm|ln)$"
_PROJECTED = r"(?:^|[._])(?:{0}_proj|{1}|w{0}|{0}|to_{0}|linear_{0}|{0}_lin)$"
_PACKED = r"(?:^|[._])(?:c_attn|qkv|qkv_proj|query_key_value|w_?pack|wqkv|in_proj)$"


@dataclass(frozen=True)
class _Parts:
    query: Row
    key: Row
    value: Row
    cos: Row | None
    sin: Row | None
    mask: Row | None

    @property
    def uses(self) -> list[Row]:
        parts = (self.query, self.key, self.value, self.cos, self.sin, self.mask)
        return [p for p in parts if p is not None]


def _attention_trials(work: Work, around: Surroundings) -> Iterator[Trial]:
    parts = _parts_of(work)
    target = shape_of(work.outputs[0])
    if parts is None or len(target) not in (2, 3, 4):
        return
    params = around.params
    wide = shape_of(parts.cos)[-1] if parts.cos else None
    heads = params.get("num_heads") or params.get("num_attention_heads")
    equal = target[-1] // heads if isinstance(heads, int) and heads > 0 else None
    sizes = [s for s in (params.get("head_dim"), wide, equal, 64, 128, 32) if isinstance(s, int)]
    layouts = ("flat", "per head") if parts.query is parts.key else ("",)
    pasts = (True, False) if around.before(parts.key) else (False,)
    for size in dict.fromkeys(s for s in sizes if s > 0):
        scales = [params.get("scaling"), params.get("scale"), size**-0.5, 1.0]
        numbers = [float(s) for s in scales if isinstance(s, (int, float)) and s > 0]
        for scale, layout, interleaved, past in itertools.product(
            dict.fromkeys(numbers), layouts, (False, True) if parts.cos else (False,), pasts
        ):
            core = _Core(
                parts, around, size, scale, layout, interleaved, past, weights=len(target) == 4
            )
            key = f"attention {size} {scale} {layout} {interleaved} {past}"
            yield Trial(key, "attention core", core, parts.uses)


def _parts_of(work: Work) -> _Parts | None:
    def find(pattern: str, role: str = "output") -> Row | None:
        for row in reversed(work.inputs):
            if row.cells["role"] == role and re.search(pattern, row.cells["golden_node"]):
                return row
        return None

    def given(pattern: str) -> Row | None:
        for row in work.inputs:
            if row.cells["role"] == "input" and re.search(pattern, row.cells["slot"] or ""):
                return row
        return None

    found = []
    for short, long in (("q", "query"), ("k", "key"), ("v", "value")):
        row = find(_NORMED.format(short)) or find(_PROJECTED.format(short, long))
        found.append(row)
    if None in found:
        packed = find(_PACKED)
        if packed is None:
            return None
        found = [packed] * 3
    cos, sin = (
        given(r"position_embeddings\.0$|(^|\.)cos$"),
        given(r"position_embeddings\.1$|(^|\.)sin$"),
    )
    query, key, value = found
    if query is None or key is None or value is None:
        return None
    return _Parts(query, key, value, cos, sin, given(r"attention_mask$|(^|\.)mask$"))


@dataclass(frozen=True)
class _Core:
    """Attention from projections to what the output projection is given, or the softmax."""

    parts: _Parts
    around: Surroundings
    size: int
    scale: float
    layout: str
    interleaved: bool
    past: bool
    weights: bool
    shown: int = 0

    @property
    def head(self) -> int | None:
        """Channels of one head in the result."""
        return None if self.weights else self.size

    def alternatives(self) -> dict[str, Formula]:
        """Give what this code may do instead, when it is wrong."""
        return {
            "a mask that shows one key too many": replace(self, shown=1),
            "a mask that hides one key too many": replace(self, shown=-1),
        }

    def __call__(self, source: Source, precision: Precision) -> Array:
        parts = self.parts
        chosen = self.around.rows
        query, key, value = self._heads(source, parts, precision, chosen)
        rows = key.shape[2]
        before = self._before(parts) if self.past else []
        keys, values = [key], [value]
        for earlier in reversed(before):
            _, k, v = self._heads(source, earlier, precision)
            keys.insert(0, k)
            values.insert(0, v)
        key, value = np.concatenate(keys, 2), np.concatenate(values, 2)
        columns = key.shape[2]
        window = self.around.params.get("sliding_window")
        mask = causal_mask(rows, columns, window if isinstance(window, int) else None)
        if parts.mask is not None:
            given = np.asarray(source.array(parts.mask))
            if given.dtype == np.bool_:
                mask = np.where(given, 0.0, -np.inf)
            else:
                mask = given.astype(np.float64)
            mask = mask[..., -rows:, :columns]
        if self.shown:
            at = np.arange(columns - rows, columns)[:, None] + self.shown
            mask = np.where(np.arange(columns)[None, :] <= np.maximum(at, 0), 0.0, -np.inf)
        softcap = self.around.params.get("attn_logit_softcapping")
        softcap = float(softcap) if isinstance(softcap, (int, float)) else None
        if chosen is not None and self._alone(query):
            mask = mask[..., chosen, :] if mask.shape[-2] == rows else mask
            chosen = None
        result, probabilities = attention(
            query, key, value, self.scale, mask, softcap, None, precision
        )
        if self.weights:
            flat = probabilities.reshape(-1, probabilities.shape[-1])
        else:
            flat = np.swapaxes(result, 1, 2).reshape(-1, result.shape[1] * result.shape[3])
        return flat if chosen is None else flat[chosen]

    def _before(self, parts: _Parts) -> list[_Parts]:
        """Return the same parts in the earlier steps, oldest first."""
        columns = [self.around.before(p) if p is not None else [] for p in _fields(parts)]
        count = len(columns[1])
        found = []
        for i in range(count):
            row = [c[i] if len(c) == count else None for c in columns]
            if row[1] is None or row[2] is None:
                return []
            found.append(_Parts(row[0] or row[1], row[1], row[2], row[3], row[4], None))
        return found

    def _alone(self, query: Array) -> bool:
        """Whether only the chosen rows need an answer: a query of one sequence is one row."""
        return query.shape[0] == 1 and not self.weights

    def _heads(
        self,
        source: Source,
        parts: _Parts,
        precision: Precision,
        chosen: npt.NDArray[np.int64] | None = None,
    ) -> tuple[Array, Array, Array]:
        """Return query, key and value; of the queries those that `chosen` asks for."""
        if parts.query is parts.key:
            query, key, value = self._unpacked(np.asarray(source.array(parts.query), np.float64))
        else:
            tokens = _tokens(source.array(parts.value), self.size)
            query, key, value = (
                _split(np.asarray(source.array(p), np.float64), self.size, tokens)
                for p in (parts.query, parts.key, parts.value)
            )
        kept = slice(None) if chosen is None or not self._alone(query) else chosen
        query = query[:, :, kept]
        if parts.cos is not None and parts.sin is not None:
            cos, sin = (
                np.asarray(source.array(t), np.float64)[:, None] for t in (parts.cos, parts.sin)
            )
            query, key = (
                rotate(t, c, s, interleaved=self.interleaved, precision=precision)
                for t, c, s in (
                    (query, cos[..., kept, :], sin[..., kept, :]),
                    (key, cos, sin),
                )
            )
        return query, key, value

    def _unpacked(self, packed: Array) -> tuple[Array, Array, Array]:
        batch, tokens, width = packed.shape if packed.ndim == 3 else (1, *packed.shape)
        heads = width // self.size
        if self.layout == "per head":
            grouped = packed.reshape(batch, tokens, heads // 3, 3, self.size)
            q, k, v = (np.moveaxis(grouped[..., i, :], 2, 1) for i in range(3))
            return q, k, v
        groups = self.around.params.get("num_key_value_groups")
        repeat = groups if isinstance(groups, int) and groups > 0 else 1
        shared = heads // (repeat + 2)
        split = packed.reshape(batch, tokens, heads, self.size).swapaxes(1, 2)
        own = shared * repeat
        return split[:, :own], split[:, own : own + shared], split[:, own + shared :]


def _fields(parts: _Parts) -> tuple[Row | None, ...]:
    return parts.query, parts.key, parts.value, parts.cos, parts.sin


def _tokens(value: npt.NDArray[Any], size: int) -> int:
    """Return how many tokens a projection of (batch, tokens, heads × size) has."""
    if value.ndim == 4 and value.shape[-1] == size:
        return int(value.shape[1])
    return int(value.shape[-2])


def _split(x: Array, size: int, tokens: int) -> Array:
    """Return (batch, heads, tokens, size) from that, or with tokens first, or with flat heads."""
    if x.ndim == 4:
        return x if x.shape[2] == tokens and x.shape[1] != tokens else x.swapaxes(1, 2)
    batch = x.shape[0] if x.ndim == 3 else 1
    return x.reshape(batch, -1, x.shape[-1] // size, size).swapaxes(1, 2)
