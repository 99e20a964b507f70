"""What is no tensor file, and tensor files that are cut off anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import llmdbg
from llmdbg import LlmdbgError, read_tensor, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

ATB = (
    b"$Version=1.0\n$Object.Count=1\n$Object.Length=8\ndtype=0\ndims=2\n$Object.data=0,8\n$End=1\n"
    + bytes(8)
)
SUFFIXES = [".npy", ".npz", ".pt", ".safetensors", ".bin"]


def write_small(path: Path) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, np.arange(3))
        case ".npz":
            np.savez(path, a=np.arange(3), b=np.arange(2))
        case ".pt":
            torch.save({"a": torch.arange(3), "b": torch.arange(2)}, path)
        case ".safetensors":
            save_file({"a": np.arange(3), "b": np.arange(2)}, path)
        case _:
            path.write_bytes(ATB)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.filterwarnings("ignore:left out")
def test_cut_off_at_every_byte(tmp_path: Path, suffix: str) -> None:
    whole = write_small(tmp_path / f"whole{suffix}").read_bytes()
    want = {key: value.tolist() for key, value in read_tensors(tmp_path / f"whole{suffix}").items()}
    path = tmp_path / f"cut{suffix}"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            got = read_tensors(path)
        except LlmdbgError as error:
            assert str(error).endswith(str(path))
            continue
        # A safetensors file names all its tensors at the start: those before the cut can be read.
        assert suffix == ".safetensors"
        assert {key: value.tolist() for key, value in got.items()}.items() < want.items()


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".dat", ""])
def test_empty_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    with pytest.raises(LlmdbgError, match="an empty file"):
        read_tensor(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_directories_missing_files_dangling_links_and_pipes(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"dir{suffix}").mkdir()
    with pytest.raises(LlmdbgError, match="this is a directory"):
        read_tensor(tmp_path / f"dir{suffix}")
    with pytest.raises(FileNotFoundError, match="cannot open: No such file"):
        read_tensor(tmp_path / f"missing{suffix}")
    (tmp_path / f"link{suffix}").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        read_tensor(tmp_path / f"link{suffix}")
    assert caught.value.filename == str(tmp_path / f"link{suffix}")
    with pytest.raises(NotADirectoryError):
        read_tensor(write_small(tmp_path / f"file{suffix}") / "below")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(LlmdbgError, match="neither a file nor a directory"):
        read_tensor(tmp_path / f"pipe{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_content_tells_when_the_suffix_does_not(tmp_path: Path, suffix: str) -> None:
    want = write_small(tmp_path / f"a{suffix}")
    other = tmp_path / "a.dump"
    other.write_bytes(want.read_bytes())
    got, expected = read_tensors(other), read_tensors(want)
    assert {k: v.tolist() for k, v in got.items()} == {k: v.tolist() for k, v in expected.items()}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".dat"])
@pytest.mark.parametrize(
    "content", [b"hello world\n", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04" + bytes(60)]
)
def test_other_content(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(LlmdbgError):
        read_tensors(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("hello.txt", b"hello")
    with pytest.raises(LlmdbgError, match=r"without data\.pkl"):
        read_tensor(tmp_path / "a.pt")


def test_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for value in range(5):
        np.savez(path, a=np.full(3, value), b=np.zeros(1))
        assert read_tensor(path, "a").tolist() == [value] * 3


def test_arrays_outlive_the_removal_of_the_file(tmp_path: Path) -> None:
    got = read_tensor(write_small(tmp_path / "a.npy"))
    (tmp_path / "a.npy").unlink()
    assert got.tolist() == [0, 1, 2]


CLAIMS = {
    "a.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{}",
    "b.npy": b"\x93NUMPY\x01\x00\x46\x00"
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }   \n",
    "c.safetensors": b"\xff\xff\xff\x05\x00\x00\x00\x00{}",
    "d.bin": ATB.replace(b"Length=8", b"Length=99999999999").replace(b"0,8", b"0,99999999999"),
    "e.npz": b"PK\x05\x06" + bytes(8) + b"\x00\x00\x00\x7f\x00\x00\x00\x00" + bytes(2),
}


def test_no_header_number_is_allocated_unverified(tmp_path: Path) -> None:
    for name, content in CLAIMS.items():
        (tmp_path / name).write_bytes(content)
    program = f"""
import resource, pathlib, llmdbg
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
llmdbg.read_tensor
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28),) * 2)
for path in sorted(pathlib.Path({str(tmp_path)!r}).iterdir()):
    try:
        llmdbg.read_tensor(path)
    except llmdbg.LlmdbgError as error:
        print(path.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == sorted(CLAIMS)


def test_import_loads_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, llmdbg; print([m for m in ('torch', 'numpy', 'polars') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert "read_tensor" in dir(llmdbg)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llmdbg.no_such_name  # type: ignore[attr-defined]
