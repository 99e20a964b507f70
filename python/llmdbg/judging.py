"""From the measures of pairs to a judged report."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmdbg import frame as frames
from llmdbg import verdict as verdicts
from llmdbg.report.model import Report, Side
from llmdbg.report.text import path_text
from llmdbg.tokens import answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from llmdbg.dump import Dump
    from llmdbg.measuring import Pairs, StrPath
    from llmdbg.tokens import Token


def report(
    pairs: Pairs,
    frame: pl.DataFrame,
    *,
    paths: tuple[StrPath, StrPath],
    shadow: verdicts.Mode,
    weights: StrPath | None,
    calibration: verdicts.Calibration | None,
    gates: Sequence[verdicts.Gate],
    notes: Sequence[str],
    tokens: Sequence[Token] | None,
) -> Report:
    """Judge a comparison, and say what there is to say of it.

    Parameters
    ----------
    pairs : Pairs
        The two runs.
    frame : polars.DataFrame
        What was measured, from `llmdbg.frame.build`.
    paths : tuple of path
        Golden and candidate, as the user gave them.
    shadow, weights
        As `llmdbg.compare` takes them.
    calibration : Calibration or None
        Measured noise floors.
    gates : sequence of Gate
        Bounds to check.
    notes : sequence of str
        What is to be known about the pairs.
    tokens : sequence of Token or None
        With level ``token``: every position of the output, which then leads the verdict.

    Returns
    -------
    Report
    """
    golden, candidate = pairs.golden, pairs.candidate
    named = frame.select("golden_node", "candidate_node").drop_nulls().unique(maintain_order=True)
    verdict = verdicts.judge(
        frame,
        golden.graph,
        checker=verdicts.Checker(
            golden, candidate, shadow, verdicts.Sources(weights, pairs.alignment)
        ),
        calibration=calibration,
        parameters=verdicts.parameter_differences(
            golden.graph, candidate.graph, dict(named.iter_rows())
        ),
    )
    if tokens is not None:
        verdict, note = answer(tokens, verdict)
        notes = (note, *notes)
    judged = frames.with_verdict(
        frame, verdict.states, verdict.reasons, verdict.ratios, verdict.floors, verdict.more
    )
    return Report(
        golden=_side(paths[0], golden),
        candidate=_side(paths[1], candidate),
        frame=judged,
        verdict=verdict,
        alignment=pairs.alignment.to_json(),
        notes=tuple(notes),
        gates=tuple(gate.check(judged) for gate in gates),
        calibration=calibration,
    )


def _side(path: StrPath, dump: Dump) -> Side:
    return Side(
        path=path_text(os.fspath(path)),
        layout=dump.layout,
        variant=dump.variant,
        records=len(dump),
        problems=tuple(dump.problems),
        about=dump.about,
    )
