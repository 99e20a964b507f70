"""The dump that a reduction writes: resumable while it grows, the same bytes however it grew.

One directory per rank in llmdbg's own layout. While it grows there are a journal and numbered data
files in the order in which tensors came; `finish` sorts everything, numbers the calls, and puts
`manifest.json` in their place. A journal line is written after its data and before an original is
deleted, so that a crash at any point loses nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from llmdbg.errors import UserError
from llmdbg.reading import read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Sketch = NDArray[np.float32]
    Record = dict[str, Any]

FORMAT = "llmdbg.dump/1"
MANIFEST, JOURNAL, LOCK = "manifest.json", "journal.jsonl", ".lock"
# Of one data file; sketches have about 2 KB.
_FILE_BYTES = 32 << 20


@dataclass
class Store:
    """A reduction's output.

    Attributes
    ----------
    path
        Its directory.
    header
        What every journal and manifest begins with.
    records
        What is reduced so far, by rank.
    modules
        The graph's nodes of an earlier reduction that is continued.
    """

    path: Path
    header: dict[str, Any]
    records: dict[int, list[Record]] = field(default_factory=lambda: defaultdict(list))
    modules: list[dict[str, Any]] = field(default_factory=list)
    _lock: IO[str] | None = None

    def open(self) -> None:
        """Make the directory, or go on where an earlier reduction of the same dump ended.

        Raises
        ------
        UserError
            When something else is there, or another process is at work.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"the output is no directory: {self.path}")
        entries = [entry.name for entry in self.path.iterdir()] if self.path.exists() else []
        ours = [name for name in entries if re.fullmatch(r"rank\d+", name)]
        if set(entries) - {LOCK, *ours}:
            raise UserError(
                "something is at the output already and is never overwritten; "
                f"choose another --output: {self.path}"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / LOCK).open("a", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another llmdbg reduce is at work here: {self.path}") from error
        for name in ours:
            self._resume(int(name.removeprefix("rank")))

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.close()

    def add(self, rank: int, records: Sequence[Record], sketches: Sequence[Sketch | None]) -> None:
        """Write a batch: first its sketches, then its lines; both are on disk afterwards.

        Raises
        ------
        OSError
            When the disk refuses, or gives back other bytes than were written.
        """
        folder = self._folder(rank)
        present = {f"t{i}": sketch for i, sketch in enumerate(sketches) if sketch is not None}
        if present:
            taken = [int(p.stem) for p in (folder / "data").glob("[0-9]*.safetensors")]
            file = folder / "data" / f"{max(taken, default=0) + 1:06}.safetensors"
            _write_sketches(file, present)
            written = read_tensors(file)
            for key, sketch in present.items():
                # Bit for bit: a NaN is no reason to doubt the disk.
                if written[key].tobytes() != sketch.tobytes():
                    raise OSError(f"the disk gave back other bytes than were written: {file}")
            for i, record in enumerate(records):
                if sketches[i] is not None:
                    record["sketch"] = {"file": f"data/{file.name}", "key": f"t{i}"}
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        with (folder / JOURNAL).open("r+b") as journal:
            start = journal.seek(0, os.SEEK_END)
            journal.write(lines)
            journal.flush()
            os.fsync(journal.fileno())
            journal.seek(start)
            if journal.read() != lines:
                raise OSError(f"the disk gave back other bytes than were written: {journal.name}")
        self.records[rank] += records

    def finish(
        self, modules: Sequence[dict[str, Any]], problems: Sequence[str], *, by_time: bool
    ) -> None:
        """Sort, number and write everything as one finished dump.

        Parameters
        ----------
        modules
            The graph's nodes as the manifest has them.
        problems
            What could not be reduced.
        by_time
            Whether `order` is a time, and calls have to be counted here because the originals may
            have been read, and deleted, a few at a time.
        """
        for rank in sorted(self.records):
            records = sorted(self.records[rank], key=_sort_key)
            if by_time:
                _number_calls(records)
            folder = self._folder(rank)
            fresh = folder / "data.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            moved = [dict(record) for record in records]
            for number, batch in enumerate(_batches(folder, records), start=1):
                name = f"sketches_{number:06}.safetensors"
                _write_sketches(fresh / name, {f"t{i}": sketch for i, sketch in batch})
                for i, _ in batch:
                    moved[i]["sketch"] = {"file": f"data/{name}", "key": f"t{i}"}
            manifest = {
                **self.header,
                "rank": rank,
                "modules": list(modules),
                "steps": _steps(moved),
                "problems": list(problems) if rank == min(self.records) else [],
                "records": moved,
            }
            # From here on the journal's files are not needed; until then they are all there is.
            for file in fresh.iterdir():
                file.replace(folder / "data" / file.name)
            fresh.rmdir()
            text = json.dumps(manifest, separators=(",", ":"))
            _write_whole(folder / MANIFEST, text.encode())
            (folder / JOURNAL).unlink(missing_ok=True)
            named = {record["sketch"]["file"] for record in moved if "sketch" in record}
            for file in (folder / "data").iterdir():
                if f"data/{file.name}" not in named:
                    file.unlink()
            self.records[rank] = moved
        (self.path / LOCK).unlink(missing_ok=True)

    def _folder(self, rank: int) -> Path:
        folder = self.path / f"rank{rank}"
        if not (folder / JOURNAL).exists() and not (folder / MANIFEST).exists():
            (folder / "data").mkdir(parents=True, exist_ok=True)
            line = json.dumps({**self.header, "rank": rank, "modules": []}) + "\n"
            _write_whole(folder / JOURNAL, line.encode())
        return folder

    def _resume(self, rank: int) -> None:
        folder = self.path / f"rank{rank}"
        manifest, journal = folder / MANIFEST, folder / JOURNAL
        found: list[Record] = []
        if journal.exists():
            head, *lines = journal.read_bytes().split(b"\n")
            header = _parsed(head)
            found = [record for line in lines if (record := _parsed(line))]
            # A line that a crash cut off would swallow the next one.
            whole = b"\n".join([head, *(line for line in lines if _parsed(line))]) + b"\n"
            _write_whole(journal, whole)
        elif manifest.exists():
            header = _parsed(manifest.read_bytes())
            found = header.pop("records", [])
            self.modules = header.get("modules", [])
            _rename_files(folder, found)
            kept = {key: header[key] for key in (*self.header, "rank") if key in header}
            lines = [json.dumps({**kept, "modules": []}).encode()]
            lines += [json.dumps(record).encode() for record in found]
            _write_whole(journal, b"\n".join(lines) + b"\n")
            manifest.unlink()
        else:
            return
        for key in ("format", "mode", "source"):
            if header.get(key) != self.header[key]:
                raise UserError(
                    f"the output holds a reduction with {key} {header.get(key)!r}, and this one's "
                    f"is {self.header[key]!r}; choose another --output: {self.path}"
                )
        self.records[rank] = found


def _rename_files(folder: Path, records: list[Record]) -> None:
    """Name a finished dump's files like an unfinished one's, so that none is overwritten."""
    names: dict[str, str] = {}
    for record in records:
        if "sketch" in record:
            old = record["sketch"]["file"]
            new = names.setdefault(old, f"data/{len(names) + 1:06}.safetensors")
            record["sketch"]["file"] = new
    for old, new in names.items():
        (folder / new).unlink(missing_ok=True)
        try:
            os.link(folder / old, folder / new)
        except OSError:  # a file system without links
            shutil.copyfile(folder / old, folder / new)


def _sort_key(record: Record) -> tuple[Any, ...]:
    step = record["step"]
    return (
        -1 if step is None else step,
        record["order"],
        _natural(record["node"]),
        record["call"],
        ("input", "output", "param", "tensor").index(record["role"]),
        _natural(record["slot"]),
        _natural(record["source"]),
    )


def _natural(text: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), part) if part.isdigit() else (0, 0, part) for part in parts]


def _number_calls(records: list[Record]) -> None:
    """Count the executions of each node in a step; equal times of equal places are two."""
    executions: dict[tuple[Any, str], dict[tuple[int, int], int]] = defaultdict(dict)
    doubles: dict[tuple[Any, ...], int] = defaultdict(int)
    for record in records:
        place = (record["step"], record["node"], record["order"], record["role"], record["slot"])
        execution = (record["order"], doubles[place])
        doubles[place] += 1
        known = executions[record["step"], record["node"]]
        record["call"] = known.setdefault(execution, len(known))


def _batches(folder: Path, records: Sequence[Record]) -> Iterator[list[tuple[int, Sketch]]]:
    """Sketches in the order of the records, by index, as many as one file takes."""
    held: dict[str, dict[str, NDArray[Any]]] = {}
    batch: list[tuple[int, Sketch]] = []
    size = 0
    for i, record in enumerate(records):
        place = record.get("sketch")
        if place is None:
            continue
        if place["file"] not in held:
            if len(held) > 8:
                held.pop(next(iter(held)))
            held[place["file"]] = read_tensors(folder / place["file"])
        sketch = held[place["file"]][place["key"]]
        batch.append((i, sketch))
        size += sketch.nbytes
        if size >= _FILE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _steps(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{"step": s} for s in sorted({r["step"] for r in records if r["step"] is not None})]


def _write_sketches(path: Path, sketches: dict[str, Sketch]) -> None:
    table: dict[str, Any] = {}
    start = 0
    for key, sketch in sketches.items():
        end = start + sketch.nbytes
        table[key] = {"dtype": "F32", "shape": list(sketch.shape), "data_offsets": [start, end]}
        start = end
    head = json.dumps(table, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    data = b"".join(np.ascontiguousarray(s, dtype="<f4").tobytes() for s in sketches.values())
    _write_whole(path, struct.pack("<Q", len(head)) + head + data)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is complete under its name, or not there."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
