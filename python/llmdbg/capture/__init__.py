"""Recording runs: torch modules, NPU kernels, torchair graphs, ATB models.

Nothing here imports torch before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdbg.capture.npu import kernel_dump
    from llmdbg.capture.session import CaptureWarning, TorchCapture
    from llmdbg.capture.start import capture_torch
    from llmdbg.capture.torchair import (
        get_fx_dump_config,
        get_ge_dump_config,
        write_fusion_switch,
    )

_HOMES = {
    "CaptureWarning": "session",
    "TorchCapture": "session",
    "capture_torch": "start",
    "get_fx_dump_config": "torchair",
    "get_ge_dump_config": "torchair",
    "kernel_dump": "npu",
    "write_fusion_switch": "torchair",
}

__all__ = [
    "CaptureWarning",
    "TorchCapture",
    "capture_torch",
    "get_fx_dump_config",
    "get_ge_dump_config",
    "kernel_dump",
    "write_fusion_switch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
