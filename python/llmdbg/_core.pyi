"""Types of the Rust extension. Every function releases the GIL while it reads or computes."""

from os import PathLike
from typing import Any

__version__: str

class LlmdbgError(ValueError):
    """A file or argument that llmdbg cannot work with; the message says why and what to do.

    What the operating system refuses is raised as the matching subclass of `OSError` instead.
    """

class Dump:
    """One recorded run, opened: names and places are known, tensors are not read."""

    @property
    def layout(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def steps(self) -> list[int]: ...
    @property
    def ranks(self) -> list[int]: ...
    @property
    def problems(self) -> list[str]: ...
    @property
    def about_json(self) -> str: ...
    def __len__(self) -> int: ...
    def describe(self) -> None:
        """Fill dtype and shape of every record by reading the headers, in parallel."""
    def columns(self) -> dict[str, list[Any]]:
        """Give the records column by column; what is unknown is None."""
    def graph_json(self) -> str | None: ...
    def values_json(self) -> str: ...

def open_dump(path: str | PathLike[str]) -> Dump: ...
