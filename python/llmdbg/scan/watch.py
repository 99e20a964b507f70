"""Watching a torch model while it runs: the first result that is not finite, and what led to it.

Every result is reduced to its smallest and largest value on its own device, and nothing waits for
that: the numbers of one forward are fetched together when it ends.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import llmdbg
from llmdbg.errors import UserError
from llmdbg.scan.model import Finding, Level
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    from types import CodeType, FrameType, TracebackType

FRAMES = 32
# Code that nobody wants to be shown: torch's, and what wraps a call in order to look at it.
_PACKAGES = tuple(os.path.dirname(path) for path in (torch.__file__, llmdbg.__file__))  # noqa: PTH120
# Tensors whose identity is remembered, so that a module's input is not looked at again after it
# was another's result.
_RECENT = 6


class NonFiniteError(RuntimeError):
    """The watched model gave a result that is not finite."""


@dataclass
class Frame:
    """One result, or input made by code between modules, reduced to its extremes.

    Attributes
    ----------
    module : str
        Its name in the model; empty for the model itself.
    kind : str
        Class of the module.
    role : {"output", "input"}
        Which side of the module.
    call : int
        Which call of the module it was, from 0.
    dtype, shape
        Of the tensor.
    site : tuple of code object and line, or None
        Where the module was called.
    low, high : float
        Extremes, once they were fetched.
    """

    module: str
    kind: str
    role: str
    call: int
    dtype: str
    shape: tuple[int, ...]
    site: tuple[CodeType, int] | None
    extremes: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    low: float = 0.0
    high: float = 0.0

    @property
    def bad(self) -> bool:
        """Whether it holds NaN or +Inf, or −Inf beside nothing larger than a mask has."""
        if self.low != self.low or self.high != self.high or self.high == float("inf"):
            return True
        # −Inf alone is what masks and banned tokens are made of; a tensor of it only is not.
        return self.high == float("-inf")

    def as_dict(self) -> dict[str, Any]:
        """Return it as the summary spells it."""
        return {
            "module": self.module,
            "class": self.kind,
            "role": self.role,
            "call": self.call,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "min": str(self.low) if self.bad else self.low,
            "max": str(self.high) if self.bad else self.high,
            "at": self.place,
        }

    @property
    def place(self) -> str:
        """File and line of the call."""
        if self.site is None:
            return ""
        code, line = self.site
        return f"{code.co_filename}:{line} in {code.co_qualname}"


class Watch:
    """Hooks on a model that look at every result; made by :func:`watch`.

    Attributes
    ----------
    finding : Finding or None
        The first result that was not finite.
    frames : list of Frame
        The last frames up to it.
    forwards : int
        Forwards of the model that ended.
    """

    def __init__(self, model: torch.nn.Module, *, stop: bool, report: bool) -> None:
        self.finding: Finding | None = None
        self.frames: list[Frame] = []
        self.forwards = 0
        self._model = model
        self._stop = stop
        self._report = report
        self._handles: list[Any] = []
        self._pending: list[Frame] = []
        self._calls: dict[str, int] = {}
        self._recent: deque[torch.Tensor] = deque(maxlen=_RECENT)
        self._last: deque[Frame] = deque(maxlen=FRAMES)

    def start(self) -> Watch:
        """Begin watching."""
        if self._handles:
            raise UserError("this model is being watched already")
        for name, module in self._model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hook = self._hook(name, type(module).__name__, module is self._model)
                self._handles.append(module.register_forward_hook(hook))
        return self

    def stop(self) -> None:
        """End watching, and look at what a forward that did not end has left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._look()

    def __enter__(self) -> Watch:
        return self.start()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except NonFiniteError:
            if error is None:
                raise

    def _hook(self, name: str, kind: str, is_root: bool) -> Any:  # noqa: FBT001
        def hook(_module: torch.nn.Module, args: tuple[Any, ...], result: Any) -> None:
            call = self._calls.get(name, 0)
            self._calls[name] = call + 1
            # Above this hook is torch's own call, then the code that called the module.
            site = _site(sys._getframe(1))
            if args and isinstance(args[0], torch.Tensor):
                self._add(args[0], name, kind, "input", call, site)
            for tensor in _tensors(result):
                self._add(tensor, name, kind, "output", call, site)
            if is_root:
                self.forwards += 1
                self._look()

        return hook

    def _add(
        self,
        tensor: torch.Tensor,
        name: str,
        kind: str,
        role: str,
        call: int,
        site: tuple[CodeType, int] | None,
    ) -> None:
        if any(tensor is known for known in self._recent):
            return
        self._recent.append(tensor)
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            return
        frame = Frame(
            name,
            kind,
            role,
            call,
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            site,
        )
        low, high = torch.aminmax(tensor.detach())
        frame.extremes = (low, high)
        self._pending.append(frame)

    def _look(self) -> None:
        """Fetch what is pending, in one transfer for each device and dtype."""
        pending, self._pending = self._pending, []
        self._calls.clear()
        self._recent.clear()
        groups: dict[tuple[torch.device, torch.dtype], list[Frame]] = {}
        for frame in pending:
            assert frame.extremes is not None
            low = frame.extremes[0]
            groups.setdefault((low.device, low.dtype), []).append(frame)
        for frames in groups.values():
            values = torch.stack([v for f in frames if f.extremes for v in f.extremes]).tolist()
            for i, frame in enumerate(frames):
                frame.low, frame.high = values[2 * i : 2 * i + 2]
                frame.extremes = None
        for at, frame in enumerate(pending):
            self._last.append(frame)
            if frame.bad:
                self._found(frame, pending, at)
                return

    def _found(self, frame: Frame, pending: list[Frame], at: int) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.frames = list(self._last)
        step = max(self.forwards - 1, 0)
        self.finding = tell(frame, self.frames, pending[at:], step)
        if self._report:
            sys.stderr.write(describe(self.finding, self.frames))
            sys.stderr.flush()
        if self._stop:
            raise NonFiniteError(self.finding.sentence)


def watch(model: torch.nn.Module, *, stop: bool = False, report: bool = True) -> Watch:
    """Watch a model for results that are not finite.

    Use it as ``with llmdbg.watch(model) as w:`` around any forward or ``generate``; the first bad
    result is printed to stderr with the 32 frames that led to it, and is in ``w.finding``.

    Parameters
    ----------
    model : torch.nn.Module
        The module whose forwards are the steps.
    stop : bool
        Raise `NonFiniteError` when the forward that went wrong ends.
    report : bool
        Print the first bad result.

    Returns
    -------
    Watch
    """
    return Watch(model, stop=stop, report=report)


def tell(frame: Frame, frames: list[Frame], rest: list[Frame], step: int) -> Finding:
    """Make a finding of the first frame that is bad.

    Parameters
    ----------
    frame : Frame
        It.
    frames : list of Frame
        The frames up to it.
    rest : list of Frame
        It and what followed in the same forward.
    step : int
        Which forward.
    """
    name = f"{shown_node(frame.module)} ({frame.kind})"
    what = "NaN" if frame.low != frame.low else "Inf"
    before = frames[-2] if len(frames) > 1 else None
    if frame.role == "input":
        between = f" after {shown_node(before.module)}" if before else ""
        sentence = f"the code before {name}{between} gives it {what} in step {step}"
    else:
        sentence = f"{name} gives {what} in step {step}, call {frame.call}"
    evidence = [
        f"{frame.role} {frame.dtype} {list(frame.shape)}: min {frame.low}, max {frame.high}"
    ]
    # Modules end after what they contain, so those around the bad one come later.
    around = [f for f in rest if frame.module.startswith(f"{f.module}.") or not f.module]
    stack = [f.place for f in (frame, *around) if f.place]
    evidence += [f"called at {place}" for place in dict.fromkeys(stack)]
    flag = _npu_flag()
    if flag:
        evidence.append(flag)
    return Finding(
        Level.ERROR,
        "nan" if what == "NaN" else "overflow",
        frame.module,
        step,
        None,
        sentence,
        tuple(evidence),
        None,
        {"frames": [f.as_dict() for f in frames], "stack": stack},
    )


def describe(finding: Finding, frames: list[Frame]) -> str:
    """Return a finding as text: the answer, the evidence, the last frames."""
    lines = [f"llmdbg: {finding.sentence}", *(f"  {line}" for line in finding.evidence)]
    lines.append(f"  the last {len(frames)} frames:")
    for frame in frames:
        mark = "✗" if frame.bad else " "
        place = shown_node(frame.module)
        lines.append(
            f"  {mark} {place} {frame.role} {frame.dtype} {list(frame.shape)} "
            f"{frame.low:.4g} … {frame.high:.4g}"
        )
    return "\n".join(lines) + "\n"


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, dict):
        result = result.values()
    elif not isinstance(result, (list, tuple)):
        return []
    return [value for value in result if isinstance(value, torch.Tensor)]


def _site(frame: FrameType | None) -> tuple[CodeType, int] | None:
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame = frame.f_back
    return None if frame is None else (frame.f_code, frame.f_lineno)


def _npu_flag() -> str | None:
    if "torch_npu" not in sys.modules:
        return None
    from llmdbg.capture.npu import overflow_happened

    try:
        return f"NPU overflow flag: {'set' if overflow_happened() else 'not set'}"
    except UserError as error:
        return f"NPU overflow flag: {error}"
