"""llmdbg finds the first operator that goes wrong between two runs of one LLM."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdbg.dump import Dump, open_dump

__all__ = ["Dump", "open_dump"]

# Loaded when asked for, so that `import llmdbg` stays a matter of milliseconds.
_HOMES = {"Dump": "llmdbg.dump", "open_dump": "llmdbg.dump"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
