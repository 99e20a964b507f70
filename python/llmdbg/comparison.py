"""Comparing two runs, from paths to a judged report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg import _core, reduced
from llmdbg import custom as custom_measures
from llmdbg import frame as frames
from llmdbg import verdict as verdicts
from llmdbg.dump import open_dump
from llmdbg.errors import UserError
from llmdbg.report import folder, summary
from llmdbg.report.model import Report, Side
from llmdbg.report.text import ranges

if TYPE_CHECKING:
    import polars as pl

    from llmdbg.dump import Dump

StrPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]
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
    """

    report: Report
    files: dict[str, str] | None = None

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
        return summary.summary(self.report, self.files or {})

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
    custom: Sequence[str] = (),
    step: int | Sequence[int] | None = None,
    rank: int | Sequence[int] | None = None,
    last_output_only: bool = False,
    shadow: verdicts.Mode = "auto",
    calibrate: StrPath | None = None,
    gates: Sequence[str] = (),
    progress: Progress | None = None,
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
    custom : sequence of str
        Measures of your own, ``file.py:func`` each; see `llmdbg.custom.load`.
    step, rank : int or sequence of int, optional
        Compare these only.
    last_output_only : bool
        Compare only each step's last output, which is the logits where a whole model was dumped.
    shadow : {"auto", "on", "off"}
        Whether operators are computed again, in float64, from the candidate's own inputs: ``auto``
        where it costs little or something is in question, ``on`` wherever there is a formula.
    calibrate : path, optional
        A second clean run, whose distance from golden is each tensor's noise floor, or the
        ``calibration.json`` that an earlier report kept of one.
    gates : sequence of str
        Bounds such as ``max_ratio<=3``; see `llmdbg.verdict.Gate`. What they met stands in
        ``result.gates``.
    progress : callable, optional
        Called with what is done and what there is in all, as the engine counts.

    Returns
    -------
    Result

    Raises
    ------
    LlmdbgError
        A path holds no dump, or the two have nothing in common; the message says what they hold.
    OSError
        The operating system refuses to read or write a path.

    Examples
    --------
    >>> result = compare("dumps/golden", "dumps/candidate")  # doctest: +SKIP
    >>> result.culprit  # doctest: +SKIP
    """
    target = None if output is None else folder.destination(output, force=force)
    users = [custom_measures.load(s) for s in custom]
    bounds = [verdicts.Gate.parse(g) for g in gates]
    golden_dump, candidate_dump = _open(golden, candidate)
    wanted = _Wanted(_numbers(step), _numbers(rank), last_output_only)
    measure = _Measure(wanted, threads=threads, kl=kl, users=users, progress=progress)
    calibration = None
    if calibrate is not None:
        calibration = _calibration(Path(calibrate), golden_dump, measure)
    frame, alignment = measure.frame(golden_dump, candidate_dump, mapping)
    named = frame.select("golden_node", "candidate_node").drop_nulls().unique(maintain_order=True)
    verdict = verdicts.judge(
        frame,
        golden_dump.graph,
        checker=verdicts.Checker(golden_dump, candidate_dump, shadow),
        calibration=calibration,
        parameters=verdicts.parameter_differences(
            golden_dump.graph, candidate_dump.graph, dict(named.iter_rows())
        ),
    )
    judged = frames.with_verdict(
        frame, verdict.states, verdict.reasons, verdict.ratios, verdict.floors, verdict.more
    )
    report = Report(
        golden=_side(golden, golden_dump),
        candidate=_side(candidate if candidate is not None else golden, candidate_dump),
        frame=judged,
        verdict=verdict,
        alignment=alignment.to_json(),
        notes=tuple(alignment.notes),
        gates=tuple(gate.check(judged) for gate in bounds),
        calibration=calibration,
    )
    result = Result(report)
    if target is not None:
        result.files = folder.write(report, target, force=force)
    return result


@dataclass(frozen=True)
class _Measure:
    """Lining up and measuring two dumps."""

    wanted: _Wanted
    threads: int
    kl: bool
    users: Sequence[custom_measures.CustomMeasure]
    progress: Progress | None

    def frame(
        self, golden: Dump, candidate: Dump, mapping: StrPath | None
    ) -> tuple[pl.DataFrame, _core.Alignment]:
        """Return the frame, not yet judged, and the alignment it rests on."""
        alignment = _align(golden, candidate, mapping)
        if not len(alignment):
            raise UserError(_nothing_in_common(golden, candidate))
        pairs = self.wanted.pairs(alignment.columns(), golden)
        measures = _core.compare_pairs(
            golden.core,
            candidate.core,
            pairs["golden"],
            pairs["candidate"],
            threads=self.threads,
            kl=self.kl,
            progress=self.progress,
        )
        measures |= reduced.measure(golden, candidate, pairs, measures)
        measures |= _measure_custom(self.users, golden, candidate, pairs, measures)
        frame = frames.build(
            golden.core.columns(),
            candidate.core.columns(),
            pairs,
            measures,
            self.wanted.among([i for i, _ in alignment.unmatched_golden], golden),
            self.wanted.among([i for i, _ in alignment.unmatched_candidate], candidate),
            {
                "golden": dict(alignment.unmatched_golden),
                "candidate": dict(alignment.unmatched_candidate),
            },
        )
        return frame, alignment


def _calibration(path: Path, golden: Dump, measure: _Measure) -> verdicts.Calibration:
    """Read a calibration, or measure one on a second clean run."""
    if path.suffix == ".json" and verdicts.Calibration.is_one(path):
        return verdicts.Calibration.read(path)
    frame, _ = replace(measure, kl=False, users=()).frame(golden, open_dump(path), None)
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


def _align(golden: Dump, candidate: Dump, mapping: StrPath | None) -> _core.Alignment:
    if mapping is None:
        return _core.align(golden.core, candidate.core)
    path = Path(mapping)
    if path.is_dir():
        path /= "alignment.json"
    text = path.read_text(encoding="utf-8", errors="replace")
    return _core.Alignment.from_json(text, golden.core, candidate.core, str(path))


@dataclass(frozen=True)
class _Wanted:
    """Which records the user wants compared."""

    steps: frozenset[int]
    ranks: frozenset[int]
    last_output_only: bool

    def pairs(self, pairs: frames.Columns, golden: Dump) -> frames.Columns:
        """Return the wanted ones among the columns of all pairs."""
        if not self._any:
            return pairs
        records = set(self.among(pairs["golden"], golden))
        if not records:
            raise UserError(
                "no pair of that step and rank; "
                f"steps: {ranges(golden.steps)}, ranks: {ranges(golden.ranks)}"
            )
        chosen = [i for i, record in enumerate(pairs["golden"]) if record in records]
        return {name: [column[i] for i in chosen] for name, column in pairs.items()}

    @property
    def _any(self) -> bool:
        return bool(self.steps or self.ranks or self.last_output_only)

    def among(self, records: Sequence[int], dump: Dump) -> list[int]:
        """Return the wanted ones among some records of a dump."""
        if not self._any:
            return list(records)
        columns = dump.core.columns()
        fit = [
            i
            for i in records
            if (not self.steps or columns["step"][i] in self.steps)
            and (not self.ranks or columns["rank"][i] in self.ranks)
        ]
        if not self.last_output_only:
            return fit
        # Later records overwrite earlier ones, and records come in execution order.
        last = {
            (columns["step"][i], columns["rank"][i]): columns["order"][i]
            for i in sorted(fit, key=lambda i: columns["order"][i])
            if columns["role"][i] == "output"
        }
        return [
            i
            for i in fit
            if columns["role"][i] == "output"
            and columns["order"][i] == last[columns["step"][i], columns["rank"][i]]
        ]


def _numbers(given: int | Sequence[int] | None) -> frozenset[int]:
    if given is None:
        return frozenset()
    return frozenset([given] if isinstance(given, int) else given)


def _measure_custom(
    users: Sequence[custom_measures.CustomMeasure],
    golden: Dump,
    candidate: Dump,
    pairs: frames.Columns,
    measures: frames.Columns,
) -> dict[str, list[Any]]:
    """Run the user's measures on every measured pair; what they say goes into the fail reason."""
    if not users:
        return {}
    reasons = list(measures["cmp_fail_reason"])
    values: dict[str, list[float | int | str | None]] = {u.name: [] for u in users}
    for row, (ours, theirs) in enumerate(zip(pairs["golden"], pairs["candidate"], strict=True)):
        if reasons[row] or measures.get("basis", ["tensors"] * (row + 1))[row] != "tensors":
            for column in values.values():
                column.append(None)
            continue
        arrays = golden.tensor(ours), candidate.tensor(theirs)
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
