"""Recording runs of torch models.

Nothing here imports torch before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmdbg.capture.session import CaptureWarning, TorchCapture
    from llmdbg.capture.start import capture_torch

_HOMES = {
    "CaptureWarning": "session",
    "TorchCapture": "session",
    "capture_torch": "start",
}

__all__ = ["CaptureWarning", "TorchCapture", "capture_torch"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
