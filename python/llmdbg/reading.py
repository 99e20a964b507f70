"""Reading single tensor files into numpy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from llmdbg import _core

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray


def read_tensor(path: str | PathLike[str], key: str | None = None) -> NDArray[np.generic]:
    """Read one tensor of a file as a numpy array.

    Reads ATB `.bin`, `.npy`, `.npz`, torch `.pt`/`.pth` (zip files, as `torch.save` writes since
    version 1.6), `.safetensors` and `.safetensors.zst`. Nothing is ever unpickled.

    Parameters
    ----------
    path : path-like
        The file.
    key : str, optional
        The tensor's name in a file that holds several: a member of an `.npz` or `.safetensors`, or
        the path inside a saved structure of torch (`"model.0.weight"`).

    Returns
    -------
    ndarray
        In the file's shape and dtype, read-only, and without a copy wherever the bytes allow: the
        array is then a view of the mapped file, with strides for a transposed or sliced tensor.
        Do not truncate the file while such an array lives.

        `bfloat16`, `float8_e4m3fn`, `float8_e5m2` and `float8_e8m0fnu` have the dtypes of
        `ml_dtypes`. `complex32` is converted to complex64. `hifloat8`, and types whose packing on
        disk is unknown (`int4`, `uint1`, `float4_*`, `float6_*`, `string`), are uint8: their bytes.

    Raises
    ------
    LlmdbgError
        When the file is malformed, holds no data, holds several tensors and no key is given, or
        could only be read by running code.
    OSError
        When the operating system refuses; `FileNotFoundError`, `PermissionError` and so on.
    """
    return to_numpy(_core.open_tensor(path, key))


def read_tensors(path: str | PathLike[str]) -> dict[str, NDArray[np.generic]]:
    """Read every tensor of a file.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    dict of str to ndarray
        In stored order, each as `read_tensor` gives it. A file of one unnamed tensor has the key
        `""`.

    Raises
    ------
    LlmdbgError
        When the file as a whole cannot be read.
    OSError
        When the operating system refuses.

    Warns
    -----
    UserWarning
        For each tensor that cannot be read (sparse, quantised, damaged) and is left out.
    """
    tensors = {}
    for key in _core.list_tensors(path):
        try:
            tensors[key] = read_tensor(path, key)
        except _core.LlmdbgError as error:
            warnings.warn(f"left out {key!r}: {error}", stacklevel=2)
    return tensors


def to_numpy(buffer: _core.TensorBuffer) -> NDArray[np.generic]:
    """Give a located tensor as a numpy array.

    Parameters
    ----------
    buffer : TensorBuffer
        What `open_tensor` returns.

    Returns
    -------
    ndarray
        Read-only; see `read_tensor` for the dtypes.
    """
    if buffer.dtype == "complex32":
        return _from_complex32(buffer)
    return _view(buffer, _dtype(buffer.numpy_dtype))


def _dtype(name: str) -> np.dtype[Any]:
    if not hasattr(np, name):
        # numpy learns its names by the import, which costs too much for dumps that need none.
        import ml_dtypes  # noqa: F401
    return np.dtype(name)


def _view(buffer: _core.TensorBuffer, dtype: np.dtype[Any]) -> NDArray[Any]:
    strides = buffer.strides
    return np.ndarray(
        buffer.shape,
        dtype,
        buffer=memoryview(buffer),
        offset=buffer.offset * dtype.itemsize if 0 not in buffer.shape else 0,
        strides=None if strides is None else tuple(stride * dtype.itemsize for stride in strides),
    )


def _from_complex32(buffer: _core.TensorBuffer) -> NDArray[np.complex64]:
    """Widen pairs of float16, for which numpy has no dtype."""
    pairs = _view(buffer, np.dtype([("real", np.float16), ("imag", np.float16)]))
    wide = np.empty(buffer.shape, np.complex64)
    wide.real = pairs["real"]
    wide.imag = pairs["imag"]
    wide.flags.writeable = False
    return wide
