"""Torch zip files: torch writes, llmdbg reads without torch and without unpickling."""

from __future__ import annotations

import collections
import warnings
import zipfile
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from llmdbg import LlmdbgError, _core, read_tensor, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

NUMPY_OF = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
    torch.float8_e8m0fnu: ml_dtypes.float8_e8m0fnu,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint64: np.uint64,
    torch.uint32: np.uint32,
    torch.uint16: np.uint16,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same(got: np.ndarray, want: torch.Tensor) -> None:
    assert got.shape == tuple(want.shape)
    assert got.dtype == NUMPY_OF[want.dtype]
    assert got.tobytes() == (bytes_of(want) if want.numel() else b"")


@pytest.mark.parametrize("dtype", NUMPY_OF, ids=str)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    want = torch.tensor([0, 1, 2, 0.5, 4, 1]).to(dtype).reshape(2, 3)
    torch.save(want, tmp_path / "a.pt")
    same(read_tensor(tmp_path / "a.pt"), want)


def test_complex32_is_widened(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = torch.tensor([1 + 2j, -0.5j]).to(torch.complex32)
    torch.save(want, tmp_path / "a.pt")
    got = read_tensor(tmp_path / "a.pt")
    assert got.dtype == np.complex64
    assert got.tolist() == [1 + 2j, -0.5j]


BASE = torch.arange(120.0).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    "view",
    [
        BASE.permute(3, 1, 0, 2),
        BASE.transpose(1, 2)[1:, ::2, 1:, ::3],
        BASE[1, 2, 3, 4],
        BASE[:, :0],
        BASE[0, 0, 0].expand(7, 5),
        BASE.diagonal(dim1=1, dim2=2),
        torch.tensor(3.5),
        torch.empty(0),
        torch.empty(2, 0, 3),
        BASE[..., :1],
    ],
    ids=[
        "permuted",
        "sliced",
        "0d-view",
        "empty-view",
        "expanded",
        "diagonal",
        "0d",
        "empty",
        "empty3",
        "inner1",
    ],
)
def test_views(tmp_path: Path, view: torch.Tensor) -> None:
    torch.save(view, tmp_path / "a.pth")
    same(read_tensor(tmp_path / "a.pth"), view)


def test_views_are_not_copied(tmp_path: Path) -> None:
    torch.save(BASE.permute(3, 1, 0, 2), tmp_path / "a.pt")
    got = read_tensor(tmp_path / "a.pt")
    assert got.strides == tuple(4 * s for s in BASE.permute(3, 1, 0, 2).stride())
    assert not got.flags.owndata
    assert not got.flags.writeable


def test_nested_containers_and_leaves(tmp_path: Path) -> None:
    shared = torch.arange(10.0)
    saved = {
        "layers": [
            {"weight": nn.Parameter(torch.ones(2, 2)), "bias": None},
            (shared[2:5], shared[::2]),
        ],
        "config": {"eps": 1e-5, "name": "x", "big": 10**30, "raw": b"\x00\x01", "flag": True},
        "size": torch.Size([1, 2]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "set": {1, 2},
        "complex": 1 + 2j,
        3: torch.tensor(3),
        None: torch.tensor(4),
        (1, 2): torch.tensor(5),
        "ordered": collections.OrderedDict([("z", torch.tensor(1)), ("a", torch.tensor(2))]),
        "default": collections.defaultdict(list, k=[torch.tensor(6)]),
    }
    torch.save(saved, tmp_path / "a.pt")
    got = read_tensors(tmp_path / "a.pt")
    assert list(got) == [
        "layers.0.weight", "layers.1.0", "layers.1.1", "3", "None", "[9]", "ordered.z", "ordered.a",
        "default.k.0",
    ]  # fmt: skip
    same(got["layers.1.0"], shared[2:5])
    same(got["layers.1.1"], shared[::2])
    assert got["[9]"] == 5
    assert read_tensor(tmp_path / "a.pt", "ordered.a") == 2


def test_state_dict_of_a_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(torch.bfloat16)
    torch.save(module.state_dict(), tmp_path / "a.bin")
    got = read_tensors(tmp_path / "a.bin")
    want = module.state_dict()
    assert list(got) == list(want)
    for key, tensor in want.items():
        same(got[key], tensor)


def test_parameters_buffers_attributes_and_subclasses(tmp_path: Path) -> None:
    plain = nn.Parameter(torch.ones(3))
    marked = nn.Parameter(torch.ones(3) * 2)
    marked.tag = "attention"
    noted = torch.ones(3) * 3
    noted.tag = 1
    torch.save([plain, marked, noted, nn.Buffer(torch.ones(3) * 4)], tmp_path / "a.pt")
    got = read_tensors(tmp_path / "a.pt")
    assert {key: value[0] for key, value in got.items()} == {"0": 1, "1": 2, "2": 3, "3": 4}


class Tagged(torch.Tensor):
    pass


def test_a_subclass_is_read_as_a_plain_tensor_and_says_so(tmp_path: Path) -> None:
    torch.save(torch.ones(2).as_subclass(Tagged), tmp_path / "a.pt")
    buffer = _core.open_tensor(tmp_path / "a.pt")
    assert "Tagged" in buffer.notes[0]
    assert read_tensor(tmp_path / "a.pt").tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize(
    "odd",
    [
        torch.eye(2).to_sparse(),
        torch.eye(2).to_sparse_csr(),
        torch.zeros(2, device="meta"),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
    ],
    ids=["coo", "csr", "meta", "conj", "neg"],
)
def test_tensors_that_are_no_bytes_leave_the_others(tmp_path: Path, odd: torch.Tensor) -> None:
    torch.save({"odd": odd, "good": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="left out 'odd': refused: .*save"):
        got = read_tensors(tmp_path / "a.pt")
    assert list(got) == ["good"]
    with pytest.raises(LlmdbgError, match="refused"):
        read_tensor(tmp_path / "a.pt", "odd")


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8)
        torch.save(odd, tmp_path / "a.pt")
    with pytest.raises(LlmdbgError, match="_rebuild_qtensor"):
        read_tensor(tmp_path / "a.pt")


def test_equal_paths_are_told_apart(tmp_path: Path) -> None:
    torch.save({"a.b": torch.tensor(1), "a": {"b": torch.tensor(2)}}, tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt") == {"a.b": 1, "a.b#2": 2}


def test_a_module_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(LlmdbgError, match=r"torch\.nn\.modules\.linear\.Linear.*never runs code"):
        read_tensor(tmp_path / "a.pt")


def test_legacy_files_are_refused_with_advice(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(LlmdbgError, match=r"before version 1\.6.*again with torch 1\.6"):
        read_tensor(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_with_advice(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(LlmdbgError, match=r"TorchScript.*state_dict"):
        read_tensor(tmp_path / "a.pt")


def test_no_tensors_at_all(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt") == {}
    with pytest.raises(LlmdbgError, match="holds no tensors"):
        read_tensor(tmp_path / "a.pt")


def rewrite(source: Path, target: Path, change: dict[str, bytes | None], method: int = 0) -> None:
    """Copy an archive with some members replaced or (None) left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            short = name.split("/", 1)[1]
            data = change.get(short, old.read(name))
            if data is not None:
                new.writestr(name, data)


def test_big_endian_storages_are_swapped(tmp_path: Path) -> None:
    want = torch.tensor([1.0, -2.0, 3.5])
    torch.save({"x": want.to(torch.complex64), "h": want.half()}, tmp_path / "a.pt")
    swapped = {
        "byteorder": b"big",
        "data/0": want.numpy().astype(np.complex64).astype(">c8").tobytes(),
        "data/1": want.numpy().astype(">f2").tobytes(),
    }
    rewrite(tmp_path / "a.pt", tmp_path / "b.pt", swapped)
    got = read_tensors(tmp_path / "b.pt")
    assert got["x"].tolist() == [1, -2, 3.5]
    assert got["h"].tolist() == [1, -2, 3.5]


def test_compressed_storages_are_inflated(tmp_path: Path) -> None:
    want = torch.arange(3_000_000).reshape(2, -1).t()
    torch.save({"big": want, "small": torch.ones(3)}, tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "b.pt", {}, zipfile.ZIP_DEFLATED)
    got = read_tensors(tmp_path / "b.pt")
    same(got["big"], want)
    same(got["small"], torch.ones(3))


@pytest.mark.parametrize(
    "change", [{"data/0": None}, {"data/0": b"\x00" * 11}, {"byteorder": b"middle"}]
)
def test_archives_that_contradict_themselves(
    tmp_path: Path, change: dict[str, bytes | None]
) -> None:
    torch.save(torch.ones(3), tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "b.pt", change)
    with pytest.raises(LlmdbgError, match="expected"):
        read_tensor(tmp_path / "b.pt")


def test_a_tensor_saved_on_an_npu(tmp_path: Path) -> None:
    # torch_npu's own rebuild function, and a device that this machine lacks.
    pickle = (
        b"\x80\x02ctorch_npu.utils.storage\n_rebuild_npu_tensor\n((X\x07\x00\x00\x00storage"
        b"ctorch\nHalfStorage\nX\x01\x00\x00\x000X\x05\x00\x00\x00npu:0K\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86"
        b"\x89ccollections\nOrderedDict\n)Rctorch_npu.npu._format\nFormat\nK\x1d\x85RtR."
    )
    torch.save(torch.arange(4).half(), tmp_path / "a.pt")
    rewrite(tmp_path / "a.pt", tmp_path / "b.pt", {"data.pkl": pickle})
    assert read_tensor(tmp_path / "b.pt").tolist() == [[0, 1], [2, 3]]
