"""The shadow check: what an operator should have given for the candidate's own inputs.

A formula is first held against the golden run: only one that gives golden's dumped output from
golden's dumped inputs is used. It is then computed from the candidate's inputs, and the candidate's
output is judged by it (`check`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from llmdbg.golden import EXACT, Operator, Precision, operator_for
from llmdbg.reading import to_numpy
from llmdbg.spread import spread
from llmdbg.verdict.bound import OperatorFormula, Side
from llmdbg.verdict.check import Check, accused, compared, relative
from llmdbg.verdict.fitted import FITS
from llmdbg.verdict.floor import storage_floor
from llmdbg.verdict.gaps import Formula, Surroundings, Trial, shape_of, trials
from llmdbg.verdict.kin import MIN_KIN, in_question, middle_and_spread
from llmdbg.verdict.patterns import Evidence
from llmdbg.verdict.weights import weights_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from llmdbg._core import Alignment
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
_AUTO_MOST = 2
_BRIEF_ELEMENTS = 1 << 16
_MOST_ELEMENTS = 1 << 22
_MOST_PRODUCTS = 1 << 30
_MOST_ROWS = 64


@dataclass(frozen=True)
class Sources:
    """Where tensors are to be had that no record holds as it is.

    Attributes
    ----------
    checkpoint : path or None
        The weights that both runs loaded.
    alignment : Alignment or None
        Gives the candidate's part of a pack in golden's arrangement.
    """

    checkpoint: str | os.PathLike[str] | None = None
    alignment: Alignment | None = None

    def transformed(self, golden: int, candidate: int) -> npt.NDArray[Any]:
        """Return the candidate's tensor of a pair after its transforms."""
        if self.alignment is None:
            raise ValueError("no alignment to arrange the tensor by")
        return to_numpy(self.alignment.tensors(self._pairs[golden, candidate])[1])

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], int]:
        assert self.alignment is not None
        columns = self.alignment.columns()
        records = zip(columns["golden"], columns["candidate"], strict=True)
        return {pair: number for number, pair in enumerate(records)}


class Checker:
    """Makes the shadow checks of two dumps.

    Parameters
    ----------
    golden, candidate : Dump
    mode : {"auto", "on", "off"}
        ``on`` checks every work that has a golden operator; ``auto`` too while the tensors are
        few, else only what the screening puts in question; ``off`` checks none.
    sources : Sources, optional
        Where else tensors are to be had.
    """

    def __init__(
        self, golden: Dump, candidate: Dump, mode: Mode, sources: Sources | None = None
    ) -> None:
        self._golden, self._candidate, self._mode = golden, candidate, mode
        self._sources = sources or Sources()
        self._shadow: Shadow | None = None

    def checks(
        self, rows: list[Row], flow: Flow, floors: dict[int, float | None], unlike: list[int]
    ) -> dict[int, Check]:
        """Return the checks by number of the work in `flow`.

        Parameters
        ----------
        rows : list of Row
        flow : Flow
        floors : dict of int to float or None
            By work: what the one operator adds.
        unlike : list of int
            The works that would be accused without a check, in order.
        """
        values = sum(r.elements or 0 for r in rows if r.cells["role"] != "param")
        brief = self._mode == "auto" and values > _AUTO_ELEMENTS
        most = _BRIEF_ELEMENTS if brief else _MOST_ELEMENTS
        self._shadow = shadow = Shadow(
            self._golden, self._candidate, rows, flow, most, self._sources
        )
        if self._mode == "off":
            return {}
        numbers: Iterable[int] = range(len(flow.works))
        if brief:
            scores = in_question(dict(enumerate(flow.works)), floors)
            numbers = sorted(scores, key=lambda i: (-scores[i], i))[:_AUTO_MOST]
        made = {i: shadow.check(flow.works[i]) for i in numbers}
        for i in unlike if brief else ():
            check = made[i] = made[i] if i in made else shadow.check(flow.works[i])
            # Whoever is rightly accused is the first; what follows is not the answer.
            if check is None or accused(flow.works[i].outputs[0], check):
                break
        return _beside_kin({i: c for i, c in made.items() if c is not None}, flow)

    def evidence(self, work: Work) -> Evidence | None:
        """Return both sides of a work's output, for a look at the error's pattern."""
        return None if self._shadow is None else self._shadow.evidence(work)


def _beside_kin(checks: dict[int, Check], flow: Flow) -> dict[int, Check]:
    """Note beside each check what is usual for the same work in the other layers."""
    families: dict[tuple[str, int], list[float]] = {}
    kin = {n: (flow.works[n].family, _height(flow.works[n])) for n in checks}
    for number, check in checks.items():
        if 0.0 < check.ratio < math.inf:
            families.setdefault(kin[number], []).append(math.log(check.ratio))
    usual = {k: middle_and_spread(r) for k, r in families.items() if len(r) >= MIN_KIN}
    return {
        n: replace(c, usual=math.exp(usual[kin[n]][0]), spread=usual[kin[n]][1])
        if kin[n] in usual
        else c
        for n, c in checks.items()
    }


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
    sources : Sources
    """

    def __init__(
        self,
        golden: Dump,
        candidate: Dump,
        rows: list[Row],
        flow: Flow,
        most_elements: int,
        sources: Sources,
    ) -> None:
        self._golden, self._candidate, self._sources = golden, candidate, sources
        self._most_elements = most_elements
        self._flow = flow
        self._params = {
            n["name"]: n["params"] or {} for n in (golden.graph or {"nodes": []})["nodes"]
        }
        self._weights = weights_of(golden, sources.checkpoint)
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
        if not target.readable or not target.rounds:
            return None
        try:
            for trial in self._ordered(work):
                if all(r.readable for r in trial.uses) and self._holds(trial, work):
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
        if not target.readable or not target.rounds:
            return None
        rows = self._chosen_rows(work)
        dtype = _plain(target.cells["my_dtype"])
        noise = max(storage_floor(dtype or "") or 0.0, target.floor or 0.0)
        side = Side(self._theirs, rows, EXACT)
        trial = self._proven.get(id(work))
        try:
            with np.errstate(all="ignore"):
                if trial is None:
                    golden = Side(self.array, rows, EXACT)
                    actual, expected = side.rows(target), golden.rows(target)
                    return Evidence(actual, expected, noise, dtype, rows)
                return self._explained(trial, work, replace(side, stored=self._stored_as(work)))
        except (OSError, ValueError, MemoryError):
            return None

    def _explained(self, trial: Trial, work: Work, side: Side) -> Evidence:
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
                    OperatorFormula(
                        self._params.get(work.node, {}), work, operator, formula, weights, rows
                    ),
                    [r for r in work.inputs if r.rounds][:1] or work.inputs[:1],
                    operator.rounds_once,
                )

    def _weight_sets(self, work: Work, operator: Operator) -> Iterator[dict[str, npt.NDArray[Any]]]:
        own = self._weights.get(work.node, {})
        found = {name: dump.tensor(index) for name, (dump, index) in own.items()}
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
            fit = FITS.get(operator.name)
            best = self._largest[turn]
            readable = all(r.readable for r in (*best.outputs, *best.inputs))
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

    def _theirs(self, row: Row) -> npt.NDArray[Any]:
        """Return the candidate's tensor, in golden's arrangement."""
        record = row.cells["candidate_record"]
        if row.cells["transform"] in (None, "", "identity"):
            found = self._candidate.tensor(record)
        else:
            found = self._sources.transformed(row.cells["golden_record"], record)
        shape = shape_of(row)
        # Stacks keep axes of size 1, or do not.
        return found.reshape(shape) if found.size == math.prod(shape) else found

    def _chosen_rows(self, work: Work) -> npt.NDArray[np.int64] | None:
        height = _height(work)
        width = (work.outputs[0].elements or 0) // max(1, height)
        inner = max((shape_of(r)[-1] for r in work.inputs if shape_of(r)), default=1)
        cost = height * width * (1 if work.gap else inner)
        if height * width <= self._most_elements and cost <= _MOST_PRODUCTS:
            return None
        return spread(height, _MOST_ROWS, work.outputs[0].cells["worst_row"])

    def _holds(self, trial: Trial, work: Work) -> bool:
        target = work.outputs[0]
        side = Side(self.array, self._chosen_rows(work), EXACT)
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
            error = relative(actual - expected, expected)
            if error <= _GOLDEN_SLACK:
                return True
            dtype = _plain(target.cells["golden_dtype"])
            if dtype in (None, "float32", "float64") or not error < 0.1:
                return False
            rounded = trial.formula(side, Precision(dtype))
            return error <= _GOLDEN_FACTOR * relative(rounded - expected, expected)

    def _judged(self, trial: Trial, work: Work) -> Check:
        target = work.outputs[0]
        dtype = _coarsest([target, *trial.uses])
        stored = self._stored.get((work.node, "weight"), dtype)
        rows = self._chosen_rows(work)
        side = Side(self._theirs, rows, Precision(stored))
        with np.errstate(all="ignore"):
            exact = trial.formula(side, EXACT)
            precision = Precision(dtype)
            rounded = precision(exact) if trial.rounds_once else trial.formula(side, precision)
            actual = side.rows(target)
            columns = None
            if isinstance(trial.formula, OperatorFormula):
                actual = trial.formula.of_columns(actual)
                columns = trial.formula.columns
            head = getattr(trial.formula, "head", None) or 1
            if actual.shape != exact.shape:
                raise ValueError("the two sides are of different sizes")
            check = compared(actual, exact, rounded, dtype, head)
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


def _place(row: Row) -> Any:
    cells = row.cells
    return cells["rank"], cells["golden_node"], cells["role"], cells["slot"]


def _height(work: Work) -> int:
    shape = shape_of(work.outputs[0])
    return math.prod(shape[:-1]) if shape else 1


def _plain(dtype: str | None) -> str | None:
    return None if dtype is None else dtype.removeprefix("torch.")


def _coarsest(rows: list[Row]) -> str | None:
    """Return the candidate's dtype that rounds most among these tensors."""
    dtypes = [d for d in (_plain(r.cells["my_dtype"]) for r in rows) if d and storage_floor(d)]
    return max(dtypes, key=lambda d: storage_floor(d) or 0.0, default=None)
