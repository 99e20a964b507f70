"""Products with a matrix."""

from __future__ import annotations

from llmdbg.golden.precision import EXACT, Array, Precision


def linear(
    x: Array, weight: Array, bias: Array | None = None, precision: Precision = EXACT
) -> Array:
    """Return ``x @ weight.T + bias``, rounded once: 16-bit products are summed in float32.

    Parameters
    ----------
    x : ndarray, shape (..., inputs)
    weight : ndarray, shape (outputs, inputs)
        torch's `Linear` keeps it so; `Conv1D` of GPT-2 keeps the transpose.
    bias : ndarray, shape (outputs,), optional
    precision : Precision

    Returns
    -------
    ndarray, shape (..., outputs)
    """
    y = x @ weight.T
    return precision(y if bias is None else y + bias)
