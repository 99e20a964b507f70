"""A user's own measures: ``-alg file.py:func``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Algorithm = Callable[[Any, Any], tuple[float | int | str, str]]


@dataclass(frozen=True)
class CustomMeasure:
    """A measure of the user's, which becomes a column of its own name.

    Attributes
    ----------
    name : str
        The function's name.
    function : callable
        Takes the golden and the candidate tensor, returns ``(value, message)``.
    """

    name: str
    function: Algorithm

    def __call__(
        self, golden: np.ndarray[Any, Any], candidate: np.ndarray[Any, Any]
    ) -> tuple[float | int | str | None, str]:
        """Measure one pair; an exception becomes the message, never the end of the run."""
        try:
            value, message = self.function(_given(golden), _given(candidate))
        except Exception as error:
            return None, f"{self.name}: {type(error).__name__}: {error}"
        if hasattr(value, "item"):
            value = value.item()
        return value, f"{self.name}: {message}" if message else ""


def load(specification: str) -> CustomMeasure:
    """Load ``file.py:func``.

    The file is run. When it imports torch, its function is given torch tensors (as by ``ait llm``),
    else numpy arrays (bfloat16 and float8 through ``ml_dtypes``). llmdbg never imports torch itself
    to compare.

    Raises
    ------
    UserError
        Not of that form, no such file or function, or the function does not take two tensors.
    """
    path, _, name = specification.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise UserError(f"a custom algorithm is file.py:function, not {specification!r}")
    if not Path(path).is_file():
        raise UserError(f"no such file for a custom algorithm: {path}")
    spec = importlib.util.spec_from_file_location(f"llmdbg_custom_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise UserError(f"the custom algorithm's file does not run: {words}: {path}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"no function {name!r} in {path}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise UserError(f"{name} must take two tensors, golden and candidate: {path}") from error
    return CustomMeasure(name, function)


def column(values: list[float | int | str | None]) -> list[Any]:
    """Return the results as a column of one type: numbers where all are, else text."""
    if all(v is None or isinstance(v, int | float) for v in values):
        return [None if v is None else float(v) for v in values]
    return [None if v is None else str(v) for v in values]


def _given(array: np.ndarray[Any, Any]) -> Any:
    torch = sys.modules.get("torch")
    if torch is None:
        return array
    import numpy as np

    name = array.dtype.name
    # torch and ml_dtypes share bits and names, but from_numpy knows only numpy's own types.
    if array.dtype.kind == "V" or name in ("bfloat16",) or name.startswith("float8"):
        bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").copy()
        as_int = bits.view(np.int16) if array.dtype.itemsize == 2 else bits
        return torch.from_numpy(as_int).view(getattr(torch, name))
    return torch.from_numpy(np.array(array))
