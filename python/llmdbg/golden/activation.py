"""Activations, and the MLPs made of them."""

from __future__ import annotations

from math import erf, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from llmdbg.golden.linear import linear
from llmdbg.golden.precision import EXACT, Array, Precision

if TYPE_CHECKING:
    from collections.abc import Callable

_erf = np.vectorize(erf, otypes=[np.float64])
_TABLE_STEP = 1.0 / 64
_TABLE_END = 6.0


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))`` without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def silu(x: Array) -> Array:
    """Return ``x * sigmoid(x)``."""
    return np.asarray(x * sigmoid(x))


def gelu(x: Array) -> Array:
    """Return ``x * Φ(x)`` with the normal distribution Φ, by its error function."""
    return np.asarray(0.5 * x * (1.0 + _error_function(x / sqrt(2.0))))


def gelu_tanh(x: Array) -> Array:
    """Return GELU's tanh approximation (Hendrycks and Gimpel 2016)."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(sqrt(2.0 / pi) * (x + 0.044715 * x**3))))


def quick_gelu(x: Array) -> Array:
    """Return ``x * sigmoid(1.702 x)``."""
    return np.asarray(x * sigmoid(1.702 * x))


def relu(x: Array) -> Array:
    """Return ``max(x, 0)``."""
    return np.maximum(x, 0.0)


def squared_relu(x: Array) -> Array:
    """Return ``max(x, 0)²``."""
    return np.square(relu(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu,
    "gelu_tanh": gelu_tanh,
    "gelu": gelu,
    "relu": relu,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "quick_gelu": quick_gelu,
    "squared_relu": squared_relu,
}


def gated(gate: Array, up: Array, activation: str, precision: Precision = EXACT) -> Array:
    """Return ``activation(gate) * up``, both rounded (Shazeer 2020)."""
    return precision(precision(ACTIVATIONS[activation](gate)) * up)


def mlp(
    x: Array,
    up: Array,
    down: Array,
    activation: str,
    gate: Array | None = None,
    precision: Precision = EXACT,
) -> Array:
    """Return a whole MLP: ``down(activation(gate(x)) * up(x))``, or without a gate.

    Parameters
    ----------
    x : ndarray, shape (..., width)
    up, gate : ndarray, shape (inner, width)
    down : ndarray, shape (width, inner)
    activation : str
        A name of `ACTIVATIONS`.
    precision : Precision

    Returns
    -------
    ndarray, shape (..., width)
    """
    raised = linear(x, up, precision=precision)
    if gate is None:
        inner = precision(ACTIVATIONS[activation](raised))
    else:
        inner = gated(linear(x, gate, precision=precision), raised, activation, precision)
    return linear(inner, down, precision=precision)


def _error_function(x: Array) -> Array:
    """Return erf: Taylor's series about the nearest point of a table, to 1e-15.

    numpy has none, and calling `math.erf` per element takes a second for ten million of them.
    """
    points = np.arange(-_TABLE_END, _TABLE_END + _TABLE_STEP / 2, _TABLE_STEP)
    inside = np.clip(np.nan_to_num(x, nan=0.0), -_TABLE_END, _TABLE_END)
    index = np.rint((inside + _TABLE_END) / _TABLE_STEP).astype(np.int64)
    at, h = points[index], inside - points[index]
    slope = 2.0 / sqrt(pi) * np.exp(-np.square(at))
    # Derivatives of exp(-t²) are Hermite polynomials times it.
    series = h * (
        1.0
        + h
        * (
            -at
            + h * ((4 * at**2 - 2) / 6 + h * ((-8 * at**3 + 12 * at) / 24 + h * _fifth(at) / 120))
        )
    )
    return np.where(np.isnan(x), np.nan, _erf(points)[index] + slope * series)


def _fifth(at: Array) -> Array:
    return 16 * at**4 - 48 * at**2 + 12
