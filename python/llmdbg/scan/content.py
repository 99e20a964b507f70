"""What bytes look like that are where others should be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from llmdbg.scan.health import Row
    from llmdbg.scan.tensors import Tensors

# Bytes that are looked for in other tensors; shorter stretches are found by chance.
_NEEDLE = 64
_SHORTEST = 8
# Changed bytes that are compared with a source.
_MOST = 1 << 20
_TENSORS = 512


@dataclass(frozen=True)
class Change:
    """Bytes that differ: the first, the last and how many."""

    first: int
    last: int
    count: int


@dataclass(frozen=True)
class Looks:
    """What the changed bytes are.

    Attributes
    ----------
    kind : str
        ``zeros``, ``constant``, ``shifted``, ``tensor`` or ``unknown``.
    sentence : str
        For a person.
    source : str or None
        The tensor that has the same bytes.
    """

    kind: str
    sentence: str
    source: str | None = None


def describe(
    change: Change,
    left: Row,
    found: Row,
    suspects: Iterable[Row],
    others: Iterable[Row],
    tensors: Tensors,
) -> Looks:
    """Say what the changed bytes of a tensor look like.

    Parameters
    ----------
    change : Change
        Which bytes.
    left, found : dict
        Health of the tensor as it was and as it is.
    suspects, others : iterable of dict
        Tensors whose bytes may be there now, likeliest first.
    tensors : Tensors
        Reads values.
    """
    old, new = _bytes(left, tensors), _bytes(found, tensors)
    if old is None or new is None:
        return Looks("unknown", "not readable")
    part = new[change.first : change.last + 1][:_MOST]
    if not part.any():
        return Looks("zeros", "zeros")
    if (part == part[0]).all() and part.size > 1:
        return Looks("constant", f"the byte 0x{int(part[0]):02x} throughout")
    shift = _found_at(part, old)
    if shift is not None:
        by = change.first - shift
        return Looks("shifted", f"a copy of the same tensor, shifted by {by:+d} bytes")
    seen = set()
    for row in (*suspects, *list(others)[:_TENSORS]):
        if row["row"] in seen or row["reason"]:
            continue
        seen.add(row["row"])
        source = _bytes(row, tensors)
        if source is None:
            continue
        at = _found_at(part, source)
        if at is not None:
            name = f"{row['node']} {row['role']} {row['slot']} ({row['phase'] or 'recorded'})"
            return Looks("tensor", f"those of {name} from byte {at} on", name)
    return Looks("unknown", f"of no recorded tensor (0x{bytes(part[:16]).hex()}…)")


def _bytes(row: Row, tensors: Tensors) -> NDArray[np.uint8] | None:
    import numpy as np

    array: NDArray[Any] | None = tensors.stored(row)
    if array is None:
        return None
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _found_at(part: NDArray[np.uint8], source: NDArray[np.uint8]) -> int | None:
    """Return where `source` has the bytes of `part`, as far as it goes on."""
    if part.size < _SHORTEST:
        return None
    needle = re.escape(bytes(part[:_NEEDLE]))
    for match in re.finditer(needle, source.data):
        at = match.start()
        length = min(part.size, source.size - at)
        if (source[at : at + length] == part[:length]).all():
            return at
    return None
