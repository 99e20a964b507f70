"""Which rows or columns stand for all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def spread(count: int, most: int, also: int | None = None) -> npt.NDArray[np.int64]:
    """Return indices at equal distances.

    Parameters
    ----------
    count : int
        How many there are in all.
    most : int
        How many to choose; all of them where there are no more.
    also : int, optional
        One that must be among them, if there is such a one.

    Returns
    -------
    ndarray of int64
        Ascending; the first and the last are among them when `most` is two or more.
    """
    size = min(count, most)
    chosen = np.arange(size) * (count - 1) // max(1, size - 1)
    if also is None or not 0 <= also < count:
        return chosen
    # By way of a set: np.union1d imports numpy's masked arrays first, which takes longer.
    return np.array(sorted({*chosen.tolist(), int(also)}), np.int64)
