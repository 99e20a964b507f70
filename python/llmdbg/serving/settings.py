"""What the environment asks to record of a server."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "LLMDBG_SERVING_"
MODES = ("full", "statistics", "sketch", "hash")
_KNOWN = ("DUMP", "STEPS", "REQUESTS", "MODULES", "MODE", "RANKS", "MAX_BYTES")


@dataclass(frozen=True)
class ServingSettings:
    """What to record of a server.

    Attributes
    ----------
    path
        The dump; each rank below it, when there are several.
    steps
        First and last engine step of each wanted range, counted from 0 without profiling and
        warm-up; None for all.
    requests
        Patterns over request ids; empty for all. A step is recorded when it has one of them.
    modules
        Patterns over module names and class names; empty for all.
    mode
        What is kept of a tensor, as `llmdbg.capture_torch` takes it.
    ranks
        Ranks that record; empty for all.
    max_bytes
        Bytes of tensors after which recording ends; None for no end.
    """

    path: Path
    steps: tuple[tuple[int, int], ...] | None
    requests: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    mode: str = "full"
    ranks: tuple[int, ...] = ()
    max_bytes: int | None = None

    def wants(self, step: int, requests: Iterable[str]) -> bool:
        """Tell whether an engine step with these requests is recorded."""
        if self.steps is not None and not any(a <= step <= b for a, b in self.steps):
            return False
        return not self.requests or any(
            fnmatch.fnmatchcase(request, pattern)
            for request in requests
            for pattern in self.requests
        )

    def is_over(self, step: int) -> bool:
        """Tell whether no step after this one can be wanted."""
        return self.steps is not None and all(step >= last for _, last in self.steps)


def settings_from(environment: Mapping[str, str]) -> ServingSettings:
    """Read the settings from variables that begin with ``LLMDBG_SERVING_``.

    Raises
    ------
    UserError
        When one is unknown or its value cannot be right.
    """
    found = {
        name.removeprefix(PREFIX): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    unknown = sorted(set(found) - set(_KNOWN))
    if unknown:
        known = ", ".join(f"{PREFIX}{name}" for name in _KNOWN)
        raise UserError(f"unknown variable {PREFIX}{unknown[0]}; there are {known}")
    requests = _list(found.get("REQUESTS", ""))
    mode = found.get("MODE", "full")
    if mode not in MODES:
        raise UserError(f"{PREFIX}MODE is one of {', '.join(MODES)}, found {mode!r}")
    # One step of an unknown batch is enough to look at; a request is wanted whole.
    steps = found.get("STEPS") or ("all" if requests else "0,0")
    return ServingSettings(
        path=Path(found["DUMP"]).absolute(),
        steps=None if steps == "all" else _ranges(steps),
        requests=requests,
        modules=_list(found.get("MODULES", "")),
        mode=mode,
        ranks=tuple(_number("RANKS", part) for part in _list(found.get("RANKS", ""))),
        max_bytes=_number("MAX_BYTES", found["MAX_BYTES"]) if found.get("MAX_BYTES") else None,
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise UserError(f"{PREFIX}{name} is a whole number, found {text!r}")
    return int(text)


def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    numbers = [_number("STEPS", part) for part in _list(text)]
    if len(numbers) == 1:
        numbers *= 2
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    if len(numbers) % 2 or not pairs or any(last < first for first, last in pairs):
        raise UserError(
            f"{PREFIX}STEPS is all, a number, or pairs first,last[,first,last], found {text!r}"
        )
    return pairs
