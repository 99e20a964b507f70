"""What one row's page shows beyond its measures: read from the two tensors again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BINS = 48
TILE = 64
POINTS = 256
TOP = 20
# A logits tensor of a long prompt has 10⁸ elements; a picture of 64×64 does not need them all.
MOST_ELEMENTS = 160_000


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


def _pictures(
    golden: npt.NDArray[Any], candidate: npt.NDArray[Any], row: dict[str, Any]
) -> dict[str, Any]:
    shape = golden.shape
    columns = shape[-1] if shape else 1
    g, c = golden.reshape(-1, columns), candidate.reshape(-1, columns)
    kept = np.arange(g.shape[0])
    note = ""
    most = max(1, MOST_ELEMENTS // columns)
    if g.shape[0] > most:
        kept = np.arange(most) * (g.shape[0] - 1) // max(1, most - 1)
        worst = row.get("worst_row")
        if worst is not None and 0 <= worst < g.shape[0] and worst not in kept:
            kept = np.sort(np.append(kept, int(worst)))
        note = f"drawn from {kept.size} of {g.shape[0]} rows, the worst one among them"
    if np.iscomplexobj(g) or np.iscomplexobj(c):
        return {"note": "complex values are measured but not drawn"}
    a, b = g[kept].astype(np.float64), c[kept].astype(np.float64)
    with np.errstate(all="ignore"):
        difference = b - a
    finite = np.isfinite(difference)
    shown, energy, finite_a, finite_b = np.abs(difference), np.square(a), a, b
    if not finite.all():
        shown, energy = np.where(finite, shown, 0.0), np.where(finite, energy, 0.0)
        finite_a, finite_b = a[np.isfinite(a)], b[np.isfinite(b)]
    square = np.square(shown)
    return {
        "note": note,
        "shape": list(shape),
        "statistics": [_statistics(a, finite_a), _statistics(b, finite_b)],
        "histogram": _histograms(finite_a, finite_b),
        "difference_histogram": _log_histogram(shown[shown > 0]),
        "row_profile": _profile(square.sum(1), energy.sum(1), kept),
        "channel_profile": _profile(square.sum(0), energy.sum(0), np.arange(columns)),
        "tile": _tile(shown),
        "top": _top(a, b, shown, finite, kept, shape),
    }


def _statistics(values: Array, finite: Array) -> dict[str, Any]:
    some = finite if finite.size else np.zeros(1)
    return {
        "min": _number(some.min()),
        "max": _number(some.max()),
        "mean": _number(some.mean()),
        "rms": _number(np.sqrt(np.square(some).mean())),
        "zero": int((values == 0).sum()),
        "nan": int(np.isnan(values).sum()),
        "+inf": int(np.isposinf(values).sum()),
        "-inf": int(np.isneginf(values).sum()),
    }


def _number(value: float) -> float:
    return float(f"{float(value):.5g}")


def _numbers(values: Array) -> list[float]:
    """Do what `_number` does to many."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(np.abs(values)))
    places = np.clip(np.nan_to_num(4 - exponent), -300, 300)
    # Powers of ten up to 22 and numbers of five digits are exact, so the quotient is the nearest.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    rounded: list[float] = (np.round(values * up / down) / up * down).tolist()
    return rounded


def _histograms(a: Array, b: Array) -> dict[str, Any]:
    some = [side for side in (a, b) if side.size]
    if not some:
        return {"edges": [], "golden": [], "candidate": []}
    low = min(float(side.min()) for side in some)
    high = max(float(side.max()) for side in some)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return {
        "edges": _numbers(np.linspace(low, high, BINS + 1)),
        # By range and not by edges: numpy sorts the values when edges are given.
        "golden": np.histogram(a, BINS, (low, high))[0].tolist(),
        "candidate": np.histogram(b, BINS, (low, high))[0].tolist(),
    }


def _log_histogram(values: Array) -> dict[str, Any]:
    """Return a histogram of log10 of positive values."""
    if values.size == 0:
        return {"edges": [], "count": []}
    exponents = np.log10(values)
    low, high = float(exponents.min()), float(exponents.max())
    high = high if high > low else low + 1
    return {
        "edges": _numbers(np.linspace(low, high, BINS + 1)),
        "count": np.histogram(exponents, BINS, (low, high))[0].tolist(),
    }


def _profile(difference: Array, energy: Array, index: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return relative L2 by row or by channel; neighbours share a point that shows their worst."""
    mean = energy.mean() if energy.size else 0.0
    # A row of zeros has no relative error: a millionth of the mean energy keeps it on the chart.
    relative = np.sqrt(difference / np.maximum(energy, max(mean * 1e-6, np.finfo(np.float64).tiny)))
    size = max(1, -(-relative.size // POINTS))
    chunks = [slice(i, i + size) for i in range(0, relative.size, size)]
    peaks = [s.start + int(np.argmax(relative[s])) for s in chunks]
    return {"x": index[peaks].tolist(), "y": _numbers(relative[peaks])}


def _tile(shown: Array) -> list[list[float]]:
    """Return at most 64×64 cells, each the largest |difference| inside it."""

    def edges(n: int) -> npt.NDArray[np.int64]:
        cells = min(n, TILE)
        return np.arange(cells) * n // cells

    rows = np.maximum.reduceat(shown, edges(shown.shape[0]), axis=0)
    cells = np.maximum.reduceat(rows, edges(shown.shape[1]), axis=1)
    return [_numbers(line) for line in cells]


def _top(
    a: Array,
    b: Array,
    shown: Array,
    finite: npt.NDArray[np.bool_],
    kept: npt.NDArray[np.int64],
    shape: tuple[int, ...],
) -> list[dict[str, Any]]:
    """Return the elements that differ most; those finite on one side only come first."""
    weight = shown.ravel()
    if not finite.all():
        unlike = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        weight = np.where(unlike, np.inf, shown).ravel()
    count = min(TOP, weight.size)
    largest = np.argpartition(weight, -count)[-count:]
    largest = largest[np.lexsort((largest, -weight[largest]))]
    columns = a.shape[1]
    top = []
    for flat in largest.tolist():
        if weight[flat] == 0:
            break
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
