"""llmdbg finds the first operator that goes wrong between two runs of one LLM."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdbg._core import LlmdbgError
    from llmdbg.capture import (
        CaptureWarning,
        DumpConfig,
        TorchCapture,
        capture_torch,
        dump_data,
        get_fx_dump_config,
        get_ge_dump_config,
        register_hook,
    )
    from llmdbg.comparison import compare
    from llmdbg.dump import Dump, open_dump
    from llmdbg.reading import read_tensor, read_tensors
    from llmdbg.result import Result
    from llmdbg.scan.watch import watch

__all__ = [
    "CaptureWarning",
    "Dump",
    "DumpConfig",
    "LlmdbgError",
    "Result",
    "TorchCapture",
    "capture_torch",
    "compare",
    "dump_data",
    "get_fx_dump_config",
    "get_ge_dump_config",
    "open_dump",
    "read_tensor",
    "read_tensors",
    "register_hook",
    "watch",
]

# Loaded when asked for, so that `import llmdbg` stays a matter of milliseconds.
_HOMES = {
    "CaptureWarning": "llmdbg.capture",
    "Dump": "llmdbg.dump",
    "DumpConfig": "llmdbg.capture",
    "LlmdbgError": "llmdbg._core",
    "Result": "llmdbg.result",
    "TorchCapture": "llmdbg.capture",
    "capture_torch": "llmdbg.capture",
    "compare": "llmdbg.comparison",
    "dump_data": "llmdbg.capture",
    "get_fx_dump_config": "llmdbg.capture",
    "get_ge_dump_config": "llmdbg.capture",
    "open_dump": "llmdbg.dump",
    "read_tensor": "llmdbg.reading",
    "read_tensors": "llmdbg.reading",
    "register_hook": "llmdbg.capture",
    "watch": "llmdbg.scan.watch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
