"""CANN's overflow dumps: `Opdebug.` files, and which operator each of them is about.

A file is a GE dump whose only output is 2048 bytes that the device wrote when it saw an overflow.
Source: "Reading and comparing TorchAir dumps", sections 1.1, 1.6 and 1.9.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg.scan.model import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "Opdebug."
_MAGIC = 0x5A5A5A5A
_PAYLOAD = 2048
_MOST_BYTES = 1 << 20
_DEPTH, _MOST_FILES = 6, 200_000
_UNUSED = 65535
_TIME = re.compile(r"\d{16}")
_COMMON = ("model_id", "stream_id", "task_id", "task_type")
_CORE = (*_COMMON, "context_id", "thread_id", "pc_start", "para_base", "core_id", "block_id")
# Unit and fields of each acc_type; the status of a core is four numbers in version 1.
_UNITS = {
    0: ("AI core", (*_CORE, "status")),
    1: ("vector core", (*_CORE, "status")),
    2: ("AICPU", (*_COMMON, "context_id", "cpu_id", "thread_id", "status")),
    3: (
        "SDMA",
        (*_COMMON, "context_id", "thread_id", "src_addr", "dst_addr", "channel_id", "status"),
    ),
}
# Areas of the payload before the magic number came: unit, its six numbers, its status.
_OLD_AREAS = (
    ("DHA atomic add", 0, 512, ("status",)),
    ("L2 atomic add", 128, 768, ("status",)),
    ("AI core", 256, 1024, ("kernel_code", "block_idx", "status")),
)
_OLD_FIELDS = (*_COMMON, "pc_start", "para_base")
_SHOWN_HEX = ("pc_start", "para_base", "src_addr", "dst_addr", "kernel_code", "status")


@dataclass(frozen=True)
class Overflow:
    """What one unit of the device reported.

    Attributes
    ----------
    unit : str
        ``AI core``, ``vector core``, ``AICPU``, ``SDMA``, or an atomic adder.
    numbers : dict
        Its fields by name.
    """

    unit: str
    numbers: dict[str, int] = field(default_factory=dict)

    def matches(self, name: OpName) -> bool:
        """Tell whether an operator's dump is that of the same task."""
        numbers = self.numbers
        if (name.task, name.stream) != (numbers["task_id"], numbers["stream_id"]):
            return False
        for mine, theirs in (("context_id", name.context), ("thread_id", name.thread)):
            value = numbers.get(mine, _UNUSED)
            if theirs is not None and value not in (_UNUSED, theirs):
                return False
        return True


@dataclass(frozen=True)
class OpName:
    """What the name of an operator's dump tells."""

    op_type: str
    name: str
    task: int
    stream: int | None
    time: int
    context: int | None = None
    thread: int | None = None


def find(path: Path) -> list[Path]:
    """Return the overflow dumps that a path is or holds, links not followed, oldest first."""
    if path.is_file():
        return [path] if path.name.startswith(PREFIX) else []
    found = [file for file in _files(path) if file.name.startswith(PREFIX)]
    return sorted(found, key=lambda file: (_time(file), str(file)))


def _files(root: Path) -> Iterator[Path]:
    seen = 0
    for folder, folders, names in os.walk(root):
        if len(Path(folder).relative_to(root).parts) >= _DEPTH:
            folders.clear()
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > _MOST_FILES:
                return
            yield Path(folder) / name


def _time(file: Path) -> int:
    parsed = op_name(file.name)
    return parsed.time if parsed else 0


def decode(content: bytes) -> list[Overflow]:
    """Decode an overflow dump.

    Parameters
    ----------
    content : bytes
        The whole file.

    Returns
    -------
    list of Overflow
        Units that reported something.

    Raises
    ------
    ValueError
        It is none; the message says what was expected and found.
    """
    if len(content) < 8:
        raise ValueError(f"expected a header length of 8 bytes, found {len(content)} bytes")
    (header,) = struct.unpack_from("<Q", content)
    if header > len(content) - 8:
        raise ValueError(f"expected a header inside the file, found one of {header} bytes")
    payload = content[8 + header :]
    if len(payload) < _PAYLOAD:
        raise ValueError(f"expected {_PAYLOAD} bytes after the header, found {len(payload)}")
    magic, version = struct.unpack_from("<II", payload)
    return _records(payload, version) if magic == _MAGIC else _old(payload)


def _records(payload: bytes, version: int) -> list[Overflow]:
    found = []
    at = 8
    while at + 16 <= len(payload):
        valid, unit, _, _ = struct.unpack_from("<IIII", payload, at)
        if unit not in _UNITS:
            break
        name, fields = _UNITS[unit]
        if version == 1 and unit in (0, 1):
            fields = (*fields[:-1], *(f"status_{i}" for i in range(4)))
        at += 16
        if at + 8 * len(fields) > len(payload):
            break
        values = struct.unpack_from(f"<{len(fields)}Q", payload, at)
        at += 8 * len(fields)
        if valid == 1:
            found.append(Overflow(name, dict(zip(fields, values, strict=True))))
    return found


def _old(payload: bytes) -> list[Overflow]:
    found = []
    for unit, at, status_at, names in _OLD_AREAS:
        values = struct.unpack_from(f"<{len(_OLD_FIELDS)}Q", payload, at)
        status = struct.unpack_from(f"<{len(names)}Q", payload, status_at)
        numbers = dict(zip((*_OLD_FIELDS, *names), (*values, *status), strict=True))
        if numbers["status"]:
            found.append(Overflow(unit, numbers))
    return found


def op_name(name: str) -> OpName | None:
    """Take the name of an operator's dump apart, from the right; None if it is none."""
    parts = name.split(".")
    context = thread = None
    if len(parts) >= 9 and all(p.isdigit() for p in parts[-5:]) and _TIME.fullmatch(parts[-5]):
        context, thread = int(parts[-3]), int(parts[-2])
        parts = parts[:-4]
    if len(parts) < 4 or not _TIME.fullmatch(parts[-1]) or not parts[-2].isdigit():
        return None
    time = int(parts.pop())
    stream: int | None = int(parts.pop())
    if len(parts) > 2 and parts[-1].isdigit():
        task = int(parts.pop())
    else:
        task, stream = int(name.split(".")[-2]), None  # very old writers had no stream
    return OpName(parts[0], ".".join(parts[1:]), task, stream, time, context, thread)


def overflows(path: Path, files: list[Path]) -> tuple[list[Finding], list[str]]:
    """Report what overflow dumps say, in the order of time.

    Parameters
    ----------
    path : Path
        Where operators' dumps are looked for, to name the operator.
    files : list of Path
        From `find`.

    Returns
    -------
    tuple of list of Finding and list of str
        The findings, and what could not be read.
    """
    operators = _operators(path if path.is_dir() else path.parent)
    findings, problems = [], []
    for file in files:
        try:
            if file.stat().st_size > _MOST_BYTES:
                raise ValueError(f"expected a few kilobytes, found {file.stat().st_size} bytes")
            reported = decode(file.read_bytes())
        except (OSError, ValueError) as error:
            problems.append(f"{error}: {file}")
            continue
        if not reported:
            problems.append(f"no unit reports anything: {file}")
        findings += [_finding(overflow, operators, file) for overflow in reported]
    return findings, problems


def _operators(folder: Path) -> list[tuple[OpName, Path]]:
    names = []
    spelled: dict[Path, dict[str, str]] = {}
    for file in _files(folder):
        if file.name.startswith(PREFIX):
            continue
        name = file.name
        if name.isdigit():
            # Names too long for the file system are kept in a table.
            if file.parent not in spelled:
                spelled[file.parent] = _long_names(file.parent)
            name = spelled[file.parent].get(name, name)
        parsed = op_name(name)
        if parsed is not None:
            names.append((parsed, file))
    return sorted(names, key=lambda item: item[0].time)


def _long_names(folder: Path) -> dict[str, str]:
    try:
        text = (folder / "mapping.csv").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(",") for line in text.splitlines())
    return {digits: name.strip() for digits, _, name in pairs}


def _finding(overflow: Overflow, operators: list[tuple[OpName, Path]], file: Path) -> Finding:
    numbers = overflow.numbers
    match = next(((n, p) for n, p in operators if overflow.matches(n)), None)
    task = f"task {numbers['task_id']} of stream {numbers['stream_id']}"
    name = f"{match[0].op_type} {match[0].name}" if match else task
    where = f" ({task})" if match else ", whose operator was not dumped"
    shown = ", ".join(
        f"{key} {value:#x}" if key.startswith(_SHOWN_HEX) else f"{key} {value}"
        for key, value in numbers.items()
        if key not in ("task_id", "stream_id")
    )
    return Finding(
        Level.ERROR,
        "npu_overflow",
        match[0].name if match else task,
        None,
        None,
        f"the device reports an overflow in {name}{where}, on the {overflow.unit}",
        (shown, f"from {file}", *((f"its tensors: {match[1]}",) if match else ())),
        None,
        {"unit": overflow.unit, **numbers, "file": str(file)},
    )
