"""Write a seed corpus for every fuzz target: small valid files of each kind.

Run with the project's virtual environment: .venv/bin/python rust/core/fuzz/seeds.py
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save

CORPUS = Path(__file__).parent / "corpus"


def seed(target: str, name: str, content: bytes) -> None:
    """Put one seed into a target's corpus, and into that of the target that tells formats apart."""
    homes = [CORPUS / target / name]
    if target != "torch_pickle":
        homes.append(CORPUS / "any" / f"{target}_{name}")
    for path in homes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def saved(value: object) -> bytes:
    """Return the bytes of `torch.save`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def atb() -> None:
    """Seeds of every kind of ATB file."""
    head = (
        "$Version=1.0\n$Object.Count={}\n$Object.Length={}\nformat=2\ndtype={}\ndims={}\n{}$End=1\n"
    )
    data = head.format(1, 8, 0, "2", "$Object.data=0,8\n").encode() + bytes(8)
    seed("atb_bin", "plain", data)
    seed("atb_bin", "twice", data * 2)
    seed("atb_bin", "scalar", head.format(1, 2, 27, "", "$Object.data=0,2\n").encode() + bytes(2))
    seed("atb_bin", "described", head.format(0, 0, 1, "3,4", "").encode())
    stats = "max=1.0\nmin=N/A\nmean=0.5\nl2norm=3\n"
    seed("atb_bin", "statistics", head.format(0, 0, 1, "3,4", stats).encode())
    seed("atb_bin", "alias", head.format(0, 0, 0, "2", "data=4_1_intensor0.bin\n").encode())
    seed("atb_bin", "kernel", head.format(0, 0, 0, "2", "data=intensor0.bin\n").encode())
    seed("atb_bin", "reduced", b"dtype=9\ndims=1,2\n$End=1\n" + bytes(16))


def ge() -> None:
    """Seeds of the dumps of GE: of today, of old, and of small chips."""
    header = (
        "0a03322e30108080f9c0c1c48203"
        "1a1a080110021a030a010222050a034164643008" + "3a030a010248c025"
        "2213080210021a030a0102280432030a0102408024"
        "2213081b10021a030a0102280432030a010240c024"
        "3203416464"
    )
    message, payload = bytes.fromhex(header), bytes.fromhex("003c00c0803f00400000004000000000")
    seed("ge_dump", "plain", len(message).to_bytes(8, "little") + message + payload)
    seed("ge_dump", "old", bytes.fromhex("0a03312e30220e080410021a030a01032203010203"))
    tensor = bytes.fromhex("010000000200000000000000") + bytes(16) + (4).to_bytes(8, "little")
    shape = bytes.fromhex("100000000000000008000000") + (2).to_bytes(8, "little")
    inputs = (1).to_bytes(4, "little") + tensor + shape
    nano = bytes.fromhex("5a5a5a5a0100000004000000") + len(inputs).to_bytes(4, "little") + inputs
    seed("ge_dump", "nano", len(nano).to_bytes(8, "little") + nano + bytes(4))


def numpy_files() -> None:
    """Seeds of .npy and .npz."""
    arrays = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">c8"),
        "bf16": np.ones(3, ml_dtypes.bfloat16),
        "structured": np.zeros(2, [("a", "i4"), ("b", "f4", (2,))]),
        "scalar": np.float64(1),
    }
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        seed("npy", name, buffer.getvalue())
    for name, save_npz in {"stored": np.savez, "deflated": np.savez_compressed}.items():
        buffer = io.BytesIO()
        save_npz(buffer, **arrays)
        seed("npz", name, buffer.getvalue())
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w") as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        np.save(member, np.arange(2))
    seed("npz", "zip64", buffer.getvalue())


def torch_files() -> None:
    """Seeds of torch archives and of the pickles in them."""
    shared = torch.arange(16.0)
    values = {
        "tensor": torch.ones(2, 3).t(),
        "nested": {"a": [torch.nn.Parameter(torch.ones(2))], 1: (shared[2:5], shared[::2])},
        "state": torch.nn.Linear(2, 2).state_dict(),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "sparse": torch.eye(2).to_sparse(),
        "leaves": {"s": torch.Size([1]), "d": torch.float16, "v": torch.device("cpu"), "f": 1.5},
        "ordered": collections.OrderedDict(x=torch.tensor(1)),
        "meta": torch.zeros(2, device="meta"),
        "conj": torch.ones(2, dtype=torch.complex64).conj(),
    }
    for name, value in values.items():
        content = saved(value)
        seed("torch_zip", name, content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            seed("torch_pickle", name, archive.read("archive/data.pkl"))
    leaves = [1, 2.5, "u", b"x", None, True, 2**70, -5, (1,), {2}, frozenset({3}), {"k": [1]}]
    for protocol in range(6):
        seed("torch_pickle", f"protocol{protocol}", pickle.dumps(leaves, protocol))
    seed("safetensors", "plain", save({"a": torch.ones(2, 3), "b": torch.ones(2).bfloat16()}))
    seed("safetensors", "metadata", save({"a": torch.ones(0)}, metadata={"format": "pt"}))


if __name__ == "__main__":
    atb()
    ge()
    numpy_files()
    torch_files()
