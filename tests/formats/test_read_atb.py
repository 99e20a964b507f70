"""ATB `.bin`: bytes written by hand from the format's description."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest

from llmdbg import LlmdbgError, _core, read_tensor

if TYPE_CHECKING:
    from pathlib import Path

# The worked example: float32 [2, 3] with the values 1 to 6, as a probe writes it.
EXAMPLE = bytes.fromhex(
    "24 56 65 72 73 69 6f 6e 3d 31 2e 30 0a 24 4f 62 6a 65 63 74 2e 43 6f 75 6e 74 3d 31 0a"
    "24 4f 62 6a 65 63 74 2e 4c 65 6e 67 74 68 3d 32 34 0a 66 6f 72 6d 61 74 3d 32 0a"
    "64 74 79 70 65 3d 30 0a 64 69 6d 73 3d 32 2c 33 0a"
    "24 4f 62 6a 65 63 74 2e 64 61 74 61 3d 30 2c 32 34 0a 24 45 6e 64 3d 31 0a"
    "00 00 80 3f 00 00 00 40 00 00 40 40 00 00 80 40 00 00 a0 40 00 00 c0 40"
)

DTYPES = {
    0: np.float32, 1: np.float16, 2: np.int8, 3: np.int32, 4: np.uint8, 6: np.int16, 7: np.uint16,
    8: np.uint32, 9: np.int64, 10: np.uint64, 11: np.float64, 12: np.bool_, 16: np.complex64,
    17: np.complex128, 27: ml_dtypes.bfloat16, 35: ml_dtypes.float8_e5m2,
    36: ml_dtypes.float8_e4m3fn, 37: ml_dtypes.float8_e8m0fnu,
}  # fmt: skip


def record(dtype: object, dims: str, data: bytes | None, *, extra: str = "", fmt: int = 2) -> bytes:
    count, length = (0, 0) if data is None else (1, len(data))
    header = f"$Version=1.0\n$Object.Count={count}\n$Object.Length={length}\nformat={fmt}\n"
    header += f"dtype={dtype}\ndims={dims}\n{extra}"
    if data is not None:
        header += f"$Object.data=0,{length}\n"
    return (header + "$End=1\n").encode() + (data or b"")


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_worked_example(tmp_path: Path) -> None:
    assert len(EXAMPLE) == 98 + 24
    path = write(tmp_path / "a.bin", EXAMPLE)
    got = read_tensor(path)
    assert got.dtype == np.float32
    assert got.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert not got.flags.owndata
    assert _core.open_tensor(path).acl_format == 2
    assert _core.open_tensor(path).notes == []


@pytest.mark.parametrize("number", DTYPES)
def test_every_dtype(tmp_path: Path, number: int) -> None:
    want = np.array([[0, 1, 2], [0.5, 4, 1]]).astype(DTYPES[number])
    got = read_tensor(write(tmp_path / "a.bin", record(number, "2,3", want.tobytes())))
    assert got.dtype == want.dtype
    assert got.shape == (2, 3)
    assert got.tobytes() == want.tobytes()


def test_complex32_and_hifloat8(tmp_path: Path) -> None:
    pairs = np.array([1, 2, 0, -0.5], np.float16).tobytes()
    assert read_tensor(write(tmp_path / "a.bin", record(33, "2", pairs))).tolist() == [
        1 + 2j,
        -0.5j,
    ]
    codes = read_tensor(write(tmp_path / "b.bin", record(34, "3", b"\x08\x0c\x10")))
    assert (codes.dtype, codes.tolist()) == (np.uint8, [8, 12, 16])
    assert _core.open_tensor(tmp_path / "b.bin").dtype == "hifloat8"


@pytest.mark.parametrize("number", [13, 29, 30, 38, 39, 40, 41])
def test_types_of_unknown_packing_are_their_bytes(tmp_path: Path, number: int) -> None:
    path = write(tmp_path / "a.bin", record(number, "2,4", bytes(range(4))))
    assert read_tensor(path).tolist() == [0, 1, 2, 3]
    assert "unknown packing" in _core.open_tensor(path).notes[0]
    whole = write(tmp_path / "b.bin", record(number, "2,4", bytes(range(8))))
    assert read_tensor(whole).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("dims", "data", "shape"),
    [("", bytes(4), ()), ("", b"", (0,)), ("0,5", b"", (0, 5)), ("1", bytes(4), (1,))],
)
def test_scalars_and_empty_tensors(
    tmp_path: Path, dims: str, data: bytes, shape: tuple[int, ...]
) -> None:
    assert read_tensor(write(tmp_path / "a.bin", record(0, dims, data))).shape == shape


def test_a_reduced_header(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float16).tobytes()
    path = write(tmp_path / "a.bin", b"dtype=1\ndims=2,3\n$End=1\n" + data)
    assert read_tensor(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    path = write(tmp_path / "b.bin", b"dtype=None\ndims=2,3\n$End=1\n" + data)
    with pytest.raises(
        LlmdbgError, match="header line dtype: expected the number of an aclDataType"
    ):
        read_tensor(path)


def test_appended_records(tmp_path: Path) -> None:
    first, second = (
        record(0, "2", np.float32([1, 2]).tobytes()),
        record(9, "1", np.int64([7]).tobytes()),
    )
    path = write(tmp_path / "a.bin", first + first + second)
    assert read_tensor(path).tolist() == [7]
    assert _core.open_tensor(path).notes == ["3 records in the file, the last complete one is read"]
    path = write(tmp_path / "b.bin", first + second[:-1])
    assert read_tensor(path).tolist() == [1, 2]
    assert "after the last complete record are ignored" in _core.open_tensor(path).notes[0]
    path = write(tmp_path / "c.bin", b"dtype=0\ndims=2\n$End=1\n" + bytes(8) + second)
    assert read_tensor(path).tolist() == [7]


def test_description_and_statistics_files(tmp_path: Path) -> None:
    with pytest.raises(LlmdbgError, match=r"no data of float32 \[2, 3\], only its description"):
        read_tensor(write(tmp_path / "a.bin", record(0, "2,3", None)))
    stats = "max=1.500000\nmin=-2.000000\nmean=N/A\nl2norm=3.000000\n"
    with pytest.raises(LlmdbgError, match="only its statistics"):
        read_tensor(write(tmp_path / "b.bin", record(0, "2,3", None, extra=stats)))


def test_truncated_data_says_the_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", EXAMPLE[:-1])
    with pytest.raises(
        LlmdbgError, match="expected 24 bytes at offset 98, found a file of 121 bytes"
    ):
        read_tensor(path)


@pytest.mark.parametrize(
    "content",
    [
        record(0, "2,3", bytes(20)),
        record(0, "2,3", bytes(28)),
        record(0, "2,3", b""),
        record(0, "", bytes(8)),
        record(0, "2,x", bytes(8)),
        record(0, "-2", bytes(8)),
        record(0, "2,", bytes(8)),
        record(0, "4611686018427387904", bytes(8)),
        record(0, "4294967296,4294967296,0", b""),
        record(0, "99999999999999999999", bytes(8)),
        record(0, ",".join(["1"] * 65), bytes(4)),
        record(5, "2", bytes(8)),
        record(-1, "2", bytes(8)),
        record(99999999999, "2", bytes(8)),
        EXAMPLE.replace(b"Length=24", b"Length=23"),
        EXAMPLE.replace(b"Length=24", b"Length=18446744073709551615"),
        EXAMPLE.replace(b"Length=24", b"Length=x"),
        EXAMPLE.replace(b"=0,24", b"=1,24"),
        EXAMPLE.replace(b"=0,24", b"=18446744073709551615,24"),
        EXAMPLE.replace(b"=0,24", b"=24"),
        EXAMPLE.replace(b"$End=1\n", b""),
        EXAMPLE.replace(b"dtype=0\n", b"dtype=0\ndtype=1\n"),
        EXAMPLE.replace(b"dtype=0\n", b""),
        EXAMPLE.replace(b"dims=2,3\n", b""),
        EXAMPLE.replace(b"format=2\n", b"no equals sign\n"),
        b"a=1\n" * 9000 + b"$End=1\n",
        b"".join(b"k%d=1\n" % i for i in range(9000)) + b"$End=1\n",
        b"k=" + b"x" * 3_000_000,
        bytes(1000),
        b"\n",
    ],
)
def test_headers_that_contradict_themselves(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(LlmdbgError, match="expected"):
        read_tensor(write(tmp_path / "a.bin", content))


@pytest.fixture
def execution(tmp_path: Path) -> Path:
    return tmp_path / "atb_dump_data" / "data" / "0_4711" / "2"


def alias(name: str, dims: str = "2") -> bytes:
    return record(0, dims, None, extra=f"data={name}\n")


DATA = record(0, "2", np.float32([5, 6]).tobytes())


@pytest.mark.parametrize("target", ["intensor1.bin", "intensor1_weight.bin"])
def test_an_alias_leads_to_another_operation(execution: Path, target: str) -> None:
    write(execution / "3_Layer/1_Attention/0_Linear/before" / target, DATA)
    write(
        execution / "3_Layer/1_Attention/0_Linear/before/intensor10.bin", record(0, "2", bytes(8))
    )
    path = write(execution / "3_Layer/2_Mlp/before/intensor0.bin", alias("3_1_0_intensor1.bin"))
    assert read_tensor(path).tolist() == [5, 6]
    assert "3_Layer/1_Attention/0_Linear" in _core.open_tensor(path).notes[0]


def test_an_alias_of_an_output_and_a_chain(execution: Path) -> None:
    write(execution / "3_Layer/after/outtensor0.bin", DATA)
    write(execution / "4_Layer/before/intensor0.bin", alias("3_outtensor0.bin"))
    path = write(execution / "4_Layer/0_Norm/before/intensor0.bin", alias("4_intensor0.bin"))
    assert read_tensor(path).tolist() == [5, 6]


def test_a_kernel_file_is_an_alias_of_its_operation(execution: Path) -> None:
    write(execution / "3_Layer/0_Linear/before/intensor0.bin", DATA)
    path = write(
        execution / "3_Layer/0_Linear/0_MatMulKernel/before/intensor0.bin", alias("intensor0.bin")
    )
    assert read_tensor(path).tolist() == [5, 6]


def test_a_relative_path_to_an_alias(execution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(execution / "3_Layer/before/intensor0.bin", DATA)
    write(execution / "4_Layer/before/intensor0.bin", alias("3_intensor0.bin"))
    monkeypatch.chdir(execution / "4_Layer/before")
    assert read_tensor("intensor0.bin").tolist() == [5, 6]


def test_aliases_in_a_circle(execution: Path) -> None:
    write(execution / "3_Layer/before/intensor0.bin", alias("4_intensor0.bin"))
    path = write(execution / "4_Layer/before/intensor0.bin", alias("3_intensor0.bin"))
    with pytest.raises(LlmdbgError, match="circle"):
        read_tensor(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("9_intensor0.bin", "no child 9"),
        ("3_intensor7.bin", "no such file"),
        ("../../../../secret.bin", "expected the name"),
        ("3_../intensor0.bin", "expected the name"),
        ("/etc/intensor0.bin", "expected the name"),
        ("3_intensor0", "expected the name"),
        ("3_intensor.bin", "expected the name"),
        ("5_intensor0.bin", "several children 5"),
    ],
)
def test_aliases_that_lead_nowhere(execution: Path, name: str, why: str) -> None:
    write(execution / "3_Layer/before/intensor0.bin", DATA)
    write(execution / "5_Layer/before/intensor0.bin", DATA)
    write(execution / "5_Other/before/intensor0.bin", DATA)
    path = write(execution / "4_Layer/before/intensor0.bin", alias(name))
    with pytest.raises(LlmdbgError, match=why):
        read_tensor(path)


def test_an_alias_does_not_leave_the_dump(execution: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "elsewhere/intensor0.bin", DATA)
    (execution / "3_Layer/before").mkdir(parents=True)
    (execution / "3_Layer/before/intensor0.bin").symlink_to(secret)
    (execution / "5_Layer").mkdir()
    (execution / "5_Layer/before").symlink_to(secret.parent, target_is_directory=True)
    for target in ["3_intensor0.bin", "5_intensor0.bin"]:
        path = write(execution / "4_Layer/before/intensor0.bin", alias(target))
        with pytest.raises(LlmdbgError, match=r"outside the dump|no such file"):
            read_tensor(path)


def test_an_alias_must_agree_with_its_target(execution: Path) -> None:
    write(execution / "3_Layer/before/intensor0.bin", DATA)
    path = write(execution / "4_Layer/before/intensor0.bin", alias("3_intensor0.bin", dims="3"))
    with pytest.raises(LlmdbgError, match=r"expected float32 \[3\], found float32 \[2\]"):
        read_tensor(path)
