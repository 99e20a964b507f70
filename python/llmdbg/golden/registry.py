"""Which golden operator answers for which module or operation type."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmdbg.golden.activation import ACTIVATIONS, mlp
from llmdbg.golden.attention import rotary_table
from llmdbg.golden.linear import linear
from llmdbg.golden.norm import layer_norm, rms_norm
from llmdbg.golden.precision import EXACT, Array, Precision

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """What one call of an operator was given.

    Attributes
    ----------
    inputs : list of ndarray
        In the order of the call.
    weights : dict of str to ndarray
        In any dtype, by name below the module: ``weight``, ``gate_proj.weight``.
    params : dict
        The module's plain attributes, ``eps`` for one.
    stored : Precision
        What the device rounds weights to before it computes.
    rows : ndarray of int, optional
        Compute only these rows of the result, all axes but the last being flattened.
    columns : ndarray of int, optional
        Compute only these columns, where the operator can.
    """

    inputs: list[npt.NDArray[Any]]
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    stored: Precision = EXACT
    rows: Index | None = None
    columns: Index | None = None

    @property
    def x(self) -> Array:
        """The chosen rows of the first input, as a float64 matrix."""
        first = self.inputs[0]
        matrix = first.reshape(-1, first.shape[-1] if first.ndim else 1)
        return np.asarray(matrix if self.rows is None else matrix[self.rows], np.float64)

    def weight(self, name: str = "weight", rows: Any = None) -> Array:
        """Return a weight, or some of its rows, as the device has it."""
        found = self.weights[name]
        return self.stored(found if rows is None else found[rows])

    def optional(self, name: str, rows: Any = None) -> Array | None:
        """Return a weight that may not be there."""
        return self.weight(name, rows) if name in self.weights else None


Formula = Callable[[Case, Precision], list[Array]]


@dataclass(frozen=True)
class Operator:
    """A golden operator.

    Attributes
    ----------
    name : str
        What it computes, for a person.
    types : str
        Regular expression for the types it answers for, matched whole.
    formulas : tuple
        The formula in its variants, likeliest first; which one a model means is found on a run
        that is right. Each gives its outputs as matrices: rows by last axis.
    needs : tuple of str
        Weights without which it cannot be computed.
    by_columns : bool
        Whether it can compute some columns only.
    rounds_once : bool
        Whether a device rounds the result alone.
    """

    name: str
    types: str
    formulas: tuple[Formula, ...]
    needs: tuple[str, ...] = ()
    by_columns: bool = False
    rounds_once: bool = False


def _linear(case: Case, precision: Precision) -> list[Array]:
    columns = case.columns
    return [linear(case.x, case.weight(rows=columns), case.optional("bias", columns), precision)]


def _conv1d(case: Case, precision: Precision) -> list[Array]:
    transposed = case.weights | {"weight": case.weights["weight"].T}
    return _linear(replace(case, weights=transposed), precision)


def _embedding(case: Case, precision: Precision) -> list[Array]:
    ids = case.inputs[0].reshape(-1)
    ids = ids if case.rows is None else ids[case.rows]
    scale = case.weights.get("embed_scale", case.params.get("scalar_embed_scale", 1.0))
    factor = precision(np.asarray(scale, np.float64).reshape(-1)[:1])
    return [precision(case.weight(rows=ids.astype(np.int64)) * factor)]


def _eps(case: Case) -> float:
    for name in ("variance_epsilon", "eps", "epsilon", "layer_norm_epsilon", "norm_eps"):
        if isinstance(case.params.get(name), (int, float)):
            return float(case.params[name])
    return 1e-6


def _rms(offset: float) -> Formula:
    def formula(case: Case, precision: Precision) -> list[Array]:
        return [rms_norm(case.x, case.optional("weight"), _eps(case), offset, precision)]

    return formula


def _layer_norm(case: Case, precision: Precision) -> list[Array]:
    weight, bias = case.optional("weight"), case.optional("bias")
    return [layer_norm(case.x, weight, bias, _eps(case), precision)]


def _activation(name: str) -> Formula:
    def formula(case: Case, precision: Precision) -> list[Array]:
        return [precision(ACTIVATIONS[name](case.x))]

    return formula


def _identity(case: Case, precision: Precision) -> list[Array]:
    return [precision(case.x)]


def _softmax(case: Case, precision: Precision) -> list[Array]:
    shifted = np.exp(case.x - case.x.max(-1, keepdims=True))
    return [precision(shifted / shifted.sum(-1, keepdims=True))]


def _rotary(case: Case, precision: Precision) -> list[Array]:
    positions = next(i for i in case.inputs if i.dtype.kind in "iu").reshape(-1)
    positions = positions if case.rows is None else positions[case.rows]
    scale = float(case.params.get("attention_scaling", 1.0) or 1.0)
    frequencies = np.asarray(case.weights["inv_freq"], np.float64)
    return list(rotary_table(positions.astype(np.float64), frequencies, scale, precision))


def _mlp(activation: str) -> Formula:
    def formula(case: Case, precision: Precision) -> list[Array]:
        up, down = case.weight("up_proj.weight"), case.weight("down_proj.weight")
        gate = case.optional("gate_proj.weight")
        return [mlp(case.x, up, down, activation, gate, precision)]

    return formula


REGISTRY: tuple[Operator, ...] = (
    Operator("linear", r"(?i).*linear(?!.*norm).*|lm_?head", (_linear,), ("weight",), True, True),
    Operator("linear, transposed weight", r"Conv1D", (_conv1d,), ("weight",), True, True),
    Operator("embedding", r".*Embedding(?<!RotaryEmbedding)", (_embedding,), ("weight",)),
    Operator("RMS norm", r"(?i).*rms_?norm.*", (_rms(0.0), _rms(1.0)), ("weight",)),
    Operator("layer norm", r"(?i).*layer_?norm.*", (_layer_norm, _rms(0.0)), ("weight",)),
    Operator(
        "activation",
        r"(?i).*(silu|swish|gelu|relu|sigmoid|tanh|activation).*",
        tuple(_activation(name) for name in ACTIVATIONS),
        rounds_once=True,
    ),
    Operator("softmax", r"(?i)softmax", (_softmax,)),
    Operator("dropout that is off", r"(?i)(dropout|identity)", (_identity,), rounds_once=True),
    Operator("rotary table", r".*Rotary.*", (_rotary,), ("inv_freq",)),
    Operator(
        "MLP",
        r"(?i).*(mlp|feedforward)",
        tuple(_mlp(name) for name in ("silu", "gelu_tanh", "gelu", "relu", "squared_relu")),
        ("up_proj.weight", "down_proj.weight"),
    ),
)


def operator_for(op_type: str) -> Operator | None:
    """Return the operator that answers for a type; None where there is none."""
    return next((o for o in REGISTRY if re.fullmatch(o.types, op_type)), None)
