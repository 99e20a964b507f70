"""What the commands that write a report have in common: its options, and the order of things."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import IO


class Format(StrEnum):
    """What can be written beside the tables."""

    HTML = "html"
    XLSX = "xlsx"
    JSONL = "jsonl"
    MARKDOWN = "markdown"
    JUNIT = "junit"


class LogLevel(StrEnum):
    """`ait llm`'s log levels, which are the probe's."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"
    CRITICAL = "critical"

    @property
    def is_quiet(self) -> bool:
        """Whether it hides progress."""
        return self not in (LogLevel.DEBUG, LogLevel.INFO)


def formats(also: list[Format] | None, *, page: bool | None) -> list[str]:
    """Return what is written beside the tables; `page` None is the page where it can be made."""
    from llmdbg.report import folder

    wanted = {str(name) for name in also or []}
    if page or (page is None and folder.default_formats()):
        wanted.add("html")
    elif page is False:
        wanted.discard("html")
    return sorted(wanted)


def deliver(
    write: Callable[[], dict[str, str]], show: Callable[[IO[str], dict[str, str]], None]
) -> None:
    """Write a report and print the answer, which a report that cannot be written must not take.

    Parameters
    ----------
    write : callable
        Writes the files and returns their paths by kind.
    show : callable
        Prints the answer to a stream; it is given the paths.
    """
    files: dict[str, str] = {}
    failed: OSError | None = None
    try:
        files = write()
    except OSError as error:
        failed = error
    show(sys.stdout, files)
    sys.stdout.flush()
    if failed is not None:
        raise failed
