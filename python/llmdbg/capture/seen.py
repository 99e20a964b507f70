"""Telling that a tensor was recorded before, so that its bytes are kept once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from torch.utils.weak import TensorWeakRef

if TYPE_CHECKING:
    import torch

Same: TypeAlias = Literal["never", "tensor", "bytes"]

_PRUNE_AT = 4096


class _Entry(NamedTuple):
    owner: TensorWeakRef
    address: int
    version: int
    place: Any


class SeenTensors:
    """Remembers what was recorded by identity: same memory, same view of it, same version.

    torch raises a tensor's version with every in-place operation, on all views of one storage.
    The tensor that owns the memory is only held weakly, and what was recorded counts only while it
    is alive at its old address, so that memory given to a new tensor is never mistaken for the old
    one. Tensors of inference mode have no version and are therefore never remembered. What writes
    behind torch's back (`.data`, a foreign kernel) does not raise the version.

    Parameters
    ----------
    same
        What counts as recorded before: nothing, the same bytes in the same shape, or in any.
    """

    def __init__(self, same: Same = "tensor") -> None:
        self._same = same
        self._entries: dict[tuple[Any, ...], _Entry] = {}

    def find(self, tensor: torch.Tensor) -> Any | None:
        """Return what :meth:`add` was given for these very bytes, or None."""
        if tensor.is_inference() or self._same == "never":
            return None
        key = self._key(tensor)
        entry = self._entries.get(key)
        if entry is None:
            return None
        owner = entry.owner()
        if (
            owner is None
            or owner._version != entry.version
            or tensor._version != entry.version
            or owner.data_ptr() != entry.address
        ):
            del self._entries[key]
            return None
        return entry.place

    def add(self, tensor: torch.Tensor, place: Any) -> None:
        """Remember that `tensor`, as it is now, was recorded at `place`."""
        if tensor.is_inference() or self._same == "never":
            return
        if len(self._entries) >= _PRUNE_AT:
            self._entries = {k: e for k, e in self._entries.items() if e.owner() is not None}
        # A view lives shorter than what it is a view of.
        owner = tensor if tensor._base is None else tensor._base
        entry = _Entry(TensorWeakRef(owner), owner.data_ptr(), tensor._version, place)
        self._entries[self._key(tensor)] = entry

    def _key(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        if self._same == "bytes" and tensor.is_contiguous():
            form: tuple[Any, ...] = (tensor.numel(),)
        else:
            form = (tensor.shape, tensor.stride())
        return (
            tensor.device,
            tensor.data_ptr(),
            tensor.dtype,
            *form,
            tensor.is_conj(),
            tensor.is_neg(),
        )
