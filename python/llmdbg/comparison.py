"""Comparing two runs, from paths to a judged report.

Imports nothing that takes long; what does is imported in the background while the engine works.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg import custom as custom_measures
from llmdbg import levels
from llmdbg.dump import open_dump
from llmdbg.meanwhile import import_meanwhile
from llmdbg.measuring import Measuring, Wanted, open_both
from llmdbg.report.destination import destination
from llmdbg.report.destination import journal as journal_beside
from llmdbg.report.text import path_text
from llmdbg.resume import Resume

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from llmdbg import _core
    from llmdbg.dump import Dump
    from llmdbg.measuring import Measured, Progress, StrPath
    from llmdbg.result import Result
    from llmdbg.tokens import Token
    from llmdbg.verdict import Calibration, Finding, Gate, Mode


def compare(
    golden: StrPath,
    candidate: StrPath | None = None,
    *,
    output: StrPath | None = None,
    force: bool = False,
    threads: int = 0,
    kl: bool = True,
    mapping: StrPath | None = None,
    weights: StrPath | None = None,
    custom: Sequence[str] = (),
    step: int | Sequence[int] | None = None,
    rank: int | Sequence[int] | None = None,
    ignore_topology: bool = False,
    level: str = "op",
    shadow: Mode = "auto",
    calibrate: StrPath | None = None,
    gates: Sequence[str] = (),
    journal: StrPath | None = None,
    progress: Progress | None = None,
    measured: Measured | None = None,
) -> Result:
    """Compare two runs and name the first operator that goes wrong.

    Parameters
    ----------
    golden, candidate : path
        Dumps of any layout, or two tensor files. A manual mapping (``golden_tensor/metadata.json``)
        names both sides itself and needs no `candidate`.
    output : path, optional
        Folder for the report files. None writes none; `Result.write` does it later.
    force : bool
        Replace an earlier report in `output`.
    threads : int
        Worker threads; 0 takes all cores. The result is the same for any number.
    kl : bool
        Whether to measure the KL divergence, which takes a second pass.
    mapping : path, optional
        An ``alignment.json`` (edited or not), or ``ait``'s ``op_mapping_file.json`` or its folder.
    weights : path, optional
        The checkpoint that both runs loaded: a ``.safetensors`` file or a folder of them. It tells
        operators of different names apart where the golden dump holds no weights.
    custom : sequence of str
        Measures of your own, ``file.py:func`` each; see `llmdbg.custom.load`.
    step, rank : int or sequence of int, optional
        Compare these only.
    ignore_topology : bool
        Whether to go on, by names and tensors alone, where the topology in a dump is not that of
        its run or cannot be read. Otherwise that is an error.
    level : {'op', 'layer', 'token'}
        ``op`` compares all operators. ``layer`` compares what each repeated block gives, then the
        operators of the first block that goes wrong. ``token`` compares the logits of each step.
    shadow : {"auto", "on", "off"}
        Whether operators are computed again, in float64, from the candidate's own inputs: ``auto``
        where it costs little or something is in question, ``on`` wherever there is a formula.
    calibrate : path, optional
        A second clean run, whose distance from golden is each tensor's noise floor, or the
        ``calibration.json`` that an earlier report kept of one.
    gates : sequence of str
        Bounds such as ``max_ratio<=3``; see `llmdbg.verdict.Gate`. What they met stands in
        ``result.gates``.
    journal : path, optional
        A file in which finished pairs are kept once the comparison takes long. The same comparison
        goes on from there after an interrupt; writing the report deletes the file. None is beside
        `output`, or no file without one.
    progress : callable, optional
        Called with what is done and what there is in all, as the engine counts.
    measured : mapping, optional
        Measures that were taken while the tensors were there, which are not taken again.

    Returns
    -------
    Result

    Raises
    ------
    LlmdbgError
        A path holds no dump, or the two have nothing in common; the message says what they hold.
    OSError
        The operating system refuses to read or write a path.
    Interrupted
        Ctrl-C; the message says what the journal keeps.

    Examples
    --------
    >>> result = compare("dumps/golden", "dumps/candidate")  # doctest: +SKIP
    >>> result.culprit  # doctest: +SKIP
    """
    target = None if output is None else destination(output, force=force)
    users = [custom_measures.load(s) for s in custom]
    bounds = _gates(gates)
    golden_dump, candidate_dump = open_both(golden, candidate)
    if journal is None and target is not None:
        journal = journal_beside(output, target)
    resume = Resume(journal)
    measuring = Measuring(
        Wanted.of(step, rank),
        threads=threads,
        kl=kl,
        users=users,
        resume=resume,
        progress=progress,
        measured=measured,
        ignore_topology=ignore_topology,
    )
    calibration = None
    if calibrate is not None:
        calibration = _calibration(Path(calibrate), golden_dump, measuring)
    pairs = measuring.align(golden_dump, candidate_dump, mapping, weights)
    alignment, chosen = pairs.alignment, pairs.chosen
    # These take a fifth of a second to import, and the engine needs none of it.
    import_meanwhile("llmdbg.judging", "llmdbg.result")
    tokens: list[Token] | None = None
    notes = list(alignment.notes)
    if level == "token":
        chosen = levels.last_outputs(alignment, chosen, golden_dump)
        tokens = _tokens(alignment, chosen, golden_dump)
    elif level == "layer":
        chosen, note = levels.blamed(
            alignment,
            chosen,
            golden_dump,
            lambda some: _culprit(measuring.frame(pairs, some)),
        )
        notes.insert(0, note)
    frame = measuring.frame(pairs, chosen, alone=level == "op")

    from llmdbg import judging
    from llmdbg.result import Result

    report = judging.report(
        pairs,
        frame,
        paths=(golden, golden if candidate is None else candidate),
        shadow=shadow,
        weights=weights,
        calibration=calibration,
        gates=bounds,
        notes=notes,
        tokens=tokens,
    )
    notices = resume.notices(report.counts["pairs"])
    result = Result(report, tokens=tokens, notices=notices, _resume=resume)
    if target is not None:
        result.write(target, force=force)
    return result


def _gates(texts: Sequence[str]) -> list[Gate]:
    if not texts:
        return []
    from llmdbg.verdict import Gate

    return [Gate.parse(text) for text in texts]


def _calibration(path: Path, golden: Dump, measuring: Measuring) -> Calibration:
    """Read a calibration, or measure one on a second clean run."""
    from llmdbg.verdict import Calibration

    if path.suffix == ".json" and Calibration.is_one(path):
        return Calibration.read(path)
    plain = replace(measuring, kl=False, users=())
    pairs = plain.align(golden, open_dump(path))
    frame = plain.frame(pairs, pairs.chosen, alone=True)
    return Calibration.measured(frame, f"clean run {path_text(os.fspath(path))}")


def _tokens(alignment: _core.Alignment, pairs: Sequence[int], golden: Dump) -> list[Token]:
    from llmdbg import tokens

    return tokens.compare(alignment, pairs, golden)


def _culprit(frame: pl.DataFrame) -> Finding | None:
    from llmdbg import verdict as verdicts

    return verdicts.judge(frame).culprit
