"""What a recording would cost, found out by one that writes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmdbg import _core

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from llmdbg.capture.seen import Same

_PROBE_BYTES = 64 << 20


@dataclass(frozen=True)
class Cost:
    """What a recording takes.

    Attributes
    ----------
    forwards, records, tensors
        What was counted; a tensor met again is no further one.
    nbytes
        Bytes that would be written.
    write_rate
        Bytes per second that a file of 64 MiB reached where the dump would lie.
    free
        Bytes that are free there.
    """

    forwards: int
    records: int
    tensors: int
    nbytes: int
    write_rate: float
    free: int

    @property
    def seconds(self) -> float:
        """Time to write the bytes; about what the run becomes longer by, at most."""
        return self.nbytes / self.write_rate

    def __str__(self) -> str:
        text = (
            f"{self.forwards} forwards: {self.records} records of {self.tensors} tensors, "
            f"{self.nbytes / 1e9:.2f} GB, about {self.seconds:.1f} s to write at "
            f"{self.write_rate / 1e9:.2f} GB/s; {self.free / 1e9:.1f} GB are free"
        )
        return text + ("" if self.nbytes <= self.free else ": NOT ENOUGH")


class CountingSink:
    """Counts what another sink would write."""

    lone = "0"
    error: BaseException | None = None
    bytes_written = 0

    def __init__(self, mode: str, folder: Path) -> None:
        self.same: Same = "tensor" if mode == "sketch" else "bytes"
        self.records_written = 0
        self._mode = mode
        self._folder = folder
        self._steps = self._tensors = self._bytes = 0

    def store(self, tensor: torch.Tensor, _record: dict[str, Any]) -> dict[str, Any]:
        """Count a tensor."""
        self._tensors += 1
        if self._mode == "full":
            self._bytes += tensor.numel() * tensor.element_size()
        elif self._mode == "sketch":
            buckets, _, norms, places = _core.sketch_layout(list(tensor.shape))
            self._bytes += 4 * (buckets + norms + len(places))
        return {}

    def again(self, place: dict[str, Any], _record: dict[str, Any]) -> dict[str, Any]:
        """Count nothing."""
        return place

    def emit(self, records: list[dict[str, Any]]) -> None:
        """Count records."""
        self.records_written += len(records)

    def end_step(self, _step: dict[str, Any]) -> None:
        """Count a forward."""
        self._steps += 1

    def close(self, problems: list[str], failure: Exception | None) -> None:
        """Do nothing: there is no dump to finish."""

    def cost(self) -> Cost:
        """Return what was counted, and how fast it could be written."""
        folder = self._folder.absolute()
        while not folder.is_dir():
            folder = folder.parent
        rate = _write_rate(folder)
        free = shutil.disk_usage(folder).free
        records = self.records_written
        return Cost(self._steps, records, self._tensors, self._bytes, rate, free)


def _write_rate(folder: Path) -> float:
    piece = bytes(_PROBE_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return _PROBE_BYTES / (time.perf_counter() - start)
