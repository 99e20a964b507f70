"""Comparing two runs, from paths to a judged report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg import _core, levels, reduced, tokens
from llmdbg import custom as custom_measures
from llmdbg import frame as frames
from llmdbg import verdict as verdicts
from llmdbg.dump import open_dump
from llmdbg.errors import UserError
from llmdbg.report import folder, summary
from llmdbg.report.model import Report, Side
from llmdbg.report.text import ranges
from llmdbg.resume import Resume

if TYPE_CHECKING:
    import polars as pl

    from llmdbg.dump import Dump

StrPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]
Measured = Mapping[tuple[int, int], Mapping[str, Any]]
"""Measures of pairs, by the indices of the golden and the candidate record."""
_SAMPLE = 4


@dataclass
class Result:
    """What comparing two runs found.

    Attributes
    ----------
    report : Report
        Everything there is to show.
    files : dict of str to str or None
        Paths of the written report by kind (``directory``, ``csv``, …); None when none was written.
    tokens : list of Token or None
        With level ``token``: every position of the output.
    notices : tuple of str
        What the user should know about how this run went; a report says nothing of it.
    """

    report: Report
    files: dict[str, str] | None = None
    tokens: list[tokens.Token] | None = None
    notices: tuple[str, ...] = ()
    _resume: Resume = field(default_factory=lambda: Resume(None), repr=False)

    @property
    def frame(self) -> pl.DataFrame:
        """One row per pair in execution order, then the records without counterpart."""
        return self.report.frame

    @property
    def verdict(self) -> str:
        """``clean``, ``diverged`` or ``undecided``."""
        return self.report.verdict.outcome

    @property
    def culprit(self) -> verdicts.Finding | None:
        """The first operator with clean inputs and a wrong output."""
        return self.report.verdict.culprit

    @property
    def summary(self) -> dict[str, Any]:
        """The answer as plain data: what ``llmdbg compare --json`` prints."""
        data = summary.summary(self.report, self.files or {})
        return data if self.tokens is None else data | {"tokens": tokens.summary(self.tokens)}

    @property
    def gates(self) -> tuple[verdicts.GateResult, ...]:
        """What the gates met, in the order they were given."""
        return self.report.gates

    def to_json(self) -> str:
        """Return the summary as strict JSON."""
        return summary.to_json(self.summary)

    def to_html(self, path: StrPath) -> None:
        """Write the report as one HTML file that opens offline; it needs the extra ``report``."""
        from llmdbg.report.html import write_html

        write_html(self.report, Path(path))

    def write(
        self,
        output: StrPath | None = None,
        *,
        force: bool = False,
        formats: Sequence[str] | None = None,
    ) -> dict[str, str]:
        """Write the report folder.

        Parameters
        ----------
        output : path, optional
            A new or empty folder is used itself; in any other a new one named
            ``llmdbg_compare_<time>`` is made. None means the working directory.
        force : bool
            Replace an earlier report in `output`.
        formats : sequence of str, optional
            What to write beside the tables: ``html``, ``xlsx``, ``jsonl``, ``markdown``, ``junit``.
            None is ``html`` where plotly is installed.

        Returns
        -------
        dict
            The written files by kind.
        """
        target = folder.destination(output, force=force)
        self.files = folder.write(self.report, target, force=force, formats=formats)
        self._resume.done()
        return self.files

    def __repr__(self) -> str:
        return f"<llmdbg comparison of {self.report.counts['pairs']} pairs: {self._sentence}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p><b>{escape(self._sentence)}</b></p>{self.frame._repr_html_()}"

    @property
    def _sentence(self) -> str:
        return self.report.verdict.sentence


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
    shadow: verdicts.Mode = "auto",
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
    target = None if output is None else folder.destination(output, force=force)
    users = [custom_measures.load(s) for s in custom]
    bounds = [verdicts.Gate.parse(g) for g in gates]
    golden_dump, candidate_dump = _open(golden, candidate)
    wanted = _Wanted(_numbers(step), _numbers(rank))
    if journal is None and target is not None:
        journal = folder.journal(output, target)
    resume = Resume(journal)
    measure = _Measure(
        wanted,
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
        calibration = _calibration(Path(calibrate), golden_dump, measure)
    pairs = measure.align(golden_dump, candidate_dump, mapping, weights)
    alignment, chosen = pairs.alignment, pairs.chosen
    found: list[tokens.Token] | None = None
    notes = list(alignment.notes)
    if level == "token":
        chosen = levels.last_outputs(alignment, chosen, golden_dump)
        found = tokens.compare(alignment, chosen, golden_dump)
    elif level == "layer":
        chosen, note = levels.blamed(
            alignment,
            chosen,
            golden_dump,
            lambda some: verdicts.judge(measure.frame(pairs, some)).culprit,
        )
        notes.insert(0, note)
    frame = measure.frame(pairs, chosen, alone=level == "op")
    named = frame.select("golden_node", "candidate_node").drop_nulls().unique(maintain_order=True)
    verdict = verdicts.judge(
        frame,
        golden_dump.graph,
        checker=verdicts.Checker(
            golden_dump, candidate_dump, shadow, verdicts.Sources(weights, alignment)
        ),
        calibration=calibration,
        parameters=verdicts.parameter_differences(
            golden_dump.graph, candidate_dump.graph, dict(named.iter_rows())
        ),
    )
    if found is not None:
        verdict, note = tokens.answer(found, verdict)
        notes.insert(0, note)
    judged = frames.with_verdict(
        frame, verdict.states, verdict.reasons, verdict.ratios, verdict.floors, verdict.more
    )
    report = Report(
        golden=_side(golden, golden_dump),
        candidate=_side(candidate if candidate is not None else golden, candidate_dump),
        frame=judged,
        verdict=verdict,
        alignment=alignment.to_json(),
        notes=tuple(notes),
        gates=tuple(gate.check(judged) for gate in bounds),
        calibration=calibration,
    )
    notices = resume.notices(report.counts["pairs"])
    result = Result(report, tokens=found, notices=notices, _resume=resume)
    if target is not None:
        result.write(target, force=force)
    return result


@dataclass(frozen=True)
class _Measure:
    """Lining up and measuring two dumps."""

    wanted: _Wanted
    threads: int
    kl: bool
    users: Sequence[custom_measures.CustomMeasure]
    resume: Resume
    progress: Progress | None
    measured: Measured | None = None
    ignore_topology: bool = False

    def align(
        self,
        golden: Dump,
        candidate: Dump,
        mapping: StrPath | None = None,
        weights: StrPath | None = None,
    ) -> _Pairs:
        """Line two dumps up, and choose the wanted pairs."""
        options = {"mapping": mapping, "weights": weights}
        given: dict[str, Any] = {n: os.fspath(p) for n, p in options.items() if p is not None}
        given["ignore_topology"] = self.ignore_topology
        alignment = _core.align(golden.core, candidate.core, json.dumps(given))
        if not len(alignment):
            raise UserError(_nothing_in_common(golden, candidate))
        return _Pairs(golden, candidate, alignment, self.wanted.pairs(alignment, golden))

    def frame(self, pairs: _Pairs, chosen: Sequence[int], *, alone: bool = False) -> pl.DataFrame:
        """Return the frame of some pairs, not yet judged; with records without counterpart."""
        golden, candidate, alignment = pairs.golden, pairs.candidate, pairs.alignment
        columns = {n: [column[i] for i in chosen] for n, column in alignment.columns().items()}
        with self.resume:
            measures = alignment.compare(
                chosen,
                threads=self.threads,
                kl=self.kl,
                journal=self.resume.journal,
                progress=self.progress,
            )
            _take_over(self.measured, columns, measures)
            measures |= reduced.measure(golden, candidate, columns, measures)
            measures |= _measure_custom(self.users, alignment, chosen, measures)
        return frames.build(
            golden.core.columns(),
            candidate.core.columns(),
            columns,
            measures,
            self.wanted.among(alignment.unmatched_golden, golden) if alone else [],
            self.wanted.among(alignment.unmatched_candidate, candidate) if alone else [],
            {
                "golden": dict(alignment.unmatched_golden),
                "candidate": dict(alignment.unmatched_candidate),
            },
        )


@dataclass(frozen=True)
class _Pairs:
    """Two dumps lined up, and the pairs that are wanted."""

    golden: Dump
    candidate: Dump
    alignment: _core.Alignment
    chosen: list[int]


def _calibration(path: Path, golden: Dump, measure: _Measure) -> verdicts.Calibration:
    """Read a calibration, or measure one on a second clean run."""
    if path.suffix == ".json" and verdicts.Calibration.is_one(path):
        return verdicts.Calibration.read(path)
    plain = replace(measure, kl=False, users=())
    pairs = plain.align(golden, open_dump(path))
    frame = plain.frame(pairs, pairs.chosen, alone=True)
    return verdicts.Calibration.measured(frame, f"clean run {frames.text(os.fspath(path))}")


def _open(golden: StrPath, candidate: StrPath | None) -> tuple[Dump, Dump]:
    dump = open_dump(golden)
    if candidate is not None:
        return dump, open_dump(candidate)
    other = dump.candidate()
    if other is None:
        raise UserError(
            f"two paths are needed: only a manual mapping names both sides, and this is a "
            f"{dump.layout} dump: {frames.text(os.fspath(golden))}"
        )
    return dump, other


@dataclass(frozen=True)
class _Wanted:
    """Which steps and ranks the user wants compared."""

    steps: frozenset[int]
    ranks: frozenset[int]

    def pairs(self, alignment: _core.Alignment, golden: Dump) -> list[int]:
        """Return the wanted pairs."""
        records = alignment.columns()["golden"]
        fit = set(self._fit(records, golden))
        chosen = [i for i, record in enumerate(records) if record in fit]
        if not chosen:
            raise UserError(
                "no pair of that step and rank; "
                f"steps: {ranges(golden.steps)}, ranks: {ranges(golden.ranks)}"
            )
        return chosen

    def among(self, alone: Sequence[tuple[int, str | None]], dump: Dump) -> list[int]:
        """Return the wanted ones among records without counterpart."""
        return self._fit([record for record, _ in alone], dump)

    def _fit(self, records: Sequence[int], dump: Dump) -> list[int]:
        if not (self.steps or self.ranks):
            return list(records)
        columns = dump.core.columns()
        return [
            i
            for i in records
            if (not self.steps or columns["step"][i] in self.steps)
            and (not self.ranks or columns["rank"][i] in self.ranks)
        ]


def _take_over(measured: Measured | None, pairs: frames.Columns, measures: dict[str, Any]) -> None:
    """Put rows that were measured while the tensors were there in place of those of now."""
    for row, pair in enumerate(zip(pairs["golden"], pairs["candidate"], strict=True)):
        for name, value in (measured or {}).get(pair, {}).items():
            measures[name][row] = value


def _numbers(given: int | Sequence[int] | None) -> frozenset[int]:
    if given is None:
        return frozenset()
    return frozenset([given] if isinstance(given, int) else given)


def _measure_custom(
    users: Sequence[custom_measures.CustomMeasure],
    alignment: _core.Alignment,
    pairs: Sequence[int],
    measures: frames.Columns,
) -> dict[str, list[Any]]:
    """Run the user's measures on every measured pair; what they say goes into the fail reason."""
    if not users:
        return {}
    from llmdbg.reading import to_numpy

    reasons = list(measures["cmp_fail_reason"])
    values: dict[str, list[float | int | str | None]] = {u.name: [] for u in users}
    for row, pair in enumerate(pairs):
        if reasons[row] or measures.get("basis", ["tensors"] * (row + 1))[row] != "tensors":
            for column in values.values():
                column.append(None)
            continue
        arrays = [to_numpy(tensor) for tensor in alignment.tensors(pair)]
        messages = []
        for user in users:
            value, message = user(*arrays)
            values[user.name].append(value)
            messages += [message] if message else []
        reasons[row] = "; ".join(messages) or None
    columns = {name: custom_measures.column(column) for name, column in values.items()}
    return {"cmp_fail_reason": reasons, **columns}


def _side(path: StrPath, dump: Dump) -> Side:
    return Side(
        path=frames.text(os.fspath(path)),
        layout=dump.layout,
        variant=dump.variant,
        records=len(dump),
        problems=tuple(dump.problems),
        about=dump.about,
    )


def _nothing_in_common(golden: Dump, candidate: Dump) -> str:
    def holds(dump: Dump) -> str:
        names = dump.nodes
        if not names:
            return f"no tensors ({dump.layout}, {frames.text(dump.root)})"
        shown = ", ".join(names[:_SAMPLE]) + (", …" if len(names) > _SAMPLE else "")
        return f"{len(dump)} tensors ({dump.layout}): {shown}"

    return (
        "nothing to compare: the two sides have no tensor in common; "
        f"golden holds {holds(golden)}; candidate holds {holds(candidate)}; "
        "name the pairs with -mf if they do belong together"
    )
