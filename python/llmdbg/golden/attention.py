"""Rotary positions and the attention core."""

from __future__ import annotations

import numpy as np

from llmdbg.golden.precision import EXACT, Array, Precision


def rotary_table(
    positions: Array, inverse_frequencies: Array, scale: float = 1.0, precision: Precision = EXACT
) -> tuple[Array, Array]:
    """Return cosine and sine of position times frequency, each frequency twice (Su et al. 2021).

    Parameters
    ----------
    positions : ndarray, shape (...)
    inverse_frequencies : ndarray, shape (half,)
    scale : float
        Attention factor of YaRN and its kin.
    precision : Precision
        Rounds the frequencies, as a model cast to 16 bits does, and the result.

    Returns
    -------
    tuple of ndarray, shape (..., 2 * half)
    """
    angles = positions[..., None] * precision(inverse_frequencies)
    twice = np.concatenate([angles, angles], -1)
    return precision(np.cos(twice) * scale), precision(np.sin(twice) * scale)


def rotate(
    x: Array, cos: Array, sin: Array, *, interleaved: bool = False, precision: Precision = EXACT
) -> Array:
    """Return ``x * cos + rotate_half(x) * sin``.

    Parameters
    ----------
    x : ndarray, shape (batch, heads, tokens, size)
    cos, sin : ndarray, broadcastable to `x`
        As wide as the part of each head that is rotated; the rest passes.
    interleaved : bool
        Pairs are neighbours (GPT-J) instead of halves (NeoX, Llama).
    precision : Precision

    Returns
    -------
    ndarray, shape of `x`
    """
    width = cos.shape[-1]
    part, rest = x[..., :width], x[..., width:]
    if interleaved:
        half = np.stack([-part[..., 1::2], part[..., ::2]], -1).reshape(part.shape)
    else:
        half = np.concatenate([-part[..., width // 2 :], part[..., : width // 2]], -1)
    turned = precision(precision(part * cos) + precision(half * sin))
    return turned if rest.shape[-1] == 0 else np.concatenate([turned, rest], -1)


def attention(
    query: Array,
    key: Array,
    value: Array,
    scale: float,
    mask: Array | None = None,
    softcap: float | None = None,
    window: int | None = None,
    precision: Precision = EXACT,
) -> tuple[Array, Array]:
    """Return ``softmax(query @ key.T * scale + mask) @ value`` and the softmax, queries grouped.

    Parameters
    ----------
    query : ndarray, shape (batch, heads, tokens, size)
    key, value : ndarray, shape (batch, groups, all tokens, size)
        Head ``h`` attends to group ``h // (heads / groups)``.
    scale : float
    mask : ndarray, broadcastable to (batch, heads, tokens, all tokens), optional
        Added to the scores. None is causal, the last query at the last key.
    softcap : float, optional
        ``softcap * tanh(score / softcap)`` before the mask (Gemma 2).
    window : int, optional
        With no mask given: how many keys back a query sees, itself included.
    precision : Precision
        Rounds scores, probabilities and result.

    Returns
    -------
    tuple of ndarray, shapes (batch, heads, tokens, size) and (batch, heads, tokens, all tokens)
    """
    repeat = query.shape[1] // key.shape[1]
    key, value = (np.repeat(t, repeat, axis=1) for t in (key, value))
    scores = precision(precision(query @ np.swapaxes(key, -1, -2)) * scale)
    if softcap:
        scores = precision(softcap * precision(np.tanh(precision(scores / softcap))))
    if mask is None:
        mask = causal_mask(query.shape[2], key.shape[2], window)
    scores = scores + mask
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = precision(weights / weights.sum(-1, keepdims=True))
    return precision(weights @ value), weights


def causal_mask(rows: int, columns: int, window: int | None = None) -> Array:
    """Return 0 where a query may look and −∞ where it may not; the last row is the last column."""
    at = np.arange(columns - rows, columns)[:, None]
    keys = np.arange(columns)[None, :]
    seen = keys <= at
    if window:
        seen &= keys > at - window
    return np.where(seen, 0.0, -np.inf)
