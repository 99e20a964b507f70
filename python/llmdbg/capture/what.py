"""What of a model's forwards is recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmdbg.capture.limits import Limits
from llmdbg.capture.wanted import Wanted

if TYPE_CHECKING:
    import torch

    from llmdbg.capture.api import Level
    from llmdbg.capture.recorder import Index


@dataclass(frozen=True)
class What:
    """What of a model's forwards is recorded."""

    selected: dict[torch.nn.Module, str]
    wanted: Wanted = field(default_factory=Wanted)
    levels: frozenset[Level] = frozenset({"module"})
    apis: tuple[str, ...] | None = None
    device_index: int | None = None
    weights: bool = False
    inputs: bool = True
    outputs: bool = True
    last_logits: bool = False
    stack: bool = False
    cut: Index | None = None
    skip_dummies: bool = False
    limits: Limits = field(default_factory=Limits)
    stop_at_divergence: bool = False
