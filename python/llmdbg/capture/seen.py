"""Telling that a tensor was recorded before, so that its bytes are kept once."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

_PRUNE_AT = 4096


class _Entry(NamedTuple):
    tensor: weakref.ref[torch.Tensor]
    version: int
    place: Any


class SeenTensors:
    """Remembers what was recorded by identity: same memory, same view of it, same version.

    torch raises a tensor's version with every in-place operation, on all views of one storage.
    A remembered tensor is only held weakly, and counts only while it is alive at its old address,
    so that memory given to a new tensor is never mistaken for the old one. Tensors of inference
    mode have no version and are therefore never remembered. What writes behind torch's back
    (`.data`, a foreign kernel) does not raise the version.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[Any, ...], _Entry] = {}

    def find(self, tensor: torch.Tensor) -> Any | None:
        """Return what :meth:`add` was given for these very bytes, or None."""
        if tensor.is_inference():
            return None
        key = _key(tensor)
        entry = self._entries.get(key)
        if entry is None:
            return None
        first = entry.tensor()
        if first is None or entry.version != tensor._version or _key(first) != key:
            del self._entries[key]
            return None
        return entry.place

    def add(self, tensor: torch.Tensor, place: Any) -> None:
        """Remember that `tensor`, as it is now, was recorded at `place`."""
        if tensor.is_inference():
            return
        if len(self._entries) >= _PRUNE_AT:
            self._entries = {k: e for k, e in self._entries.items() if e.tensor() is not None}
        entry = _Entry(weakref.ref(tensor), tensor._version, place)
        self._entries[_key(tensor)] = entry


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )
