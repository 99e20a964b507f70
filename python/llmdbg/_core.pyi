"""Types of the Rust extension. Every function releases the GIL while it reads or computes."""

from os import PathLike
from typing import Any, final

__version__: str

class LlmdbgError(ValueError):
    """A file or argument that llmdbg cannot work with; the message says why and what to do.

    What the operating system refuses is raised as the matching subclass of `OSError` instead.
    """

@final
class TensorBuffer:
    """A located tensor; its bytes come read-only through the buffer protocol, without a copy.

    Bytes of a file are mapped: do not truncate the file while the buffer lives.
    """

    @property
    def dtype(self) -> str:
        """Name in torch without the `torch.` prefix."""

    @property
    def numpy_dtype(self) -> str:
        """Name of a dtype of numpy or ml_dtypes with the same bytes."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...] | None:
        """In elements; None for row-major without gaps."""

    @property
    def offset(self) -> int:
        """First element of the view, in elements from the start of the buffer."""

    @property
    def acl_format(self) -> int | None:
        """`aclFormat` number, where the producer wrote one."""

    @property
    def notes(self) -> list[str]:
        """What the reader noticed and the user should know."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

def open_tensor(path: str | PathLike[str], key: str | None = None) -> TensorBuffer:
    """Locate one tensor of a file; without `key` the file must hold a single one."""

def list_tensors(path: str | PathLike[str]) -> list[str]:
    """Names of the tensors of a file, in stored order, those that cannot be read included."""

@final
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
    def tensor(self, index: int) -> TensorBuffer: ...
    def candidate(self) -> Dump | None: ...
    def describe(self) -> None:
        """Fill dtype and shape of every record by reading the headers, in parallel."""
    def columns(self) -> dict[str, list[Any]]:
        """Give the records column by column; what is unknown is None."""
    def graph_json(self) -> str | None: ...
    def values_json(self) -> str: ...

def open_dump(path: str | PathLike[str]) -> Dump: ...

@final
class Alignment:
    """Which tensors of two dumps stand for the same value."""

    def __len__(self) -> int: ...
    def columns(self) -> dict[str, list[Any]]:
        """Give the pairs column by column.

        `golden` and `candidate` are the first record's index on each side, `golden_records` and
        `candidate_records` all of them; `confidence` is 0 to 1, `evidence` and `transform` are texts.
        """
    @property
    def unmatched_golden(self) -> list[tuple[int, str | None]]:
        """Record index, and the candidate's node whose name comes nearest."""
    @property
    def unmatched_candidate(self) -> list[tuple[int, str | None]]:
        """Record index, and the golden node whose name comes nearest."""
    @property
    def notes(self) -> list[str]: ...
    @property
    def steps(self) -> list[tuple[int | None, int | None]]:
        """Golden and candidate step of each pass that both sides have."""
    def to_json(self) -> str:
        """Write the alignment as `alignment.json`, by names."""
    @staticmethod
    def from_json(
        text: str, golden: Dump, candidate: Dump, path: str = "alignment.json"
    ) -> Alignment:
        """Read what `to_json` wrote, or a person edited; `path` is for messages."""

def align(golden: Dump, candidate: Dump, options_json: str = "{}") -> Alignment:
    """Find out which tensors of two runs stand for the same value."""
