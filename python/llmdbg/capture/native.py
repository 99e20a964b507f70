"""The native dump: safetensors files, a journal while running, one manifest at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from llmdbg.capture.encode import to_json
from llmdbg.capture.ranks import merge_ranks
from llmdbg.capture.reduce import reduce
from llmdbg.capture.shards import ShardWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from llmdbg.capture.reduce import Mode
    from llmdbg.capture.seen import Same

FORMAT = "llmdbg.dump/1"
_SEAL_SECONDS = 1.0
_STEP_SEAL_SECONDS = 0.1
_STEP_SEAL_BYTES = 1 << 18


class NativeSink:
    """Writes one rank's dump into `folder`.

    The journal names a tensor only after its file is written, so that a run killed at any moment
    leaves a dump that reads; :meth:`close` turns the journal into `manifest.json`.
    """

    lone = "0"

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        max_queue_bytes: int,
        *,
        pinned: bool,
        mode: Mode = "full",
        compress: bool = False,
    ) -> None:
        self.folder = folder
        # The norms of a sketch are of rows; bytes and their statistics have no shape.
        self.same: Same = "tensor" if mode == "sketch" else "bytes"
        (folder / "data").mkdir(parents=True)
        self._mode = mode
        self._header = {"format": FORMAT, "mode": mode, **header}
        self._journal = (folder / "journal.jsonl").open("x", encoding="utf-8", newline="\n")
        self._journal.write(to_json(self._header) + "\n")
        self._journal.flush()
        self._shards = ShardWriter(
            folder / "data", max_queue_bytes, pinned=pinned, compress=compress
        )
        self._pending: list[dict[str, Any]] = []
        self._steps: list[dict[str, Any]] = []
        self._fills: list[Callable[[], None]] = []
        self._weights: list[str] = []
        self._records: list[str] = []
        self._sealed = time.monotonic()

    @property
    def error(self) -> BaseException | None:
        """What stopped the writing, if anything did."""
        return self._shards.background.error

    @property
    def bytes_written(self) -> int:
        """Bytes of tensor files on disk so far."""
        return self._shards.bytes_written

    @property
    def records_written(self) -> int:
        """Records whose bytes are on disk so far."""
        return len(self._weights) + len(self._records)

    def store(self, tensor: torch.Tensor, _record: dict[str, Any]) -> dict[str, Any]:
        """Keep `tensor` as it is now, or what the mode makes of it; the fields that say where."""
        if self._mode == "full":
            return self._shards.put(tensor)
        reduced = reduce(tensor, self._mode)
        if reduced.sketch is not None:
            reduced.fields["sketch"] = self._shards.put(reduced.sketch)
        if reduced.fill is not None:
            self._fills.append(reduced.fill)
        return reduced.fields

    def again(self, place: dict[str, Any], _record: dict[str, Any]) -> dict[str, Any]:
        """Say where a tensor is that was kept before."""
        return place

    def emit(self, records: list[dict[str, Any]]) -> None:
        """Add finished records."""
        self._pending += records
        if time.monotonic() - self._sealed > _SEAL_SECONDS:
            self._seal()

    def end_step(self, step: dict[str, Any]) -> None:
        """Note that a step is over: what it left should soon be on disk."""
        self._steps.append(step)
        age = time.monotonic() - self._sealed
        if age > _STEP_SEAL_SECONDS or self._shards.pending_bytes >= _STEP_SEAL_BYTES:
            self._seal()

    def close(self, problems: list[str], failure: Exception | None) -> None:
        """Write what is left, and the manifest.

        Parameters
        ----------
        problems
            What the dump's reader should know.
        failure
            What ended the recording early, if anything did.

        Raises
        ------
        OSError
            If the manifest cannot be written; the journal then stays and the dump still reads.
        """
        self._seal()
        self._shards.close()
        cause = self.error or failure
        if cause is not None:
            problems = [*problems, f"recording stopped early: {cause}"]
        self._journal.close()
        self._finish(problems)

    def _seal(self) -> None:
        self._sealed = time.monotonic()
        pending, self._pending = self._pending, []
        fills, self._fills = self._fills, []
        self._shards.seal(lambda: self._write_journal(pending, fills))

    def _write_journal(
        self, records: list[dict[str, Any]], fills: list[Callable[[], None]]
    ) -> None:
        for fill in fills:
            fill()
        lines = [to_json(record) for record in records]
        self._journal.write("".join(line + "\n" for line in lines))
        self._journal.flush()
        for record, line in zip(records, lines, strict=True):
            (self._weights if record["role"] == "param" else self._records).append(line)

    def _finish(self, problems: list[str]) -> None:
        final = self.folder / "manifest.json"
        partial = self.folder / "manifest.json.part"
        head = {**self._header, "problems": problems, "steps": self._steps}
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(to_json(head)[:-1])
            for name, lines in (("weights", self._weights), ("records", self._records)):
                file.write(f',\n"{name}":[\n')
                file.write(",\n".join(lines))
                file.write("]")
            file.write("}\n")
        partial.replace(final)
        (self.folder / "journal.jsonl").unlink()
        world = self._header["world_size"]
        if world > 1:
            merge_ranks(self.folder.parent, self._header["rank"], world)
