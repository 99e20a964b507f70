"""What is kept of a tensor instead of its bytes: statistics, a sketch, a hash.

On the CPU the engine computes them in place. Elsewhere torch computes statistics and sketch on the
tensor's device, and only their few numbers are copied.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from llmdbg import _core
from llmdbg._core import LlmdbgError
from llmdbg.capture.shards import UnstorableError, flat_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Mode: TypeAlias = Literal["full", "statistics", "sketch", "hash"]
MODES: tuple[Mode, ...] = ("full", "statistics", "sketch", "hash")

_NUMBERS = ("min", "max", "mean", "norm")
_COUNTS = ("nan", "pos_inf", "neg_inf", "zero")
# Of the projection: elements after which the signs begin again, and turns worked on at once.
_TURN = 64
_TURNS = 256


class Reduced(NamedTuple):
    """What :func:`reduce` keeps of a tensor.

    Attributes
    ----------
    fields
        For the record.
    sketch
        float32, on the tensor's device; None without one.
    fill
        To be called before `fields` is written: it waits for the device. None when complete.
    """

    fields: dict[str, Any]
    sketch: torch.Tensor | None = None
    fill: Callable[[], None] | None = None


def reduce(tensor: torch.Tensor, mode: Mode) -> Reduced:
    """Compute what `mode` keeps of `tensor`.

    Raises
    ------
    UnstorableError
        If its dtype has no numbers, or no bytes that can be hashed.
    """
    if mode == "hash":
        return Reduced({"hash": f"xxh3:{_core.hash_bytes(_host_bytes(tensor))}"})
    if tensor.device.type != "cpu":
        return _on_device(tensor, sketch=mode == "sketch")
    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        found = _core.summarize_bytes(
            _host_bytes(tensor), dtype, list(tensor.shape), mode == "sketch"
        )
    except LlmdbgError as error:
        raise UnstorableError(str(error)) from error
    sketch = found.pop("sketch", None)
    stats = {name: _spelled(found[name]) for name in (*_NUMBERS, *_COUNTS)}
    return Reduced({"stats": stats}, None if sketch is None else torch.from_numpy(sketch))


def _host_bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = flat_bytes(tensor.detach()).cpu().numpy()
    return array


def _spelled(value: float) -> float | str | None:
    """Spell a number as strict JSON has it: a mean of nothing is null."""
    if isinstance(value, int) or math.isfinite(value):
        return value
    return None if math.isnan(value) else repr(value)


def _on_device(tensor: torch.Tensor, *, sketch: bool) -> Reduced:
    values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    values = values.resolve_neg()
    columns = (
        values.shape[-1] * (values.shape[-2] if tensor.is_complex() else 1) if values.ndim else 1
    )
    flat = values.reshape(-1).float()
    finite = torch.isfinite(flat)
    counts = torch.stack(
        [
            flat.isnan().sum(),
            flat.isposinf().sum(),
            flat.isneginf().sum(),
            (flat == 0).sum(),
            finite.sum(),
        ]
    )
    clean = torch.where(finite, flat, 0.0)
    if flat.numel():
        largest = torch.where(finite, flat, -torch.inf).amax()
        smallest = torch.where(finite, flat, torch.inf).amin()
    else:
        largest = smallest = clean.sum()
    numbers = torch.stack([smallest, largest, clean.sum(), clean.square().sum().sqrt()])
    fields: dict[str, Any] = {"stats": {}}

    def fill() -> None:
        tally = counts.tolist()
        low, high, total, norm = numbers.tolist()
        found = tally.pop()
        mean = total / found if found else math.nan
        extremes = (low, high) if found else (math.nan, math.nan)
        stats = dict(zip(_NUMBERS, map(_spelled, (*extremes, mean, norm)), strict=True))
        fields["stats"].update(stats, **dict(zip(_COUNTS, tally, strict=True)))

    if not sketch:
        return Reduced(fields, None, fill)
    buckets, rows_each, norms, places = _core.sketch_layout(list(tensor.shape))
    parts = [_projection(clean, buckets)]
    group = rows_each * columns
    grouped = torch.nn.functional.pad(clean, (0, norms * group - clean.numel()))
    parts.append(grouped.reshape(norms, group).square().sum(1).sqrt())
    step = 2 if tensor.is_complex() else 1
    index = torch.tensor(places, dtype=torch.int64, device=flat.device) * step
    parts.append(flat[index])
    return Reduced(fields, torch.cat(parts), fill)


def _projection(flat: torch.Tensor, buckets: int) -> torch.Tensor:
    """Add signed elements up in buckets, as the engine's ``stats/summary.rs`` defines it."""
    turn = _TURN * buckets
    turns = -(-flat.numel() // turn)
    total = torch.zeros(buckets, device=flat.device)
    within = _signs(0, turn).to(flat.device).reshape(1, _TURN, buckets)
    for first in range(0, turns, _TURNS):
        last = min(first + _TURNS, turns)
        piece = flat[first * turn : last * turn]
        piece = torch.nn.functional.pad(piece, (0, (last - first) * turn - piece.numel()))
        sums = (piece.reshape(-1, _TURN, buckets) * within).sum(1)
        of_turns = _signs((1 << 62) + first * buckets, (last - first) * buckets)
        total += (sums * of_turns.to(flat.device).reshape(-1, buckets)).sum(0)
    return total


@lru_cache(maxsize=64)
def _signs(first: int, count: int) -> torch.Tensor:
    """Return 1 or -1 by the lowest bit of splitmix64 at `first` and after."""
    with np.errstate(over="ignore"):
        z = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    with torch.inference_mode(False):
        return torch.from_numpy(np.where(z & np.uint64(1), -1.0, 1.0).astype(np.float32))
