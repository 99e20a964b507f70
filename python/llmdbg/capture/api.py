"""Hearing of every function that a model calls: torch's, of tensors, of torch.distributed.

Two modes of torch tell of them without a list of names. A function mode sees what Python calls,
`torch.nn.functional.softmax` or an operator of `torch_npu`; a dispatch mode sees the kernels below,
`aten._softmax.default`. torch.distributed passes by both, so its functions are wrapped.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

Level: TypeAlias = Literal["module", "api", "dispatch"]
LEVELS: tuple[Level, ...] = ("module", "api", "dispatch")

_DISTRIBUTED = "torch.distributed"
_FRAMES = 8


class Listener(Protocol):
    """Who is told of calls."""

    def listens(self) -> bool:
        """Whether a call now would be recorded."""

    def call(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        mutates: bool,
    ) -> Any:
        """Call `function` and record it under `name`; `mutates`: its arguments hold its results."""


class ApiNames:
    """Names functions, and says which of them are wanted.

    Parameters
    ----------
    patterns
        Patterns (`*`, `?`, `[…]`) over names; None for all.
    """

    def __init__(self, patterns: tuple[str, ...] | None) -> None:
        self._patterns = patterns
        self._names: dict[Any, str | None] = {}
        self.heard: set[str] = set()

    def wanted(self, function: Any) -> str | None:
        """Return the name of a wanted function, else None."""
        try:
            return self._names[function]
        except KeyError:
            name = self._names[function] = self._judged(name_of(function))
            return name
        except TypeError:  # unhashable
            return self._judged(name_of(function))

    def forget(self, function: Any) -> None:
        """Leave `function` out from now on."""
        self._names[function] = None

    def matches(self, name: str) -> bool:
        """Tell whether a pattern matches `name`."""
        return self._patterns is None or any(fnmatch.fnmatchcase(name, p) for p in self._patterns)

    def _judged(self, name: str) -> str | None:
        # Reading an attribute such as `shape` computes nothing.
        if name.endswith((".__get__", ".__set__", ".__delete__")):
            return None
        self.heard.add(name)
        return name if self.matches(name) else None


def name_of(function: Any) -> str:
    """Name a function as dumps do: `torch.nn.functional.silu`."""
    if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return str(function)
    name = resolve_name(function)
    if name is not None:
        return str(name)
    home = getattr(function, "__module__", None)
    own = getattr(function, "__qualname__", None) or getattr(function, "__name__", "function")
    return f"{home}.{own}" if home else str(own)


class _Heard:
    """A mode that passes what it hears on to a listener; torch's two differ in a name only."""

    def __init__(self, listener: Listener, names: ApiNames) -> None:
        super().__init__()
        self._listener = listener
        self._names = names

    def _hear(
        self,
        func: Callable[..., Any],
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = self._names.wanted(func) if self._listener.listens() else None
        if name is None:
            return func(*args, **(kwargs or {}))
        return self._listener.call(name, func, args, kwargs or {}, mutates=False)


class FunctionMode(_Heard, TorchFunctionMode):
    """Hears of the functions that Python calls."""

    __torch_function__ = _Heard._hear


class DispatchMode(_Heard, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hears of the kernels that torch runs."""

    __torch_dispatch__ = _Heard._hear


class DistributedCalls:
    """Wrappers around the functions of torch.distributed, wherever they were imported to."""

    def __init__(self, listener: Listener, names: ApiNames) -> None:
        self._listener = listener
        self._names = names
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def install(self) -> None:
        """Put the wrappers in place."""
        wrappers: dict[int, tuple[Any, Any]] = {}
        for function in _distributed_functions():
            name = f"{_DISTRIBUTED}.{function.__name__}"
            if self._names.matches(name):
                wrappers[id(function)] = (function, self._wrapped(name, function))
        if not wrappers:
            return
        # `from torch.distributed import all_reduce` left copies of the name in other modules.
        for module in list(sys.modules.values()):
            space: Mapping[str, Any] = getattr(module, "__dict__", None) or {}
            for attribute, value in list(space.items()):
                found = wrappers.get(id(value))
                if found is not None and found[0] is value:
                    setattr(module, attribute, found[1])
                    self._replaced.append((module, attribute, value, found[1]))

    def remove(self) -> None:
        """Put the functions themselves back."""
        for module, attribute, original, wrapper in self._replaced:
            if module.__dict__.get(attribute) is wrapper:
                setattr(module, attribute, original)
        self._replaced.clear()

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self._listener.listens():
                return function(*args, **kwargs)
            return self._listener.call(name, function, args, kwargs, mutates=True)

        return wrapper


def _distributed_functions() -> list[Callable[..., Any]]:
    """List the functions that are given tensors and communicate, by their signatures."""
    if not torch.distributed.is_available():
        return []
    from torch.distributed import distributed_c10d

    found: list[Callable[..., Any]] = []
    for name in distributed_c10d.__all__:
        function = getattr(distributed_c10d, name, None)
        if not inspect.isfunction(function) or "object" in name:
            continue
        parameters = inspect.signature(function).parameters
        if "group" in parameters and any("tensor" in p for p in parameters):
            found.append(function)
    return found


def caller_stack(skip: int = 1) -> list[str]:
    """Return the innermost frames outside of torch and of this package: ``file:line function``."""
    own, theirs = __name__.rpartition(".")[0], "torch"
    frames: list[str] = []
    frame: FrameType | None = sys._getframe(skip)
    while frame is not None and len(frames) < _FRAMES:
        home = frame.f_globals.get("__name__", "")
        if not _inside(home, own) and not _inside(home, theirs):
            code = frame.f_code
            frames.append(f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return frames


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
