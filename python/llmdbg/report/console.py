"""What every answer in a terminal has in common."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Literal

from llmdbg.report.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

Side = Literal["left", "right"]
# Wide enough that nothing is cut when a file or a pipe reads it.
_PLAIN_WIDTH = 10_000


def console_for(stream: IO[str]) -> Console:
    """Return a console that prints what it is given, in colour only to a terminal."""
    from rich.console import Console

    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def headline(console: Console, sentence: str, outcome: str) -> None:
    """Print the answer."""
    from rich.text import Text

    bad = outcome in ("diverged", "anomalous")
    style = "bold green" if outcome == "clean" else "bold red" if bad else "bold yellow"
    console.print(Text(printable(sentence), style=style), soft_wrap=True)


def table_for(console: Console, columns: Iterable[tuple[str, Side]]) -> Table:
    """Return an empty table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for title, side in columns:
        table.add_column(title, justify=side, overflow="fold")
    return table


def ending(console: Console, files: dict[str, str] | None, following: str) -> None:
    """Print where the report lies and what to type next."""
    if files:
        console.print(f"report: {printable(files.get('html', files['directory']))}", soft_wrap=True)
    console.print(f"next:   {printable(following)}", soft_wrap=True)
