"""What one row's page shows beyond its measures: read from the two tensors again."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from llmdbg.report.html.digits import rounded
from llmdbg.spread import spread

Array = npt.NDArray[np.floating[Any]]

BINS = 48
TILE = 64
POINTS = 256
TOP = 20
# A logits tensor of a long prompt has 10⁸ elements; a picture of 64×64 does not need them all.
MOST_ELEMENTS = 98_304
# The largest float64 has a square root of 1e154.
_SQUARABLE = 1e150
_DIGITS = 5


def details_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return histograms, profiles, a tile and the worst elements of one pair.

    Parameters
    ----------
    row : dict
        One row of the frame.

    Returns
    -------
    dict
        Plain data. ``note`` says in words what is missing and why; a tensor that cannot be read
        again is such a note, never an error.
    """
    paths = {"golden_path": row["golden_data_path"], "candidate_path": row["my_data_path"]}
    if row.get("transform") not in (None, "", "identity"):
        return paths | {"note": f"compared through a transform: {row['transform']}"}
    try:
        golden, candidate = read(row["golden_data_path"]), read(row["my_data_path"])
    except (OSError, ValueError) as error:
        return paths | {"note": f"not read again: {error}"}
    if golden is None or candidate is None:
        return paths | {"note": "one side has no data"}
    if golden.size != candidate.size or golden.size == 0:
        return paths | {"note": "the shapes differ or the tensors are empty"}
    return paths | _pictures(golden, candidate.reshape(golden.shape), row)


def read(path: str | None) -> npt.NDArray[Any] | None:
    """Read the tensor that a report names; None where it names none."""
    from llmdbg.reading import read_tensor

    if path is None:
        return None
    file, _, key = path.partition("#")
    return read_tensor(file, key or None)


def working_dtype(*tensors: npt.NDArray[Any]) -> type[np.floating[Any]]:
    """Return in what a picture of tensors is computed.

    It needs no float64 of what was no float64, and half the memory is half the time.
    """
    narrow = all(t.dtype.kind not in "iu" and t.dtype.itemsize <= 4 for t in tensors)
    return np.float32 if narrow else np.float64


def _pictures(
    golden: npt.NDArray[Any], candidate: npt.NDArray[Any], row: dict[str, Any]
) -> dict[str, Any]:
    shape = golden.shape
    columns = shape[-1] if shape else 1
    g, c = golden.reshape(-1, columns), candidate.reshape(-1, columns)
    kept = spread(g.shape[0], max(1, MOST_ELEMENTS // columns), row.get("worst_row"))
    note = ""
    if kept.size < g.shape[0]:
        note = f"drawn from {kept.size} of {g.shape[0]} rows, the worst one among them"
    if np.iscomplexobj(g) or np.iscomplexobj(c):
        return {"note": "complex values are measured but not drawn"}
    work = working_dtype(g, c)
    a: Array = g[kept].astype(work)
    b: Array = c[kept].astype(work)
    with np.errstate(all="ignore"):
        shown = b - a
    finite = np.isfinite(shown)
    np.abs(shown, out=shown)
    base, finite_a, finite_b = a, a, b
    if not finite.all():
        shown, base = np.where(finite, shown, 0), np.where(finite, a, 0)
        finite_a, finite_b = a[np.isfinite(a)], b[np.isfinite(b)]
    tile = _tile(shown)
    (square, by), (energy, base_by) = _squares(shown), _squares(base)
    scale = by / base_by
    return {
        "note": note,
        "shape": list(shape),
        "statistics": [_statistics(row, "golden", "golden"), _statistics(row, "candidate", "my")],
        "histogram": _histograms(finite_a, finite_b),
        "difference_histogram": _log_histogram(shown[shown > 0]),
        "row_profile": _profile(square.sum(1), energy.sum(1), scale, kept),
        "channel_profile": _profile(square.sum(0), energy.sum(0), scale, np.arange(columns)),
        "tile": _packed(tile),
        "top": _top(a, b, shown, finite, kept, shape, tile),
    }


def _statistics(row: dict[str, Any], side: str, ait: str) -> dict[str, Any]:
    """Return what the engine counted over all elements."""
    columns = {
        **{name: f"{ait}_{name}_value" for name in ("min", "max", "mean")},
        **{name: f"{side}_{name}" for name in ("rms", "zero", "nan")},
        "+inf": f"{side}_pos_inf",
        "-inf": f"{side}_neg_inf",
    }
    values = {name: row.get(column) for name, column in columns.items()}
    return {n: _word(v) if isinstance(v, float) else v for n, v in values.items()}


def _number(value: float) -> float:
    short = float(f"{float(value):.{_DIGITS}g}")
    # The largest float64, rounded up, is none.
    return short if math.isfinite(short) else float(value)


def _histograms(a: Array, b: Array) -> dict[str, Any]:
    some = [side for side in (a, b) if side.size]
    if not some:
        return {"edges": [], "golden": [], "candidate": []}
    low = min(float(side.min()) for side in some)
    high = max(float(side.max()) for side in some)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return {
        "edges": rounded(_edges(low, high), _DIGITS),
        "golden": _binned(a, low, high),
        "candidate": _binned(b, low, high),
    }


def _log_histogram(values: Array) -> dict[str, Any]:
    """Return a histogram of log10 of positive values."""
    if values.size == 0:
        return {"edges": [], "count": []}
    # The natural logarithm is several times faster than the one of ten.
    exponents = np.log(values)
    exponents *= math.log10(math.e)
    low, high = float(exponents.min()), float(exponents.max())
    high = high if high > low else low + 1
    return {
        "edges": rounded(_edges(low, high), _DIGITS),
        "count": _binned(exponents, low, high),
    }


def _edges(low: float, high: float) -> npt.NDArray[np.float64]:
    # A quarter of each, because the whole range of float64 is no float64.
    return np.linspace(low * 0.25, high * 0.25, BINS + 1) * 4


def _binned(values: Array, low: float, high: float) -> list[int]:
    """Count values between `low` and `high` in equal bins.

    ``np.histogram`` puts a value within rounding of an edge exactly, which a picture does not need,
    and takes five times as long.
    """
    span = max(high * 0.5 - low * 0.5, 1e-300)
    # What a small span is divided by has no float32.
    scaled = values.ravel().astype(np.float64 if span < 1e-30 else values.dtype) * 0.5
    scaled -= low * 0.5
    scaled *= BINS / span
    counts = np.bincount(scaled.astype(np.intp), minlength=BINS + 1)
    # The largest value belongs to the last bin.
    counts[BINS - 1] += counts[BINS]
    counted: list[int] = counts[:BINS].tolist()
    return counted


def _squares(values: Array) -> tuple[Array, float]:
    """Return the squares of values after a division that keeps them finite, and the divisor."""
    largest = max(float(values.max()), -float(values.min()))
    by = largest if largest > _SQUARABLE else 1.0
    return np.square(values if by == 1.0 else values / by, dtype=np.float64), by


def _profile(
    difference: Array, energy: Array, scale: float, index: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Return relative L2 by row or by channel; neighbours share a point that shows their worst."""
    mean = energy.mean() if energy.size else 0.0
    # A row of zeros has no relative error: a millionth of the mean energy keeps it on the chart.
    least = max(mean * 1e-6, float(np.finfo(np.float64).tiny))
    with np.errstate(over="ignore"):
        relative = np.minimum(np.sqrt(difference / np.maximum(energy, least)) * scale, 1e308)
    size = max(1, -(-relative.size // POINTS))
    chunks = [slice(i, i + size) for i in range(0, relative.size, size)]
    peaks = [s.start + int(np.argmax(relative[s])) for s in chunks]
    return {"x": index[peaks].tolist(), "y": rounded(relative[peaks], _DIGITS)}


def _tile(shown: Array) -> Array:
    """Return at most 64×64 cells, each the largest |difference| inside it."""

    def edges(n: int) -> npt.NDArray[np.int64]:
        cells = min(n, TILE)
        return np.arange(cells) * n // cells

    by_column = np.maximum.reduceat(shown, edges(shown.shape[1]), axis=1)
    cells: Array = np.maximum.reduceat(by_column, edges(shown.shape[0]), axis=0)
    return cells


def _packed(values: Array) -> dict[str, str]:
    """Return an array as plotly reads its bytes; as numbers they take most of a page's time."""
    little = values.astype(values.dtype.newbyteorder("<"))
    return {
        "dtype": f"f{values.dtype.itemsize}",
        "bdata": base64.b64encode(little.tobytes()).decode(),
        "shape": ", ".join(map(str, values.shape)),
    }


def _top(
    a: Array,
    b: Array,
    shown: Array,
    finite: npt.NDArray[np.bool_],
    kept: npt.NDArray[np.int64],
    shape: tuple[int, ...],
    tile: Array,
) -> list[dict[str, Any]]:
    """Return the elements that differ most; those finite on one side only come first."""
    weight = shown.ravel()
    if not finite.all():
        unlike = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        weight = np.where(unlike, np.inf, shown).ravel()
    # The largest of every cell is an element, so as many are at least as large as the least of TOP.
    enough = np.partition(tile, -TOP, axis=None)[-TOP] if tile.size >= TOP else 0
    among = np.flatnonzero((weight >= enough) & (weight > 0))
    largest = among[np.lexsort((among, -weight[among]))[:TOP]]
    columns = a.shape[1]
    top = []
    for flat in largest.tolist():
        row, column = divmod(flat, columns)
        index = np.unravel_index(int(kept[row]) * columns + column, shape or (1,))
        top.append(
            {
                "index": [int(i) for i in index],
                "golden": _word(a[row, column]),
                "candidate": _word(b[row, column]),
            }
        )
    return top


def _word(value: float) -> float | str:
    return _number(value) if np.isfinite(value) else str(float(value))
