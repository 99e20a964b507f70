"""The error that rounding alone explains, as relative L2 norms.

Rounding a number to ``p`` explicit mantissa bits errs by at most ``2**-(p + 1)`` of it. Over many
values the relative L2 norm of that error is 0.425 of the bound: 1/sqrt(3) for a uniform error,
times 0.736 for mantissas spread as in activations (measured: bfloat16 1.66e-3, float16 2.08e-4,
float32 2.5e-8).
"""

from __future__ import annotations

import math
from functools import lru_cache

_RMS_OF_BOUND = 0.425
_MANTISSA_BITS = {
    "float64": 52,
    "float32": 23,
    "float16": 10,
    "bfloat16": 7,
    "float8_e4m3fn": 3,
    "float8_e5m2": 2,
    "hifloat8": 2,
    "complex128": 52,
    "complex64": 23,
    "complex32": 10,
}
# Sums in 16 and 8 bits are accumulated in float32, so storage dominates them. Wider types are
# summed in their own width, in an order of each stack's own: up to 1e-6 measured for float32.
_OWN_WIDTH_SUMS = {"float64": 16.0, "float32": 16.0, "complex128": 16.0, "complex64": 16.0}


@lru_cache(maxsize=256)
def storage_floor(dtype: str) -> float | None:
    """Return the relative L2 error of one operator whose result is stored as `dtype`.

    Parameters
    ----------
    dtype : str
        torch's name, with or without ``torch.``.

    Returns
    -------
    float or None
        None for types that do not round (integers, bool) or whose rounding is unknown.
    """
    name = dtype.removeprefix("torch.")
    bits = _MANTISSA_BITS.get(name)
    if bits is None:
        return None
    return _RMS_OF_BOUND * 2.0 ** -(bits + 1) * _OWN_WIDTH_SUMS.get(name, 1.0)


@lru_cache(maxsize=256)
def pair_floor(golden: str | None, candidate: str | None) -> float | None:
    """Return the floor of a pair: that of its coarser dtype."""
    floors = [f for f in (storage_floor(d) for d in (golden, candidate) if d) if f is not None]
    return max(floors, default=None)


def grown(floor: float, rounding_steps: int) -> float:
    """Return the floor after so many independent roundings: it grows with their square root."""
    return floor * math.sqrt(max(1, rounding_steps))


def unit_roundoff(dtype: str | None) -> float:
    """Return the largest relative error of rounding to `dtype`; float64's where it is unknown."""
    bits = _MANTISSA_BITS.get((dtype or "").removeprefix("torch."), 52)
    return 2.0 ** -(bits + 1)
