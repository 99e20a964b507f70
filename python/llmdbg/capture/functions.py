"""Recording the functions that a model calls, between the modules."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from llmdbg.capture.api import ApiNames, DispatchMode, DistributedCalls, FunctionMode
from llmdbg.capture.calls import Frame, version
from llmdbg.capture.walk import call_leaves, result_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from llmdbg.capture.awaited import Awaited
    from llmdbg.capture.calls import Calls
    from llmdbg.capture.walk import Leaf


class FunctionCalls:
    """Hears of functions and records them as calls.

    Parameters
    ----------
    calls
        Where calls go.
    model
        The module that functions outside of any module belong to.
    """

    def __init__(self, calls: Calls, model: torch.nn.Module) -> None:
        self.names = ApiNames(calls.what.apis)
        self._calls = calls
        self._model = model
        self._hooked: Collection[torch.nn.Module] = ()
        self._distributed = DistributedCalls(self, self.names)
        self._awaited: list[Frame] = []

    def install(self, hooked: Collection[torch.nn.Module]) -> None:
        """Begin to hear of torch.distributed; `hooked` are all modules that are followed."""
        self._hooked = hooked
        if "api" in self._calls.what.levels:
            self._distributed.install()

    def remove(self) -> None:
        """Hear of nothing more, and close the calls that nobody waited for."""
        self._distributed.remove()
        if not self._calls.owned():
            return
        for frame in self._awaited:
            reason = "asynchronous, and nobody waited for it while this was recorded"
            self._calls.skip_output(frame, reason)
            self._calls.finish(frame, raised=False)
        self._awaited.clear()

    def enter_modes(self) -> contextlib.ExitStack | None:
        """Hear of functions on this thread until the result is closed."""
        levels, local = self._calls.what.levels, self._calls.local
        if levels == {"module"} or local.modes:
            return None
        modes = contextlib.ExitStack()
        if "dispatch" in levels:
            modes.enter_context(DispatchMode(self, self.names))
        if "api" in levels:
            modes.enter_context(FunctionMode(self, self.names))

        def left() -> None:
            local.modes -= 1

        local.modes += 1
        modes.callback(left)
        return modes

    def listens(self) -> bool:
        """Whether a function called now would be recorded."""
        calls = self._calls
        if not calls.wants or calls.full or not calls.alive() or calls.local.recording_itself:
            return False
        selected, stack = calls.what.selected, calls.local.stack
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
        calls = self._calls
        if name == calls.local.collective:
            # torch tells of some collectives itself, from inside the one that is recorded.
            return function(*args, **kwargs)
        stack = calls.local.stack
        inside = stack[-1] if stack else None
        module = inside.module if inside else self._model
        node = f"{inside.node}/{name}" if inside else name
        with calls.lock:
            frame = Frame(module, node, calls.step, name)
            calls.begin(frame, args, kwargs)
        given = [
            leaf for leaf in call_leaves(args, kwargs) if isinstance(leaf.content, torch.Tensor)
        ]
        before = [version(leaf.content) for leaf in given]
        outer = calls.local.collective
        calls.local.collective = name if mutates else outer
        try:
            result = function(*args, **kwargs)
        except BaseException:
            with calls.lock:
                calls.finish(frame, raised=True)
            raise
        finally:
            calls.local.collective = outer
        with calls.lock:
            found = result_leaves(result)
            # Tensors of inference mode do not tell whether they changed.
            in_place = mutates or (None in before and name.endswith("__setitem__"))
            has_tensor = any(isinstance(leaf.content, torch.Tensor) for leaf in found)
            changed = [
                leaf._replace(slot=f"args.{leaf.slot}")
                for leaf, then in zip(given, before, strict=True)
                if in_place or (version(leaf.content) != then and not has_tensor)
            ]
            if not (has_tensor or changed):
                # A question such as `size()` or `is_contiguous()` computes no tensor.
                self.names.forget(function)
                calls.uncount(frame)
                return result
            if mutates and isinstance(result, torch.distributed.Work):
                return self._later(frame, changed, result)
            calls.keep_outputs(frame, [*found, *changed])
            calls.finish(frame, raised=False)
        return result

    def _later(self, frame: Frame, results: list[Leaf], work: Any) -> Awaited:
        """Record what an asynchronous call gives once its handle was waited for."""
        # Not every torch has collectives; here is one.
        from llmdbg.capture.awaited import Awaited

        self._awaited.append(frame)

        def done() -> None:
            calls = self._calls
            if not calls.alive():
                return
            with calls.lock:
                if frame in self._awaited:
                    self._awaited.remove(frame)
                    calls.keep_outputs(frame, results)
                    calls.finish(frame, raised=False)

        return Awaited(work, done)
