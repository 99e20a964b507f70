"""Weights that were not dumped, as the golden run's values show them: norms and rotary tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmdbg.golden import EXACT, Case, operator_for
from llmdbg.spread import spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmdbg.golden.precision import Array

_MIN_ROWS_TO_FIT, _MOST_ROWS_TO_FIT = 8, 64


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
    first, half = near[0], cos.shape[1] // 2
    angle = np.arctan2(*(t[[first, first + 1, -1], :half] for t in (sin, cos)))
    step = np.mod(angle[1] - angle[0], 2 * math.pi)
    # The last position knows the small frequencies best: refine by the turns made until there.
    span = int(flat[-1] - flat[first])
    if span > 1:
        turned = angle[2] - angle[0]
        turns = np.rint((step * span - turned) / (2 * math.pi))
        step = (turned + 2 * math.pi * turns) / span
    return {"inv_freq": step}


def _matrices(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[Array, Array]:
    """Return both as float64 matrices, of many rows some at equal distances."""
    width = y.shape[-1]
    both = x.reshape(-1, width), y.reshape(-1, width)
    rows = spread(len(both[1]), _MOST_ROWS_TO_FIT)
    return np.asarray(both[0][rows], np.float64), np.asarray(both[1][rows], np.float64)


FITS: dict[str, Callable[[list[Any], list[Any], dict[str, Any]], dict[str, Any]]] = {
    "RMS norm": _fit_rms,
    "layer norm": _fit_layer_norm,
    "rotary table": _fit_rotary,
}
