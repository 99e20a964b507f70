"""Running calls: what each is given and gives becomes records; no failure reaches the model."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from llmdbg.capture.api import caller_stack
from llmdbg.capture.comparing import CompareSink
from llmdbg.capture.limits import LimitReachedError
from llmdbg.capture.modules import weights
from llmdbg.capture.recorder import Call
from llmdbg.capture.walk import Leaf, call_leaves, result_leaves

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from llmdbg.capture.recorder import Recorder, Sink
    from llmdbg.capture.what import What


class DivergedError(Exception):
    """The run differs from the golden dump, and was to stop there."""


class CaptureWarning(UserWarning):
    """Something about a dump that its owner should know, though the run went on."""


class Frame(Call):
    """A running call."""

    def __init__(
        self, module: torch.nn.Module, node: str, step: int, op_type: str | None = None
    ) -> None:
        super().__init__(module, node, step, op_type)
        self.recording = False
        self.caller: FrameType | None = None
        self.modes: contextlib.ExitStack | None = None
        self._unwinding = sys.exc_info()[1]

    def raised(self) -> bool:
        """Whether the call is being left by an exception that was not there when it began."""
        return sys.exc_info()[1] is not self._unwinding


class Local(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.recording_itself = False
        self.dummy = False
        self.modes = 0
        self.collective = ""
        self.idle_modes: contextlib.ExitStack | None = None


class Calls:
    """Records the calls of one run; whoever sees a call begin or end tells it, holding `lock`.

    Parameters
    ----------
    model
        The root.
    what
        What to record of a call.
    path
        The dump, for messages.

    Attributes
    ----------
    running
        Whether recording has begun and not ended.
    wants
        Whether the forward that runs is one to record.
    step
        Its number.
    full
        Whether the dump may not grow.
    failure
        What recording met first.
    problems
        What the dump's reader should know.
    """

    def __init__(self, model: torch.nn.Module, what: What, path: Path) -> None:
        self.what = what
        self.lock = threading.RLock()
        self.local = Local()
        self.problems: list[str] = []
        self.running = False
        self.wants = False
        self.step = 0
        self.full = False
        self.failure: Exception | None = None
        self._model = model
        self._path = path
        self._sink: Sink | None = None
        self._recorder: Recorder | None = None
        self._pid = os.getpid()
        self._order = 0
        self._numbers: Counter[str] = Counter()
        self._last: tuple[Frame, torch.Tensor, int | None] | None = None

    def open(self, sink: Sink, recorder: Recorder) -> None:
        """Record from now on."""
        self._sink, self._recorder = sink, recorder
        self._pid = os.getpid()
        self.running = True

    def close(self) -> None:
        """Let go of what records."""
        self._sink = self._recorder = self._last = None

    def alive(self) -> bool:
        """Whether calls of this process are recorded."""
        # The writer's thread does not live on in a forked process.
        return self.running and self.owned()

    def owned(self) -> bool:
        """Whether this is the process that began, and not one forked from it."""
        return os.getpid() == self._pid

    def new_step(self, step: int, *, first: bool) -> None:
        """Begin to count anew; calls before the first forward belong to it."""
        self.step = step
        if not first:
            self._order = 0
            self._numbers.clear()

    def begin(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give a call its number and keep what it is given."""
        if not self.wants:
            return
        frame.number = self._numbers[frame.node]
        self._numbers[frame.node] += 1
        frame.recording = self.failure is None and not self.full
        if frame.recording and self.what.stack:
            frame.stack = caller_stack(2)
        if frame.recording and self.what.inputs and not self.what.last_logits:
            self.guard(lambda: self.keep(frame, "input", call_leaves(args, kwargs)))

    def uncount(self, frame: Frame) -> None:
        """Take a call's number back: it was none to record."""
        self._numbers[frame.node] -= 1

    def end(self, frame: Frame, result: Any, *, raised: bool) -> None:
        """Keep what a module gave, and close its call."""
        if frame.recording and self.failure is None and not raised:
            self.guard(lambda: self._keep_result(frame, result))
        self.finish(frame, raised=raised)

    def keep_outputs(self, frame: Frame, leaves: list[Leaf]) -> None:
        """Keep what a function gave."""
        if frame.recording and self.what.outputs and not self.what.last_logits:
            self.guard(lambda: self.keep(frame, "output", leaves))

    def skip_output(self, frame: Frame, reason: str) -> None:
        """Say why there is no output."""
        if frame.recording and self._sink is not None:
            frame.records.append(frame.record("output", self._sink.lone) | {"skipped": reason})

    def finish(self, frame: Frame, *, raised: bool) -> None:
        """Close a call: number it and hand its records on."""
        if frame.modes is not None:
            frame.modes.close()
            frame.modes = None
        if self._sink is None:
            return
        if raised:
            what = "the module" if frame.op_type is None else "the function"
            self.skip_output(frame, f"{what} raised")
        if not frame.records:
            return
        for record in frame.records:
            record["order"] = self._order
        self._order += 1
        self._sink.emit(frame.records)
        frame.records = []

    def keep(self, frame: Frame, role: str, leaves: list[Leaf]) -> None:
        """Add records to a call."""
        if self._recorder is not None:
            self._recorder.keep(frame, role, leaves)

    def keep_weights(self) -> None:
        """Record every parameter and buffer."""
        assert self._sink is not None and self._recorder is not None
        records: list[dict[str, Any]] = []
        try:
            for node, name, tensor in weights(self._model):
                record = Call(self._model, node, None).record("param", name)
                record["order"] = len(records)
                self._recorder.keep_tensor(tensor, record)
                records.append(record)
        finally:
            self._sink.emit(records)

    def guard(self, record: Callable[[], None]) -> None:
        """Run `record`; whatever it meets ends the dump and never the model."""
        if self.what.stop_at_divergence and isinstance(self._sink, CompareSink):
            found = self._sink.diverged
            if found is not None and not self.full:
                self.full = True
                self.problems.append(f"the run was stopped where it diverged: {found}")
                raise DivergedError(found)
        self.local.recording_itself = True
        try:
            record()
        except LimitReachedError as limit:
            self.full = True
            self.problems.append(f"recording ended in step {self.step}: {limit}")
            warnings.warn(f"{self.problems[-1]}: {self._path}", CaptureWarning, stacklevel=2)
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.local.recording_itself = False

    def _keep_result(self, frame: Frame, result: Any) -> None:
        if not self.what.last_logits:
            if self.what.outputs:
                self.keep(frame, "output", result_leaves(result))
        elif frame.module is self._model:
            self._keep_last(frame, result)
        elif isinstance(result, torch.Tensor):
            self._last = (frame, result, version(result))

    def _keep_last(self, root: Frame, result: Any) -> None:
        """Keep the last submodule's tensor, which is the logits before the root wraps them."""
        last, self._last = self._last, None
        if last is None:
            self.keep(root, "output", result_leaves(result))
            return
        frame, tensor, then = last
        self.keep(frame, "output", [Leaf("", tensor)])
        if then != version(tensor):
            frame.records[-1]["note"] = "changed in place after the module returned it"
        self.finish(frame, raised=False)


def version(tensor: Any) -> int | None:
    """Count the changes of a tensor in place; None in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version
