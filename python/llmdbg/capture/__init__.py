"""Recording runs: torch modules, NPU kernels, torchair graphs, ATB models.

Nothing here imports torch before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdbg.capture.ait_hook import DumpConfig, HookHandle, register_hook
    from llmdbg.capture.calls import CaptureWarning, DivergedError
    from llmdbg.capture.manual import dump_data
    from llmdbg.capture.npu import kernel_dump, overflow_happened
    from llmdbg.capture.observer import observer_effect
    from llmdbg.capture.session import TorchCapture
    from llmdbg.capture.start import capture_torch
    from llmdbg.capture.torchair import (
        get_fx_dump_config,
        get_ge_dump_config,
        write_fusion_switch,
    )

_HOMES = {
    "CaptureWarning": "calls",
    "DivergedError": "calls",
    "DumpConfig": "ait_hook",
    "HookHandle": "ait_hook",
    "TorchCapture": "session",
    "capture_torch": "start",
    "dump_data": "manual",
    "get_fx_dump_config": "torchair",
    "get_ge_dump_config": "torchair",
    "kernel_dump": "npu",
    "observer_effect": "observer",
    "overflow_happened": "npu",
    "register_hook": "ait_hook",
    "write_fusion_switch": "torchair",
}

__all__ = [
    "CaptureWarning",
    "DivergedError",
    "DumpConfig",
    "HookHandle",
    "TorchCapture",
    "capture_torch",
    "dump_data",
    "get_fx_dump_config",
    "get_ge_dump_config",
    "kernel_dump",
    "observer_effect",
    "overflow_happened",
    "register_hook",
    "write_fusion_switch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
