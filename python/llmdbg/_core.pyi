"""Types of the Rust extension. Every function releases the GIL while it reads or computes."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

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
        `candidate_records` all of them; `confidence` is 0 to 1, `evidence` and `transform` are
        texts.
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
    def compare(
        self,
        pairs: Sequence[int] | NDArray[np.integer[Any]],
        *,
        threads: int = 0,
        kl: bool = True,
        journal: Journal | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Measure some of the pairs after their transforms; columns as of `compare_pairs`."""
    def tensors(self, pair: int) -> tuple[TensorBuffer, TensorBuffer]:
        """Golden and candidate tensor of a pair, after its transforms."""
    def to_json(self) -> str:
        """Write the alignment as `alignment.json`, by names."""
    @staticmethod
    def from_json(
        text: str, golden: Dump, candidate: Dump, path: str = "alignment.json"
    ) -> Alignment:
        """Read what `to_json` wrote, or a person edited; `path` is for messages."""

def align(golden: Dump, candidate: Dump, options_json: str = "{}") -> Alignment:
    """Find out which tensors of two runs stand for the same value."""

@final
class Journal:
    """Rows that a comparison has finished, kept in a file for when it is interrupted.

    The file is written once the comparison has taken `after_ms`.
    """

    def __new__(cls, path: str | PathLike[str], *, after_ms: int = 2000) -> Journal: ...
    @property
    def known(self) -> int:
        """Rows that an earlier run left."""
    @property
    def resumed(self) -> int:
        """Rows of an earlier run that this one took over."""
    @property
    def kept(self) -> int:
        """Rows that a further run could take over."""
    @property
    def problem(self) -> str | None:
        """Why rows of an earlier run are not used, or none of this one are kept."""
    def remove(self) -> None:
        """Delete the file: the report is complete."""

def measures() -> list[tuple[str, str]]:
    """Name and meaning of every measure, in the order of the report."""

def compare_pairs(
    golden: Dump,
    candidate: Dump,
    golden_index: Sequence[int] | NDArray[np.integer[Any]],
    candidate_index: Sequence[int] | NDArray[np.integer[Any]],
    *,
    threads: int = 0,
    kl: bool = True,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure pairs of records; one element per pair in every column.

    The columns of `measures()` are arrays: float64 with NaN for a number that does not exist, int64
    with -1 for an index or count that does not exist, uint8 for yes and no. Beside them stand
    lists: `golden_dtype`, `golden_shape`, `candidate_dtype`, `candidate_shape`, `shape_note`,
    `note` and `cmp_fail_reason`, with None where there is nothing to say. A pair that cannot be
    measured is a row with a reason. Rows that `journal` knows are taken from there, finished ones
    are kept in it. `progress` is called about twenty times a second with pairs
    done and pairs in all; an exception it raises, and Ctrl-C, end the comparison.
    """

def compare_bytes(
    golden: Dump,
    index: int,
    data: NDArray[np.uint8],
    dtype: str,
    shape: Sequence[int],
    *,
    kl: bool = True,
) -> dict[str, Any]:
    """Measure a row-major tensor in memory, the candidate, against a record, on one thread.

    Columns as `compare_pairs` gives them, one element each.
    """

def compare_tensors(
    golden: str | PathLike[str],
    candidate: str | PathLike[str],
    golden_key: str | None = None,
    candidate_key: str | None = None,
    *,
    threads: int = 0,
    kl: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure two tensors of two files; columns as `compare_pairs` gives them, one element each."""

def row_profile(
    golden: Dump,
    candidate: Dump,
    golden_index: int,
    candidate_index: int,
    most: int = 65536,
    *,
    threads: int = 0,
) -> tuple[NDArray[np.float32], int]:
    """Give every row's relative L2, and how many neighbouring rows each value stands for.

    With more than `most` rows each value is the worst of its neighbours.
    """

def summarize_bytes(
    data: NDArray[np.uint8], dtype: str, shape: Sequence[int], sketch: bool
) -> dict[str, Any]:
    """Summarise a row-major tensor in memory.

    `elements`; `min`, `max`, `mean`, `norm` (L2) of the finite values, NaN without any; the counts
    `finite`, `nan`, `pos_inf`, `neg_inf`, `zero`. With `sketch` also that, float32: projection, row
    norms, samples, as `sketch_layout` tells.
    """

def summarize_record(dump: Dump, index: int, sketch: bool) -> dict[str, Any]:
    """Summarise the tensor of a record as `summarize_bytes` does."""

def sketch_layout(shape: Sequence[int]) -> tuple[int, int, int, list[int]]:
    """Tell what a sketch of a tensor holds.

    Numbers of the projection, rows per norm, norms, flat positions of the samples.
    """

def hash_bytes(data: NDArray[np.uint8]) -> str:
    """Hash bytes with XXH3 (128 bit); hexadecimal."""

def zstd_frame(data: NDArray[np.uint8]) -> bytes:
    """Compress bytes to one zstd frame with a checksum."""

def hash_record(dump: Dump, index: int) -> str:
    """Hash the bytes of a record's tensor as `hash_bytes` does."""

def tensor_stats(
    path: str | PathLike[str], key: str | None = None, *, histogram: bool = False
) -> dict[str, Any]:
    """Describe the values of one tensor.

    `dtype`, `shape`, `elements`; `finite`, `nan`, `pos_inf`, `neg_inf`, `zero`, `subnormal`,
    `near_max` counts; `min`, `max`, `mean`, `rms`, `norm` of the finite values. With `histogram`,
    64 counts from min to max, empty without finite values. Of complex elements both parts are
    counted.
    """

def scan_records(
    dump: Dump,
    index: Sequence[int] | NDArray[np.integer[Any]],
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Take the health of records in one pass each; one element per record in every column.

    int64 arrays: `numbers`; the counts `nan`, `pos_inf`, `neg_inf`, `zero`, `subnormal`, `near_max`
    (finite and beyond 0.9 of the dtype's maximum), `saturated` (at the end of the dtype's range),
    and for each of them `first_…`, the flat index of the first, -1 without one; `rows`, `channels`,
    `dead_rows`, `dead_channels`, `repeated_rows` (equal to an earlier row, not zero),
    `first_repeated_row`, `first_repeated_of`. float64 arrays over the finite values, NaN without
    any: `min`, `max`, `abs_max`, `abs_min` (smallest nonzero magnitude), and `mean` and `rms`,
    which take every fourth block of 2048 of a tensor of more than 2**20 numbers. uint8: `constant`.
    Lists: `dtype`, `shape`, `note`, `reason` (why there is nothing; else None).
    The same bits for any number of threads. Of complex elements both parts are counted.
    """

def scan_tensors(
    path: str | PathLike[str],
    keys: Sequence[str | None],
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Take the health of tensors of one file; columns as `scan_records` gives them."""

def byte_differences(
    first: Dump,
    second: Dump,
    first_index: Sequence[int] | NDArray[np.integer[Any]],
    second_index: Sequence[int] | NDArray[np.integer[Any]],
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compare pairs of records byte by byte, in row-major order.

    int64 arrays `count` (bytes that differ), `first` and `last` (offsets of such bytes); list
    `reason`, why a pair could not be compared.
    """
