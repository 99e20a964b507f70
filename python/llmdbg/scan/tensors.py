"""Values of the few tensors that a finding is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmdbg._core import LlmdbgError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmdbg.dump import Dump
    from llmdbg.scan.health import Row

# Larger tensors are looked at through this many of their rows.
_ROWS = 4096


class Tensors:
    """Reads tensors of a dump, as float64 where numbers are wanted."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    def stored(self, row: Row) -> NDArray[Any] | None:
        """Return a tensor as it is stored, mapped; None when it cannot be read."""
        try:
            return self._dump.tensor(row["row"])
        except (LlmdbgError, OSError):
            return None

    def at(self, row: Row, index: tuple[int, ...]) -> float | None:
        """Return one element as float64; None outside the tensor."""
        array = self.stored(row)
        if array is None or len(index) != array.ndim:
            return None
        if any(not 0 <= i < n for i, n in zip(index, array.shape, strict=True)):
            return None
        return float(array[index].astype("float64"))

    def looks_masked(self, row: Row) -> bool:
        """Tell whether −Inf stands where a mask would put it.

        In every row the finite elements are one stretch (causal, sliding window, padding on either
        side), or all rows have −Inf at the same places (padding, banned tokens).

        Parameters
        ----------
        row : dict
            Health of a tensor whose only values that are not finite are −Inf.
        """
        import numpy as np

        array = self.stored(row)
        if array is None or array.ndim == 0 or array.dtype.kind == "c":
            return False
        matrix = array.reshape(-1, array.shape[-1])[:_ROWS]
        hidden = np.isneginf(matrix.astype(np.float32, copy=False))
        if hidden.mean() < 0.01:
            return False
        if (hidden == hidden[0]).all():
            return bool(matrix.shape[0] > 1 or hidden[0].sum() > 1)
        edges = np.diff(hidden.astype(np.int8), axis=1)
        # A stretch of finite elements begins at most once, and not after −Inf ended twice.
        starts = (edges == -1).sum(axis=1) + (~hidden[:, 0])
        return bool((starts <= 1).all())

    def bad_places(self, row: Row, most: int = 1 << 22) -> tuple[NDArray[np.intp], bool]:
        """Return flat indices of elements that are NaN, Inf or clamped, and whether these are all.

        Parameters
        ----------
        row : dict
            Health of the tensor.
        most : int
            Elements looked at, from the first bad one on.
        """
        import numpy as np

        from llmdbg.scan.health import LARGEST, is_bad

        array = self.stored(row)
        if array is None or array.size == 0:
            return np.empty(0, np.intp), False
        names = ("nan", "pos_inf", "neg_inf") if is_bad(row) else ("saturated",)
        first = min(
            (row[f"first_{name}"] for name in names if row[f"first_{name}"] >= 0), default=0
        )
        flat = array.reshape(-1)[first : first + most]
        if flat.dtype.kind != "c":
            flat = flat.astype(np.float32 if flat.dtype.itemsize <= 4 else np.float64, copy=False)
        bad = ~np.isfinite(flat) if is_bad(row) else np.abs(flat) >= LARGEST[row["dtype"]]
        return np.flatnonzero(bad) + first, first + most >= array.size
