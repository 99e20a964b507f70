"""Text that is safe to print."""

from __future__ import annotations

import os


def printable(text: str) -> str:
    """Return `text` with control characters spelled out; a name may try to drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def path_text(path: str) -> str:
    """Return a path as text that can be written: bytes that are no UTF-8 become ``\ufffd``."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "replace")


def ranges(numbers: list[int]) -> str:
    """Return ``0-3, 7`` for ``[0, 1, 2, 3, 7]``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, p)) for p in parts) or "none"


def size(count: int) -> str:
    """Return ``1.5 MiB`` for a number of bytes."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"
