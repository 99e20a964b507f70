"""The summary: the answer as strict JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdbg.report.model import Report

SCHEMA = "llmdbg.compare/1"


def summary(report: Report, files: dict[str, str]) -> dict[str, Any]:
    """Return the answer as plain data.

    Parameters
    ----------
    report : Report
        What to summarise.
    files : dict
        Where the other reports lie, by kind (``csv``, ``parquet``, …).

    Returns
    -------
    dict
        Keys ``schema``, ``verdict``, ``sentence``, ``culprit``, ``suspects``, ``counts``,
        ``golden``, ``candidate``, ``notes``, ``gates`` and ``report``.
    """
    verdict = report.verdict
    return {
        "schema": SCHEMA,
        "verdict": verdict.outcome,
        "sentence": verdict.sentence,
        "culprit": verdict.culprit.as_dict() if verdict.culprit else None,
        "suspects": [s.as_dict() for s in verdict.suspects],
        "counts": report.counts,
        "golden": report.golden.as_dict(),
        "candidate": report.candidate.as_dict(),
        "notes": list(report.notes),
        "gates": [gate.as_dict() for gate in report.gates],
        "report": files,
    }


def to_json(data: Any) -> str:
    """Return `data` as JSON in UTF-8 text; NaN and infinity, unknown to JSON, become null."""
    return json.dumps(_strict(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return value
