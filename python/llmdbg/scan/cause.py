"""Why a result is not finite: overflow, 0·Inf, Inf−Inf, 0/0, or a softmax row of −Inf only.

A formula is believed when it gives, in float64, the finite elements of the same result from the
tensors that were at hand; then it also tells what the bad element would have been.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from llmdbg.scan.health import LARGEST, Row, is_bad

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from llmdbg.scan.passes import Call
    from llmdbg.scan.tensors import Tensors

_TRIED = 14
_CHECKED = 48
_PRECISION = {"float64": 1e-12, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
_FLOAT32 = LARGEST["float32"]


@dataclass(frozen=True)
class Cause:
    """Why a result is not finite.

    Attributes
    ----------
    name : str
        ``overflow``, ``0*inf``, ``inf-inf``, ``0/0``, ``masked row``, ``weight``, ``input`` or
        ``unknown``.
    sentence : str
        For a person.
    evidence : tuple of str
        What it was told from.
    values : dict
        The numbers: inputs at the element, the value in float64, the formula.
    """

    name: str
    sentence: str
    evidence: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)

    def kind(self, row: Row) -> str:
        """Return the kind of finding this makes of a tensor."""
        if self.name in ("weight", "input"):
            return self.name
        if self.name == "masked row":
            return "masked_row"
        if self.name == "overflow":
            return "overflow"
        if self.name == "unknown":
            return "nan" if row["nan"] and not (row["pos_inf"] or row["neg_inf"]) else "overflow"
        return "nan"


@dataclass(frozen=True)
class Elements:
    """Which elements are bad."""

    total: int
    first: tuple[int, ...]
    rows: list[int]
    channels: list[int]
    complete: bool

    @property
    def sentence(self) -> str:
        """Say it in words."""
        if not self.total:
            return "no element could be read"
        text = f"first at {list(self.first)}"
        if self.rows:
            text += f", {_some('row', self.rows)}, {_some('channel', self.channels)}"
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return it as the summary spells it."""
        return {
            "count": self.total,
            "first": list(self.first),
            "rows": self.rows[:32],
            "channels": self.channels[:32],
            "complete": self.complete,
        }


def _some(word: str, numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:4])) + (", …" if len(numbers) > 4 else "")
    return f"{len(numbers)} {word}{'s' if len(numbers) > 1 else ''} ({shown})"


def counts(row: Row) -> str:
    """Say how many values of which kind a tensor holds."""
    names = {"nan": "NaN", "pos_inf": "+Inf", "neg_inf": "−Inf"}
    parts = [f"{row[name]} {word}" for name, word in names.items() if row[name]]
    if not parts:
        parts = [f"{row['saturated']} at the dtype's maximum"]
    return f"{', '.join(parts)} of {row['numbers']}"


def elements(row: Row, tensors: Tensors) -> Elements:
    """Return which elements of a tensor are bad."""
    import numpy as np

    flat, complete = tensors.bad_places(row)
    shape: tuple[int, ...] = row["shape"] or ()
    if not flat.size:
        return Elements(0, (), [], [], complete)
    first = tuple(int(i) for i in np.unravel_index(int(flat[0]), shape)) if shape else ()
    rows: list[int] = []
    channels: list[int] = []
    if len(shape) > 1:
        rows = np.unique(flat // shape[-1]).tolist()
        channels = np.unique(flat % shape[-1]).tolist()
    return Elements(int(flat.size), first, rows, channels, complete)


def explain(call: Call, row: Row, known: list[Row], tensors: Tensors) -> Cause:
    """Say why a result is not finite.

    Parameters
    ----------
    call : Call
        The operator.
    row : dict
        Health of the result.
    known : list of dict
        What it may have been computed from: inputs and weights first, then recent results.
    tensors : Tensors
        Reads values.
    """
    masked = _masked_rows(row, known, tensors)
    if masked is not None:
        return masked
    array = tensors.stored(row)
    places, _ = tensors.bad_places(row)
    if array is None or not places.size:
        return Cause("unknown", "its values could not be read", ())
    index = tuple(int(i) for i in _unravel(int(places[0]), array.shape))
    given = {
        f"{r['role']} {r['slot'] or '0'}" if r["node"] == call.node else _label(r): value
        for r in known[:_TRIED]
        if r["shape"] == row["shape"]
        and r["row"] != row["row"]
        and (value := tensors.at(r, index)) is not None
    }
    zero = _zero_row(row, index, known, tensors)
    if zero is not None and row["nan"]:
        return Cause(
            "0/0",
            f"0/0: row {zero[1]} of {zero[0]} is all zero",
            (f"a norm or a division of a row of zeros, element {list(index)}",),
            {"index": list(index), "inputs": given},
        )
    for formula in _formulas(row, array, known[:_TRIED], tensors):
        if formula.fits(array, row["dtype"]):
            return _from_formula(formula, index, row, given)
    return _unexplained(row, index, given)


def _unexplained(row: Row, index: tuple[int, ...], given: dict[str, float]) -> Cause:
    evidence = _given(given, index)
    values = {"index": list(index), "inputs": given}
    limit = LARGEST.get(row["dtype"] or "", math.inf)
    if row["nan"] and not row["pos_inf"] and not row["neg_inf"]:
        return Cause("unknown", "no formula at hand explains the NaN", evidence, values)
    return Cause(
        "unknown",
        f"beyond the {row['dtype']} maximum of {limit:.6g}; what it would have been in float32 "
        "cannot be told from the tensors in the dump",
        evidence,
        values,
    )


def _from_formula(
    formula: _Formula, index: tuple[int, ...], row: Row, given: dict[str, float]
) -> Cause:
    import numpy as np

    exact = formula.at(index)
    terms = formula.terms(index)
    limit = LARGEST.get(row["dtype"] or "", math.inf)
    values = {"index": list(index), "formula": formula.name, "float64": exact, "inputs": given}
    evidence = (f"{formula.name} gives every finite element checked", *_given(given, index))
    if math.isfinite(exact) and abs(exact) > limit:
        wide = "" if abs(exact) <= _FLOAT32 else ", which float32 does not hold either"
        return Cause(
            "overflow",
            f"overflow of {row['dtype']}: in float32 the value would have been {exact:.6g}{wide}, "
            f"the dtype ends at {limit:.6g}",
            evidence,
            values,
        )
    if math.isnan(exact):
        with np.errstate(all="ignore"):
            if np.isinf(terms).any() and not np.isnan(terms).any():
                return Cause("inf-inf", "Inf − Inf", evidence, values)
        return Cause("0*inf", "0 · Inf", evidence, values)
    inner = formula.inner(index)
    if inner is not None and inner > limit:
        return Cause(
            "overflow",
            f"overflow of {row['dtype']} inside the operator: {formula.inner_name} reaches "
            f"{inner:.6g}, the dtype ends at {limit:.6g}; the result would have been {exact:.6g}",
            evidence,
            values | {"inner": inner},
        )
    if not math.isfinite(exact):
        return Cause("unknown", f"the formula itself gives {exact}", evidence, values)
    return Cause(
        "unknown",
        f"the right value is {exact:.6g}, well inside {row['dtype']}: the operator is wrong, or "
        "its memory was overwritten",
        evidence,
        values,
    )


def _given(given: dict[str, float], index: tuple[int, ...]) -> tuple[str, ...]:
    if not given:
        return ()
    shown = ", ".join(f"{name} = {value:.6g}" for name, value in list(given.items())[:4])
    return (f"at {list(index)}: {shown}",)


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        index.append(flat % size)
        flat //= size
    return tuple(reversed(index))


# -- formulas ---------------------------------------------------------------------------------


class _Formula:
    """A way to compute single elements of a result in float64."""

    name: str
    inner_name = ""

    def at(self, index: tuple[int, ...]) -> float:
        """Return the element."""
        with _quiet():
            return float(self.terms(index).sum())

    def terms(self, index: tuple[int, ...]) -> NDArray[np.float64]:
        """Return what the element is the sum of."""
        raise NotImplementedError

    def inner(self, _index: tuple[int, ...]) -> float | None:
        """Return the largest intermediate value where it can exceed the result."""
        return None

    def fits(self, result: NDArray[Any], dtype: str) -> bool:
        """Tell whether the formula gives the finite elements of a result, and no others."""
        import numpy as np

        flat = result.reshape(-1)
        step = max(1, flat.size // 4096)
        sample = flat[::step].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(sample))
        for i in bad[:: max(1, bad.size // _CHECKED)]:
            value = self.at(_unravel(int(i) * step, result.shape))
            # A finite value may have overflowed; NaN and Inf do not become each other.
            if not math.isfinite(value) and not np.array_equal(value, sample[i], equal_nan=True):
                return False
        finite = np.flatnonzero(np.isfinite(sample) & (sample != 0))
        if finite.size < 2:
            return True
        finite = finite[:: max(1, finite.size // _CHECKED)]
        expected = np.array([self.at(_unravel(int(i) * step, result.shape)) for i in finite])
        scale = np.sqrt(np.mean(sample[finite] ** 2))
        error = np.abs(expected - sample[finite])
        return bool(np.mean(error <= _PRECISION.get(dtype, 1e-2) * scale) > 0.9)


class _Linear(_Formula):
    name = "x·Wᵀ"

    def __init__(self, x: NDArray[Any], w: NDArray[Any], b: NDArray[Any] | None) -> None:
        self._x, self._w, self._b = x.reshape(-1, x.shape[-1]), w, b

    def terms(self, index: tuple[int, ...]) -> NDArray[np.float64]:
        import numpy as np

        terms: NDArray[np.float64]
        row = 0
        for i, size in zip(index[:-1], self._shape, strict=True):
            row = row * size + i
        with _quiet():
            terms = self._x[row].astype(np.float64) * self._w[index[-1]].astype(np.float64)
        if self._b is not None:
            terms = np.append(terms, float(self._b[index[-1]]))
        return terms

    def shaped(self, shape: tuple[int, ...]) -> _Linear:
        self._shape = shape[:-1]
        return self


class _Pairwise(_Formula):
    def __init__(self, sign: str, names: str, a: NDArray[Any], b: NDArray[Any]) -> None:
        self.name, self._sign, self._a, self._b = f"a {sign} b with {names}", sign, a, b

    def terms(self, index: tuple[int, ...]) -> NDArray[np.float64]:
        import numpy as np

        a, b = np.float64(self._a[index]), np.float64(self._b[index])
        with _quiet():
            return np.array({"+": [a, b], "−": [a, -b], "·": [a * b]}[self._sign])


class _RmsNorm(_Formula):
    name = "x / √mean(x²) · w"
    inner_name = "x²"

    def __init__(self, x: NDArray[Any], w: NDArray[Any] | None) -> None:
        self._x, self._w = x, w

    def terms(self, index: tuple[int, ...]) -> NDArray[np.float64]:
        import numpy as np

        x = self._x[index[:-1]].astype(np.float64)
        weight = 1.0 if self._w is None else float(self._w[index[-1]])
        with _quiet():
            return np.array([x[index[-1]] / np.sqrt(np.mean(x**2)) * weight])

    def inner(self, _index: tuple[int, ...]) -> float | None:
        import numpy as np

        x = self._x[_index[:-1]].astype(np.float64)
        return float(np.max(x**2))


def _quiet() -> Any:
    import numpy as np

    return np.errstate(all="ignore")


def _formulas(
    row: Row, result: NDArray[Any], known: list[Row], tensors: Tensors
) -> Iterator[_Formula]:
    import numpy as np

    arrays = [
        (r, array)
        for r in known
        if r["row"] != row["row"]
        and r["dtype"] in LARGEST
        and (array := tensors.stored(r)) is not None
    ]
    if result.ndim == 0:
        return
    width = result.shape[-1]
    flat = [(r, a) for r, a in arrays if a.ndim == 1 and a.shape[0] == width]
    for x_row, x in arrays:
        if (
            x.ndim == 0
            or x.shape[:-1] != result.shape[:-1]
            or x_row["role"] == "param"
            or x.ndim < 2
        ):
            continue
        for _, w in arrays:
            if w is x or w.ndim != 2:
                continue
            biases: list[NDArray[Any] | None] = [None, *(b for _, b in flat)]
            for bias in biases[:2]:
                if w.shape == (width, x.shape[-1]):
                    yield _Linear(x, w, bias).shaped(result.shape)
                if w.shape == (x.shape[-1], width):
                    yield _Linear(x, w.T, bias).shaped(result.shape)
    same = [(r, a) for r, a in arrays if a.shape == result.shape]
    # A number among the inputs stands beside every element.
    single = [(r, np.broadcast_to(a, result.shape)) for r, a in arrays if a.size == 1]
    for (a_row, a), (b_row, b) in combinations([*same, *single], 2):
        names = f"a = {_label(a_row)}, b = {_label(b_row)}"
        yield _Pairwise("+", names, a, b)
        yield _Pairwise("·", names, a, b)
        yield _Pairwise("−", names, a, b)
        yield _Pairwise("−", f"a = {_label(b_row)}, b = {_label(a_row)}", b, a)
    for x_row, x in same:
        if x_row["role"] == "input":
            weights: list[NDArray[Any] | None] = [
                a for r, a in flat if r["role"] in ("param", "input")
            ]
            for weight in (*weights, None):
                yield _RmsNorm(x, weight)
                if weight is not None:
                    # Gemma keeps the weight less one.
                    yield _RmsNorm(x, weight.astype("float64") + 1)


def _label(row: Row) -> str:
    slot = f" {row['slot']}" if row["slot"] not in ("", "0") else ""
    return f"{row['node']} {row['role']}{slot}"


# -- rows -------------------------------------------------------------------------------------


def _masked_rows(row: Row, known: list[Row], tensors: Tensors) -> Cause | None:
    """Tell NaN of softmax rows that a mask leaves nothing of."""
    import numpy as np

    if not row["nan"]:
        return None
    for mask in known:
        if not mask["numbers"] or mask["nan"] or mask["pos_inf"]:
            continue
        if not mask["neg_inf"] and mask["dtype"] != "bool":
            continue
        array = tensors.stored(mask)
        if array is None or array.ndim < 1:
            continue
        matrix = array.reshape(-1, array.shape[-1])
        if mask["dtype"] == "bool":
            # True keeps (torch's scaled_dot_product_attention) unless it hides almost everything.
            empty = np.flatnonzero(~matrix.any(axis=1))
        else:
            empty = np.flatnonzero(np.isneginf(matrix.astype(np.float32, copy=False)).all(axis=1))
        if not empty.size:
            continue
        rows = empty.tolist()
        return Cause(
            "masked row",
            f"softmax of a fully masked row: {_some('row', rows)} of {_label(mask)} "
            f"{'is' if len(rows) == 1 else 'are'} −Inf throughout",
            ("softmax of −Inf only is 0/0",),
            {"mask": _label(mask), "rows": rows[:32]},
        )
    return None


def _zero_row(
    row: Row, index: tuple[int, ...], known: list[Row], tensors: Tensors
) -> tuple[str, int] | None:
    for given in known[:_TRIED]:
        if given["role"] == "param" or not given["dead_rows"] or is_bad(given):
            continue
        array = tensors.stored(given)
        if array is None or array.shape[:-1] != (row["shape"] or ())[:-1]:
            continue
        if not array[index[:-1]].astype("float64").any():
            flat = 0
            for i, size in zip(index[:-1], array.shape[:-1], strict=True):
                flat = flat * size + i
            return _label(given), flat
    return None
