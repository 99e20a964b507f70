"""The dynamic symbols of a shared library, read from its bytes.

Only what telling one build of a library from another needs: the machine it is for and the names
in `.dynsym`. Nothing is loaded or executed. Source of the layout: the ELF-64 format (gABI).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_DYNSYM = 11
_MACHINES = {62: "x86_64", 183: "aarch64"}


class ElfError(ValueError):
    """A file that is not a little-endian 64-bit ELF library with dynamic symbols."""


@dataclass(frozen=True)
class SharedLibrary:
    """What a shared library says of itself.

    Attributes
    ----------
    machine
        `platform.machine()` of the hosts it runs on, or `machine <n>` for others.
    defined
        Mangled names it provides, with their addresses.
    undefined
        Mangled names it expects from others.
    variables
        The `ATB_…` names among its read-only bytes: the environment variables it knows.
    """

    machine: str
    defined: Mapping[str, int]
    undefined: frozenset[str]
    variables: frozenset[str]


def read_shared_library(path: Path) -> SharedLibrary:
    """Read machine, dynamic symbols and known `ATB_…` variables of the library at `path`.

    Raises
    ------
    ElfError
        When the file is no 64-bit little-endian ELF or its tables point outside of it.
    OSError
        When the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise ElfError(f"not a shared library, the file is empty: {path}") from error
    with data:
        try:
            return _parse(data)
        except (struct.error, ElfError) as error:
            raise ElfError(f"not a readable 64-bit ELF library ({error}): {path}") from error


def _parse(data: mmap.mmap) -> SharedLibrary:
    header = _FILE_HEADER.unpack_from(data, 0)
    identity, machine, section_offset = header[0], header[2], header[6]
    entry_size, count = header[11], header[12]
    if identity[:6] != b"\x7fELF\x02\x01":
        raise ElfError(f"starts with {identity[:6].hex(' ')}")
    if entry_size != _SECTION_HEADER.size:
        raise ElfError(f"section headers of {entry_size} bytes, expected {_SECTION_HEADER.size}")
    sections = [
        _SECTION_HEADER.unpack_from(data, section_offset + i * entry_size) for i in range(count)
    ]
    defined: dict[str, int] = {}
    undefined: set[str] = set()
    for section in sections:
        if section[1] != _SHT_DYNSYM:
            continue
        if section[6] >= len(sections):
            raise ElfError(f"symbols name section {section[6]} of {len(sections)}")
        names = _bytes(data, sections[section[6]])
        for symbol in _SYMBOL.iter_unpack(_whole_symbols(_bytes(data, section))):
            name = _name(names, symbol[0])
            if not symbol[3]:
                undefined.add(name)
            elif name:
                defined[name] = symbol[4]
    return SharedLibrary(
        machine=_MACHINES.get(machine, f"machine {machine}"),
        defined=defined,
        undefined=frozenset(undefined - {""}),
        variables=frozenset(_variables(data)),
    )


def _bytes(data: mmap.mmap, section: tuple[int, ...]) -> bytes:
    offset, size = section[4], section[5]
    if offset + size > len(data):
        raise ElfError(f"a section ends at {offset + size} of {len(data)} bytes")
    return data[offset : offset + size]


def _whole_symbols(table: bytes) -> bytes:
    return table[: len(table) - len(table) % _SYMBOL.size]


def _name(names: bytes, start: int) -> str:
    end = names.find(b"\0", start)
    return names[start:end].decode("ascii", "replace") if end >= 0 else ""


def _variables(data: mmap.mmap) -> set[str]:
    found: set[str] = set()
    at = data.find(b"\0ATB_")
    while at >= 0:
        end = data.find(b"\0", at + 1)
        word = data[at + 1 : end if end >= 0 else len(data)]
        if len(word) < 64 and word.replace(b"_", b"").isalnum() and word.isupper():
            found.add(word.decode("ascii"))
        at = data.find(b"\0ATB_", at + 1)
    return found
