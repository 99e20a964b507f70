"""Opening two runs, lining them up and measuring their pairs.

Imports nothing that takes long, so that the engine starts at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmdbg import _core
from llmdbg import custom as custom_measures
from llmdbg.dump import open_dump
from llmdbg.errors import UserError
from llmdbg.report.text import path_text, ranges

if TYPE_CHECKING:
    import polars as pl

    from llmdbg.dump import Dump
    from llmdbg.frame import Columns
    from llmdbg.resume import Resume

StrPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]
Measured = Mapping[tuple[int, int], Mapping[str, Any]]
"""Measures of pairs, by the indices of the golden and the candidate record."""
_SAMPLE = 4


def open_both(golden: StrPath, candidate: StrPath | None) -> tuple[Dump, Dump]:
    """Open the dumps of both sides; a manual mapping is both by itself.

    Raises
    ------
    UserError
        There is no `candidate`, and `golden` names one side only.
    LlmdbgError
        A path holds no dump, or several.
    OSError
        The operating system refuses to read a path.
    """
    dump = open_dump(golden)
    if candidate is not None:
        return dump, open_dump(candidate)
    other = dump.candidate()
    if other is None:
        raise UserError(
            f"two paths are needed: only a manual mapping names both sides, and this is a "
            f"{dump.layout} dump: {path_text(os.fspath(golden))}"
        )
    return dump, other


@dataclass(frozen=True)
class Measuring:
    """Lining up and measuring two dumps."""

    wanted: Wanted
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
    ) -> Pairs:
        """Line two dumps up, and choose the wanted pairs."""
        options = {"mapping": mapping, "weights": weights}
        given: dict[str, Any] = {n: os.fspath(p) for n, p in options.items() if p is not None}
        given["ignore_topology"] = self.ignore_topology
        alignment = _core.align(golden.core, candidate.core, json.dumps(given))
        if not len(alignment):
            raise UserError(_nothing_in_common(golden, candidate))
        return Pairs(golden, candidate, alignment, self.wanted.pairs(alignment, golden))

    def frame(self, pairs: Pairs, chosen: Sequence[int], *, alone: bool = False) -> pl.DataFrame:
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
            # Only now: the engine need not wait until numpy and polars are there.
            from llmdbg import frame as frames
            from llmdbg import reduced

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
class Pairs:
    """Two dumps lined up, and the pairs that are wanted."""

    golden: Dump
    candidate: Dump
    alignment: _core.Alignment
    chosen: list[int]


@dataclass(frozen=True)
class Wanted:
    """Which steps and ranks the user wants compared."""

    steps: frozenset[int]
    ranks: frozenset[int]

    @classmethod
    def of(cls, step: int | Sequence[int] | None, rank: int | Sequence[int] | None) -> Wanted:
        """Return what the user's numbers ask for; None asks for all."""
        return cls(_numbers(step), _numbers(rank))

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


def _numbers(given: int | Sequence[int] | None) -> frozenset[int]:
    if given is None:
        return frozenset()
    return frozenset([given] if isinstance(given, int) else given)


def _take_over(measured: Measured | None, pairs: Columns, measures: dict[str, Any]) -> None:
    """Put rows that were measured while the tensors were there in place of those of now."""
    for row, pair in enumerate(zip(pairs["golden"], pairs["candidate"], strict=True)):
        for name, value in (measured or {}).get(pair, {}).items():
            measures[name][row] = value


def _measure_custom(
    users: Sequence[custom_measures.CustomMeasure],
    alignment: _core.Alignment,
    pairs: Sequence[int],
    measures: Columns,
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


def _nothing_in_common(golden: Dump, candidate: Dump) -> str:
    def holds(dump: Dump) -> str:
        names = dump.nodes
        if not names:
            return f"no tensors ({dump.layout}, {path_text(dump.root)})"
        shown = ", ".join(names[:_SAMPLE]) + (", …" if len(names) > _SAMPLE else "")
        return f"{len(dump)} tensors ({dump.layout}): {shown}"

    return (
        "nothing to compare: the two sides have no tensor in common; "
        f"golden holds {holds(golden)}; candidate holds {holds(candidate)}; "
        "name the pairs with -mf if they do belong together"
    )
