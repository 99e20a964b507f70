"""Holding each tensor against a golden dump as it appears."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from llmdbg import _core
from llmdbg.capture.holding import Held, HoldingSink
from llmdbg.capture.reduce import reduce
from llmdbg.capture.shards import UnstorableError, flat_bytes
from llmdbg.verdict.floor import grown, pair_floor
from llmdbg.verdict.standing import FAIL_FACTOR

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from llmdbg.capture.recorder import Sink
    from llmdbg.dump import Dump
    from llmdbg.result import Result

_NAMED = ("step", "node", "call", "role", "slot")
Name = tuple[Any, ...]


class CompareSink(HoldingSink):
    """Keeps the measures of every tensor, and the bytes of those of failing calls.

    Parameters
    ----------
    behind, max_bytes
        As in :class:`HoldingSink`.
    golden
        What each tensor is held against, by step, node, call, role and slot.
    rank
        This process's rank.
    """

    def __init__(self, behind: Sink, max_bytes: int, golden: Dump, rank: int) -> None:
        super().__init__(behind, max_bytes)
        self.diverged: str | None = None
        self._golden = golden
        self._index = _by_name(golden, rank)
        self._rows: dict[Name, tuple[int, dict[str, Any]]] = {}
        self._calls: Counter[Any] = Counter()
        self._failing = 0

    def _call(self, call: list[Held]) -> None:
        step = call[0].record["step"]
        self._calls[step] += 1
        wrong = [
            text for held in call if (text := self._compare(held, self._calls[step])) is not None
        ]
        if wrong:
            self._failing += 1
            self.diverged = self.diverged or wrong[0]
            self._keep(call)
            return
        for record, tensor in call:
            if tensor is not None:
                try:
                    record.update(reduce(tensor, "statistics").fields)
                except UnstorableError as error:
                    record["skipped"] = str(error)
        self._behind.emit([held.record for held in call])

    def _step(self, step: dict[str, Any]) -> None:
        self._behind.end_step(step)

    def _end(self, problems: list[str]) -> None:
        if not self._rows:
            problems.append(
                f"no tensor has a counterpart of its name in the golden dump: {self._golden.root}"
            )

    def _compare(self, held: Held, depth: int) -> str | None:
        """Measure a tensor; in words, what is wrong with an output."""
        record, tensor = held
        name = tuple(record[part] for part in _NAMED)
        index = self._index.get(name)
        if tensor is None or index is None:
            return None
        row = _measured(self._golden, index, tensor)
        self._rows[name] = index, row
        if record["role"] != "output":
            return None
        reason = _wrong(row, depth)
        if reason is None:
            return None
        return f"step {record['step']}, {record['node'] or 'the model'}: {reason}"

    def result(self, path: Path) -> Result:
        """Judge what was measured; `path` is the finished dump."""
        from llmdbg.comparison import compare
        from llmdbg.dump import open_dump

        columns = open_dump(path).core.columns()
        measured = {}
        for i, name in enumerate(zip(*(columns[part] for part in _NAMED), strict=True)):
            if name in self._rows:
                index, row = self._rows[name]
                measured[index, i] = row
        return compare(self._golden.root, path, measured=measured)


def _by_name(golden: Dump, rank: int) -> dict[Name, int]:
    columns = golden.core.columns()
    # A run of one rank serves all.
    ranks = set(columns["rank"])
    return {
        name: i
        for i, name in enumerate(zip(*(columns[part] for part in _NAMED), strict=True))
        if len(ranks) == 1 or columns["rank"][i] == rank
    }


def _measured(golden: Dump, index: int, tensor: torch.Tensor) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    data = flat_bytes(tensor).numpy()
    columns = _core.compare_bytes(golden.core, index, data, dtype, list(tensor.shape))
    return {name: column[0] for name, column in columns.items()}


def _wrong(row: dict[str, Any], depth: int) -> str | None:
    """Say what is wrong with an output beyond any doubt, or None."""
    if row["bitwise_equal"]:
        return None
    if row["finiteness_mismatch"] > 0:
        return f"NaN or infinity on one side only at {row['finiteness_mismatch']} positions"
    golden, candidate = row["golden_shape"], row["candidate_shape"]
    if row["cmp_fail_reason"]:
        differs = golden and candidate and golden != candidate
        return f"its shape is {candidate}, golden {golden}" if differs else None
    floor = pair_floor(row["golden_dtype"], row["candidate_dtype"])
    limit = FAIL_FACTOR * grown(floor, depth) if floor is not None else 0.0
    error = row["relative_l2"]
    return f"relative L2 error {error:.2e}, limit {limit:.2e}" if error > limit else None
