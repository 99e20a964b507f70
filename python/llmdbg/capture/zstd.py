"""Files through zstd, in frames that a table at their end tells apart.

`zstd -d` gives the file back; who knows the table (zstd's seekable format) inflates only what it
needs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from llmdbg import _core

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SKIPPABLE, _SEEKABLE = 0x184D2A5E, 0x8F92EAB1


class Frames:
    """The frames of one file, one for each part it is given."""

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] = []

    def of(self, parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        """Compress each part that is not empty."""
        for part in parts:
            plain = np.frombuffer(part, dtype=np.uint8)
            if plain.size:
                frame = _core.zstd_frame(plain)
                self._sizes.append((len(frame), plain.size))
                yield frame

    def table(self) -> bytes:
        """Tell the sizes of all frames: what the file ends with."""
        sizes = b"".join(struct.pack("<II", *pair) for pair in self._sizes)
        table = sizes + struct.pack("<IBI", len(self._sizes), 0, _SEEKABLE)
        return struct.pack("<II", _SKIPPABLE, len(table)) + table
