"""The handle of an asynchronous collective, told when its owner has waited for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed

if TYPE_CHECKING:
    from collections.abc import Callable


class Awaited(torch.distributed.Work):
    """Does what `work` does, and calls `done` after each of its waits.

    A handle itself takes no hooks. This one is a `Work` as well, for those who ask.
    """

    def __init__(self, work: Any, done: Callable[[], None]) -> None:
        super().__init__()
        self._work = work
        self._done = done

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the collective."""
        waited = self._work.wait(*args, **kwargs)
        self._done()
        return waited

    def synchronize(self) -> None:
        """Make the current stream wait for the collective."""
        self._work.synchronize()
        self._done()


def _passed_on(name: str) -> Callable[..., Any]:
    def method(self: Awaited, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._work, name)(*args, **kwargs)

    method.__name__ = name
    return method


# What a `Work` has, its base would answer as if nothing had ever run.
for _name in dir(torch.distributed.Work):
    if not _name.startswith("_") and _name not in vars(Awaited):
        setattr(Awaited, _name, _passed_on(_name))
