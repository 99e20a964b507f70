"""What a module was given or gave back, taken apart into leaves with a path each."""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

MAX_DEPTH = 16
MAX_TEXT = 4096
_PLAIN = (bool, int, float, str, type(None))
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_OPAQUE = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    torch.nn.Module,
    torch.Generator,
)


class Value(NamedTuple):
    """A leaf that is no tensor, as JSON can hold it."""

    value: Any


class Skipped(NamedTuple):
    """A leaf that cannot be kept, and why."""

    reason: str


class Leaf(NamedTuple):
    """One leaf: its path, what it is, and whether an object such as a cache lies on the path."""

    slot: str
    content: torch.Tensor | Value | Skipped
    in_object: bool = False


def call_leaves(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Leaf]:
    """Leaves of a call's arguments: `0`, `1.0`, `kwargs.mask`."""
    found: list[Leaf] = []
    for i, value in enumerate(args):
        _walk(value, str(i), found, ())
    for name, value in kwargs.items():
        _walk(value, f"kwargs.{_part(name)}", found, ())
    return found


def result_leaves(result: Any) -> list[Leaf]:
    """Leaves of a result: no path for a lone leaf, else the path inside it (`1`, `logits`)."""
    found: list[Leaf] = []
    children = None if isinstance(result, torch.Tensor) else _children(result)
    if children is None or isinstance(children, str):
        _walk(result, "", found, ())
    else:
        for part, value in children:
            _walk(value, part, found, (id(result),))
    return found


def plain(value: Any) -> Any:
    """`value` as strict JSON can hold it: non-finite floats become their names.

    Raises
    ------
    TypeError
        If `value` is neither a plain value nor a list or tuple of such.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value) if isinstance(value.value, _PLAIN) else value.name
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else repr(float(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, _NAMED):
        return str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    raise TypeError(type(value).__name__)


def _part(name: object) -> str:
    """Make a path part; quoted where a bare name could be taken for a longer path."""
    text = str(name)
    return text if text and not any(c in text for c in './\\"\n') else json.dumps(text)


def _join(slot: str, part: str) -> str:
    return f"{slot}.{part}" if slot else part


def _children(value: Any) -> Iterator[tuple[str, Any]] | str | None:
    """Parts of a container, the reason why it is none that is taken apart, or None for a leaf."""
    if isinstance(value, (list, tuple)):
        return ((str(i), v) for i, v in enumerate(value))
    if isinstance(value, Mapping):
        return ((_part(k), v) for k, v in value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return ((f.name, getattr(value, f.name, None)) for f in fields)
    if isinstance(value, (set, frozenset)):
        return "a set has no order to name its members by"
    return None


def _is_numbers(value: Any) -> bool:
    """Tell a list such as a shape, which is one value rather than many."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(type(v) in (int, float, bool) for v in value)
    )


def _walk(
    value: Any, slot: str, found: list[Leaf], above: tuple[int, ...], *, in_object: bool = False
) -> None:
    if isinstance(value, torch.Tensor):
        found.append(Leaf(slot, value, in_object))
        return
    if isinstance(value, np.ndarray):
        found.append(Leaf(slot, _from_numpy(value), in_object))
        return
    if isinstance(value, (*_PLAIN, *_NAMED, enum.Enum, np.generic)) or _is_numbers(value):
        if not in_object:
            found.append(Leaf(slot, _value(value)))
        return
    if id(value) in above:
        found.append(Leaf(slot, Skipped("it contains itself"), in_object))
        return
    if len(above) >= MAX_DEPTH:
        found.append(Leaf(slot, Skipped(f"nested more than {MAX_DEPTH} deep"), in_object))
        return
    children = _children(value)
    if isinstance(children, str):
        found.append(Leaf(slot, Skipped(children), in_object))
    elif children is not None:
        for part, child in children:
            _walk(child, _join(slot, part), found, (*above, id(value)), in_object=in_object)
    else:
        _walk_object(value, slot, found, above, in_object=in_object)


def _walk_object(
    value: Any, slot: str, found: list[Leaf], above: tuple[int, ...], *, in_object: bool
) -> None:
    """Of an object (a cache, a state) the tensors among its public attributes are kept."""
    name = type(value).__name__
    if not in_object:
        found.append(Leaf(slot, Value(f"<{name}>")))
    if isinstance(value, (_OPAQUE, Iterator)):
        return
    attributes = dict(getattr(value, "__dict__", {}))
    for owner in type(value).__mro__:
        slots = owner.__dict__.get("__slots__", ())
        for attribute in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, attribute):
                attributes[attribute] = getattr(value, attribute)
    for attribute, child in attributes.items():
        if not attribute.startswith("_"):
            _walk(child, _join(slot, attribute), found, (*above, id(value)), in_object=True)


def _value(value: Any) -> Value | Skipped:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return Skipped(f"a text of {len(value)} characters; up to {MAX_TEXT} are kept")
    try:
        return Value(plain(value))
    except (TypeError, ValueError) as error:
        return Skipped(f"{type(value).__name__} has no plain value: {error}")


def _from_numpy(value: np.ndarray[Any, Any]) -> torch.Tensor | Skipped:
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError) as error:
        return Skipped(f"a numpy array of dtype {value.dtype}: {error}")
