"""Tensors streamed into safetensors files.

A tensor is copied once, into a buffer that will be a file's data section as it stands, and the
buffer is written by a background thread and then used again. So the model waits for one copy into
warm memory and never for the disk, unless the disk falls behind by more than the bound.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmdbg.capture.background import Background
from llmdbg.capture.zstd import Frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

BUFFER_BYTES = 32 << 20
_ALIGN = 16
_DATA_ALIGN = 64

# safetensors has no name for the wide and the narrow complex types; their parts keep the bytes.
_DTYPES: dict[torch.dtype, tuple[str, tuple[int, ...]]] = {
    torch.complex128: ("F64", (2,)),
    torch.complex32: ("F16", (2,)),
    **{
        getattr(torch, name): (code, ())
        for name, code in {
            "float64": "F64",
            "float32": "F32",
            "float16": "F16",
            "bfloat16": "BF16",
            "float8_e4m3fn": "F8_E4M3",
            "float8_e5m2": "F8_E5M2",
            "float8_e4m3fnuz": "F8_E4M3FNUZ",
            "float8_e5m2fnuz": "F8_E5M2FNUZ",
            "float8_e8m0fnu": "F8_E8M0",
            "int64": "I64",
            "int32": "I32",
            "int16": "I16",
            "int8": "I8",
            "uint64": "U64",
            "uint32": "U32",
            "uint16": "U16",
            "uint8": "U8",
            "bool": "BOOL",
            "complex64": "C64",
        }.items()
        if hasattr(torch, name)
    },
}


class UnstorableError(Exception):
    """A tensor that has no place in a safetensors file; the message says why."""


class ShardWriter:
    """Appends tensors to numbered safetensors files below `folder`.

    Parameters
    ----------
    folder
        An existing directory.
    max_queue_bytes
        Memory that may wait to be written.
    pinned
        Use page-locked memory, into which a device copies while the model goes on.
    compress
        Write the files through zstd.
    """

    def __init__(
        self, folder: Path, max_queue_bytes: int, *, pinned: bool = False, compress: bool = False
    ) -> None:
        self.background = Background(max_queue_bytes)
        self.bytes_written = 0
        self._folder = folder
        self._pinned = pinned
        self._compress = compress
        self._capacity = min(BUFFER_BYTES, max(4096, max_queue_bytes // 4) & -_DATA_ALIGN)
        self._free: list[_Buffer] = []
        self._buffer: _Buffer | None = None
        self._shard = 0
        self._tensors = 0

    def put(self, tensor: torch.Tensor) -> dict[str, str]:
        """Copy `tensor` as it is now; where its bytes will be.

        Raises
        ------
        UnstorableError
            If safetensors has no dtype for it.
        StoppedError
            If writing failed earlier.
        """
        if tensor.dtype not in _DTYPES:
            raise UnstorableError(f"{tensor.dtype} has no name in a safetensors file")
        nbytes = tensor.numel() * tensor.element_size()
        key = f"t{self._tensors + 1}"
        if self._buffer is not None and not self._buffer.fits(nbytes):
            self.seal()
        place = {"file": f"data/{self._file_name(self._shard)}", "key": key}
        if nbytes > self._capacity:
            self._put_large(tensor, key, nbytes)
        else:
            if self._buffer is None:
                self._buffer = self._checkout()
            self._buffer.append(key, tensor, nbytes)
        self._tensors += 1
        return place

    def seal(self, done: Callable[[], None] | None = None) -> None:
        """End the current file; `done` runs once it, and all before it, are written."""
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            if done is not None:
                self.background.submit(done)
            return
        path = self._folder / self._file_name(self._shard)
        self._shard += 1

        def write() -> None:
            header = _header(buffer.entries())
            with path.open("xb", buffering=0) as file:
                if self._compress:
                    frames = Frames()
                    self._write(file, frames.of([header, *buffer.tensors()]))
                    self._write(file, [frames.table()])
                else:
                    self._write(file, [header, *buffer.parts()])
            self._recycle(buffer)
            if done is not None:
                done()

        self.background.submit(write, self._capacity)

    def close(self) -> None:
        """Write what is left and end the thread."""
        self.seal()
        self.background.close()

    @property
    def pending_bytes(self) -> int:
        """Bytes in the file that is being filled."""
        return self._buffer.used if self._buffer is not None else 0

    def _file_name(self, shard: int) -> str:
        return f"{shard + 1:06}.safetensors" + (".zst" if self._compress else "")

    def _put_large(self, tensor: torch.Tensor, key: str, nbytes: int) -> None:
        """Give a tensor larger than a buffer a file of its own; it passes through in pieces."""
        flat = flat_bytes(tensor)
        path = self._folder / self._file_name(self._shard)
        header = _header([(key, tensor.dtype, tensor.shape, nbytes)])
        mode, frames = "xb", Frames() if self._compress else None
        for start in range(0, nbytes, self._capacity):
            buffer = self._checkout()
            try:
                buffer.append_bytes(flat[start : start + self._capacity])
            except BaseException:
                self._recycle(buffer)
                self.background.release(self._capacity)
                raise
            is_last = start + self._capacity >= nbytes
            self._submit_piece(path, mode, header, buffer, frames, is_last=is_last)
            mode, header = "ab", b""
        self._shard += 1

    def _submit_piece(
        self,
        path: Path,
        mode: str,
        header: bytes,
        buffer: _Buffer,
        frames: Frames | None,
        *,
        is_last: bool,
    ) -> None:
        def write() -> None:
            parts: list[bytes | memoryview] = [header, *buffer.parts()]
            with path.open(mode, buffering=0) as file:
                self._write(file, parts if frames is None else frames.of(parts))
                if frames is not None and is_last:
                    self._write(file, [frames.table()])
            self._recycle(buffer)

        self.background.submit(write, self._capacity)

    def _write(self, file: Any, parts: Iterable[bytes | memoryview]) -> None:
        try:
            for part in parts:
                rest = memoryview(part)
                while rest.nbytes:
                    written = file.write(rest)
                    rest = rest[written:]
                    self.bytes_written += written
        except BaseException:
            # Half a file is of no use to a reader, and its space may be what the manifest needs.
            Path(file.name).unlink(missing_ok=True)
            raise

    def _checkout(self) -> _Buffer:
        self.background.reserve(self._capacity)
        # Last in, first out: the buffer written last is the one still in the processor's cache.
        return self._free.pop() if self._free else _Buffer(self._capacity, pinned=self._pinned)

    def _recycle(self, buffer: _Buffer) -> None:
        buffer.clear()
        self._free.append(buffer)


class _Buffer:
    """A file's data section in the making.

    Tensors whose length keeps the alignment grow from the front, the others from the back, so
    that a file has no gaps (safetensors allows none) and still every tensor of the front is
    aligned for whoever maps it.
    """

    def __init__(self, capacity: int, *, pinned: bool) -> None:
        self._pinned = pinned
        # A buffer made in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            self._bytes = torch.empty(capacity, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        self._capacity = capacity
        self._streams: dict[Any, Any] = {}
        self.clear()

    def clear(self) -> None:
        self._front = 0
        self._back = self._capacity
        self._aligned: list[tuple[str, torch.dtype, torch.Size, int]] = []
        self._odd: list[tuple[str, torch.dtype, torch.Size, int]] = []
        self._streams.clear()

    @property
    def used(self) -> int:
        return self._front + self._capacity - self._back

    def fits(self, nbytes: int) -> bool:
        return self._front + nbytes <= self._back

    def append(self, key: str, tensor: torch.Tensor, nbytes: int) -> None:
        entry = (key, tensor.dtype, tensor.shape, nbytes)
        if nbytes % _ALIGN == 0:
            place = self._bytes[self._front : self._front + nbytes]
            self._copy(place.view(tensor.dtype).view(tensor.shape), tensor)
            self._front += nbytes
            self._aligned.append(entry)
        else:
            place = self._bytes[self._back - nbytes : self._back]
            self._copy(place, flat_bytes(tensor))
            self._back -= nbytes
            self._odd.append(entry)

    def append_bytes(self, flat: torch.Tensor) -> None:
        self._copy(self._bytes[self._front : self._front + flat.numel()], flat)
        self._front += flat.numel()

    def entries(self) -> list[tuple[str, torch.dtype, torch.Size, int]]:
        """Tensors in the order of their bytes in the file."""
        return [*self._aligned, *reversed(self._odd)]

    def parts(self) -> tuple[memoryview, memoryview]:
        """Wait for all copies; the bytes in front and at the back."""
        for event in self._streams.values():
            event.synchronize()
        array: Any = self._bytes.numpy()
        return memoryview(array[: self._front]), memoryview(array[self._back :])

    def tensors(self) -> Iterator[memoryview]:
        """Wait for all copies; the bytes of each tensor, in the order of the file."""
        head, tail = self.parts()
        for part, entries in ((head, self._aligned), (tail, reversed(self._odd))):
            start = 0
            for *_, nbytes in entries:
                yield part[start : start + nbytes]
                start += nbytes

    def _copy(self, place: torch.Tensor, tensor: torch.Tensor) -> None:
        if tensor.device.type == "cpu":
            place.copy_(tensor)
            return
        place.copy_(tensor, non_blocking=self._pinned)
        if self._pinned:
            device_module = getattr(torch, tensor.device.type)
            stream = device_module.current_stream(tensor.device)
            # One event per stream is enough: recorded again, it stands for all copies before it.
            if stream not in self._streams:
                self._streams[stream] = device_module.Event()
            self._streams[stream].record(stream)


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of `tensor` in row-major order; a copy where they do not lie so."""
    whole = tensor.resolve_conj().resolve_neg().contiguous()
    return whole.reshape(-1).view(torch.uint8)


def _header(entries: Sequence[tuple[str, torch.dtype, torch.Size, int]]) -> bytes:
    table: dict[str, Any] = {}
    start = 0
    for key, dtype, shape, nbytes in entries:
        code, more = _DTYPES[dtype]
        table[key] = {
            "dtype": code,
            "shape": [*shape, *more],
            "data_offsets": [start, start + nbytes],
        }
        start += nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _DATA_ALIGN)
    return len(text).to_bytes(8, "little") + text
