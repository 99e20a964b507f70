"""Numbers with as many digits as a page shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def rounded(values: npt.NDArray[np.floating[Any]], digits: int) -> list[float]:
    """Return numbers rounded to significant digits; NaN and infinities stay.

    Parameters
    ----------
    values : ndarray of float
    digits : int

    Returns
    -------
    list of float
        Those between 1e-17 and 1e+17 are the nearest to what they spell.
    """
    wide = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log10(np.abs(wide)))
    places = np.clip(np.nan_to_num(digits - 1 - exponent), -300, 300)
    # Powers of ten up to 22 and numbers of few digits are exact, so the quotient is the nearest.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    with np.errstate(over="ignore"):
        nearest = np.round(wide * up / down) / up * down
    # The largest number of a dtype, rounded up, is none.
    spelled: list[float] = np.where(np.isfinite(nearest), nearest, wide).tolist()
    return spelled
