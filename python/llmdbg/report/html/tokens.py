"""Error over floor by layer and token: which tokens a fault touches, and from which layer on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmdbg.report.html.details import read, working_dtype
from llmdbg.report.html.digits import rounded

if TYPE_CHECKING:
    from llmdbg.report.model import Report

MOST_LAYERS = 128
MOST_TOKENS = 512
# Reading every layer's output again of a long prompt would cost more than the comparison.
MOST_ELEMENTS = 1 << 24


def tokens_of(report: Report) -> dict[str, Any] | None:
    """Return each layer's error by token, in the step with the most tokens.

    Parameters
    ----------
    report : Report

    Returns
    -------
    dict or None
        ``layers`` with ``row``, ``name`` and ``ratios`` (one per token, or per ``tokens_each``
        neighbours, the worst of them), and ``step``. None where no layer's output can be read.
    """
    rows = _layer_outputs(report)
    if not rows:
        return None
    largest = max(rows, key=lambda r: r["elements"] or 0)
    step, elements = largest["step"], 0
    layers: list[dict[str, Any]] = []
    each = 1
    for row in rows:
        elements += row["elements"] or 0
        if row["step"] != step or row["rank"] != largest["rank"]:
            continue
        if len(layers) >= MOST_LAYERS or elements > MOST_ELEMENTS:
            break
        ratios = _ratios(row)
        if ratios is None:
            continue
        each = -(-len(ratios) // MOST_TOKENS)
        worst = np.maximum.reduceat(ratios, np.arange(0, len(ratios), each))
        layers.append(
            {"row": row["number"], "name": row["golden_node"], "ratios": rounded(worst, 3)}
        )
    return {"layers": layers, "tokens_each": each, "step": step} if layers else None


def _layer_outputs(report: Report) -> list[dict[str, Any]]:
    """Return the first output of each module whose name ends in a number."""
    frame = report.frame
    if "elements" not in frame.columns:
        return []
    wanted = ("golden_node", "candidate_node", "role", "slot", "step", "rank", "elements", "floor")
    paths = ("golden_data_path", "my_data_path", "relative_euclidean_distance", "transform")
    found = []
    for number, row in enumerate(frame.select(*wanted, *paths).iter_rows(named=True)):
        node = row["golden_node"]
        if (
            node is not None
            and row["candidate_node"] is not None
            and row["role"] == "output"
            and re.search(r"(^|[._/])\d+$", node)
            and row["slot"] in ("0", "", None)
            and row["relative_euclidean_distance"] is not None
            and row["transform"] in (None, "", "identity")
            and row["floor"]
        ):
            found.append(row | {"number": number})
    return found


def _ratios(row: dict[str, Any]) -> npt.NDArray[np.float64] | None:
    try:
        golden, candidate = read(row["golden_data_path"]), read(row["my_data_path"])
    except (OSError, ValueError):
        return None
    if golden is None or candidate is None or golden.ndim < 2 or golden.size != candidate.size:
        return None
    rows = golden.reshape(-1, golden.shape[-1])
    a: npt.NDArray[np.floating[Any]] = rows.astype(working_dtype(golden, candidate))
    # Summed in float64, where squares of large float32 values stay finite.
    with np.errstate(all="ignore"):
        d = candidate.reshape(a.shape).astype(a.dtype) - a
        size = np.sqrt(np.einsum("ij,ij->i", a, a, dtype=np.float64))
        error = np.sqrt(np.einsum("ij,ij->i", d, d, dtype=np.float64))
        error /= np.where(size > 0, size, 1.0)
    return np.asarray(np.nan_to_num(error / row["floor"], nan=1e6, posinf=1e6))
