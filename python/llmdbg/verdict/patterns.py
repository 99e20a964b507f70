"""What an error looks like: each pattern named only when a test on the data supports it.

D is what the candidate gave, G what it should have given: the golden operator's result for the
candidate's own inputs where there is a shadow check, golden's tensor where there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmdbg.verdict.floor import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llmdbg.golden.precision import Array

# How much of the squared error a pattern has to explain to be named.
_MOST = 0.9
# The largest part of rows or channels that is still "a few".
_FEW = 0.125
_MOST_CANDIDATES = 4096
_MIN_CLIPPED = 8
_ACCUMULATION = 0.3
_SHOWN = 3


@dataclass(frozen=True)
class Evidence:
    """The two sides of one output, as matrices of rows (all axes but the last) by channels.

    Attributes
    ----------
    actual, expected : ndarray, shape (rows, channels)
        D and G.
    noise : float
        The relative L2 error that rounding explains.
    dtype : str or None
        D's, as torch calls it.
    rows : ndarray of int or None
        The numbers of the rows where they are not all.
    head : int or None
        Channels of one head, of an attention output.
    products : int or None
        How many products each value sums, of a matrix product.
    alternatives : dict of str to callable
        Other operators by name, computed from the same inputs only when asked.
    intended : str
        The operator that golden computes.
    """

    actual: Array
    expected: Array
    noise: float
    dtype: str | None = None
    rows: npt.NDArray[np.int64] | None = None
    head: int | None = None
    products: int | None = None
    alternatives: dict[str, Callable[[], Array]] = field(default_factory=dict)
    intended: str = ""


def patterns(evidence: Evidence) -> tuple[str, ...]:
    """Name what the error looks like.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    tuple of str
        The most telling first; empty when nothing is.
    """
    d, g = evidence.actual, evidence.expected
    if d.shape != g.shape or d.size == 0:
        return ()
    finite = np.isfinite(d) & np.isfinite(g)
    if not finite.all():
        return tuple(_nonfinite(d, g, evidence))
    if not np.square(d - g).sum() > 4 * evidence.noise**2 * np.square(g).sum():
        return ()
    found = (
        *_other_operator(evidence),
        *_factor(d, g),
        *_zeroed(d, g),
        *_clipped(d, g, evidence.dtype),
        *_rows(d, g, evidence),
        *_channels(d, g, evidence),
        *_offset(d, g),
        *_accumulation(d, g, evidence),
    )
    return found[:_SHOWN]


def _nonfinite(d: Array, g: Array, evidence: Evidence) -> Iterator[str]:
    bad = ~np.isfinite(d) & np.isfinite(g)
    if not bad.any():
        return
    limit = 65504.0 if evidence.dtype == "float16" else 3.38e38
    beyond = int((np.abs(g[bad]) > 0.9 * limit).sum())
    if beyond:
        yield (
            f"overflow: at {beyond} of {int(bad.sum())} places the right value is beyond "
            f"{limit:.5g}, the largest of its dtype"
        )
    near = np.abs(d[np.isfinite(d)])
    if not beyond and near.size and near.max() > 0.25 * limit:
        yield f"overflow is near: finite values reach {near.max() / limit:.0%} of the largest"


def _factor(d: Array, g: Array) -> Iterator[str]:
    """Test whether D is G times a number."""
    scale = float((d * g).sum() / np.square(g).sum())
    left, error = np.square(d - scale * g).sum(), np.square(d - g).sum()
    if error and 1 - left / error > _MOST:
        yield f"a constant factor of {scale:.4g} explains {1 - left / error:.1%} of the error"


def _zeroed(d: Array, g: Array) -> Iterator[str]:
    zero = (d == 0) & (g != 0)
    error = np.square(d - g)
    share = float(error[zero].sum() / error.sum())
    if share < _MOST:
        return
    columns, rows = zero.all(0), zero.all(1)
    where = ""
    if columns.any():
        at = np.flatnonzero(columns)
        tail = ", the tail" if at[-1] == d.shape[1] - 1 and at.size == at[-1] - at[0] + 1 else ""
        where = f"channels {_span(at)}{tail}"
    elif rows.any():
        where = f"rows {_span(np.flatnonzero(rows))}"
    place = f" ({where})" if where else ""
    yield f"zeroed: {int(zero.sum())} values are 0{place}, {share:.1%} of the error"


def _clipped(d: Array, g: Array, dtype: str | None) -> Iterator[str]:
    """Test whether the largest values are one and the same number."""
    size = np.abs(d)
    top = float(size.max())
    at_top = size >= top * (1 - 1e-6)
    beyond = at_top & (np.abs(g) > top * 1.01)
    error = np.square(d - g)
    share = float(error[at_top].sum() / error.sum())
    if int(beyond.sum()) >= _MIN_CLIPPED and share > _MOST:
        largest = " (the largest of its dtype)" if dtype == "float16" and top == 65504 else ""
        yield (
            f"saturated: {int(at_top.sum())} values stand at ±{top:.4g}{largest} where up to "
            f"{np.abs(g[beyond]).max():.4g} is right, {share:.1%} of the error"
        )


def _rows(d: Array, g: Array, evidence: Evidence) -> Iterator[str]:
    """Test whether a few rows hold the error, and whether they are other rows of G."""
    count = d.shape[0]
    if count < 4:
        return
    by_row = np.square(d - g).sum(1)
    few = _few(by_row)
    if few is None:
        return
    number = np.arange(count) if evidence.rows is None else evidence.rows
    sources = [_nearest(d[row], g, evidence.noise) for row in few]
    told = f"{few.size} of {count} rows hold {by_row[few].sum() / by_row.sum():.1%} of the error"
    if all(s is not None and s != row for s, row in zip(sources, few, strict=True)):
        moved = ", ".join(
            f"row {number[row]} is what row {number[s]} should be"
            for row, s in list(zip(few, sources, strict=True))[:_SHOWN]
            if s is not None
        )
        kind = (
            "permuted" if sorted(s for s in sources if s is not None) == list(few) else "wrong row"
        )
        yield f"{kind}: {moved} ({told})"
    else:
        yield f"wrong rows: {told} ({_span(number[few])})"


def _channels(d: Array, g: Array, evidence: Evidence) -> Iterator[str]:
    """Test whether a few channels, or whole heads, hold the error, or are other channels of G."""
    width = d.shape[1]
    by_channel = np.square(d - g).sum(0)
    head = evidence.head
    if head and width % head == 0 and width // head > 1:
        by_head = by_channel.reshape(-1, head).sum(1)
        wrong = np.flatnonzero(by_head > 0.02 * by_head.max())
        if wrong.size < by_head.size and by_head[wrong].sum() > _MOST * by_head.sum():
            share = by_head[wrong].sum() / by_head.sum()
            yield f"wrong head: {_span(wrong)} of {by_head.size} hold {share:.1%} of the error"
            return
    few = _few(by_channel)
    if few is None or width < 8:
        return
    told = f"{few.size} of {width} channels hold {by_channel[few].sum() / by_channel.sum():.1%}"
    sources = (
        [_nearest(d[:, c], g.T, evidence.noise) for c in few]
        if d.shape[0] >= 4 and few.size <= 64
        else [None]
    )
    if all(s is not None and s != c for s, c in zip(sources, few, strict=False)):
        moved = ", ".join(
            f"channel {c} is what channel {s} should be"
            for c, s in list(zip(few, sources, strict=True))[:_SHOWN]
        )
        yield f"permuted: {moved} ({told} of the error)"
    else:
        yield f"wrong channels: {told} of the error ({_span(few)})"


def _offset(d: Array, g: Array) -> Iterator[str]:
    """Test whether every row is off by the same vector."""
    if d.shape[0] < 8:
        return
    error = d - g
    mean = error.mean(0)
    explained = 1 - np.square(error - mean).sum() / np.square(error).sum()
    if explained > _MOST:
        yield f"a constant offset per channel, as of a bias, explains {explained:.1%} of the error"


def _accumulation(d: Array, g: Array, evidence: Evidence) -> Iterator[str]:
    """Test whether an error without structure has the size of sums in 16 bits."""
    if not evidence.products:
        return
    error = float(np.sqrt(np.square(d - g).sum() / np.square(g).sum()))
    by_row = np.sqrt(np.square(d - g).sum(1))
    even = by_row.size == 1 or by_row.max() < 4 * np.median(by_row)
    aligned = abs(float((d * g).sum() / np.square(g).sum()) - 1.0) < 0.2 * error
    for name in ("bfloat16", "float16"):
        expected = _ACCUMULATION * math.sqrt(evidence.products) * unit_roundoff(name)
        if even and aligned and 0.3 < error / expected < 2.0:
            yield (
                f"an error without structure, {error / expected:.2f} of the 0.3·√K·u that sums of "
                f"K = {evidence.products} in {name} leave"
            )
            return


def _other_operator(evidence: Evidence) -> Iterator[str]:
    """Test whether another operator gives D, and which does so best."""
    d, g = evidence.actual, evidence.expected
    error = float(np.square(d - g).sum())
    best: tuple[float, str] | None = None
    for name, compute in evidence.alternatives.items():
        with np.errstate(all="ignore"):
            other = compute()
        if other.shape != g.shape or not np.isfinite(other).all():
            continue
        left, norm = float(np.square(d - other).sum()), float(np.square(other).sum())
        fits = left < (1 - _MOST) * error and left < 25 * evidence.noise**2 * norm
        if fits and norm and (best is None or left / norm < best[0]):
            best = (left / norm, name)
    if best is not None:
        size = math.sqrt(best[0])
        yield f"{best[1]} instead of {evidence.intended}: it leaves an error of {size:.1e} only"


def _few(energy: Array) -> npt.NDArray[np.int64] | None:
    """Return the few places that hold nearly all of it, if a few do."""
    order = np.argsort(-energy, kind="stable")
    total = energy.sum()
    most = max(1, int(_FEW * energy.size))
    held = np.cumsum(energy[order[:most]]) / total if total else np.zeros(1)
    if held[-1] < _MOST:
        return None
    significant = order[:most][energy[order[:most]] > 0.02 * energy[order[0]]]
    return np.sort(significant)


def _nearest(vector: Array, candidates: Array, noise: float) -> int | None:
    """Return which row of `candidates` the vector is, up to noise."""
    if candidates.shape[0] > _MOST_CANDIDATES:
        return None
    distance = np.square(candidates - vector).sum(1)
    at = int(np.argmin(distance))
    size = float(np.square(candidates[at]).sum())
    return at if distance[at] < (10 * noise) ** 2 * size else None


def _span(index: npt.NDArray[np.int64]) -> str:
    """Return indices for a person: ``3``, ``3 to 9``, ``3, 7, 12, …``."""
    if index.size > 1 and index[-1] - index[0] == index.size - 1:
        return f"{index[0]} to {index[-1]}"
    shown = ", ".join(str(i) for i in index[:4])
    return shown + (", …" if index.size > 4 else "")
