"""`.npy` and `.npz`: numpy writes, llmdbg reads."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

from llmdbg import LlmdbgError, _core, read_tensor, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8", "c16"]


def same(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert got.dtype == want.dtype.newbyteorder("=")
    assert got.tobytes() == want.astype(want.dtype.newbyteorder("=")).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", PLAIN)
def test_every_plain_dtype(tmp_path: Path, code: str, order: str) -> None:
    want = np.arange(24).reshape(2, 3, 4).astype(np.dtype(code).newbyteorder(order))
    np.save(tmp_path / "a.npy", want)
    same(read_tensor(tmp_path / "a.npy"), want)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version(tmp_path: Path, version: tuple[int, int]) -> None:
    want = np.linspace(0, 1, 7, dtype=np.float32)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, want, version=version)
    same(read_tensor(tmp_path / "a.npy"), want)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 5)])
def test_scalars_and_empty_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    want = np.full(shape, 2.5, np.float32)
    np.save(tmp_path / "a.npy", want)
    same(read_tensor(tmp_path / "a.npy"), want)


def test_fortran_order_is_strided_not_copied(tmp_path: Path) -> None:
    want = np.asfortranarray(np.arange(24, dtype=np.int32).reshape(2, 3, 4))
    np.save(tmp_path / "a.npy", want)
    got = read_tensor(tmp_path / "a.npy")
    same(got, want)
    assert got.strides == want.strides
    assert not got.flags.owndata


def test_arrays_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(4))
    got = read_tensor(tmp_path / "a.npy")
    assert not got.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1


def test_bfloat16_is_told_by_its_two_byte_void(tmp_path: Path) -> None:
    want = np.array([1, -2.5, 3e38], ml_dtypes.bfloat16)
    np.save(tmp_path / "a.npy", want)
    assert read_tensor(tmp_path / "a.npy").dtype == ml_dtypes.bfloat16
    same(read_tensor(tmp_path / "a.npy"), want)
    assert "bfloat16" in _core.open_tensor(tmp_path / "a.npy").notes[0]


def test_float8_e5m2_is_told_by_its_one_byte_float(tmp_path: Path) -> None:
    want = np.array([1, -2.5, 57344], ml_dtypes.float8_e5m2)
    np.save(tmp_path / "a.npy", want)
    same(read_tensor(tmp_path / "a.npy"), want)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros(2, ml_dtypes.float8_e4m3fn), "does not say which"),
        (np.array([None, "x"], object), "Python objects"),
        (np.zeros(2, [("a", "i4"), ("b", "f4")]), "structured"),
        (np.array(["text"]), "text"),
        (np.array([b"text"]), "text"),
        (np.zeros(2, "M8[ns]"), "time"),
        (np.zeros(2, np.longdouble), "long double"),
        (np.zeros(2, "V7"), "not one llmdbg knows"),
    ],
)
def test_other_dtypes_are_refused_with_a_reason(
    tmp_path: Path, array: np.ndarray, why: str
) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(LlmdbgError, match=why):
        read_tensor(tmp_path / "a.npy")


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + data


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (4294967296, 4294967296, 0)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '<f4', 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 2}",
        "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (2,)}",
        "(" * 2000,
        "{" * 2000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': " + "[" * 5000,
        "",
        "\x00\xff",
    ],
)
def test_hostile_headers_are_clear_errors(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.npy").write_bytes(npy(header, bytes(8)))
    with pytest.raises(LlmdbgError, match=r"expected|overflow"):
        read_tensor(tmp_path / "a.npy")


def test_header_length_beyond_the_file_allocates_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}")
    with pytest.raises(LlmdbgError, match="4294967295"):
        read_tensor(tmp_path / "a.npy")


def test_npz_stored_and_deflated(tmp_path: Path) -> None:
    arrays = {
        "weight": np.arange(6, dtype=np.float16).reshape(2, 3),
        "f.order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "swapped": np.arange(5, dtype=">i4"),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 4), np.int8),
        "large": np.random.default_rng(0).integers(0, 3, 3_000_000),
    }
    np.savez(tmp_path / "stored.npz", **arrays)
    np.savez_compressed(tmp_path / "deflated.npz", **arrays)
    for name in ["stored.npz", "deflated.npz"]:
        got = read_tensors(tmp_path / name)
        assert list(got) == list(arrays)
        for key, want in arrays.items():
            same(got[key], np.asarray(want))
            same(read_tensor(tmp_path / name, key), np.asarray(want))


def test_npz_needs_a_key_unless_it_holds_one_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", only=np.ones(3))
    assert read_tensor(tmp_path / "one.npz").tolist() == [1, 1, 1]
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(2))
    with pytest.raises(LlmdbgError, match=r"name one of them; the file holds 2: a, b"):
        read_tensor(tmp_path / "two.npz")
    with pytest.raises(LlmdbgError, match=r'no tensor "c"; the file holds 2: a, b'):
        read_tensor(tmp_path / "two.npz", "c")


def test_one_bad_member_leaves_the_others(tmp_path: Path) -> None:
    good = io.BytesIO()
    np.save(good, np.arange(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("bad.npy", b"not an array")
        archive.writestr("good.npy", good.getvalue())
        archive.writestr("readme.txt", b"hello")
    with pytest.warns(UserWarning, match="left out") as seen:
        got = read_tensors(tmp_path / "a.npz")
    assert list(got) == ["good"]
    assert len(seen) == 2


def test_a_member_that_claims_too_much_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}"
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(header, bytes(100_000)))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    size = struct.pack("<I", len(npy(header)) + 100_000)
    at = raw.rindex(size)
    raw[at : at + 4] = struct.pack("<I", 2**31)
    (tmp_path / "b.npz").write_bytes(raw)
    with pytest.raises(LlmdbgError, match="1099511627776"):
        read_tensor(tmp_path / "a.npz")
    with pytest.raises(LlmdbgError, match="claimed"):
        read_tensor(tmp_path / "b.npz")


def test_damaged_deflated_data_is_noticed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.random.default_rng(0).normal(size=1000))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    (tmp_path / "b.npz").write_bytes(raw)
    with pytest.raises(LlmdbgError, match="archive member"):
        read_tensor(tmp_path / "b.npz")


def test_encrypted_and_exotic_members_are_refused(tmp_path: Path) -> None:
    payload = io.BytesIO()
    np.save(payload, np.zeros(100))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", payload.getvalue())
    with pytest.raises(LlmdbgError, match="zip method 14"):
        read_tensor(tmp_path / "a.npz")


def test_zip64_directory(tmp_path: Path) -> None:
    payload = io.BytesIO()
    np.save(payload, np.arange(4))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for index in range(70_000):
            archive.writestr(f"{index}/", b"")
        with archive.open("x.npy", "w", force_zip64=True) as member:
            member.write(payload.getvalue())
    assert read_tensor(tmp_path / "a.npz").tolist() == [0, 1, 2, 3]
