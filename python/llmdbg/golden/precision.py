"""Where a device rounds: the one knob that every golden operator takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Precision:
    """Rounds what a device would keep in `dtype`; sums are exact either way.

    Attributes
    ----------
    dtype : str or None
        torch's name without ``torch.``; None keeps float64.
    """

    dtype: str | None = None

    def __call__(self, values: npt.NDArray[Any]) -> Array:
        """Return `values` as float64, rounded to the dtype."""
        wide = np.asarray(values, np.float64)
        if self.dtype is None or self.dtype == "float64":
            return wide
        # Not at the top: a comparison that computes nothing again starts sooner without it.
        import ml_dtypes

        kind: Any = getattr(ml_dtypes, self.dtype, None) or np.dtype(self.dtype)
        with np.errstate(over="ignore"):
            # By way of float32, as devices accumulate: ml_dtypes' own cast from float64 does too.
            rounded = wide.astype(np.float32).astype(kind)
        return np.asarray(rounded, np.float64)


EXACT = Precision()
