"""Pickles that want more than tensors. What they would do if they ran leaves a file behind."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from llmdbg import LlmdbgError, _core

if TYPE_CHECKING:
    from pathlib import Path


def archive(path: Path, payload: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/data/0", bytes(64))
        file.writestr("archive/version", b"3\n")
    return path


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def runs_code(witness: str) -> dict[str, bytes]:
    touch, write = text(f"touch {witness}"), text(f"open({witness!r}, 'w')")
    return {
        "GLOBAL": b"cposix\nsystem\n" + touch + b"\x85R.",
        "GLOBAL eval": b"cbuiltins\neval\n" + write + b"\x85R.",
        "GLOBAL exec py2": b"c__builtin__\nexec\n" + write + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04" + text("posix") + text("system") + b"\x93" + touch + b"\x85R.",
        "INST": b"(" + touch + b"iposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + touch + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + touch + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + touch + b"\x85}\x92.",
        "getattr chain": b"c__builtin__\ngetattr\n(cposix\nsystem\n" + text("name") + b"tR.",
        "memoised": b"cposix\nsystem\nq\x000h\x00" + touch + b"\x85R.",
        "in a dict": b"}" + text("k") + b"cposix\nsystem\n" + touch + b"\x85Rs.",
        "behind a tensor": b"ctorch._tensor\n_rebuild_from_type_v2\n"
        b"(cposix\nsystem\nctorch\nTensor\n" + touch + b"\x85NtR.",
        "torch's own loader": b"ctorch.storage\n_load_from_bytes\nC\x03abc\x85R.",
        "torch's hub": b"ctorch.hub\nload\n" + text("x/y") + b"\x85R.",
        "discarded": b"cposix\nsystem\n" + touch + b"\x85R0N.",
        "changed by BUILD": b"cposix\nsystem\n}" + text("x") + b"Nsb.",
        "bare name": b"cposix\nsystem\n.",
        "call of a call": b"ccollections\nOrderedDict\n)R)R.",
    }  # fmt: skip


@pytest.mark.parametrize("name", runs_code(""))
def test_calls_are_refused_by_name(tmp_path: Path, name: str) -> None:
    witness = tmp_path / "witness"
    path = archive(tmp_path / "a.pt", runs_code(str(witness))[name])
    with pytest.raises(LlmdbgError, match=r"^refused: .*(posix|builtin|subprocess|torch|computed)"):
        _core.open_tensor(path)
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_real_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    hostile = pickle.dumps({"a": [Call(os.system, f"touch {witness}")]}, protocol)
    pickletools.dis(hostile, io.StringIO())
    with pytest.raises(LlmdbgError, match=r"posix\.system; llmdbg never runs code"):
        _core.list_tensors(archive(tmp_path / "a.pt", hostile))
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_harmless_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    harmless = {
        "a": [1, 2.5, "ü", b"x", None, True, 2**70, -5, (1,), {2}, frozenset({3}), bytearray(b"y")]
    }
    payload = pickle.dumps(harmless, protocol)
    assert _core.list_tensors(archive(tmp_path / "a.pt", payload)) == []


def tensor(
    size: bytes = b"K\x02\x85",
    stride: bytes = b"K\x01\x85",
    first: bytes = b"K\x00",
    count: bytes = b"K\x10",
) -> bytes:
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpu"
        + count
        + b"tQ"
        + first
        + size
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


HUGE = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    "payload",
    [
        tensor(size=b"K\x11\x85"),
        tensor(first=b"K\x0f"),
        tensor(stride=b"K\x10\x85"),
        tensor(size=HUGE + b"\x85"),
        tensor(size=HUGE + HUGE + b"\x86", stride=b"K\x00K\x00\x86"),
        tensor(stride=HUGE + b"\x85"),
        tensor(first=HUGE),
        tensor(count=HUGE),
        tensor(count=b"K\x11"),
        tensor(size=b"J\xff\xff\xff\xff\x85"),
        tensor(stride=b"J\xff\xff\xff\xff\x85"),
        tensor(first=b"J\xff\xff\xff\xff"),
        tensor(size=b"K\x01K\x01\x86"),
        tensor(size=b"N"),
        tensor(size=b"X\x01\x00\x00\x00a\x85"),
        tensor(count=b"N"),
    ],
)
def test_numbers_that_point_outside(tmp_path: Path, payload: bytes) -> None:
    assert _core.open_tensor(archive(tmp_path / "good.pt", tensor() + b".")).shape == (2,)
    with pytest.raises(LlmdbgError, match="expected"):
        _core.open_tensor(archive(tmp_path / "a.pt", payload + b"."))


def test_memo_bomb(tmp_path: Path) -> None:
    # Each list holds the one before ten times: 10^50 leaves in 2 kB.
    payload = b"]q\x00" + tensor() + b"a"
    for level in range(1, 51):
        payload += b"]q" + bytes([level]) + b"(" + b"h" + bytes([level - 1])
        payload += (b"h" + bytes([level - 1])) * 9 + b"e"
    with pytest.raises(LlmdbgError, match="over and over"):
        _core.list_tensors(archive(tmp_path / "a.pt", payload + b"."))


def test_containers_in_a_circle(tmp_path: Path) -> None:
    with pytest.raises(LlmdbgError, match="nested deeper"):
        _core.list_tensors(archive(tmp_path / "a.pt", b"]q\x00h\x00a."))


@pytest.mark.parametrize(
    "opener", [b"]", b"}N", b"(", b"\x85"], ids=["lists", "dicts", "marks", "tuples"]
)
def test_deep_nesting(tmp_path: Path, opener: bytes) -> None:
    depth = 1_000_000
    closer = {b"]": b"a", b"}N": b"s", b"(": b"t", b"\x85": b""}[opener]
    payload = (
        b"N" + opener * depth + b"."
        if opener == b"\x85"
        else opener * depth + b"N" + closer * depth + b"."
    )
    with pytest.raises(LlmdbgError, match=r"nested deeper|expected"):
        _core.list_tensors(archive(tmp_path / "a.pt", payload))


def test_parameters_in_parameters(tmp_path: Path) -> None:
    depth = 100_000
    wrap = b"ctorch._utils\n_rebuild_parameter\n"
    payload = wrap * depth + tensor() + b"\x88N\x87R" * depth + b"."
    with pytest.raises(LlmdbgError):
        _core.open_tensor(archive(tmp_path / "a.pt", payload))


def test_a_long_key_repeated(tmp_path: Path) -> None:
    long = b"X" + struct.pack("<I", 1_000_000) + b"k" * 1_000_000 + b"q\x00"
    payload = b"}(" + long + b"N" + b"h\x00N" * 300_000 + b"u."
    with pytest.raises(LlmdbgError, match="over and over"):
        _core.list_tensors(archive(tmp_path / "a.pt", payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b".",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff",
        b"X\xff\xff\xff\xffabc.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x8b\xff\xff\xff\xffabc.",
        b"h\x05.",
        b"j\xff\xff\xff\xff.",
        b"gnot a number\n.",
        b"t.",
        b"\x86.",
        b"u.",
        b"(NNNu.",
        b"Na.",
        b"NNs.",
        b"o.",
        b"(o.",
        b"R.",
        b"\x93.",
        b"NN\x93.",
        b"b.",
        b"NNb.",
        b"cno newline",
        b"\xff.",
        b"\x82\x01.",
        b"Pid\n.",
        b"\x97.",
        b"NQ.",
        b"}(NNu",
    ],
)  # fmt: skip
def test_broken_pickles_are_clear_errors(tmp_path: Path, payload: bytes) -> None:
    with pytest.raises(LlmdbgError, match=r"expected|refused|no tensor"):
        _core.open_tensor(archive(tmp_path / "a.pt", payload))


def test_two_members_of_one_name(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.pt", "w") as file,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        file.writestr("archive/data.pkl", tensor() + b".")
        file.writestr("archive/data/0", bytes(64))
        file.writestr("archive/data/0", bytes(64))
    with pytest.raises(LlmdbgError, match="two members"):
        _core.open_tensor(tmp_path / "a.pt")


def test_storage_keys_do_not_leave_the_archive(tmp_path: Path) -> None:
    payload = tensor().replace(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../../etc/a") + b"."
    with pytest.raises(LlmdbgError, match="no such member"):
        _core.open_tensor(archive(tmp_path / "a.pt", payload))
