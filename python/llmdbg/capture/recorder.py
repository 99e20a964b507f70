"""Turning the leaves of one call into records, and tensors into stored bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from llmdbg.capture.limits import Limits
from llmdbg.capture.seen import SeenTensors
from llmdbg.capture.shards import UnstorableError
from llmdbg.capture.walk import Leaf, Skipped, Value

if TYPE_CHECKING:
    from pathlib import Path

    from llmdbg.capture.seen import Same

Index: TypeAlias = tuple[Any, ...]


class Sink(Protocol):
    """Where records go: one per directory layout.

    `lone` is the slot of a result that is a single leaf; `same` tells what need not be
    stored again.
    """

    lone: str
    same: Same

    @property
    def error(self) -> BaseException | None:
        """What stopped the writing, if anything did."""

    @property
    def bytes_written(self) -> int:
        """Bytes of tensors on disk so far."""

    @property
    def records_written(self) -> int:
        """Records on disk so far."""

    def store(self, tensor: torch.Tensor, record: dict[str, Any], /) -> dict[str, Any]:
        """Keep the bytes of `tensor` as they are now; the fields of `record` that say where."""

    def again(self, place: dict[str, Any], record: dict[str, Any], /) -> dict[str, Any]:
        """Do the same for a tensor whose bytes are kept at `place` already."""

    def emit(self, records: list[dict[str, Any]]) -> None:
        """Add finished records."""

    def end_step(self, step: dict[str, Any]) -> None:
        """Note that a step is over."""

    def close(self, problems: list[str], failure: Exception | None) -> None:
        """Write what is left, and what the dump's reader should know."""


class Call:
    """One call of a module or function: which one it is, and its records so far.

    Parameters
    ----------
    module
        The module, or the innermost that runs while a function is called.
    node
        Name in the dump.
    step
        Number of the forward; None for what belongs to none.
    op_type
        Name of the function; None for a module, whose type is told elsewhere.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        node: str,
        step: int | None,
        op_type: str | None = None,
    ) -> None:
        self.module = module
        self.node = node
        self.step = step
        self.op_type = op_type
        self.stack: list[str] | None = None
        self.number = 0
        self.records: list[dict[str, Any]] = []

    def record(self, role: str, slot: str) -> dict[str, Any]:
        """Begin a record of this call."""
        record: dict[str, Any] = {
            "step": self.step,
            "node": self.node,
            "call": self.number,
            "role": role,
            "slot": slot,
        }
        if self.op_type is not None:
            record["type"] = self.op_type
        if self.stack is not None:
            record["stack"] = self.stack
        return record


class Recorder:
    """Hands the tensors of calls to a sink, each one's bytes once.

    Parameters
    ----------
    sink
        Where they go.
    folder
        Where the sink writes.
    device_index
        Leave out tensors of numbered devices other than this.
    limits
        How much may be stored.
    cut
        Part of every tensor that is kept; None for all of it.
    """

    def __init__(
        self,
        sink: Sink,
        folder: Path,
        *,
        device_index: int | None = None,
        limits: Limits | None = None,
        cut: Index | None = None,
    ) -> None:
        self.tensors = 0
        self._device_index = device_index
        self._limits = limits or Limits()
        self._cut = cut
        self._folder = folder
        self._sink = sink
        self._seen = SeenTensors(sink.same)
        self._in_objects = SeenTensors()
        self._object_slots: dict[str, object] = {}

    def keep(self, call: Call, role: str, leaves: list[Leaf]) -> None:
        """Add a record to `call` for every leaf."""
        for leaf in leaves:
            record = call.record(role, leaf.slot or self._sink.lone)
            if isinstance(leaf.content, Value):
                record["value"] = leaf.content.value
            elif isinstance(leaf.content, Skipped):
                record["skipped"] = leaf.content.reason
            elif self._elsewhere(leaf.content) or self._passed_through(call, role, leaf):
                continue
            else:
                self.keep_tensor(leaf.content, record)
            call.records.append(record)

    def keep_tensor(self, tensor: torch.Tensor, record: dict[str, Any]) -> None:
        """Fill `record` with what `tensor` is and where its bytes are, or why they are not.

        Raises
        ------
        StoppedError
            If the sink takes no more.
        LimitReachedError
            If the dump may not grow.
        """
        record["dtype"] = str(tensor.dtype).removeprefix("torch.")
        if not tensor.is_nested:
            record["shape"] = list(tensor.shape)
        reason = _why_not(tensor)
        if reason is None:
            try:
                with torch.no_grad():
                    place = self._place(self._part(_plain_tensor(tensor, record), record), record)
                record.update(place)
                self.tensors += 1
                return
            except UnstorableError as error:
                reason = str(error)
            except RuntimeError as error:
                reason = f"torch cannot read it: {str(error).splitlines()[0]}"
        record["skipped"] = reason

    def end_step(self) -> None:
        """Forget what only holds within a step."""
        self._object_slots.clear()

    def _elsewhere(self, tensor: torch.Tensor) -> bool:
        """Whether one device is asked for and `tensor` is on another of its kind."""
        index = tensor.device.index
        return self._device_index is not None and index is not None and index != self._device_index

    def _part(self, tensor: torch.Tensor, record: dict[str, Any]) -> torch.Tensor:
        """Return the part that is kept, of a tensor that has it."""
        if self._cut is None:
            return tensor
        try:
            part = tensor[self._cut]
        except IndexError:
            record["note"] = "kept whole: the slice does not fit"
            return tensor
        if part.shape != tensor.shape:
            record["whole_shape"] = record["shape"]
            record["shape"] = list(part.shape)
        return part

    def _place(self, tensor: torch.Tensor, record: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Any] | None = self._seen.find(tensor)
        if known is not None:
            return self._sink.again(known, record)
        self._limits.take(tensor.numel() * tensor.element_size(), self._folder)
        place = self._sink.store(tensor, record)
        self._seen.add(tensor, place)
        return place

    def _passed_through(self, call: Call, role: str, leaf: Leaf) -> bool:
        """Whether an object's tensor stands in this step's records already.

        A cache goes through every module with all its layers. Its tensors are recorded when first
        met and when they changed, and again only for the module of their own layer.
        """
        tensor, slot = leaf.content, leaf.slot
        if not leaf.in_object or role != "input" or not isinstance(tensor, torch.Tensor):
            return False
        if _why_not(tensor) is not None:
            return False
        found = self._in_objects.find(tensor)
        if found is None:
            found = object()
            self._in_objects.add(tensor, found)
        known = self._object_slots.get(slot)
        self._object_slots[slot] = found
        if known is not found:
            return False
        layer = getattr(call.module, "layer_idx", None)
        return not (isinstance(layer, int) and f".{layer}." in slot)


def _why_not(tensor: torch.Tensor) -> str | None:
    """Why the bytes of `tensor` cannot be read, or None if they can."""
    if tensor.device.type == "meta":
        return "it is on the meta device and has no bytes"
    if type(tensor).__name__ in ("FakeTensor", "FunctionalTensor"):
        return f"it is a {type(tensor).__name__} and has no bytes"
    if tensor.is_nested:
        return "it is a nested tensor"
    if tensor.layout != torch.strided:
        return f"its layout is {str(tensor.layout).removeprefix('torch.')}, not strided"
    if tensor.is_quantized:
        return f"it is quantised ({tensor.qscheme()}): its bytes need scales to be read"
    return None


def _plain_tensor(tensor: torch.Tensor, record: dict[str, Any]) -> torch.Tensor:
    """Find the tensor that holds the bytes of `tensor`, which may be of a subclass."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return tensor
    if hasattr(tensor, "to_local") and hasattr(tensor, "placements"):
        local: torch.Tensor = tensor.to_local()
        record["shape"] = list(local.shape)
        record["note"] = f"the local part of a DTensor placed {tensor.placements}"
        return local
    if hasattr(tensor, "__tensor_flatten__"):
        raise UnstorableError(f"it is a {type(tensor).__name__}, which wraps other tensors")
    return tensor.as_subclass(torch.Tensor)
