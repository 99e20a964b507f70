"""Work done on a thread of its own, with a bound on the bytes that wait for it."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


_LOOK_SECONDS = 1.0


class StoppedError(Exception):
    """The thread met an error earlier and takes no more work."""


class Background:
    """Runs jobs one after the other on a daemon thread.

    Parameters
    ----------
    max_bytes
        Bytes that may wait at a time. :meth:`reserve` blocks beyond it, so that a slow disk slows
        the model down rather than filling the memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.error: BaseException | None = None
        self._max_bytes = max_bytes
        self._waiting = 0
        self._room = threading.Condition()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="llmdbg-writer", daemon=True)
        self._thread.start()

    def reserve(self, nbytes: int) -> None:
        """Wait until `nbytes` more may be held; one job larger than the bound goes alone.

        Raises
        ------
        StoppedError
            If an earlier job failed.
        """
        with self._room:
            while not self._room.wait_for(lambda: self._has_room(nbytes), timeout=_LOOK_SECONDS):
                # In a process that was forked the thread is gone and nothing is ever done.
                if not self._thread.is_alive():
                    self.error = self.error or StoppedError("the thread that writes has ended")
            if self.error:
                raise StoppedError
            self._waiting += nbytes

    def release(self, nbytes: int) -> None:
        """Give back what was reserved for a job that does not come."""
        with self._room:
            self._waiting -= nbytes
            self._room.notify_all()

    def submit(self, job: Callable[[], Any], nbytes: int = 0) -> None:
        """Queue `job`; the `nbytes` reserved for it are free again once it is done."""
        self._jobs.put((job, nbytes))

    def _has_room(self, nbytes: int) -> bool:
        free = not self._waiting or self._waiting + nbytes <= self._max_bytes
        return free or self.error is not None

    def close(self) -> None:
        """Wait for all jobs and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, nbytes = item
            error = None
            try:
                if self.error is None:
                    job()
            except BaseException as e:
                error = e
            with self._room:
                self.error = self.error or error
                self._waiting -= nbytes
                self._room.notify_all()
            # The job may hold buffers; none must live on while the thread waits for the next.
            del item, job
