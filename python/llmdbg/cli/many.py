"""Options that take several words, or an optional one, as `ait llm` spells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def spread(args: Sequence[str], names: Collection[str], words: Collection[str]) -> list[str]:
    """Repeat an option for each of its words: `--type a b` becomes `--type a --type b`.

    The words end where something stands that is none of `words`.
    """
    result: list[str] = []
    option = ""
    for arg in args:
        if arg in names:
            option = arg
        elif option and result[-1] != option:
            if arg in words:
                result.append(option)
            else:
                option = ""
        result.append(arg)
    return result


def fill(args: Sequence[str], names: Collection[str], default: str) -> list[str]:
    """Give a bare option its default: `-seed --x` becomes `-seed 2024 --x`."""
    result: list[str] = []
    for index, arg in enumerate(args):
        result.append(arg)
        following = args[index + 1] if index + 1 < len(args) else ""
        if arg in names and not following.isdigit():
            result.append(default)
    return result
