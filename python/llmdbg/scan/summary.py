"""The answer of a scan as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdbg.scan.model import Scan

SCHEMA = "llmdbg.scan/1"


def summary(scan: Scan, files: dict[str, str]) -> dict[str, Any]:
    """Return the answer as plain data.

    Parameters
    ----------
    scan : Scan
        What to summarise.
    files : dict
        Where the other reports lie, by kind.

    Returns
    -------
    dict
        Keys ``schema``, ``verdict``, ``sentence``, ``origin`` (the first error), ``findings``,
        ``counts``, ``gates``, ``dumps``, ``layout``, ``problems``, ``notes`` and ``report``.
    """
    findings = [finding.as_dict() for finding in scan.findings]
    first = findings[0] if scan.outcome == "anomalous" else None
    return {
        "schema": SCHEMA,
        "verdict": scan.outcome,
        "sentence": scan.sentence,
        "origin": first,
        "findings": findings,
        "counts": scan.counts,
        "gates": [gate.as_dict() for gate in scan.gates],
        "dumps": list(scan.paths),
        "layout": scan.layout,
        "problems": list(scan.problems),
        "notes": list(scan.notes),
        "report": files,
    }
