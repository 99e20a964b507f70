"""Let a probe that is configured by a file read it before the first operation.

Such a probe learns the file's name in `IsTensorNeedSave` and reads the file in `UpdateConfig`: at
the first call, and then only after 16384 more. ATB calls `UpdateConfig` first, so left alone the
probe misses the first 16384 operations, which is all there is of a short run.

The cure is an `UpdateConfig` that calls the two in the other order. It has to stand before the
probe's in the model's process, whatever language that is written in, so it is preloaded from a
library, which is written here byte by byte: its only code hands an empty vector and an empty
string to `IsTensorNeedSave` and goes on in the probe's `UpdateConfig`. Processes without ATB never
run it.

Sources: the ELF-64 object format (gABI) and its x86-64 and AArch64 supplements for relocations;
the Itanium C++ ABI for the arguments; libstdc++ for the layout of `std::string`.
"""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

from llmdbg.capture.elf import read_shared_library

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

UPDATE_CONFIG = "_ZN3atb5Probe12UpdateConfigEv"
_NEED_SAVE = "_ZN3atb5Probe16IsTensorNeedSaveERKSt6vectorIlSaIlEERK"
_NEED_SAVE_OLD = f"{_NEED_SAVE}Ss"
_NEED_SAVE_NEW = f"{_NEED_SAVE}NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"

# ELF machine number, relocation against a symbol, relocation against the load address.
_MACHINES = {"x86_64": (62, 1, 8), "aarch64": (183, 257, 1027)}
# The largest page an AArch64 kernel may use.
_PAGE = 0x10000
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT, _SYMBOL = struct.Struct("<IIQQQQQQ"), struct.Struct("<IBBHQQ")
_RELOCATION, _DYNAMIC = struct.Struct("<QQq"), struct.Struct("<QQ")
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1
_GLOBAL_FUNCTION = 1 << 4 | 2
_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA = 1, 4, 5, 6, 7
_DT_RELASZ, _DT_RELAENT, _DT_STRSZ, _DT_SYMENT = 8, 9, 10, 11


def write_primer(path: Path, probe: Path, machine: str | None = None) -> bool:
    """Write the library that primes `probe`, to be preloaded before it.

    Parameters
    ----------
    path
        The file to write.
    probe
        The probe, spelled as it will be preloaded.
    machine
        As `platform.machine()` names it; this one by default.

    Returns
    -------
    bool
        False where this machine's code is not known or the probe lacks one of the two functions;
        then nothing is written.
    """
    machine = machine or platform.machine()
    defined = read_shared_library(probe).defined
    need_save = next((name for name in (_NEED_SAVE_NEW, _NEED_SAVE_OLD) if name in defined), None)
    if machine not in _MACHINES or need_save is None or UPDATE_CONFIG not in defined:
        return False
    distance = defined[UPDATE_CONFIG] - defined[need_save]
    path.write_bytes(_library(machine, need_save, distance, str(probe)))
    path.chmod(0o500)
    return True


def can_be_preloaded(libraries: Sequence[Path]) -> bool:
    """Try in a process of its own whether a program starts with these libraries preloaded."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ""],
        env={**os.environ, "LD_PRELOAD": ":".join(map(str, libraries))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0 and b"cannot be preloaded" not in done.stderr


def _library(machine: str, need_save: str, distance: int, probe: str) -> bytes:
    """Lay out the library: one part that is read and run, one that the loader writes to.

    `distance` is that from the probe's `need_save` to its `UpdateConfig`, which cannot be had by
    name: the name is taken by our own.
    """
    number, against_symbol, against_base = _MACHINES[machine]
    strings = b"\0" + b"".join(
        os.fsencode(text) + b"\0" for text in (need_save, UPDATE_CONFIG, probe)
    )
    name_of_update = 1 + len(need_save) + 1
    name_of_probe = name_of_update + len(UPDATE_CONFIG) + 1
    hashes = struct.pack("<6I", 1, 3, 2, 0, 0, 0)  # one bucket of three symbols, the last is found

    symbols_at = _HEADER.size + 4 * _SEGMENT.size
    hashes_at = symbols_at + 3 * _SYMBOL.size
    relocations_at = hashes_at + len(hashes)
    code_at = relocations_at + 3 * _RELOCATION.size
    strings_at = code_at + 48
    data_at = strings_at + len(strings) + -(strings_at + len(strings)) % 16

    # The data's addresses are a page beyond its offsets, so that it gets rights of its own.
    calls = data_at + _PAGE
    jumps, vector, string = calls + 8, calls + 16, calls + 40
    dynamic = string + 64
    # Behind the pointer: length and characters in place, or in front of it length and counts.
    characters = string + (16 if need_save == _NEED_SAVE_NEW else 32)

    symbols = (
        bytes(_SYMBOL.size)
        + _SYMBOL.pack(1, _GLOBAL_FUNCTION, 0, 0, 0, 0)
        + _SYMBOL.pack(name_of_update, _GLOBAL_FUNCTION, 0, 1, code_at, 48)
    )
    relocations = b"".join(
        _RELOCATION.pack(*relocation)
        for relocation in (
            (calls, 1 << 32 | against_symbol, 0),
            (jumps, 1 << 32 | against_symbol, distance),
            (string, against_base, characters),
        )
    )
    table = b"".join(
        _DYNAMIC.pack(*entry)
        for entry in (
            (_DT_NEEDED, name_of_probe),
            (_DT_HASH, hashes_at),
            (_DT_STRTAB, strings_at),
            (_DT_STRSZ, len(strings)),
            (_DT_SYMTAB, symbols_at),
            (_DT_SYMENT, _SYMBOL.size),
            (_DT_RELA, relocations_at),
            (_DT_RELASZ, len(relocations)),
            (_DT_RELAENT, _RELOCATION.size),
            (0, 0),
        )
    )
    data = bytes(dynamic - calls) + table
    read_size = strings_at + len(strings)
    segments = b"".join(
        _SEGMENT.pack(kind, rights, at, address, address, size, size, align)
        for kind, rights, at, address, size, align in (
            (_PT_LOAD, _READ | _EXECUTE, 0, 0, read_size, _PAGE),
            (_PT_LOAD, _READ | _WRITE, data_at, calls, len(data), _PAGE),
            (_PT_DYNAMIC, _READ | _WRITE, dynamic - _PAGE, dynamic, len(table), 8),
            # Without this the loader would make the stack executable.
            (_PT_GNU_STACK, _READ | _WRITE, 0, 0, 0, 16),
        )
    )
    header = _HEADER.pack(
        b"\x7fELF\x02\x01\x01", 3, number, 1, 0, _HEADER.size, 0, 0,
        _HEADER.size, _SEGMENT.size, 4, 0, 0, 0,
    )  # fmt: skip
    image = bytearray(data_at + len(data))
    for at, part in (
        (0, header + segments + symbols + hashes + relocations),
        (code_at, _CODE[machine](code_at, vector, string, calls, jumps)),
        (strings_at, strings),
        (data_at, data),
    ):
        image[at : at + len(part)] = part
    return bytes(image)


def _x86_64(at: int, vector: int, string: int, calls: int, jumps: int) -> bytes:
    """Call `*calls(&vector, &string)`, go on at `*jumps`.

    `sub rsp, 8; lea rdi, vector; lea rsi, string; call [calls]; add rsp, 8; jmp [jumps]`,
    with distances that count from the end of each instruction.
    """
    return b"".join(
        (
            b"\x48\x83\xec\x08",
            b"\x48\x8d\x3d" + struct.pack("<i", vector - (at + 11)),
            b"\x48\x8d\x35" + struct.pack("<i", string - (at + 18)),
            b"\xff\x15" + struct.pack("<i", calls - (at + 24)),
            b"\x48\x83\xc4\x08",
            b"\xff\x25" + struct.pack("<i", jumps - (at + 34)),
        )
    )


def _aarch64(at: int, vector: int, string: int, calls: int, jumps: int) -> bytes:
    """Call `*calls(&vector, &string)`, go on at `*jumps`.

    `stp x29, x30, [sp, #-16]!; adr x0, vector; adr x1, string; ldr x2, calls; blr x2;
    ldp x29, x30, [sp], #16; ldr x2, jumps; br x2`
    """

    def adr(register: int, distance: int) -> int:
        return 0x10000000 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5 | register

    def ldr_x2(distance: int) -> int:
        return 0x58000000 | (distance >> 2 & 0x7FFFF) << 5 | 2

    return struct.pack(
        "<8I",
        0xA9BF7BFD,
        adr(0, vector - (at + 4)),
        adr(1, string - (at + 8)),
        ldr_x2(calls - (at + 12)),
        0xD63F0040,
        0xA8C17BFD,
        ldr_x2(jumps - (at + 24)),
        0xD61F0040,
    )


_CODE = {"x86_64": _x86_64, "aarch64": _aarch64}
