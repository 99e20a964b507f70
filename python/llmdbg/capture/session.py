"""Recording what the modules of a torch model are given and give back."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import torch

from llmdbg._core import LlmdbgError
from llmdbg.capture.about import about_run, rank_and_world
from llmdbg.capture.modules import describe, weights
from llmdbg.capture.recorder import Call, Recorder, Sink
from llmdbg.capture.walk import Leaf, call_leaves, result_leaves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType, TracebackType


class CaptureWarning(UserWarning):
    """Something about a dump that its owner should know, though the run went on."""


class _Frame(Call):
    """A running call."""

    def __init__(self, module: torch.nn.Module, node: str, step: int) -> None:
        super().__init__(module, node, step)
        self.recording = False
        self.caller: FrameType | None = None
        self._unwinding = sys.exc_info()[1]

    def raised(self) -> bool:
        """Whether the call is being left by an exception that was not there when it began."""
        return sys.exc_info()[1] is not self._unwinding


class TorchCapture:
    """Hooks on a model, and the dump they fill; made by :func:`capture_torch`."""

    def __init__(
        self,
        model: torch.nn.Module,
        make_sink: Callable[[dict[str, Any]], Sink],
        *,
        path: Path,
        selected: dict[torch.nn.Module, str],
        steps: Callable[[int], bool],
        device_index: int | None = None,
        weights: bool,
        inputs: bool,
        outputs: bool,
        last_logits: bool,
        rank: int | None,
    ) -> None:
        self.path = path
        self.problems: list[str] = []
        self._model = model
        self._make_sink = make_sink
        self._wants_step = steps
        self._selected = selected
        self._device_index = device_index
        self._weights = weights
        self._inputs = inputs and not last_logits
        self._outputs = outputs
        self._last_logits = last_logits
        self._rank = rank
        self._sink: Sink | None = None
        self._recorder: Recorder | None = None
        self._state: Literal["new", "running", "stopped"] = "new"
        self._failure: Exception | None = None
        self._handles: list[Any] = []
        self._lock = threading.RLock()
        self._local = threading.local()
        self._step = 0
        self._order = 0
        self._pid = os.getpid()
        self._calls: Counter[str] = Counter()
        self._last: tuple[_Frame, torch.Tensor, int | None] | None = None

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> TorchCapture:
        """Begin recording.

        Raises
        ------
        LlmdbgError
            If this capture was started before, or something is at its path already.
        OSError
            If the path cannot be written.
        """
        if self._state != "new":
            raise LlmdbgError(
                f"this capture is {self._state} already; "
                "call capture_torch again, with a path of its own, for another dump"
            )
        rank, world = rank_and_world(self._rank)
        header = {
            "about": about_run(self._model),
            "rank": rank,
            "world_size": world,
            "modules": describe(self._model),
        }
        sink = self._sink = self._make_sink(header)
        self._recorder = Recorder(sink, self._device_index)
        self._state = "running"
        self._pid = os.getpid()
        # A script that never calls stop() still gets a finished dump.
        atexit.register(self._stop_at_exit)
        if self._weights:
            self._guard(self._keep_weights)
        self._add_hooks()
        return self

    def stop(self) -> Path:
        """End recording and finish the dump.

        Returns
        -------
        Path
            The dump.

        Raises
        ------
        LlmdbgError
            If recording had to stop early; the message says why and how much is there.
        """
        if self._state == "stopped":
            return self.path
        if self._sink is None or self._recorder is None:
            raise LlmdbgError("this capture was never started; call start() or use `with`")
        self._state = "stopped"
        atexit.unregister(self._stop_at_exit)
        self._remove_hooks()
        for frame in self._stack():
            self._finish(frame, raised=True)
        self._stack().clear()
        self._explain_emptiness(self._recorder.tensors)
        self._recorder = self._last = None
        try:
            self._sink.close(self.problems, self._failure)
        except OSError as error:
            self._failure = self._failure or error
        cause = self._sink.error or self._failure
        if cause is not None:
            raise LlmdbgError(
                f"recording stopped in step {self._step}: {cause}; the model ran on, and the "
                f"{self._sink.records_written} records ({self._sink.bytes_written / 1e6:.1f} MB) "
                f"up to there can be read: {self.path}"
            ) from cause
        return self.path

    def __enter__(self) -> TorchCapture:
        return self.start()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.stop()
            return
        self.problems.append(f"the run ended early: {type(error).__name__}: {error}")
        try:
            self.stop()
        except LlmdbgError as ours:
            # The model's own exception is the one its owner must see.
            error.add_note(f"llmdbg: {ours}")

    def __deepcopy__(self, _memo: dict[int, Any]) -> TorchCapture:
        # A model copied while it is captured takes its hooks along; they know it is not theirs.
        return self

    def _stop_at_exit(self) -> None:
        if os.getpid() != self._pid:
            return
        try:
            self.stop()
        except LlmdbgError as error:
            sys.stderr.write(f"llmdbg: {error}\n")

    # -- hooks --------------------------------------------------------------------------------

    def _add_hooks(self) -> None:
        modules = dict(self._selected)
        modules.setdefault(self._model, "")
        for module, name in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                self.problems.append(f"TorchScript module without hooks, not recorded: {name}")
                continue
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(
                module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            )

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _stack(self) -> list[_Frame]:
        stack: list[_Frame] | None = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = []
        return stack

    def _enter(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        # The writer's thread does not live on in a forked process.
        if self._state != "running" or os.getpid() != self._pid:
            return
        stack = self._stack()
        if module is self._model:
            self._drop_interrupted(stack)
        with self._lock:
            frame = _Frame(module, self._selected.get(module, ""), self._step)
            if module is self._model:
                frame.caller = sys._getframe(1)
            stack.append(frame)
            if module not in self._selected or not self._wants_step(self._step):
                return
            frame.number = self._calls[frame.node]
            self._calls[frame.node] += 1
            frame.recording = self._failure is None
            if frame.recording and self._inputs:
                self._guard(lambda: self._keep(frame, "input", call_leaves(args, kwargs)))

    def _leave(
        self,
        module: torch.nn.Module,
        _args: tuple[Any, ...],
        _kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        if self._state != "running":
            return
        stack = self._stack()
        if not any(frame.module is module for frame in stack):
            return
        with self._lock:
            while stack[-1].module is not module:
                self._finish(stack.pop(), raised=True)
            frame = stack.pop()
            raised = frame.raised()
            if frame.recording and self._failure is None and not raised:
                self._guard(lambda: self._keep_result(frame, result))
            self._finish(frame, raised=raised)
            if module is self._model and not any(f.module is module for f in stack):
                self._end_step()

    def _drop_interrupted(self, stack: list[_Frame]) -> None:
        """Forget calls that a KeyboardInterrupt left without their hooks being run."""
        if not stack:
            return
        running = set()
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            running.add(id(frame))
            frame = frame.f_back
        roots = [i for i, f in enumerate(stack) if f.caller is not None]
        for i in roots:
            if id(stack[i].caller) not in running:
                with self._lock:
                    for left in reversed(stack[i:]):
                        self._finish(left, raised=True)
                    del stack[i:]
                    self._end_step()
                return

    # -- records ------------------------------------------------------------------------------

    def _guard(self, record: Callable[[], None]) -> None:
        """Run `record`; whatever it meets ends the dump and never the model."""
        try:
            record()
        except Exception as error:
            self._failure = self._failure or error

    def _keep(self, frame: _Frame, role: str, leaves: list[Leaf]) -> None:
        if self._recorder is not None:
            self._recorder.keep(frame, role, leaves)

    def _keep_result(self, frame: _Frame, result: Any) -> None:
        if not self._last_logits:
            if self._outputs:
                self._keep(frame, "output", result_leaves(result))
        elif frame.module is self._model:
            self._keep_last(frame, result)
        elif isinstance(result, torch.Tensor):
            self._last = (frame, result, None if result.is_inference() else result._version)

    def _keep_last(self, root: _Frame, result: Any) -> None:
        """Keep the last submodule's tensor, which is the logits before the root wraps them."""
        last, self._last = self._last, None
        if last is None:
            self._keep(root, "output", result_leaves(result))
            return
        frame, tensor, version = last
        self._keep(frame, "output", [Leaf("", tensor)])
        if version is not None and version != tensor._version:
            frame.records[-1]["note"] = "changed in place after the module returned it"
        self._finish(frame, raised=False)

    def _keep_weights(self) -> None:
        assert self._sink is not None and self._recorder is not None
        records: list[dict[str, Any]] = []
        for node, name, tensor in weights(self._model):
            record = Call(self._model, node, None).record("param", name)
            record["order"] = len(records)
            self._recorder.keep_tensor(tensor, record)
            records.append(record)
        self._sink.emit(records)

    def _finish(self, frame: _Frame, *, raised: bool) -> None:
        """Close a call: number it and hand its records on."""
        if self._sink is None:
            return
        if raised and frame.recording:
            frame.records.append(
                frame.record("output", self._sink.lone) | {"skipped": "the module raised"}
            )
        if not frame.records:
            return
        for record in frame.records:
            record["order"] = self._order
        self._order += 1
        self._sink.emit(frame.records)
        frame.records = []

    def _end_step(self) -> None:
        assert self._sink is not None and self._recorder is not None
        if self._wants_step(self._step):
            self._sink.end_step({"step": self._step, "forwards": 1})
        self._recorder.end_step()
        self._step += 1
        self._order = 0
        self._calls.clear()

    def _explain_emptiness(self, tensors: int) -> None:
        if tensors or self._failure is not None or (self._sink and self._sink.error):
            return
        if self._step == 0:
            why = "the model's own forward was never called; capture the object that is called"
        elif not any(self._wants_step(s) for s in range(self._step)):
            why = f"the step filter matches none of the {self._step} forwards (counted from 0)"
        else:
            why = "no selected module ran, or none was given or gave a tensor that can be stored"
        text = f"0 tensors recorded after {self._step} forwards: {why}"
        self.problems.append(text)
        warnings.warn(f"{text}: {self.path}", CaptureWarning, stacklevel=4)
