"""Norms over the last axis."""

from __future__ import annotations

import numpy as np

from llmdbg.golden.precision import EXACT, Array, Precision


def rms_norm(
    x: Array,
    weight: Array | None,
    eps: float,
    offset: float = 0.0,
    precision: Precision = EXACT,
) -> Array:
    """Return ``x / sqrt(mean(x²) + eps) * (offset + weight)`` (Zhang and Sennrich 2019).

    Parameters
    ----------
    x : ndarray, shape (..., width)
    weight : ndarray, shape (width,), optional
    eps : float
    offset : float
        1 for Gemma, whose weights are stored less one.
    precision : Precision
        Rounds the normalised values and the result, as Llama's does.

    Returns
    -------
    ndarray, shape of `x`
    """
    normal = precision(x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps))
    return normal if weight is None else precision(normal * (offset + weight))


def layer_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    precision: Precision = EXACT,
) -> Array:
    """Return ``(x - mean) / sqrt(variance + eps) * weight + bias`` (Ba et al. 2016).

    Parameters
    ----------
    x : ndarray, shape (..., width)
    weight, bias : ndarray, shape (width,), optional
    eps : float
        Added to the biased variance.
    precision : Precision

    Returns
    -------
    ndarray, shape of `x`
    """
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + eps)
    scaled = normal if weight is None else normal * weight
    return precision(scaled if bias is None else scaled + bias)
