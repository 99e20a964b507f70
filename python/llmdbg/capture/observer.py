"""Whether being recorded changes what a model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmdbg import _core
from llmdbg.capture.shards import flat_bytes
from llmdbg.capture.start import capture_torch
from llmdbg.capture.walk import result_leaves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class ObserverEffect:
    """What a run gave without and with hooks.

    Attributes
    ----------
    plain, captured
        A hash of each tensor of the result, by its path.
    """

    plain: dict[str, str]
    captured: dict[str, str]

    @property
    def same(self) -> bool:
        """Whether every tensor has the same bytes."""
        return self.plain == self.captured

    def __str__(self) -> str:
        names = sorted({*self.plain, *self.captured})
        differing = [n for n in names if self.plain.get(n) != self.captured.get(n)]
        if not differing:
            return f"no observer effect: {len(names)} tensors of the result are the same"
        return (
            f"observer effect: {', '.join(n or 'the result' for n in differing)} of the result "
            f"differ with and without hooks"
        )


def observer_effect(
    model: torch.nn.Module, run: Callable[[], Any], path: str | Path, **options: Any
) -> ObserverEffect:
    """Run a model twice, plain and captured, and compare the hashes of what it gives.

    Parameters
    ----------
    model
        What is captured.
    run
        Calls the model and returns its logits, or whatever is to be compared. Random numbers of the
        CPU and of the current devices are the same for both runs; anything else that one run
        leaves behind, such as a cache, is for `run` to put back.
    path
        Where the dump goes. The outcome stands among its problems when there is an effect.
    options
        As of :func:`capture_torch`.

    Returns
    -------
    ObserverEffect
    """
    with torch.random.fork_rng():
        plain = _hashes(run())
    with torch.random.fork_rng(), capture_torch(model, path, **options) as capture:
        captured = _hashes(run())
        effect = ObserverEffect(plain, captured)
        if not effect.same:
            capture.problems.append(str(effect))
    return effect


def _hashes(result: Any) -> dict[str, str]:
    return {
        leaf.slot: _core.hash_bytes(flat_bytes(leaf.content.detach()).cpu().numpy())
        for leaf in result_leaves(result)
        if isinstance(leaf.content, torch.Tensor)
    }
