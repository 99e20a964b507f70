"""The last steps kept in memory, and written when something goes wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from llmdbg.capture.holding import Held, HoldingSink

if TYPE_CHECKING:
    from llmdbg.capture.recorder import Sink

Rule: TypeAlias = Callable[[torch.Tensor, dict[str, Any]], str | None]
"""Given an output and its record, says in words what is wrong with it, or None."""


class RingSink(HoldingSink):
    """Keeps the last steps in memory, and writes them when a rule finds something.

    Parameters
    ----------
    behind, max_bytes
        As in :class:`HoldingSink`.
    rule
        Given each output and its record, says in words what is wrong with it, or None.
    steps
        Steps before the one that is written with it.
    """

    def __init__(self, behind: Sink, max_bytes: int, rule: Rule, steps: int) -> None:
        super().__init__(behind, max_bytes)
        self._rule = rule
        self._steps: deque[list[list[Held]]] = deque(maxlen=steps + 1)
        self._entries: deque[dict[str, Any]] = deque(maxlen=steps)
        self._steps.append([])
        self.fired: list[str] = []

    def _call(self, call: list[Held]) -> None:
        self._steps[-1].append(call)
        for record, tensor in call:
            if tensor is None or record["role"] != "output":
                continue
            found = self._rule(tensor, record)
            if found:
                where = f"step {record['step']}, {record['node'] or 'the model'}"
                self.fired.append(f"{where}, output {record['slot']}: {found}")

    def _step(self, step: dict[str, Any]) -> None:
        if self.fired_in(step["step"]):
            for entry in self._entries:
                self._behind.end_step(entry)
            for calls in self._steps:
                for call in calls:
                    self._keep(call)
            self._behind.end_step(step)
            self._steps.clear()
            self._entries.clear()
        else:
            self._entries.append(step)
        self._steps.append([])

    def fired_in(self, step: int) -> bool:
        """Tell whether the rule found something in `step`."""
        return any(text.startswith(f"step {step},") for text in self.fired)

    def _end(self, problems: list[str]) -> None:
        if not self.fired:
            problems.append("the trigger never fired; nothing was written")
            return
        more = f", and {len(self.fired) - 1} more" if len(self.fired) > 1 else ""
        problems.append(f"the trigger fired: {self.fired[0]}{more}")


def nonfinite(tensor: torch.Tensor, _record: dict[str, Any]) -> str | None:
    """Say how many NaN and infinities there are: the trigger named ``"nonfinite"``."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    try:
        count = int(tensor.numel() - torch.isfinite(tensor).sum())
    except (RuntimeError, NotImplementedError):
        return None  # a dtype that torch cannot ask
    return f"{count} of {tensor.numel()} values are NaN or infinite" if count else None
