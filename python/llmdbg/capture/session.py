"""Recording what the modules of a torch model, and the functions they call, are given and give."""

from __future__ import annotations

import atexit
import contextlib
import sys
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from llmdbg._core import LlmdbgError
from llmdbg.capture.about import about_run, rank_and_world
from llmdbg.capture.calls import Calls, CaptureWarning, DivergedError, Frame
from llmdbg.capture.comparing import CompareSink
from llmdbg.capture.cost import Cost, CountingSink
from llmdbg.capture.functions import FunctionCalls
from llmdbg.capture.modules import describe
from llmdbg.capture.recorder import Recorder, Sink
from llmdbg.capture.wanted import Forward, current_frame, next_forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType, TracebackType

    from llmdbg.capture.what import What
    from llmdbg.result import Result


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
        self._model = model
        self._make_sink = make_sink
        self._what = what
        self._given_rank = rank
        self._sink: Sink | None = None
        self._recorder: Recorder | None = None
        self._state: Literal["new", "running", "stopped"] = "new"
        self._handles: list[Any] = []
        self._rank, self._world = 0, 1
        self._calls = Calls(model, what, path)
        self._functions = FunctionCalls(self._calls, model)
        # Calls outside of a forward belong to the forward before, the first ones to the first.
        self._forward = Forward()
        self._forwards = 0
        self._dummies: list[str] = []
        self._warming_up = False

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
        self._calls.open(sink, self._recorder)
        # A script that never calls stop() still gets a finished dump.
        atexit.register(self._stop_at_exit)
        what.wanted.begin()
        self._calls.wants = what.wanted.wants(self._forward, self._rank)
        if what.weights and what.wanted.wants_rank(self._rank):
            self._calls.guard(self._calls.keep_weights)
        self._add_hooks()
        self._functions.install(self._hooked)
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
        calls = self._calls
        self._state, calls.running = "stopped", False
        if not calls.owned():
            # The dump is the parent's to finish.
            self._remove_hooks()
            return self.path
        atexit.unregister(self._stop_at_exit)
        self._remove_hooks()
        for frame in calls.local.stack:
            calls.finish(frame, raised=True)
        calls.local.stack.clear()
        if self._dummies:
            self.problems.append(
                f"{len(self._dummies)} dummy forwards were left out: {self._dummies[0]}"
            )
        self._explain_emptiness(self._recorder.tensors)
        self._recorder = None
        calls.close()
        try:
            self._sink.close(self.problems, calls.failure)
        except OSError as error:
            calls.failure = calls.failure or error
        cause = self._sink.error or calls.failure
        if cause is not None:
            raise LlmdbgError(
                f"recording stopped in step {self._forward.step}: {cause}; the model ran on, and "
                f"the {self._sink.records_written} records "
                f"({self._sink.bytes_written / 1e6:.1f} MB) "
                f"up to there can be read: {self.path}"
            ) from cause
        return self.path

    @property
    def problems(self) -> list[str]:
        """What the dump's reader should know."""
        return self._calls.problems

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
        self._calls.local.idle_modes = self._functions.enter_modes()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        local = self._calls.local
        if local.idle_modes is not None:
            local.idle_modes.close()
            local.idle_modes = None
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
        if not self._calls.owned():
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
        self._functions.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _enter(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        calls = self._calls
        if not calls.alive():
            return
        stack = calls.local.stack
        if module is self._model:
            self._drop_interrupted(stack)
        with calls.lock:
            outermost = module is self._model and not any(f.module is module for f in stack)
            if outermost:
                self._begin_step(args, kwargs)
            frame = Frame(module, self._hooked.get(module, ""), self._forward.step)
            stack.append(frame)
            if module is self._model:
                frame.caller = sys._getframe(1)
            if outermost and calls.wants:
                frame.modes = self._functions.enter_modes()
            if "module" not in self._what.levels or module not in self._what.selected:
                return
            calls.begin(frame, args, kwargs)

    def _leave(
        self,
        module: torch.nn.Module,
        _args: tuple[Any, ...],
        _kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        calls = self._calls
        if not calls.alive():
            return
        stack = calls.local.stack
        if not any(frame.module is module for frame in stack):
            return
        with calls.lock:
            while stack[-1].module is not module:
                calls.finish(stack.pop(), raised=True)
            frame = stack.pop()
            calls.end(frame, result, raised=frame.raised())
            if module is self._model and not any(f.module is module for f in stack):
                self._end_step()

    def _drop_interrupted(self, stack: list[Frame]) -> None:
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
                with self._calls.lock:
                    for left in reversed(stack[i:]):
                        self._calls.finish(left, raised=True)
                    del stack[i:]
                    self._end_step()
                return

    # -- steps -------------------------------------------------------------------------

    def _begin_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        last = self._forward if self._forwards else None
        forward = next_forward(last, args, kwargs, current_frame(2))
        if self._warming_up:
            forward = Forward(forward.step, dummy="inside warmup()", certain=True)
        calls = self._calls
        calls.local.dummy = forward.certain or (self._what.skip_dummies and bool(forward.dummy))
        if calls.local.dummy:
            self._dummies.append(forward.dummy)
            calls.wants = False
            return
        calls.new_step(forward.step, first=self._forwards == 0)
        self._forwards += 1
        self._forward = forward
        calls.wants = self._what.wanted.wants(forward, self._rank)

    def _end_step(self) -> None:
        assert self._sink is not None and self._recorder is not None
        if self._calls.local.dummy:
            return
        if self._calls.wants:
            self._sink.end_step(self._forward.entry())
        self._recorder.end_step()

    def _explain_emptiness(self, tensors: int) -> None:
        if tensors or self._calls.failure is not None or (self._sink and self._sink.error):
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
        if self._calls.full:
            return "the first tensor was already too large"
        if not (self._what.inputs or self._what.outputs):
            return "neither inputs nor outputs are wanted"
        if "module" not in self._what.levels and self._what.apis is not None:
            heard = sorted(self._functions.names.heard)
            near = ", ".join(heard[:4]) or "none"
            return f"no function matches {list(self._what.apis)}; called were {near}" + (
                f" and {len(heard) - 4} more" if len(heard) > 4 else ""
            )
        return "no selected module ran, or none was given or gave a tensor that can be stored"
