"""The frame of a comparison: one row per pair, then one per record without a counterpart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from llmdbg.report.columns import AIT_COLUMNS, JUDGEMENT_COLUMNS, PAIR_COLUMNS
from llmdbg.report.text import path_text

Columns = Mapping[str, Sequence[Any]]

_SCHEMA: dict[str, Any] = {
    "token_id": pl.Int64,
    "data_id": pl.String,
    "golden_data_path": pl.String,
    "golden_dtype": pl.String,
    "golden_shape": pl.String,
    "my_data_path": pl.String,
    "my_dtype": pl.String,
    "my_shape": pl.String,
    "cmp_fail_reason": pl.String,
    "step": pl.Int64,
    "candidate_step": pl.Int64,
    "rank": pl.Int64,
    "order": pl.Int64,
    "call": pl.Int64,
    "role": pl.String,
    "slot": pl.String,
    "phase": pl.String,
    "golden_node": pl.String,
    "candidate_node": pl.String,
    "golden_op_type": pl.String,
    "candidate_op_type": pl.String,
    "transform": pl.String,
    "confidence": pl.Float64,
    "evidence": pl.String,
    "golden_record": pl.Int64,
    "candidate_record": pl.Int64,
    "state": pl.String,
    "reason": pl.String,
    "ratio": pl.Float64,
    "floor": pl.Float64,
    "introduced": pl.Float64,
    "required_factor": pl.Float64,
    "shadow_ratio": pl.Float64,
    "shadow_row_ratio": pl.Float64,
}
# What the engine calls by shorter names than `ait` does.
_AIT_NAMES = {
    "golden_max": "golden_max_value",
    "golden_min": "golden_min_value",
    "golden_mean": "golden_mean_value",
    "candidate_max": "my_max_value",
    "candidate_min": "my_min_value",
    "candidate_mean": "my_mean_value",
    "candidate_dtype": "my_dtype",
    "candidate_shape": "my_shape",
}
NO_COUNTERPART = {
    "golden": "no counterpart in the candidate",
    "candidate": "no counterpart in the golden dump",
}


def build(
    golden: Columns,
    candidate: Columns,
    alignment: Columns,
    measures: Columns,
    unmatched_golden: Sequence[int],
    unmatched_candidate: Sequence[int],
    nearest: Mapping[str, Mapping[int, str | None]] | None = None,
) -> pl.DataFrame:
    """Put records, alignment and measures side by side.

    Parameters
    ----------
    golden, candidate : mapping of str to sequence
        Columns of the two dumps' records.
    alignment : mapping of str to sequence
        Per pair ``golden`` and ``candidate`` (record indices), ``confidence``, ``evidence``,
        ``transform``.
    measures : mapping of str to sequence
        Per pair, in the same order, one column per measure.
    unmatched_golden, unmatched_candidate : sequence of int
        Indices of records without counterpart.
    nearest : mapping, optional
        For ``golden`` and ``candidate``: by record without counterpart, the other side's node whose
        name comes nearest.

    Returns
    -------
    polars.DataFrame
        The 22 columns of ``ait llm compare``'s report, then ours, then the remaining measures.
        Rows in golden order; records of the candidate alone come last.
    """
    sides = {"golden": _side(golden, "golden"), "candidate": _side(candidate, "candidate")}
    pairs = pl.DataFrame(
        {
            "_golden": pl.Series(alignment["golden"], dtype=pl.UInt32),
            "_candidate": pl.Series(alignment["candidate"], dtype=pl.UInt32),
            "confidence": pl.Series(alignment["confidence"], dtype=pl.Float64),
            "evidence": pl.Series(alignment["evidence"], dtype=pl.String),
            "transform": pl.Series(alignment["transform"], dtype=pl.String),
        }
    )
    measured = _measured(measures)
    matched = pl.concat([pairs, measured], how="horizontal")
    alone = [
        _alone(side, records, (nearest or {}).get(side, {}))
        for side, records in (
            ("golden", unmatched_golden),
            ("candidate", unmatched_candidate),
        )
    ]
    rows = pl.concat([matched, *alone], how="diagonal_relaxed")
    for side, columns in sides.items():
        clash = [c for c in columns.columns if c in rows.columns and c != f"_{side}"]
        rows = rows.join(columns.drop(clash), on=f"_{side}", how="left", maintain_order="left")
    rows = rows.sort("_golden", "_candidate", nulls_last=True, maintain_order=True)
    shared = ("step", "rank", "order", "call", "role", "slot", "phase")
    rows = rows.with_columns(
        *(pl.coalesce(f"golden_{c}", f"candidate_{c}").alias(c) for c in shared),
    ).with_columns(
        pl.col("step").alias("token_id"),
        pl.int_range(pl.len()).cast(pl.String).alias("data_id"),
        pl.col("_golden").cast(pl.Int64).alias("golden_record"),
        pl.col("_candidate").cast(pl.Int64).alias("candidate_record"),
    )
    return _arranged(rows, measured.columns)


def with_verdict(
    frame: pl.DataFrame,
    states: Sequence[str],
    reasons: Sequence[str],
    ratios: Sequence[float | None],
    floors: Sequence[float | None],
    more: Mapping[str, Sequence[float | None]] | None = None,
) -> pl.DataFrame:
    """Return the frame with the judgement's columns filled in."""
    return frame.with_columns(
        *(pl.Series(name, values, dtype=pl.Float64) for name, values in (more or {}).items()),
        pl.Series("state", [str(s) for s in states], dtype=pl.String),
        pl.Series("reason", reasons, dtype=pl.String),
        pl.Series("ratio", ratios, dtype=pl.Float64),
        pl.Series("floor", floors, dtype=pl.Float64),
    )


def _alone(side: str, records: Sequence[int], nearest: Mapping[int, str | None]) -> pl.DataFrame:
    """Return the rows of records without counterpart, which say what it might have been."""
    hints = (nearest.get(record) for record in records)
    reasons = [NO_COUNTERPART[side] + (f"; nearest is {hint}" if hint else "") for hint in hints]
    return pl.DataFrame(
        {
            f"_{side}": pl.Series(records, dtype=pl.UInt32),
            "cmp_fail_reason": pl.Series(reasons, dtype=pl.String),
        }
    )


def _side(columns: Columns, side: str) -> pl.DataFrame:
    """Return a dump's records under the report's names, with their index as ``_<side>``."""
    ait = "golden" if side == "golden" else "my"
    count = len(columns["node"])
    paths = [
        None if path is None else path_text(path) if not key else f"{path_text(path)}#{key}"
        for path, key in zip(columns["path"], columns["key"], strict=True)
    ]
    return pl.DataFrame(
        {
            f"_{side}": pl.Series(range(count), dtype=pl.UInt32),
            f"{ait}_data_path": pl.Series(paths, dtype=pl.String),
            f"{ait}_dtype": pl.Series(_dtypes(columns["dtype"]), dtype=pl.String),
            f"{ait}_shape": pl.Series(_shapes(columns["shape"]), dtype=pl.String),
            f"{side}_node": pl.Series(columns["node"], dtype=pl.String),
            f"{side}_op_type": pl.Series(columns["op_type"], dtype=pl.String),
            **{
                f"{side}_{c}": pl.Series(columns[c], dtype=_SCHEMA[c])
                for c in ("step", "rank", "order", "call", "role", "slot", "phase")
            },
        }
    )


def _dtypes(names: Sequence[str | None]) -> list[str | None]:
    return [None if name is None else f"torch.{name}" for name in names]


def _shapes(shapes: Sequence[Sequence[int] | None]) -> list[str | None]:
    return [None if shape is None else str([int(n) for n in shape]) for shape in shapes]


_SPELLED: dict[str, Callable[[Any], Any]] = {
    "golden_dtype": _dtypes,
    "candidate_dtype": _dtypes,
    "golden_shape": _shapes,
    "candidate_shape": _shapes,
    "basis": list,
    "shape_note": list,
    "note": list,
    "cmp_fail_reason": list,
}


_NUMBERS = {"float64": pl.Float64, "int64": pl.Int64, "uint8": pl.UInt8}


def _measured(measures: Columns) -> pl.DataFrame:
    """Return the engine's measures under the report's names; NaN, "no number", becomes null."""
    series = {}
    for name, values in measures.items():
        if name in _SPELLED:
            column = pl.Series(_SPELLED[name](values), dtype=pl.String)
        elif isinstance(values, np.ndarray):
            # By way of a list: given an array, polars imports numpy's masked arrays first.
            column = pl.Series(values.tolist(), dtype=_NUMBERS[values.dtype.name])
        else:
            column = pl.Series(values)
        series[_AIT_NAMES.get(name, name)] = column
    frame = pl.DataFrame(series)
    # The engine's words for "no such number": NaN among numbers, -1 among counts and indices.
    frame = frame.with_columns(
        pl.col(pl.Float64).fill_nan(None),
        pl.when(pl.col(pl.Int64) >= 0).then(pl.col(pl.Int64)),
        # Yes, no, and what sketches and statistics leave open.
        pl.when(pl.col(pl.UInt8) <= 1).then(pl.col(pl.UInt8).cast(pl.Boolean)),
    )
    if "relative_l2" in frame.columns:
        frame = frame.with_columns(relative_euclidean_distance="relative_l2")
    return frame


def _arranged(rows: pl.DataFrame, measures: Sequence[str]) -> pl.DataFrame:
    """Return the columns in the report's order; those that nothing filled are null."""
    order = [*AIT_COLUMNS, *JUDGEMENT_COLUMNS, *PAIR_COLUMNS]
    order += [m for m in measures if m not in order]
    return rows.select(
        pl.col(c) if c in rows.columns else pl.lit(None, dtype=_SCHEMA.get(c, pl.Float64)).alias(c)
        for c in order
    )
