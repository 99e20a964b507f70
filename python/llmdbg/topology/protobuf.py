"""The wire format of protocol buffers, as far as writing a message needs it.

Source: the Protocol Buffers encoding documentation: a field is a varint of number and wire type,
followed by a varint, four bytes, or a length and that many bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_VARINT, _LENGTH, _FOUR_BYTES = 0, 2, 5


def integer(field: int, value: int) -> bytes:
    """Encode a field of type int32, int64, bool or enum; a negative one takes ten bytes."""
    return _key(field, _VARINT) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def float32(field: int, value: float) -> bytes:
    """Encode a field of type float."""
    return _key(field, _FOUR_BYTES) + struct.pack("<f", value)


def data(field: int, value: bytes) -> bytes:
    """Encode a field of type bytes, or a message encoded before."""
    return _key(field, _LENGTH) + _varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    """Encode a field of type string."""
    return data(field, value.encode("utf-8", "replace"))


def messages(field: int, values: Iterable[bytes]) -> bytes:
    """Encode a repeated field of messages."""
    return b"".join(data(field, value) for value in values)


def texts(field: int, values: Iterable[str]) -> bytes:
    """Encode a repeated field of strings."""
    return b"".join(text(field, value) for value in values)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
