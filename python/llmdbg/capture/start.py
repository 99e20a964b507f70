"""The call that starts a recording: its arguments, and the layout they choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmdbg._core import LlmdbgError
from llmdbg.capture.about import rank_and_world
from llmdbg.capture.ait import AitSink
from llmdbg.capture.modules import select
from llmdbg.capture.native import NativeSink
from llmdbg.capture.session import TorchCapture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from llmdbg.capture.modules import Selection
    from llmdbg.capture.recorder import Sink

DEFAULT_QUEUE_BYTES = 1 << 30


def capture_torch(
    model: torch.nn.Module,
    path: str | Path,
    *,
    steps: int | range | slice | Iterable[int] | None = None,
    modules: Selection = None,
    weights: bool = False,
    inputs: bool = True,
    outputs: bool = True,
    layout: Literal["native", "ait"] = "native",
    last_logits: bool = False,
    max_queue_bytes: int = DEFAULT_QUEUE_BYTES,
    rank: int | None = None,
) -> TorchCapture:
    """Record what each module of `model` is given and gives back.

    Use it as ``with capture_torch(model, "dumps/golden"):`` around any forward or ``generate``,
    or call ``start()`` and ``stop()``. Every tensor is kept as it was when the module was entered
    or left, with its path in the arguments or the result; other values are kept as values, and
    what cannot be stored is listed with its reason.

    Parameters
    ----------
    model
        The module whose forwards are the steps, counted from 0.
    path
        A directory that does not exist or is empty.
    steps
        Steps to record: a number, a range, a slice or several numbers. None for all.
    modules
        Modules to record: patterns with ``*`` over full names or class names, or classes. None
        for all.
    weights
        Record every parameter and buffer once, as they are at the start.
    inputs, outputs
        Which side of a module to record.
    layout
        ``"native"``, or ``"ait"`` for the directories and ``.pth`` files of ``ait llm``.
    last_logits
        Record only what the last submodule of each step gave back.
    max_queue_bytes
        Bytes that may wait for the disk before the model has to wait.
    rank
        This process's rank. None asks torch.distributed, then ``RANK`` and ``WORLD_SIZE``.

    Returns
    -------
    TorchCapture
        The capture, not yet started.

    Raises
    ------
    LlmdbgError
        If an argument cannot be right, or a dump is at `path` already.
    """
    wants_step = step_filter(steps)
    base = Path(path)
    own_rank, world = rank_and_world(rank)
    if layout == "native":
        folder = base / f"rank{own_rank}" if world > 1 else base

        def make_sink(header: dict[str, Any]) -> Sink:
            _claim(folder)
            pinned = any(p.device.type != "cpu" for p in model.parameters())
            return NativeSink(folder, header, max_queue_bytes, pinned=pinned)
    elif layout == "ait":

        def make_sink(header: dict[str, Any]) -> Sink:
            # Ranks share the directory: each process has one of its own below.
            if world == 1:
                _claim(base)
            return AitSink(base, header, max_queue_bytes)
    else:
        raise LlmdbgError(f"unknown layout {layout!r}; choose 'native' or 'ait'")
    return TorchCapture(
        model,
        make_sink,
        path=base,
        selected=select(model, modules),
        steps=wants_step,
        weights=weights,
        inputs=inputs,
        outputs=outputs,
        last_logits=last_logits,
        rank=rank,
    )


def step_filter(steps: int | range | slice | Iterable[int] | None) -> Callable[[int], bool]:
    """Turn what a user may say about steps into a question that can be asked of each.

    Raises
    ------
    LlmdbgError
        If a number is negative or none.
    """
    if steps is None:
        return lambda _step: True
    if isinstance(steps, slice):
        start, stop, stride = steps.start or 0, steps.stop, steps.step or 1
        if start < 0 or stride < 1 or (stop is not None and stop < 0):
            raise LlmdbgError(f"steps are counted from 0 upwards, found {steps}")
        return lambda step: (
            step >= start and (stop is None or step < stop) and (step - start) % stride == 0
        )
    wanted = (
        steps if isinstance(steps, range) else {steps} if isinstance(steps, int) else set(steps)
    )
    if any(not isinstance(s, int) or s < 0 for s in wanted):
        raise LlmdbgError(f"steps are whole numbers from 0 upwards, found {steps!r}")
    return lambda step: step in wanted


def _claim(folder: Path) -> None:
    """Make `folder`, or take it if it is empty; what is in use is never written to."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LlmdbgError(
            "something is already at the dump's path and is never overwritten; "
            f"choose another path, or move it away first: {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
