"""A registered operator's formula, bound to one call: what it should have given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmdbg.golden import Case, Operator, Precision
from llmdbg.golden.activation import ACTIVATIONS
from llmdbg.spread import spread
from llmdbg.verdict.gaps import shape_of

if TYPE_CHECKING:
    from llmdbg.golden.precision import Array
    from llmdbg.verdict.calls import Row
    from llmdbg.verdict.flow import Work

_MOST_COLUMNS = 4096


Read = Callable[["Row"], npt.NDArray[Any]]
"""From a row to one run's tensor, in golden's arrangement."""


@dataclass
class Side:
    """One run's tensors, as formulas take them."""

    read: Read
    chosen: npt.NDArray[np.int64] | None
    stored: Precision

    def array(self, row: Row) -> npt.NDArray[Any]:
        """Return this run's tensor of a row."""
        return self.read(row)

    def rows(self, row: Row) -> Array:
        """Return the chosen rows of it, as a float64 matrix."""
        found = self.array(row)
        matrix = found.reshape(-1, found.shape[-1] if found.ndim else 1)
        return np.asarray(matrix if self.chosen is None else matrix[self.chosen], np.float64)


@dataclass
class OperatorFormula:
    """A registered operator's formula, bound to one call."""

    params: dict[str, Any]
    work: Work
    operator: Operator
    formula: Callable[[Case, Precision], list[Array]]
    weights: dict[str, npt.NDArray[Any]]
    rows: npt.NDArray[np.int64] | None
    columns: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        width = shape_of(self.work.outputs[0])[-1:] or (1,)
        if self.operator.by_columns and width[0] > _MOST_COLUMNS:
            worst = self.work.outputs[0].cells["worst_channel"]
            self.columns = spread(width[0], _MOST_COLUMNS, worst)

    def __call__(self, side: Any, precision: Precision) -> Array:
        """Return the operator's first output, as far as it is computed."""
        case = Case(
            [side.array(r) for r in self.work.inputs if r.readable],
            self.weights,
            self.params,
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
