"""Recording what the modules of a torch model, and the functions they call, are given and give."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from llmdbg._core import LlmdbgError
from llmdbg.capture.about import about_run, rank_and_world
from llmdbg.capture.api import ApiNames, DispatchMode, DistributedCalls, FunctionMode, caller_stack
from llmdbg.capture.comparing import CompareSink
from llmdbg.capture.cost import Cost, CountingSink
from llmdbg.capture.limits import LimitReachedError, Limits
from llmdbg.capture.modules import describe, weights
from llmdbg.capture.recorder import Call, Index, Recorder, Sink
from llmdbg.capture.walk import Leaf, call_leaves, result_leaves
from llmdbg.capture.wanted import Forward, Wanted, current_frame, next_forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType, TracebackType

    from llmdbg.capture.api import Level
    from llmdbg.comparison import Result


class DivergedError(Exception):
    """The run differs from the golden dump, and was to stop there."""


class CaptureWarning(UserWarning):
    """Something about a dump that its owner should know, though the run went on."""


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


class _Frame(Call):
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


class _Local(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.stack: list[_Frame] = []
        self.recording_itself = False
        self.dummy = False
        self.modes = 0
        self.idle_modes: contextlib.ExitStack | None = None


class TorchCapture:
    """Hooks on a model, and the dump they fill; made by :func:`capture_torch`."""

    def __init__(
        self,
        model: torch.nn.Module,
        make_sink: Callable[[dict[str, Any]], Sink],
        *,
        path: Path,
        what: What,
        rank: int | None = None,
    ) -> None:
        self.path = path
        self.problems: list[str] = []
        self._model = model
        self._make_sink = make_sink
        self._what = what
        self._given_rank = rank
        self._sink: Sink | None = None
        self._recorder: Recorder | None = None
        self._state: Literal["new", "running", "stopped"] = "new"
        self._failure: Exception | None = None
        self._full = False
        self._handles: list[Any] = []
        self._lock = threading.RLock()
        self._local = _Local()
        self._pid = os.getpid()
        self._rank, self._world = 0, 1
        self._names = ApiNames(what.apis)
        self._distributed = DistributedCalls(self, self._names)
        # Calls outside of a forward belong to the forward before, the first ones to the first.
        self._forward = Forward()
        self._forwards = 0
        self._dummies: list[str] = []
        self._warming_up = False
        self._wants = False
        self._order = 0
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
        self._rank, self._world = rank_and_world(self._given_rank)
        header = {
            "about": about_run(self._model),
            "rank": self._rank,
            "world_size": self._world,
            "modules": describe(self._model),
        }
        what = self._what
        sink = self._sink = self._make_sink(header)
        self._recorder = Recorder(
            sink,
            self.path,
            device_index=what.device_index,
            limits=what.limits,
            cut=what.cut,
        )
        self._state = "running"
        self._pid = os.getpid()
        # A script that never calls stop() still gets a finished dump.
        atexit.register(self._stop_at_exit)
        what.wanted.begin()
        self._wants = what.wanted.wants(self._forward, self._rank)
        if what.weights and what.wanted.wants_rank(self._rank):
            self._guard(self._keep_weights)
        self._add_hooks()
        if "api" in what.levels:
            self._distributed.install()
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
        if os.getpid() != self._pid:
            # The dump is the parent's to finish.
            self._state = "stopped"
            self._remove_hooks()
            return self.path
        self._state = "stopped"
        atexit.unregister(self._stop_at_exit)
        self._remove_hooks()
        for frame in self._local.stack:
            self._finish(frame, raised=True)
        self._local.stack.clear()
        if self._dummies:
            self.problems.append(
                f"{len(self._dummies)} dummy forwards were left out: {self._dummies[0]}"
            )
        self._explain_emptiness(self._recorder.tensors)
        self._recorder = self._last = None
        try:
            self._sink.close(self.problems, self._failure)
        except OSError as error:
            self._failure = self._failure or error
        cause = self._sink.error or self._failure
        if cause is not None:
            raise LlmdbgError(
                f"recording stopped in step {self._forward.step}: {cause}; the model ran on, and "
                f"the {self._sink.records_written} records "
                f"({self._sink.bytes_written / 1e6:.1f} MB) "
                f"up to there can be read: {self.path}"
            ) from cause
        return self.path

    @property
    def cost(self) -> Cost:
        """What was counted by a capture made with ``dry_run=True``.

        Raises
        ------
        LlmdbgError
            If it was not.
        """
        if not isinstance(self._sink, CountingSink):
            raise LlmdbgError("only a capture started with dry_run=True knows its cost")
        return self._sink.cost()

    @cached_property
    def result(self) -> Result:
        """What a stopped capture made with ``compare_to`` found, as `llmdbg.compare` gives it.

        Raises
        ------
        LlmdbgError
            If it was not made so, or runs still.
        """
        if not isinstance(self._sink, CompareSink) or self._state != "stopped":
            raise LlmdbgError("only a stopped capture made with compare_to has a result")
        return self._sink.result(self.path)

    @contextlib.contextmanager
    def warmup(self) -> Iterator[None]:
        """Leave out, and do not count, the forwards inside this ``with``."""
        self._warming_up = True
        try:
            yield
        finally:
            self._warming_up = False

    def __enter__(self) -> TorchCapture:
        self.start()
        # Functions between two forwards, such as those that choose the next token.
        self._local.idle_modes = self._enter_modes()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if self._local.idle_modes is not None:
            self._leave_modes(self._local.idle_modes)
            self._local.idle_modes = None
        if error is None or isinstance(error, DivergedError):
            self.stop()
            return error is not None
        self.problems.append(f"the run ended early: {type(error).__name__}: {error}")
        try:
            self.stop()
        except LlmdbgError as ours:
            # The model's own exception is the one its owner must see.
            error.add_note(f"llmdbg: {ours}")
        return False

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
        modules = dict(self._what.selected)
        modules.setdefault(self._model, "")
        if self._what.levels != {"module"}:
            # To tell from which module a function is called.
            modules = {module: name for name, module in self._model.named_modules()}
        for module, name in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                self.problems.append(f"TorchScript module without hooks, not recorded: {name}")
                continue
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(
                module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            )
        self._hooked = modules

    def _remove_hooks(self) -> None:
        self._distributed.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _enter_modes(self) -> contextlib.ExitStack | None:
        """Hear of functions on this thread until the result is closed."""
        levels = self._what.levels
        if levels == {"module"} or self._local.modes:
            return None
        modes = contextlib.ExitStack()
        if "dispatch" in levels:
            modes.enter_context(DispatchMode(self, self._names))
        if "api" in levels:
            modes.enter_context(FunctionMode(self, self._names))
        self._local.modes += 1
        return modes

    def _leave_modes(self, modes: contextlib.ExitStack) -> None:
        self._local.modes -= 1
        modes.close()

    def _alive(self) -> bool:
        # The writer's thread does not live on in a forked process.
        return self._state == "running" and os.getpid() == self._pid

    def _enter(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not self._alive():
            return
        stack = self._local.stack
        if module is self._model:
            self._drop_interrupted(stack)
        with self._lock:
            outermost = module is self._model and not any(f.module is module for f in stack)
            if outermost:
                self._begin_step(args, kwargs)
            frame = _Frame(module, self._hooked.get(module, ""), self._forward.step)
            stack.append(frame)
            if module is self._model:
                frame.caller = sys._getframe(1)
            if outermost and self._wants:
                frame.modes = self._enter_modes()
            if "module" not in self._what.levels or module not in self._what.selected:
                return
            self._begin(frame, args, kwargs)

    def _begin(self, frame: _Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give a call its number and keep what it is given."""
        if not self._wants:
            return
        frame.number = self._calls[frame.node]
        self._calls[frame.node] += 1
        frame.recording = self._failure is None and not self._full
        if frame.recording and self._what.stack:
            frame.stack = caller_stack(2)
        if frame.recording and self._what.inputs and not self._what.last_logits:
            self._guard(lambda: self._keep(frame, "input", call_leaves(args, kwargs)))

    def _leave(
        self,
        module: torch.nn.Module,
        _args: tuple[Any, ...],
        _kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        if not self._alive():
            return
        stack = self._local.stack
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

    # -- functions ----------------------------------------------------------------------------

    def listens(self) -> bool:
        """Whether a function called now would be recorded."""
        if not self._wants or self._full or not self._alive() or self._local.recording_itself:
            return False
        selected, stack = self._what.selected, self._local.stack
        return len(selected) == len(self._hooked) or any(f.module in selected for f in stack)

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        mutates: bool,
    ) -> Any:
        """Call `function` and record it; `mutates`: its arguments hold its results."""
        stack = self._local.stack
        inside = stack[-1] if stack else None
        module = inside.module if inside else self._model
        node = f"{inside.node}/{name}" if inside else name
        with self._lock:
            frame = _Frame(module, node, self._forward.step, name)
            self._begin(frame, args, kwargs)
        given = [
            leaf for leaf in call_leaves(args, kwargs) if isinstance(leaf.content, torch.Tensor)
        ]
        before = [_version(leaf.content) for leaf in given]
        try:
            result = function(*args, **kwargs)
        except BaseException:
            with self._lock:
                self._finish(frame, raised=True)
            raise
        with self._lock:
            found = result_leaves(result)
            # Tensors of inference mode do not tell whether they changed.
            in_place = mutates or (None in before and name.endswith("__setitem__"))
            has_tensor = any(isinstance(leaf.content, torch.Tensor) for leaf in found)
            changed = [
                leaf._replace(slot=f"args.{leaf.slot}")
                for leaf, version in zip(given, before, strict=True)
                if in_place or (_version(leaf.content) != version and not has_tensor)
            ]
            if not (has_tensor or changed):
                # A question such as `size()` or `is_contiguous()` computes no tensor.
                self._names.forget(function)
                self._calls[node] -= 1
                return result
            if mutates and hasattr(result, "wait"):
                frame.records.append(
                    frame.record("output", self._lone)
                    | {"skipped": "asynchronous: its result is not there yet"}
                )
            elif frame.recording and self._what.outputs and not self._what.last_logits:
                self._guard(lambda: self._keep(frame, "output", [*found, *changed]))
            self._finish(frame, raised=False)
        return result

    # -- records ------------------------------------------------------------------------------

    @property
    def _lone(self) -> str:
        assert self._sink is not None
        return self._sink.lone

    def _guard(self, record: Callable[[], None]) -> None:
        """Run `record`; whatever it meets ends the dump and never the model."""
        if self._what.stop_at_divergence and isinstance(self._sink, CompareSink):
            found = self._sink.diverged
            if found is not None and not self._full:
                self._full = True
                self.problems.append(f"the run was stopped where it diverged: {found}")
                raise DivergedError(found)
        self._local.recording_itself = True
        try:
            record()
        except LimitReachedError as limit:
            self._full = True
            self.problems.append(f"recording ended in step {self._forward.step}: {limit}")
            warnings.warn(f"{self.problems[-1]}: {self.path}", CaptureWarning, stacklevel=2)
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._local.recording_itself = False

    def _keep(self, frame: _Frame, role: str, leaves: list[Leaf]) -> None:
        if self._recorder is not None:
            self._recorder.keep(frame, role, leaves)

    def _keep_result(self, frame: _Frame, result: Any) -> None:
        if not self._what.last_logits:
            if self._what.outputs:
                self._keep(frame, "output", result_leaves(result))
        elif frame.module is self._model:
            self._keep_last(frame, result)
        elif isinstance(result, torch.Tensor):
            self._last = (frame, result, _version(result))

    def _keep_last(self, root: _Frame, result: Any) -> None:
        """Keep the last submodule's tensor, which is the logits before the root wraps them."""
        last, self._last = self._last, None
        if last is None:
            self._keep(root, "output", result_leaves(result))
            return
        frame, tensor, version = last
        self._keep(frame, "output", [Leaf("", tensor)])
        if version != _version(tensor):
            frame.records[-1]["note"] = "changed in place after the module returned it"
        self._finish(frame, raised=False)

    def _keep_weights(self) -> None:
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

    def _finish(self, frame: _Frame, *, raised: bool) -> None:
        """Close a call: number it and hand its records on."""
        if frame.modes is not None:
            self._leave_modes(frame.modes)
            frame.modes = None
        if self._sink is None:
            return
        if raised and frame.recording:
            what = "the module" if frame.op_type is None else "the function"
            frame.records.append(frame.record("output", self._lone) | {"skipped": f"{what} raised"})
        if not frame.records:
            return
        for record in frame.records:
            record["order"] = self._order
        self._order += 1
        self._sink.emit(frame.records)
        frame.records = []

    def _begin_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        last = self._forward if self._forwards else None
        forward = next_forward(last, args, kwargs, current_frame(2))
        if self._warming_up:
            forward = Forward(forward.step, dummy="inside warmup()", certain=True)
        self._local.dummy = forward.certain or (self._what.skip_dummies and bool(forward.dummy))
        if self._local.dummy:
            self._dummies.append(forward.dummy)
            self._wants = False
            return
        if self._forwards:
            self._order = 0
            self._calls.clear()
        self._forwards += 1
        self._forward = forward
        self._wants = self._what.wanted.wants(forward, self._rank)

    def _end_step(self) -> None:
        assert self._sink is not None and self._recorder is not None
        if self._local.dummy:
            return
        if self._wants:
            self._sink.end_step(self._forward.entry())
        self._recorder.end_step()

    def _explain_emptiness(self, tensors: int) -> None:
        if tensors or self._failure is not None or (self._sink and self._sink.error):
            return
        if self._forwards == 0 and self._dummies:
            why = "all of them were dummies"
        elif self._forwards == 0:
            why = "the model's own forward was never called; capture the object that is called"
        else:
            why = self._what.wanted.why_none(self._forwards, self._world) or self._why_no_call()
        text = f"0 tensors recorded after {self._forwards} forwards: {why}"
        self.problems.append(text)
        warnings.warn(f"{text}: {self.path}", CaptureWarning, stacklevel=4)

    def _why_no_call(self) -> str:
        if self._full:
            return "the first tensor was already too large"
        if not (self._what.inputs or self._what.outputs):
            return "neither inputs nor outputs are wanted"
        if "module" not in self._what.levels and self._what.apis is not None:
            heard = sorted(self._names.heard)
            near = ", ".join(heard[:4]) or "none"
            return f"no function matches {list(self._what.apis)}; called were {near}" + (
                f" and {len(heard) - 4} more" if len(heard) > 4 else ""
            )
        return "no selected module ran, or none was given or gave a tensor that can be stored"


def _version(tensor: Any) -> int | None:
    return None if tensor.is_inference() else tensor._version
