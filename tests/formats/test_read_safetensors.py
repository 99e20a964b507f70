"""`.safetensors`: the safetensors package writes, llmdbg reads."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmdbg import LlmdbgError, read_tensor, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8,
    "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64, "bool": np.bool_,
}  # fmt: skip


def test_every_dtype(tmp_path: Path) -> None:
    tensors = {n: torch.tensor([[0, 1, 2], [0.5, 4, 1]]).to(getattr(torch, n)) for n in DTYPES}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    got = read_tensors(tmp_path / "a.safetensors")
    assert sorted(got) == sorted(DTYPES)
    for name, tensor in tensors.items():
        assert got[name].dtype == DTYPES[name]
        assert got[name].shape == (2, 3)
        assert got[name].tobytes() == tensor.view(torch.uint8).numpy().tobytes()
        assert not got[name].flags.owndata


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    save_file({"s": torch.tensor(2.5), "e": torch.empty(0, 3)}, tmp_path / "a.safetensors")
    got = read_tensors(tmp_path / "a.safetensors")
    assert got["s"].shape == ()
    assert got["s"] == 2.5
    assert got["e"].shape == (0, 3)


def write(path: Path, header: Any, data: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "bad",
    [
        entry(shape=[5]),
        entry(offsets=[0, 20]),
        entry(offsets=[16, 0]),
        entry(shape=[2**63, 4]),
        entry(shape=[2**62]),
        entry(offsets=[2**64 - 8, 2**64 - 1], shape=[7], dtype="U8"),
        entry(dtype="F4"),
        entry(shape=[1] * 65, offsets=[0, 4]),
    ],
)
def test_a_bad_entry_leaves_the_others(tmp_path: Path, bad: dict[str, Any]) -> None:
    path = write(tmp_path / "a.safetensors", {"bad": bad, "good": entry()})
    with pytest.warns(UserWarning, match="left out 'bad'"):
        assert list(read_tensors(path)) == ["good"]
    with pytest.raises(LlmdbgError, match=r"expected|know"):
        read_tensor(path, "bad")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xff",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [99999999999999999999], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [4]}}',
        json.dumps({"a": entry()}).encode()[:-1] + b"," + json.dumps({"a": entry()}).encode()[1:],
        b'{"a":' * 10_000,
    ],
)
def test_broken_headers(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(LlmdbgError, match="JSON that describes tensors"):
        read_tensors(write(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("length", [17, 2**31, 2**63, 2**64 - 1])
def test_header_length_beyond_the_file(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(8))
    with pytest.raises(LlmdbgError, match=str(length)):
        read_tensors(tmp_path / "a.safetensors")
