"""Reducing a dump, while it grows or afterwards, to statistics or sketches that `compare` reads."""

from __future__ import annotations

import math
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmdbg import _core
from llmdbg._core import LlmdbgError
from llmdbg.dump import Dump, open_dump
from llmdbg.errors import UserError
from llmdbg.reduce_store import FORMAT, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmdbg.reduce_store import Record, Sketch

    Row = dict[str, Any]
    Mode = Literal["sketch", "statistics"]

_NUMBERS = ("min", "max", "mean", "norm")
_COUNTS = ("nan", "pos_inf", "neg_inf", "zero")
# Their records' order is a time, and files of theirs may go while others come.
_BY_TIME = ("ge", "fx")
_BATCH = 4096
# GE promises these tensors and writes no bytes of them: there is nothing to lose.
_NEVER_WRITTEN = "had no device address"


@dataclass
class Reduced:
    """What a reduction did.

    Attributes
    ----------
    path
        The reduced dump.
    tensors, read_bytes
        Tensors reduced by this call, and the bytes they had.
    files_deleted
        Originals deleted.
    problems
        What could not be reduced, in words.
    """

    path: Path
    tensors: int = 0
    read_bytes: int = 0
    files_deleted: int = 0
    problems: list[str] = field(default_factory=list)


def reduce_dump(
    dump: str | Path,
    output: str | Path | None = None,
    *,
    mode: Mode = "sketch",
    delete: bool = False,
    watch: Callable[[bool], bool] | None = None,
    settle: float = 2.0,
    poll: float = 1.0,
) -> Reduced:
    """Reduce every tensor of a dump to statistics or a sketch.

    Parameters
    ----------
    dump
        The dump's directory; with `watch` it may still be missing or empty.
    output
        Where the reduced dump goes: a missing or empty directory, or an unfinished or finished
        reduction of the same dump, which is continued. By default `<dump>_reduced` beside it.
    mode
        ``"sketch"``: statistics and about 2 KB a tensor, from which `compare` estimates errors;
        ``"statistics"``: min, max, mean, L2 norm and counts of NaN, infinities and zeros.
    delete
        Delete a file once all its tensors are reduced, written and read back, if it has not
        changed meanwhile. Files that hold no tensors stay.
    watch
        Asked after each look at the dump, with whether something new was there; the reduction
        ends when it answers False. None looks once.
    settle
        Seconds for which a file must not have changed before it is read. Without `watch`
        everything is read at once.
    poll
        Seconds between two looks.

    Returns
    -------
    Reduced

    Raises
    ------
    LlmdbgError
        If there is no dump, there are several, or the output cannot be continued.
    OSError
        If a disk refuses.
    """
    source = Path(os.path.abspath(dump))  # noqa: PTH100  # a link keeps the name the user knows
    target = Path(output).absolute() if output else source.with_name(f"{source.name}_reduced")
    if mode not in ("sketch", "statistics"):
        raise UserError(f"mode is sketch or statistics, found {mode!r}")
    if target == source or source in target.parents:
        raise UserError(f"the output must not lie in the dump that is read: {target}")
    if watch is None and not source.exists():
        raise UserError(f"no such dump: {source}")
    about = {"reduced_to": mode, "reduced_from": str(source)}
    header = {"format": FORMAT, "mode": mode, "source": str(source), "about": about}
    store = Store(target, header)
    store.open()
    try:
        return _Reduction(source, store, mode, delete=delete).run(watch, settle, poll)
    finally:
        store.close()


class _Reduction:
    def __init__(self, source: Path, store: Store, mode: Mode, *, delete: bool) -> None:
        self._source = source
        self._store = store
        self._mode = mode
        self._delete = delete
        self._result = Reduced(store.path)
        self._done = {_identity(r) for records in store.records.values() for r in records}
        self._layout = ""
        self._modules: list[dict[str, Any]] = []
        self._failed: dict[str, str] = {}
        self._refused: set[tuple[Any, ...]] = set()

    def run(self, watch: Callable[[bool], bool] | None, settle: float, poll: float) -> Reduced:
        """Look at the dump until `watch` has enough of it, then finish the output."""
        while watch is not None:
            began = time.monotonic()
            new = self._look(settle)
            if not watch(new):
                break
            # A large dump takes long to look at; at least half of the time is the model's.
            time.sleep(max(poll, time.monotonic() - began))
        self._look(0.0, last=True)
        if not self._store.records:
            raise UserError(f"no tensor to reduce: {self._source}")
        kinds = {
            r.get("by_time", False) for of_rank in self._store.records.values() for r in of_rank
        }
        by_time = True in kinds
        if by_time:
            _tell_graphs_apart(self._source, self._store.records.values())
        self._result.problems = sorted(self._failed.values())
        modules = self._modules or self._store.modules
        self._store.finish(modules, self._result.problems, by_time=by_time)
        return self._result

    def _look(self, settle: float, *, last: bool = False) -> bool:
        """Reduce what is new and has not changed for `settle` seconds; tell whether there was."""
        try:
            dump = open_dump(self._source)
        except (LlmdbgError, OSError) as error:
            # Two runs cannot be told apart later; nothing there yet, or any more, is no mistake.
            if "dumps here, name one" in str(error) or (last and not self._store.records):
                raise
            return False
        self._layout = dump.layout
        if graph := dump.graph:
            self._modules = _modules(graph)
        rows: list[Row] = list(dump.records.iter_rows(named=True))
        by_file: dict[str | None, list[int]] = {}
        for i, row in enumerate(rows):
            by_file.setdefault(row["path"], []).append(i)
        ready: list[int] = []
        stamps: dict[str, tuple[int, int]] = {}
        for path, indices in by_file.items():
            if path is not None:
                try:
                    status = Path(path).stat()
                except OSError:
                    continue
                if settle and time.time() - status.st_mtime < settle:
                    continue
                stamps[path] = (status.st_size, status.st_mtime_ns)
            ready += indices
        # Records in the order of their files: a file is reduced, and can go, as a whole.
        records = {i: self._record(rows[i]) for i in ready}
        wanted = [
            i
            for i in ready
            if (identity := _identity(records[i])) not in self._done
            and identity not in self._refused
        ]
        found = False
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                summaries = list(pool.map(lambda i: self._summary(dump, i, rows[i]), batch))
                found |= self._keep(rows, records, batch, summaries, last=last)
        if last:
            self._keep_values(dump)
        if self._delete:
            self._delete_reduced(by_file, records, stamps)
        return found

    def _record(self, row: Row) -> Record:
        path = row["path"]
        phase = row["phase"]
        usual = {"input": "before", "output": "after"}.get(row["role"])
        odd = phase is not None and phase != usual
        return {
            "step": row["step"],
            "rank": row["rank"] or 0,
            "node": row["node"],
            "type": row["op_type"],
            "call": row["call"],
            "role": row["role"] if row["role"] != "tensor" else "output",
            "slot": f"{row['slot']}.{phase}" if odd else row["slot"],
            "order": row["order"],
            "dtype": row["dtype"],
            "shape": row["shape"],
            "source": "" if path is None else os.path.relpath(path, self._source),
            # Statistics have no file; ranks tell them apart.
            "source_key": row["key"] or ("" if path is not None else f"rank{row['rank'] or 0}"),
            "by_time": self._layout in _BY_TIME,
        }

    def _summary(self, dump: Dump, index: int, row: Row) -> dict[str, Any] | str:
        """Summarise a tensor, or say why not."""
        if row["path"] is None:
            told = {name: row.get(name) for name in (*_NUMBERS, *_COUNTS)}
            if all(value is None for value in told.values()):
                return "the producer left a description only"
            return {name: value for name, value in told.items() if value is not None}
        try:
            found = _core.summarize_record(dump.core, index, self._mode == "sketch")
        except (LlmdbgError, OSError) as error:
            return str(error)
        return dict(found)

    def _keep(
        self,
        rows: list[Row],
        records: dict[int, Record],
        batch: list[int],
        summaries: list[dict[str, Any] | str],
        *,
        last: bool,
    ) -> bool:
        """Write what could be summarised; what could not is tried again until the end."""
        by_rank: dict[int, tuple[list[Record], list[Sketch | None]]] = {}
        kept = False
        for i, summary in zip(batch, summaries, strict=True):
            record = records[i]
            name = f"{record['node']} {record['role']} {record['slot']}"
            if isinstance(summary, str):
                # What is refused today is refused tomorrow; anything else may not be whole yet.
                refused = summary.startswith("refused: ")
                if refused:
                    self._refused.add(_identity(record))
                if refused or last:
                    self._failed[f"{record['source']} {name}"] = f"{name}: {summary}"
                if refused and _NEVER_WRITTEN in summary:
                    self._done.add(_identity(record))
                continue
            sketch = summary.pop("sketch", None)
            record["stats"] = {
                key: _spelled(summary[key]) for key in (*_NUMBERS, *_COUNTS) if key in summary
            }
            for_rank = by_rank.setdefault(record.pop("rank"), ([], []))
            for_rank[0].append(record)
            for_rank[1].append(sketch)
            self._result.tensors += 1
            self._result.read_bytes += _bytes(rows[i])
            kept = True
        for rank, (of_rank, sketches) in sorted(by_rank.items()):
            self._store.add(rank, of_rank, sketches)
            self._done |= {_identity(record) for record in of_rank}
        return kept

    def _keep_values(self, dump: Dump) -> None:
        by_rank: dict[int, list[Record]] = {}
        for value in dump.values:
            record = {
                **{name: value[name] for name in ("step", "node", "call", "role", "slot", "value")},
                "order": 0,
                "source": "",
                "source_key": f"value of rank{value['rank'] or 0}",
            }
            if _identity(record) not in self._done:
                by_rank.setdefault(value["rank"] or 0, []).append(record)
        for rank, records in sorted(by_rank.items()):
            self._store.add(rank, records, [None] * len(records))
            self._done |= {_identity(record) for record in records}

    def _delete_reduced(
        self,
        by_file: dict[str | None, list[int]],
        records: dict[int, Record],
        stamps: dict[str, tuple[int, int]],
    ) -> None:
        """Delete the files all of whose tensors are on disk in reduced form."""
        for path, stamp in stamps.items():
            if not all(_identity(records[i]) in self._done for i in by_file[path]):
                continue
            file = Path(path)
            status = file.lstat()
            inside = self._source == file or self._source in file.parents
            unchanged = (status.st_size, status.st_mtime_ns) == stamp
            if inside and unchanged and not file.is_symlink():
                file.unlink()
                self._result.files_deleted += 1


def _identity(record: Record) -> tuple[Any, ...]:
    """Tell which original a record is of, whatever else of the dump is still there."""
    place = tuple(record[name] for name in ("source", "source_key", "step", "role", "slot"))
    if record.get("by_time") and record["source"]:
        # Calls are counted among the files that are left, and a second graph changes the names.
        return place
    return (*place, record["node"], record["call"])


def _spelled(value: float) -> float | str | None:
    """Spell a number as strict JSON has it."""
    if isinstance(value, int) or math.isfinite(value):
        return value
    return None if math.isnan(value) else repr(value)


def _bytes(row: Row) -> int:
    if row["shape"] is None or row["path"] is None:
        return 0
    digits = re.search(r"\d+", row["dtype"] or "")
    bits = int(digits[0]) if digits else 8
    return int(math.prod(row["shape"]) * max(bits, 8) // 8)


def _modules(graph: dict[str, Any]) -> list[dict[str, Any]]:
    nodes, tensors = graph["nodes"], graph["tensors"]
    return [
        {
            "name": node["name"],
            "type": node["type"],
            "params": node["params"],
            "parent": None if node["parent"] is None else nodes[node["parent"]]["name"],
            **{
                side: [tensors[number] for number in node[side]]
                for side in ("inputs", "outputs")
                if node[side]
            },
        }
        for node in nodes
    ]


def _tell_graphs_apart(source: Path, ranks: Iterable[list[Record]]) -> None:
    """Put the graph's name before its nodes' where a later graph made it necessary."""
    found = [
        (record, _graph_of(source / record["source"]))
        for records in ranks
        for record in records
        if record["source"]
    ]
    if len({graph for _, graph in found}) < 2:
        return
    for record, graph in found:
        if graph and not record["node"].startswith(f"{graph}/"):
            record["node"] = f"{graph}/{record['node']}"


def _graph_of(path: Path) -> str:
    """Name the compiled graph that a file of a GE or FX dump belongs to, by its directories."""
    parts = path.parts[:-1]
    times = [i for i, part in enumerate(parts) if re.fullmatch(r"\d{14}", part)]
    below = parts[times[-1] + 1 :] if times else ()
    if len(below) >= 4:
        return below[1]
    if len(parts) > 1 and re.fullmatch(r"graph_\d+", parts[-2]):
        return parts[-2]
    if re.fullmatch(r"gm_.*dump", parts[-1]):
        siblings = sorted(p.name for p in path.parent.parent.glob("gm_*dump"))
        return f"gm_{siblings.index(parts[-1])}" if parts[-1] in siblings else ""
    return ""
