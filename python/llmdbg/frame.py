"""The frame of a comparison: one row per pair, then one per record without a counterpart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from llmdbg.report.columns import AIT_COLUMNS, JUDGEMENT_COLUMNS, PAIR_COLUMNS

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
    "state": pl.String,
    "reason": pl.String,
    "ratio": pl.Float64,
    "floor": pl.Float64,
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
    measured = pl.DataFrame({name: pl.Series(values) for name, values in measures.items()})
    matched = pl.concat([pairs, measured], how="horizontal")
    alone = [
        pl.DataFrame(
            {
                f"_{side}": pl.Series(records, dtype=pl.UInt32),
                "cmp_fail_reason": pl.Series(
                    [NO_COUNTERPART[side]] * len(records), dtype=pl.String
                ),
            }
        )
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
    )
    return _arranged(rows, [c for c in measures if c not in AIT_COLUMNS])


def with_verdict(
    frame: pl.DataFrame,
    states: Sequence[str],
    reasons: Sequence[str],
    ratios: Sequence[float | None],
    floors: Sequence[float | None],
) -> pl.DataFrame:
    """Return the frame with the judgement's columns filled in."""
    return frame.with_columns(
        pl.Series("state", [str(s) for s in states], dtype=pl.String),
        pl.Series("reason", reasons, dtype=pl.String),
        pl.Series("ratio", ratios, dtype=pl.Float64),
        pl.Series("floor", floors, dtype=pl.Float64),
    )


def _side(columns: Columns, side: str) -> pl.DataFrame:
    """Return a dump's records under the report's names, with their index as ``_<side>``."""
    ait = "golden" if side == "golden" else "my"
    count = len(columns["node"])
    paths = [
        None if path is None else path if not key else f"{path}#{key}"
        for path, key in zip(columns["path"], columns["key"], strict=True)
    ]
    dtypes = [None if d is None else f"torch.{d}" for d in columns["dtype"]]
    shapes = [None if s is None else str([int(n) for n in s]) for s in columns["shape"]]
    return pl.DataFrame(
        {
            f"_{side}": pl.Series(range(count), dtype=pl.UInt32),
            f"{ait}_data_path": pl.Series(paths, dtype=pl.String),
            f"{ait}_dtype": pl.Series(dtypes, dtype=pl.String),
            f"{ait}_shape": pl.Series(shapes, dtype=pl.String),
            f"{side}_node": pl.Series(columns["node"], dtype=pl.String),
            f"{side}_op_type": pl.Series(columns["op_type"], dtype=pl.String),
            **{
                f"{side}_{c}": pl.Series(columns[c], dtype=_SCHEMA[c])
                for c in ("step", "rank", "order", "call", "role", "slot", "phase")
            },
        }
    )


def _arranged(rows: pl.DataFrame, measures: Sequence[str]) -> pl.DataFrame:
    """Return the columns in the report's order; those that nothing filled are null."""
    order = [*AIT_COLUMNS, *JUDGEMENT_COLUMNS, *PAIR_COLUMNS]
    order += [m for m in measures if m not in order]
    return rows.select(
        pl.col(c) if c in rows.columns else pl.lit(None, dtype=_SCHEMA.get(c, pl.Float64)).alias(c)
        for c in order
    )
