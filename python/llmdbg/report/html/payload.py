"""The data inside the page: columns, not rows, and three digits where three are shown."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from llmdbg.report.html.details import details_of
from llmdbg.report.html.digits import rounded
from llmdbg.report.html.tokens import tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl

    from llmdbg.report.model import Report

_WORDS = (
    "state", "role", "slot", "phase", "golden_node", "candidate_node", "golden_op_type",
    "candidate_op_type", "golden_dtype", "my_dtype", "golden_shape", "my_shape", "transform",
    "evidence", "reason", "cmp_fail_reason",
)  # fmt: skip
_WHOLE = (
    "step", "candidate_step", "rank", "order", "call", "worst_row", "worst_channel",
    "max_absolute_error_index", "max_ulp", "golden_nan", "candidate_nan", "golden_pos_inf",
    "candidate_pos_inf", "golden_neg_inf", "candidate_neg_inf", "finiteness_mismatch", "elements",
)  # fmt: skip
_REAL = (
    "ratio", "floor", "introduced", "required_factor", "shadow_ratio", "shadow_row_ratio",
    "confidence", "relative_l2", "one_minus_cosine",
    "max_absolute_error", "golden_at_max_abs", "candidate_at_max_abs", "mean_absolute_error",
    "max_relative_error", "kl_divergence", "worst_row_relative_l2", "worst_channel_relative_l2",
    "golden_rms", "candidate_rms",
)  # fmt: skip


_SELDOM = 8


def payload(report: Report, *, details: int) -> dict[str, Any]:
    """Return everything the page shows, as plain data.

    Parameters
    ----------
    report : Report
        What to show.
    details : int
        How many rows get histograms, profiles and a difference tile.
    """
    frame, verdict = report.frame, report.verdict
    chosen = _worst(report, details)
    return {
        "outcome": verdict.outcome,
        "sentence": verdict.sentence,
        "findings": [
            finding.as_dict() | {"row": finding.row}
            for finding in ((verdict.culprit,) if verdict.culprit else ()) + verdict.suspects
        ],
        "counts": report.counts,
        "golden": report.golden.as_dict() | {"about": report.golden.about},
        "candidate": report.candidate.as_dict() | {"about": report.candidate.about},
        "commands": _commands(report),
        "rows": frame.height,
        "words": {name: _coded(frame[name]) for name in _WORDS if name in frame.columns},
        "numbers": {
            **{name: _whole(frame[name]) for name in _WHOLE if name in frame.columns},
            **{name: _real(frame[name]) for name in _REAL if name in frame.columns},
        },
        # Rows with the same code are about the same bytes: so an input finds its producer.
        "bytes": _codes_only(frame["golden_data_path"]),
        "tokens": tokens_of(report),
        "gates": [str(gate) for gate in report.gates],
        "details": _details(frame, chosen),
    }


def _details(frame: pl.DataFrame, rows: list[int]) -> dict[str, Any]:
    # numpy lets go of the interpreter while it works on a tensor.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(details_of, [frame.row(row, named=True) for row in rows])
        return dict(zip(map(str, rows), found, strict=True))


def _commands(report: Report) -> list[str]:
    import shlex

    commands = []
    if report.verdict.culprit is not None:
        row = report.frame.row(report.verdict.culprit.row, named=True)
        for path in (row["golden_data_path"], row["my_data_path"]):
            if path:
                commands.append(f"llmdbg show {shlex.quote(path)}")
    sides = (report.golden.path, report.candidate.path)
    commands.append("llmdbg compare " + " ".join(shlex.quote(side) for side in sides))
    return commands


def _worst(report: Report, count: int) -> list[int]:
    """Return the rows worth reading again: the findings, then the highest ratios."""
    verdict = report.verdict
    findings = ([verdict.culprit] if verdict.culprit else []) + list(verdict.suspects)
    chosen = dict.fromkeys(finding.row for finding in findings)
    rank = {"FAIL": 0, "SUSPECT": 1, "INHERITED": 2, "PASS": 3, "UNDECIDED": 4}
    ratios = [ratio if ratio is not None else -1.0 for ratio in verdict.ratios]
    order = sorted(
        range(len(ratios)), key=lambda row: (rank[str(verdict.states[row])], -ratios[row], row)
    )
    for row in order:
        if len(chosen) >= count:
            break
        chosen.setdefault(row)
    return sorted(chosen)


def _coded(values: Iterable[Any]) -> dict[str, Any]:
    """Return the distinct values, and for each row which it is: one number where all are one."""
    index: dict[Any, int] = {}
    codes = [index.setdefault(value, len(index)) for value in values]
    return {"values": list(index), "codes": 0 if len(index) == 1 else codes}


def _codes_only(column: pl.Series) -> list[int | None]:
    index: dict[str, int] = {}
    return [None if v is None else index.setdefault(v, len(index)) for v in column]


def _whole(column: pl.Series) -> Any:
    return _shorter([None if v is None or v != v or v < 0 else int(v) for v in column])


def _real(column: pl.Series) -> Any:
    """Return three significant digits; JSON knows no infinity, so that is a word."""
    values = np.asarray(column.to_numpy(), np.float64)
    spelled: list[Any] = rounded(values, 3)
    for i in np.flatnonzero(~np.isfinite(values)).tolist():
        spelled[i] = None if spelled[i] != spelled[i] else str(spelled[i])
    return _shorter(spelled)


def _shorter(values: list[Any]) -> Any:
    """Return the values, or their codes where few of them differ."""
    return _coded(values) if _SELDOM * len(set(values)) < len(values) else values
