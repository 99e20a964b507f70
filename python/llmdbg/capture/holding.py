"""Holding tensors in memory until it is known whether they are worth a place on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from llmdbg.capture.background import Background
from llmdbg.capture.shards import UnstorableError

if TYPE_CHECKING:
    from llmdbg.capture.recorder import Sink
    from llmdbg.capture.seen import Same

_HELD = "held"


class Held(NamedTuple):
    """A record, and the tensor it is of; None for a value."""

    record: dict[str, Any]
    tensor: torch.Tensor | None


class HoldingSink:
    """Copies tensors into memory and works on whole calls in the background.

    What comes of a call is decided by :meth:`_call` and :meth:`_step`, which run on the thread that
    alone writes to the sink behind.

    Parameters
    ----------
    behind
        Where what is kept goes.
    max_bytes
        Bytes of finished calls that may wait to be worked on.
    """

    # Two records of one tensor are two questions.
    same: Same = "never"

    def __init__(self, behind: Sink, max_bytes: int) -> None:
        self.lone = behind.lone
        self._behind = behind
        self._background = Background(max_bytes)
        self._tensors: dict[int, torch.Tensor] = {}
        self._number = 0

    @property
    def error(self) -> BaseException | None:
        """What stopped the work, if anything did."""
        return self._background.error or self._behind.error

    @property
    def bytes_written(self) -> int:
        """Bytes of tensors on disk so far."""
        return self._behind.bytes_written

    @property
    def records_written(self) -> int:
        """Records on disk so far."""
        return self._behind.records_written

    def store(self, tensor: torch.Tensor, _record: dict[str, Any]) -> dict[str, Any]:
        """Copy `tensor` as it is now."""
        with torch.inference_mode(False):
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        copy.copy_(tensor)
        self._number += 1
        self._tensors[self._number] = copy
        return {_HELD: self._number}

    def again(self, place: dict[str, Any], _record: dict[str, Any]) -> dict[str, Any]:
        """Return `place`: nothing comes again here."""
        return place

    def emit(self, records: list[dict[str, Any]]) -> None:
        """Hand a finished call over."""
        call = [Held(r, self._tensors.pop(r.pop(_HELD, 0), None)) for r in records]
        nbytes = sum(
            h.tensor.numel() * h.tensor.element_size() for h in call if h.tensor is not None
        )
        self._background.reserve(nbytes)
        self._background.submit(lambda: self._call(call), nbytes)

    def end_step(self, step: dict[str, Any]) -> None:
        """Note that a step is over."""
        self._background.submit(lambda: self._step(step))

    def close(self, problems: list[str], failure: Exception | None) -> None:
        """Finish the work, and the sink behind."""
        self._background.submit(lambda: self._end(problems))
        self._background.close()
        self._behind.close(problems, failure)

    def _keep(self, call: list[Held]) -> None:
        """Write a call to the sink behind."""
        for record, tensor in call:
            if tensor is not None:
                try:
                    record.update(self._behind.store(tensor, record))
                except UnstorableError as error:
                    record["skipped"] = str(error)
        self._behind.emit([held.record for held in call])

    def _call(self, call: list[Held]) -> None:
        raise NotImplementedError

    def _step(self, step: dict[str, Any]) -> None:
        raise NotImplementedError

    def _end(self, problems: list[str]) -> None:
        """Add what the dump's reader should know."""
