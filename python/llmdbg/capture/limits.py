"""Ends of the room a dump may take."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmdbg._core import LlmdbgError

if TYPE_CHECKING:
    from pathlib import Path

# Asking the file system costs more than a small tensor does.
_ASK_EVERY = 16 << 20


class LimitReachedError(Exception):
    """The dump may not grow; the message says why."""


@dataclass
class Limits:
    """How large a dump may become.

    Parameters
    ----------
    max_bytes
        Bytes of tensors; None for no limit.
    min_free
        Bytes that must stay free where the dump lies; None for no limit.

    Raises
    ------
    LlmdbgError
        If a limit is negative.
    """

    max_bytes: int | None = None
    min_free: int | None = None
    used: int = field(init=False, default=0)
    _asked: int = field(init=False, default=-_ASK_EVERY)

    def __post_init__(self) -> None:
        for name in ("max_bytes", "min_free"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise LlmdbgError(f"{name} is a number of bytes from 0 upwards, found {value}")

    def take(self, nbytes: int, folder: Path) -> None:
        """Count bytes that are about to be written.

        Raises
        ------
        LimitReachedError
            If they are too many.
        """
        if self.max_bytes is not None and self.used + nbytes > self.max_bytes:
            raise LimitReachedError(
                f"max_bytes={self.max_bytes} is reached: {self.used} bytes are recorded, "
                f"and the next tensor has {nbytes}"
            )
        self.used += nbytes
        if self.min_free is None or self.used - self._asked < _ASK_EVERY:
            return
        self._asked = self.used
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < self.min_free + nbytes:
            raise LimitReachedError(f"min_free={self.min_free} is reached: {free} bytes are free")
