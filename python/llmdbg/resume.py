"""Going on with a comparison that was interrupted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmdbg import _core
from llmdbg.errors import Interrupted
from llmdbg.report.text import printable

if TYPE_CHECKING:
    from types import TracebackType

# A comparison of seconds is sooner repeated than explained.
AFTER_MS = 2000


class Resume:
    """The finished pairs of a comparison, kept in a file while it runs.

    As a context manager it makes Ctrl-C say what is kept.

    Parameters
    ----------
    path : path or None
        The journal's file; None keeps nothing.

    Attributes
    ----------
    journal : Journal or None
        What the engine reads and writes.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = printable(os.fspath(path)) if path is not None else ""
        self.journal = None if path is None else _core.Journal(path, after_ms=AFTER_MS)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if interrupted and self.journal is not None and self.journal.kept:
            raise Interrupted(
                f"interrupted; {self.journal.kept:,} finished pairs are kept in {self._path}: "
                "the same command goes on from there"
            ) from None

    def notices(self, pairs: int) -> tuple[str, ...]:
        """Return what the user should know about earlier rows, of `pairs` in all."""
        journal = self.journal
        if journal is None:
            return ()
        if journal.problem:
            return (f"the journal {self._path} is not used: {journal.problem}",)
        if journal.resumed:
            return (f"resumed: {journal.resumed:,} of {pairs:,} pairs were already measured",)
        if journal.known:
            return (
                f"the journal {self._path} is of other files or options: none of its rows are used",
            )
        return ()

    def done(self) -> None:
        """Delete the file: the report is complete."""
        if self.journal is not None:
            self.journal.remove()
