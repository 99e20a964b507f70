"""The shadow check: what an operator should have given for the candidate's own inputs.

A formula is first held against the golden run: only one that gives golden's dumped output from
golden's dumped inputs is used. It is then computed from the candidate's inputs, in float64 (G) and
rounded as the candidate's dtype rounds (C), and the candidate's output D is judged by
``R = (‖D − G‖ + δ) / (‖C − G‖ + δ) / s``, norms relative to ‖G‖, δ an eighth of the dtype's unit
roundoff, and s = 1 + 3/√n for the scatter of n values that carry the norm; per row likewise.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from llmdbg.golden import EXACT, Case, Operator, Precision, operator_for
from llmdbg.golden.activation import ACTIVATIONS
from llmdbg.verdict.floor import storage_floor, unit_roundoff
from llmdbg.verdict.gaps import Formula, Surroundings, Trial, shape_of, trials
from llmdbg.verdict.kin import MIN_KIN, in_question, outliers
from llmdbg.verdict.patterns import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llmdbg.dump import Dump
    from llmdbg.golden.precision import Array
    from llmdbg.verdict.calls import Row
    from llmdbg.verdict.flow import Flow, Work

Mode = Literal["auto", "on", "off"]

# What a float32 run may differ by from float64, whatever the operator.
_GOLDEN_SLACK = 1e-5
# A formula at the golden run's own dtype is met within this many of its roundings.
_GOLDEN_FACTOR = 3.0
# Up to so many elements in all records everything is checked; beyond, so many works at most.
_AUTO_ELEMENTS = 1 << 26
_AUTO_MOST = 4
_BRIEF_ELEMENTS = 1 << 16
_MOST_ELEMENTS = 1 << 22
_MOST_PRODUCTS = 1 << 30
_MOST_COLUMNS = 4096
_MOST_ROWS = 64
_MIN_ROWS_TO_FIT = 8
_MIN_WIDTH = 32
_MIN_ROWS_PER_CHANNEL = 16
_SCATTER = 3.0


@dataclass(frozen=True)
class Check:
    """What a shadow check found.

    Attributes
    ----------
    operator : str
        The golden operator, for a person.
    ratio : float
        R of the whole tensor.
    row_ratio : float
        R of its worst row; 0 where rows are too short to be judged.
    row : int or None
        That row.
    channel_ratio : float
        R of its worst channel; 0 where there are too few rows.
    device, trusted : float
        Relative L2 error of the candidate's output, and of the rounded golden operator.
    nonfinite : int
        Values that are NaN or infinite where the golden operator is finite.
    overflow : bool
        Whether the golden operator, too, leaves the dtype's range there.
    uses : tuple of Row
        What the operator was computed from.
    partial : bool
        Whether only some rows or columns were computed.
    usual : float or None
        The median `ratio` of the same work in the other layers and steps.
    """

    operator: str
    ratio: float
    row_ratio: float
    row: int | None
    channel_ratio: float
    device: float
    trusted: float
    nonfinite: int = 0
    overflow: bool = False
    uses: tuple[Row, ...] = ()
    partial: bool = False
    usual: float | None = None


class Checker:
    """Makes the shadow checks of two dumps.

    Parameters
    ----------
    golden, candidate : Dump
    mode : {"auto", "on", "off"}
        ``on`` checks every work that has a golden operator; ``auto`` too while the tensors are
        few, else only what the screening puts in question; ``off`` checks none.
    """

    def __init__(self, golden: Dump, candidate: Dump, mode: Mode) -> None:
        self._golden, self._candidate, self._mode = golden, candidate, mode
        self._shadow: Shadow | None = None

    def checks(self, rows: list[Row], flow: Flow, floors: list[float | None]) -> dict[int, Check]:
        """Return the checks by number of the work in `flow`."""
        values = sum(r.elements or 0 for r in rows if r.cells["role"] != "param")
        brief = self._mode == "auto" and values > _AUTO_ELEMENTS
        most = _BRIEF_ELEMENTS if brief else _MOST_ELEMENTS
        self._shadow = shadow = Shadow(self._golden, self._candidate, rows, flow, most)
        numbers: Iterable[int] = range(len(flow.works))
        if self._mode == "off":
            return {}
        if brief:
            works = dict(enumerate(flow.works))
            bounds = {i: floors[w.outputs[0].index] for i, w in works.items()}
            scores = in_question(works, bounds)
            first = sorted(scores, key=lambda i: (-scores[i], i))[:_AUTO_MOST]
            # Whoever would be accused without a check gets one, the first ones first.
            numbers = sorted({*first, *sorted(outliers(works, bounds))[:_AUTO_MOST]})
        made = ((i, shadow.check(flow.works[i])) for i in numbers)
        return _beside_kin({i: c for i, c in made if c is not None}, flow)

    def evidence(self, work: Work) -> Evidence | None:
        """Return both sides of a work's output, for a look at the error's pattern."""
        return None if self._shadow is None else self._shadow.evidence(work)


def _beside_kin(checks: dict[int, Check], flow: Flow) -> dict[int, Check]:
    """Note beside each check what is usual for the same work in the other layers."""
    families: dict[str, list[float]] = {}
    for number, check in checks.items():
        families.setdefault(flow.works[number].family, []).append(check.ratio)
    usual = {f: statistics.median(r) for f, r in families.items() if len(r) >= MIN_KIN}
    return {n: replace(c, usual=usual.get(flow.works[n].family)) for n, c in checks.items()}


class Shadow:
    """Runs golden operators on what a dump holds.

    Parameters
    ----------
    golden, candidate : Dump
    rows : list of Row
        The rows of the comparison.
    flow : Flow
        What computed what.
    most_elements : int
        Of larger outputs only some rows are computed, the worst one among them.
    """

    def __init__(
        self,
        golden: Dump,
        candidate: Dump,
        rows: list[Row],
        flow: Flow,
        most_elements: int = _MOST_ELEMENTS,
    ) -> None:
        self._golden, self._candidate = golden, candidate
        self._most_elements = most_elements
        self._flow = flow
        self._params = {
            n["name"]: n["params"] or {} for n in (golden.graph or {"nodes": []})["nodes"]
        }
        self._weights = _weights(golden)
        self._stored = {
            (r.cells["golden_node"], r.cells["slot"]): _plain(r.cells["my_dtype"])
            for r in rows
            if r.cells["role"] == "param" and r.paired
        }
        self._places: dict[Any, list[Row]] = {}
        for row in rows:
            if row.paired and row.cells["role"] != "param":
                self._places.setdefault(_place(row), []).append(row)
        self._fits: dict[Any, dict[str, npt.NDArray[Any]]] = {}
        # A module that is called twice in a step may mean two things: Gemma's rotary tables do.
        self._turn: dict[int, tuple[str, int]] = {}
        self._largest: dict[tuple[str, int], Work] = {}
        calls: Counter[Any] = Counter()
        for work in flow.works:
            if work.gap:
                continue
            run = (work.step, work.rank, work.node)
            turn = self._turn[id(work)] = (work.node, calls[run])
            calls[run] += 1
            best = self._largest.get(turn)
            if best is None or _height(work) > _height(best):
                self._largest[turn] = work
        self._known: dict[str, str] = {}
        self._proven: dict[int, Trial] = {}

    def check(self, work: Work) -> Check | None:
        """Hold one piece of work against its golden operator; None where none can be computed."""
        target = work.outputs[0]
        if not _readable(target) or not target.rounds:
            return None
        try:
            for trial in self._ordered(work):
                if all(_readable(r) for r in trial.uses) and self._holds(trial, work):
                    self._known[work.family] = trial.key
                    self._proven[id(work)] = trial
                    return self._judged(trial, work)
        except (OSError, ValueError, MemoryError):
            # A tensor that cannot be read or shaped is told of by its own row.
            return None
        return None

    def evidence(self, work: Work) -> Evidence | None:
        """Return a work's output as it is and as it should be, as far as both can be read."""
        target = work.outputs[0]
        if not _readable(target) or not target.rounds:
            return None
        rows = self._chosen_rows(work)
        dtype = _plain(target.cells["my_dtype"])
        noise = max(storage_floor(dtype or "") or 0.0, target.floor or 0.0)
        side = _Side(self._candidate, "candidate_record", rows, EXACT)
        trial = self._proven.get(id(work))
        try:
            with np.errstate(all="ignore"):
                if trial is None:
                    golden = _Side(self._golden, "golden_record", rows, EXACT)
                    actual, expected = side.rows(target), golden.rows(target)
                    return Evidence(actual, expected, noise, dtype, rows)
                return self._explained(trial, work, replace(side, stored=self._stored_as(work)))
        except (OSError, ValueError, MemoryError):
            return None

    def _explained(self, trial: Trial, work: Work, side: _Side) -> Evidence:
        target, formula = work.outputs[0], trial.formula
        expected, actual = formula(side, EXACT), side.rows(target)
        products, intended = None, trial.name
        others: dict[str, Formula] = {}
        if isinstance(formula, OperatorFormula):
            actual = formula.of_columns(actual)
            others, intended = formula.alternatives()
            if formula.operator.by_columns:
                products = shape_of(work.inputs[0])[-1]
        elif hasattr(formula, "alternatives"):
            others = formula.alternatives()
        dtype = _coarsest([target, *trial.uses])
        noise = storage_floor(dtype or "") or 0.0
        alternatives: dict[str, Callable[[], Array]] = {
            n: partial(f, side, EXACT) for n, f in others.items()
        }
        head = getattr(formula, "head", None)
        return Evidence(
            actual, expected, noise, dtype, side.chosen, head, products, alternatives, intended
        )

    def _stored_as(self, work: Work) -> Precision:
        dtype = _coarsest([work.outputs[0], *work.inputs[:1]])
        return Precision(self._stored.get((work.node, "weight"), dtype))

    # -- which formula ------------------------------------------------------------------------

    def _ordered(self, work: Work) -> Iterator[Trial]:
        known = self._known.get(work.family)
        if known is not None:
            yield from (t for t in self._trials(work) if t.key == known)
        yield from (t for t in self._trials(work) if t.key != known)

    def _trials(self, work: Work) -> Iterator[Trial]:
        rows = self._chosen_rows(work)
        if work.gap:
            around = Surroundings(self._params.get(work.node, {}), self._before, rows)
            yield from trials(work, around)
            return
        op_type = work.outputs[0].cells["golden_op_type"] or ""
        operator = operator_for(op_type)
        if operator is None:
            return
        for variant, weights in enumerate(self._weight_sets(work, operator)):
            for number, formula in enumerate(operator.formulas):
                yield Trial(
                    f"{operator.name}:{variant}:{number}",
                    operator.name,
                    OperatorFormula(self, work, operator, formula, weights, rows),
                    [r for r in work.inputs if r.rounds][:1] or work.inputs[:1],
                    operator.rounds_once,
                )

    def _weight_sets(self, work: Work, operator: Operator) -> Iterator[dict[str, npt.NDArray[Any]]]:
        own = self._weights.get(work.node, {})
        found = {name: self._golden.tensor(index) for name, index in own.items()}
        if operator.needs == ("inv_freq",):
            tables = [a for n, a in found.items() if n.endswith("inv_freq") and "original" not in n]
            yield from ({"inv_freq": t} for t in tables)
            if not tables:
                yield from self._fitted(work, operator)
            return
        if all(n in found for n in operator.needs):
            yield found
        else:
            yield from self._fitted(work, operator)

    def _fitted(self, work: Work, operator: Operator) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Give the weights of norms and rotary tables as the golden run's values show them."""
        turn = self._turn[id(work)]
        if turn not in self._fits:
            fit = _FITS.get(operator.name)
            best = self._largest[turn]
            readable = all(_readable(r) for r in (*best.outputs, *best.inputs))
            arrays = (
                ([self.array(r) for r in best.inputs], [self.array(r) for r in best.outputs])
                if fit and readable
                else ([], [])
            )
            params = self._params.get(work.node, {})
            self._fits[turn] = fit(*arrays, params) if fit and arrays[1] else {}
        if self._fits[turn]:
            yield self._fits[turn]

    def _before(self, row: Row) -> list[Row]:
        step = row.cells["step"]
        found = self._places.get(_place(row), [])
        earlier = [
            r for r in found if r.cells["step"] is not None and r.cells["step"] < (step or 0)
        ]
        return sorted(earlier, key=lambda r: (r.cells["step"], r.cells["call"] or 0))

    # -- computing ----------------------------------------------------------------------------

    def array(self, row: Row) -> npt.NDArray[Any]:
        """Return a row's golden tensor."""
        return self._golden.tensor(row.cells["golden_record"])

    def _chosen_rows(self, work: Work) -> npt.NDArray[np.int64] | None:
        height = _height(work)
        width = (work.outputs[0].elements or 0) // max(1, height)
        inner = max((shape_of(r)[-1] for r in work.inputs if shape_of(r)), default=1)
        cost = height * width * (1 if work.gap else inner)
        if height * width <= self._most_elements and cost <= _MOST_PRODUCTS:
            return None
        strided = np.unique(np.linspace(0, height - 1, min(height, _MOST_ROWS)).astype(np.int64))
        worst = work.outputs[0].cells["worst_row"]
        return strided if worst is None else np.union1d(strided, [int(worst)])

    def _holds(self, trial: Trial, work: Work) -> bool:
        target = work.outputs[0]
        side = _Side(self._golden, "golden_record", self._chosen_rows(work), EXACT)
        with np.errstate(all="ignore"):
            try:
                expected = trial.formula(side, EXACT)
            except (ValueError, IndexError, KeyError, StopIteration, TypeError):
                # Shapes that do not fit: not this formula.
                return False
            actual = side.rows(target)
            if isinstance(trial.formula, OperatorFormula):
                actual = trial.formula.of_columns(actual)
            if expected.shape != actual.shape:
                return False
            error = _relative(actual - expected, expected)
            if error <= _GOLDEN_SLACK:
                return True
            dtype = _plain(target.cells["golden_dtype"])
            if dtype in (None, "float32", "float64") or not error < 0.1:
                return False
            rounded = trial.formula(side, Precision(dtype))
            return error <= _GOLDEN_FACTOR * _relative(rounded - expected, expected)

    def _judged(self, trial: Trial, work: Work) -> Check:
        target = work.outputs[0]
        dtype = _coarsest([target, *trial.uses])
        stored = self._stored.get((work.node, "weight"), dtype)
        rows = self._chosen_rows(work)
        side = _Side(self._candidate, "candidate_record", rows, Precision(stored))
        with np.errstate(all="ignore"):
            exact = trial.formula(side, EXACT)
            precision = Precision(dtype)
            rounded = precision(exact) if trial.rounds_once else trial.formula(side, precision)
            actual = side.rows(target)
            columns = None
            if isinstance(trial.formula, OperatorFormula):
                actual = trial.formula.of_columns(actual)
                columns = trial.formula.columns
            check = _compare(actual, exact, rounded, dtype)
        row = None
        if check.row is not None:
            row = check.row if rows is None else int(rows[check.row])
        return replace(
            check,
            operator=trial.name,
            row=row,
            uses=tuple(trial.uses),
            partial=rows is not None or columns is not None,
        )


@dataclass
class _Side:
    """One run's tensors, as formulas take them."""

    dump: Dump
    column: str
    chosen: npt.NDArray[np.int64] | None
    stored: Precision

    def array(self, row: Row) -> npt.NDArray[Any]:
        return self.dump.tensor(row.cells[self.column])

    def rows(self, row: Row) -> Array:
        found = self.array(row)
        matrix = found.reshape(-1, found.shape[-1] if found.ndim else 1)
        return np.asarray(matrix if self.chosen is None else matrix[self.chosen], np.float64)


@dataclass
class OperatorFormula:
    """A registered operator's formula, bound to one call."""

    shadow: Shadow
    work: Work
    operator: Operator
    formula: Callable[[Case, Precision], list[Array]]
    weights: dict[str, npt.NDArray[Any]]
    rows: npt.NDArray[np.int64] | None
    columns: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        width = shape_of(self.work.outputs[0])[-1:] or (1,)
        if self.operator.by_columns and width[0] > _MOST_COLUMNS:
            chosen = np.linspace(0, width[0] - 1, _MOST_COLUMNS).astype(np.int64)
            worst = self.work.outputs[0].cells["worst_channel"]
            extra = [] if worst is None else [int(worst)]
            self.columns = np.unique(np.concatenate([chosen, np.asarray(extra, np.int64)]))

    def __call__(self, side: Any, precision: Precision) -> Array:
        """Return the operator's first output, as far as it is computed."""
        case = Case(
            [side.array(r) for r in self.work.inputs if _readable(r)],
            self.weights,
            self.shadow._params.get(self.work.node, {}),
            side.stored,
            self.rows,
            self.columns,
        )
        return self.formula(case, precision)[0]

    def alternatives(self) -> tuple[dict[str, Any], str]:
        """Give what this operator may be mistaken for, and the name of what it is."""
        if self.operator.name == "activation":
            names = list(ACTIVATIONS)
            own = names[self.operator.formulas.index(self.formula)]
            others = dict(zip(names, self.operator.formulas, strict=True))
            return {n: replace(self, formula=f) for n, f in others.items() if n != own}, own
        weight = self.weights.get("weight")
        if self.operator.by_columns and weight is not None and weight.shape[0] == weight.shape[1]:
            turned = self.weights | {"weight": weight.T}
            return {"the transposed weight": replace(self, weights=turned)}, "the weight"
        return {}, self.operator.name

    def of_columns(self, matrix: Array) -> Array:
        """Return the columns that the formula computes."""
        return matrix if self.columns is None else matrix[:, self.columns]


def _compare(actual: Array, exact: Array, rounded: Array, dtype: str | None) -> Check:
    """Measure D against G, by C."""
    delta = unit_roundoff(dtype) / 8
    limit = _largest_finite(dtype)
    good = np.isfinite(exact)
    bad = good & ~np.isfinite(actual)
    overflow = bool(bad.any() and (np.abs(exact[bad]) > 0.99 * limit).all())
    whole = good.all(1) & np.isfinite(actual).all(1)
    if not whole.any():
        ratio = math.inf if bad.any() else 1.0
        return Check("", ratio, 0.0, None, 0.0, math.nan, math.nan, int(bad.sum()), overflow)
    g = exact[whole]
    device, trusted = actual[whole] - g, rounded[whole] - g
    e_device, e_trusted = _relative(device, g), _relative(trusted, g)
    if dtype in ("float32", "float64"):
        # Summed in their own width, in an order of each stack's own.
        e_trusted = max(e_trusted, storage_floor(dtype) or 0.0)
    row_ratio, row = 0.0, None
    if g.shape[1] >= _MIN_WIDTH and g.shape[0] > 1:
        ratios = _ratios(device, trusted, g, e_trusted, delta, axis=1)
        worst = int(np.argmax(ratios))
        row_ratio, row = float(ratios[worst]), int(np.flatnonzero(whole)[worst])
    channel_ratio = 0.0
    if g.shape[0] >= _MIN_ROWS_PER_CHANNEL:
        channel_ratio = float(_ratios(device, trusted, g, e_trusted, delta, axis=0).max())
    return Check(
        "",
        (e_device + delta) / (e_trusted + delta) / float(_scatter(g)),
        row_ratio,
        row,
        channel_ratio,
        e_device,
        e_trusted,
        int(bad.sum()),
        overflow,
    )


def _ratios(
    device: Array, trusted: Array, g: Array, overall: float, delta: float, axis: int
) -> Array:
    """Return R along one axis, less what few values scatter."""
    size = np.sqrt(np.square(g).sum(axis))
    # What is nearly zero beside its neighbours has no relative error of its own.
    size = np.maximum(size, 1e-3 * np.sqrt(np.square(size).mean()))
    size = np.where(size > 0, size, 1.0)
    d = np.sqrt(np.square(device).sum(axis)) / size
    t = np.sqrt(np.square(trusted).sum(axis)) / size
    return np.asarray((d + delta) / (np.maximum(t, overall) + delta) / _scatter(g, axis))


def _scatter(g: Array, axis: int | None = None) -> Array:
    """Return by how much a root mean square of rounding errors may exceed its expectation.

    One value alone errs by up to 2.4 times its root mean square, and a tensor whose norm sits in a
    few values is like one of that few: n = (Σg²)² / Σg⁴.
    """
    square = np.square(g)
    fourth = np.square(square).sum(axis)
    few = np.square(square.sum(axis)) / np.where(fourth > 0, fourth, 1.0)
    return np.asarray(1.0 + _SCATTER / np.sqrt(np.maximum(few, 1.0)))


def _relative(difference: Array, reference: Array) -> float:
    norm = float(np.sqrt(np.square(reference).sum()))
    size = float(np.sqrt(np.square(difference).sum()))
    if not math.isfinite(size):
        return math.inf
    return size / norm if norm else (0.0 if size == 0 else math.inf)


def _weights(golden: Dump) -> dict[str, dict[str, int]]:
    """Return the golden parameters' records by module; of a module also those further down."""
    columns = golden.core.columns()
    found: dict[str, dict[str, int]] = {}
    for index, (node, role, slot) in enumerate(
        zip(columns["node"], columns["role"], columns["slot"], strict=True)
    ):
        if role == "param":
            found.setdefault(node, {}).setdefault(slot, index)
            outer, _, inner = node.rpartition(".")
            found.setdefault(outer, {}).setdefault(f"{inner}.{slot}", index)
    return found


def _place(row: Row) -> Any:
    cells = row.cells
    return cells["rank"], cells["golden_node"], cells["role"], cells["slot"]


def _height(work: Work) -> int:
    shape = shape_of(work.outputs[0])
    return math.prod(shape[:-1]) if shape else 1


def _readable(row: Row) -> bool:
    cells = row.cells
    return (
        cells["golden_record"] is not None
        and cells["candidate_record"] is not None
        and not cells["cmp_fail_reason"]
        and cells["transform"] in (None, "", "identity")
    )


def _plain(dtype: str | None) -> str | None:
    return None if dtype is None else dtype.removeprefix("torch.")


def _coarsest(rows: list[Row]) -> str | None:
    """Return the candidate's dtype that rounds most among these tensors."""
    dtypes = [d for d in (_plain(r.cells["my_dtype"]) for r in rows) if d and storage_floor(d)]
    return max(dtypes, key=lambda d: storage_floor(d) or 0.0, default=None)


def _largest_finite(dtype: str | None) -> float:
    return {"float16": 65504.0}.get(dtype or "", 3.3e38)


# -- weights that were not dumped, from the golden run's values --------------------------------


def _fit_rms(inputs: list[Any], outputs: list[Any], params: dict[str, Any]) -> dict[str, Any]:
    x, y = _matrices(inputs[0], outputs[0])
    if len(x) < _MIN_ROWS_TO_FIT:
        return {}
    normal = operator_for("RMSNorm").formulas[0](Case([x], {}, params), EXACT)[0]  # type: ignore[union-attr]
    return {"weight": (normal * y).sum(0) / np.square(normal).sum(0)}


def _fit_layer_norm(
    inputs: list[Any], outputs: list[Any], params: dict[str, Any]
) -> dict[str, Any]:
    x, y = _matrices(inputs[0], outputs[0])
    if len(x) < _MIN_ROWS_TO_FIT:
        return {}
    normal = operator_for("LayerNorm").formulas[0](Case([x], {}, params), EXACT)[0]  # type: ignore[union-attr]
    centred = normal - normal.mean(0)
    weight = (centred * (y - y.mean(0))).sum(0) / np.square(centred).sum(0)
    return {"weight": weight, "bias": y.mean(0) - weight * normal.mean(0)}


def _fit_rotary(inputs: list[Any], outputs: list[Any], _params: dict[str, Any]) -> dict[str, Any]:
    positions = next((i for i in inputs if i.dtype.kind in "iu"), None)
    if positions is None or len(outputs) < 2:
        return {}
    flat = positions.reshape(-1).astype(np.int64)
    cos, sin = (np.asarray(o, np.float64).reshape(len(flat), -1) for o in outputs[:2])
    near = np.flatnonzero(np.diff(flat) == 1)
    if near.size == 0:
        return {}
    angle = np.arctan2(sin, cos)[:, : cos.shape[1] // 2]
    step = np.mod(angle[near[0] + 1] - angle[near[0]], 2 * math.pi)
    # The last position knows the small frequencies best: refine by the turns made until there.
    span = int(flat[-1] - flat[near[0]])
    if span > 1:
        turned = angle[-1] - angle[near[0]]
        turns = np.rint((step * span - turned) / (2 * math.pi))
        step = (turned + 2 * math.pi * turns) / span
    return {"inv_freq": step}


def _matrices(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[Array, Array]:
    width = y.shape[-1]
    return (
        np.asarray(x, np.float64).reshape(-1, width),
        np.asarray(y, np.float64).reshape(-1, width),
    )


_FITS: dict[str, Callable[[list[Any], list[Any], dict[str, Any]], dict[str, Any]]] = {
    "RMS norm": _fit_rms,
    "layer norm": _fit_layer_norm,
    "rotary table": _fit_rotary,
}
