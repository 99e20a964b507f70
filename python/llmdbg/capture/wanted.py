"""Which of a model's forwards are recorded, and why none was."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from llmdbg._core import LlmdbgError

if TYPE_CHECKING:
    from types import FrameType

Numbers: TypeAlias = int | range | slice | Iterable[int] | None

# Functions of serving stacks that run the model on made-up input.
_DUMMY_FUNCTIONS = {
    "_dummy_run",
    "_dummy_sampler_run",
    "_warm_up_atb",
    "capture_model",
    "compile_or_warm_up_model",
    "dummy_run",
    "profile_run",
    "warm_up",
    "warm_up_model",
    "warmup",
}


@dataclass
class Forward:
    """One forward of the model.

    Attributes
    ----------
    step
        Number of the forward, from 0; dummies that are certain are not counted.
    request, token
        Number of the request, and of the forward within it: a forward without a filled cache
        begins a request.
    dummy
        Why the input looks made up; empty if it does not.
    certain
        Whether it surely is a dummy.
    """

    step: int = 0
    request: int = 0
    token: int = 0
    dummy: str = ""
    certain: bool = False

    def entry(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        entry: dict[str, Any] = {
            "step": self.step,
            "forwards": 1,
            "request": self.request,
            "token": self.token,
        }
        return entry | ({"dummy": self.dummy} if self.dummy else {})


@dataclass
class Wanted:
    """Filters over forwards; None lets everything pass."""

    steps: Numbers = None
    ranks: Numbers = None
    requests: Numbers = None
    tokens: Numbers = None
    seconds: tuple[float, float] | None = None
    _filters: dict[str, Callable[[int], bool]] = field(init=False, default_factory=dict)
    _met: dict[str, set[int]] = field(init=False, default_factory=dict)
    _began: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for name in ("steps", "ranks", "requests", "tokens"):
            numbers = getattr(self, name)
            if numbers is not None and not isinstance(numbers, (int, range, slice)):
                numbers = sorted(set(numbers), key=str)
                setattr(self, name, numbers)
            self._filters[name] = number_filter(numbers, name)
        if self.seconds is not None:
            first, last = self.seconds
            if not 0 <= first < last:
                raise LlmdbgError(
                    f"seconds are (first, last) from the start on, found {self.seconds}"
                )

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def wants(self, forward: Forward, rank: int) -> bool:
        """Tell whether `forward` is recorded."""
        numbers = {
            "steps": forward.step,
            "ranks": rank,
            "requests": forward.request,
            "tokens": forward.token,
        }
        for name, number in numbers.items():
            self._met.setdefault(name, set()).add(number)
        if not all(self._filters[name](number) for name, number in numbers.items()):
            return False
        if self.seconds is None:
            return True
        elapsed = time.monotonic() - self._began
        return self.seconds[0] <= elapsed < self.seconds[1]

    def wants_rank(self, rank: int) -> bool:
        """Tell whether anything of `rank` is recorded."""
        return self._filters["ranks"](rank)

    def why_none(self, forwards: int, world: int) -> str | None:
        """Name the filter that let no forward pass, or None if it was no filter."""
        for name in ("ranks", "steps", "requests", "tokens"):
            given, met = getattr(self, name), self._met.get(name, set())
            if given is None or any(map(self._filters[name], met)):
                continue
            if name == "ranks":
                found = sorted(met) if world <= 1 else list(range(world))
                return f"rank filter {_spelled(given)} matches none of {found}" + (
                    f" (this is rank {min(met)})" if world > 1 and met else ""
                )
            if name == "steps":
                return f"the step filter matches none of the {forwards} forwards (counted from 0)"
            return f"{name[:-1]} filter {_spelled(given)} matches none of {sorted(met)}"
        if self.seconds is not None:
            first, last = self.seconds
            return f"no forward began between {first:g} and {last:g} s after the start"
        return None


def _spelled(numbers: Any) -> str:
    return str([numbers] if isinstance(numbers, int) else numbers)


def number_filter(numbers: Numbers, what: str = "steps") -> Callable[[int], bool]:
    """Turn what a user may say about numbers into a question that can be asked of each.

    Raises
    ------
    LlmdbgError
        If a number is negative or none.
    """
    if numbers is None:
        return lambda _number: True
    if isinstance(numbers, slice):
        start, stop, stride = numbers.start or 0, numbers.stop, numbers.step or 1
        if start < 0 or stride < 1 or (stop is not None and stop < 0):
            raise LlmdbgError(f"{what} are counted from 0 upwards, found {numbers}")
        return lambda number: (
            number >= start and (stop is None or number < stop) and (number - start) % stride == 0
        )
    wanted = (
        numbers
        if isinstance(numbers, range)
        else {numbers}
        if isinstance(numbers, int)
        else set(numbers)
    )
    if any(not isinstance(n, int) or n < 0 for n in wanted):
        raise LlmdbgError(f"{what} are whole numbers from 0 upwards, found {numbers!r}")
    return lambda number: number in wanted


def next_forward(
    last: Forward | None, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType | None
) -> Forward:
    """Find out which forward the model's call with these arguments is."""
    step = 0 if last is None else last.step + 1
    while frame is not None:
        if frame.f_code.co_name in _DUMMY_FUNCTIONS:
            why = f"called by {frame.f_code.co_qualname}"
            return Forward(step, dummy=why, certain=True)
        frame = frame.f_back
    request, token = 0, 0
    if last is not None:
        goes_on = _cached_tokens(kwargs) > 0
        request = last.request if goes_on else last.request + 1
        token = last.token + 1 if goes_on else 0
    return Forward(step, request, token, dummy=_looks_made_up(args, kwargs))


def _cached_tokens(kwargs: dict[str, Any]) -> int:
    """Count the tokens in the call's cache, whatever its name in this version of transformers."""
    for value in kwargs.values():
        length = getattr(value, "get_seq_length", None)
        if length is not None:
            return int(length())
    cache = kwargs.get("past_key_values")
    if isinstance(cache, (list, tuple)) and cache:
        # The older form: a tuple of keys and values per layer.
        keys = cache[0][0] if isinstance(cache[0], (list, tuple)) and cache[0] else None
        return keys.shape[-2] if isinstance(keys, torch.Tensor) and keys.ndim > 1 else 0
    return 0


def _looks_made_up(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    ids = kwargs.get("input_ids", args[0] if args else None)
    # Of another device it is not worth waiting for.
    if (
        isinstance(ids, torch.Tensor)
        and ids.device.type == "cpu"
        and ids.dtype in (torch.int64, torch.int32)
        and ids.numel() > 1
        and bool((ids == ids.reshape(-1)[0]).all())
    ):
        return f"all {ids.numel()} input ids are {ids.reshape(-1)[0].item()}"
    return ""


def current_frame(skip: int) -> FrameType | None:
    """Return the frame so many calls above the caller's."""
    return sys._getframe(skip + 1)
