"""Capturing inside vLLM's model runners.

A runner's `execute_model(scheduler_output, …)` is one engine step; the scheduler's output names
the requests in it. It is wrapped on the class that defines it, as soon as that class exists.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmdbg.capture.after_import import after_import
from llmdbg.capture.wanted import Wanted
from llmdbg.serving.requests import FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from llmdbg.capture.session import TorchCapture
    from llmdbg.capture.wanted import Forward
    from llmdbg.serving.settings import ServingSettings

log = logging.getLogger("llmdbg.serving")

# Where runners are defined: vLLM's two generations, and vllm-ascend's.
_RUNNERS = (
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner"),
    ("vllm.v1.worker.gpu.model_runner", "GPUModelRunner"),
    ("vllm_ascend.worker.model_runner_v1", "NPUModelRunner"),
    ("vllm_ascend.worker.v2.model_runner", "NPUModelRunner"),
)
_MARK = "_llmdbg_wrapped"


def install(settings: ServingSettings) -> None:
    """Wrap every runner class that is defined in this process, now or later."""
    for module, name in _RUNNERS:
        after_import(module, functools.partial(_wrap, name=name, settings=settings))


def _wrap(module: ModuleType, *, name: str, settings: ServingSettings) -> None:
    runner: Any = getattr(module, name, object)
    # A class that inherits the function is recorded through its parent.
    execute = vars(runner).get("execute_model")
    if execute is None or getattr(execute, _MARK, False):
        return

    @functools.wraps(execute)
    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            return execute(self, scheduler_output, *args, **kwargs)

        if kwargs.get("dummy_run") or not getattr(scheduler_output, "num_scheduled_tokens", None):
            return call()
        return _recorder(self, settings).run(scheduler_output, call)

    setattr(execute_model, _MARK, True)
    runner.execute_model = execute_model


def _recorder(runner: Any, settings: ServingSettings) -> _Recorder:
    recorder = getattr(runner, "_llmdbg_recorder", None)
    if recorder is None:
        recorder = runner._llmdbg_recorder = _Recorder(runner, settings)
    return recorder


class _Gate(Wanted):
    """Lets the forwards of a wanted engine step through, and numbers them like the engine.

    Attributes
    ----------
    engine_step
        The engine step that is let through; None while none is.
    steps
        What its forwards were numbered. Several of one engine step take the numbers after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.engine_step: int | None = None
        self.steps: list[int] = []
        self._last = -1

    def wants(self, forward: Forward, rank: int) -> bool:
        """Tell whether `forward` is recorded."""
        if self.engine_step is None:
            forward.step = self._last
            return False
        self._last = forward.step = max(self._last + 1, self.engine_step)
        self.steps.append(forward.step)
        return super().wants(forward, rank)

    def why_none(self, forwards: int, world: int) -> str | None:
        """Explain an empty dump: hooks do not run inside a graph."""
        del forwards, world
        return (
            "the model runs as a compiled or captured graph, which calls no module; start the "
            "server with --enforce-eager"
        )


@dataclass
class _Open:
    """A capture that runs."""

    capture: TorchCapture
    gate: _Gate
    requests: Path


class _Recorder:
    """Records the steps of one runner."""

    def __init__(self, runner: Any, settings: ServingSettings) -> None:
        self._runner = runner
        self._settings = settings
        self._step = 0
        self._open: _Open | None = None
        self._over = False
        # A wrapped runner may call the wrapped function of its parent class.
        self._inside = threading.local()

    def run(self, scheduler_output: Any, call: Callable[[], Any]) -> Any:
        """Run one engine step, recorded if it is wanted."""
        if self._over or getattr(self._inside, "it", False):
            return call()
        self._inside.it = True
        step, self._step = self._step, self._step + 1
        tokens: dict[str, int] = dict(scheduler_output.num_scheduled_tokens)
        wanted = self._settings.wants(step, tokens)
        if wanted and self._open is None:
            self._start()
        running = self._open
        try:
            if running is None or not wanted:
                return call()
            running.gate.engine_step = step
            return call()
        finally:
            self._inside.it = False
            if running is not None and wanted:
                running.gate.engine_step = None
                self._note(running, step, tokens, scheduler_output)
            if self._settings.is_over(step):
                self._stop()

    def _start(self) -> None:
        """Begin the capture; whatever goes wrong in it, the server runs on."""
        try:
            self._open = self._started()
        except Exception as error:
            self._over = True
            log.error("rank is not recorded in process %d: %s", os.getpid(), error)

    def _started(self) -> _Open | None:
        from llmdbg.capture.about import rank_and_world
        from llmdbg.capture.start import capture_torch

        settings = self._settings
        rank, world = rank_and_world(None)
        if settings.ranks and rank not in settings.ranks:
            self._over = True
            return None
        get_model = getattr(self._runner, "get_model", None)
        model = self._runner.model if get_model is None else get_model()
        path = settings.path
        # Engines side by side (data parallel) do not know of each other.
        if world == 1 and path.exists():
            path = path.with_name(f"{path.name}_process{os.getpid()}")
        capture = capture_torch(
            model,
            path,
            mode=settings.mode,  # type: ignore[arg-type]
            modules=settings.modules or None,
            max_bytes=settings.max_bytes,
        )
        gate = _Gate()
        # Which forward belongs to which step and request is known here alone.
        capture._what = replace(capture._what, wanted=gate)
        capture.start()
        log.info("recording rank %d into %s", rank, path)
        folder = path / f"rank{rank}" if world > 1 else path
        return _Open(capture, gate, folder / FILE)

    def _note(
        self, running: _Open, step: int, tokens: dict[str, int], scheduler_output: Any
    ) -> None:
        """Write down whose rows the recorded forwards had."""
        forwards, running.gate.steps = running.gate.steps, []
        if not forwards:
            return
        positions = _positions(scheduler_output)
        order = _order(self._runner, tokens)
        row: int | None = 0
        entries = []
        # Several forwards of one step split its rows in a way that the scheduler does not know.
        told = order is not None and len(forwards) == 1
        for request in order or sorted(tokens):
            entries.append(
                {
                    "id": request,
                    "position": positions.get(request),
                    "rows": tokens[request],
                    "first_row": row if told else None,
                }
            )
            row = (row or 0) + tokens[request]
        lines = [
            json.dumps({"step": forward, "engine_step": step, "requests": entries}) + "\n"
            for forward in forwards
        ]
        try:
            with running.requests.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            log.warning("the requests of step %d are not noted: %s", step, error)

    def _stop(self) -> None:
        running, self._open = self._open, None
        self._over = True
        if running is None:
            return
        try:
            running.capture.stop()
        except Exception as error:
            log.error("%s", error)
        for problem in running.capture.problems:
            log.warning("%s", problem)


def _positions(scheduler_output: Any) -> dict[str, int]:
    """Tokens computed before, by request."""
    found: dict[str, int] = {}
    for request in getattr(scheduler_output, "scheduled_new_reqs", None) or ():
        found[request.req_id] = request.num_computed_tokens
    cached = getattr(scheduler_output, "scheduled_cached_reqs", None)
    ids = getattr(cached, "req_ids", None) or ()
    found |= dict(zip(ids, getattr(cached, "num_computed_tokens", None) or (), strict=False))
    return found


def _order(runner: Any, tokens: dict[str, int]) -> list[str] | None:
    """Give the requests in the order of their rows, or None where the runner does not tell."""
    state = getattr(runner, "execute_model_state", None)
    batch = getattr(state, "input_batch", None) or getattr(runner, "input_batch", None)
    ids = getattr(batch, "req_ids", None)
    if ids is None:
        return None
    order = [request for request in ids if request in tokens]
    return order if len(order) == len(tokens) else None
