"""Folders of tensor files and single files, and paths that hold no dump."""

import os

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import llmdbg
from llmdbg import LlmdbgError, open_dump
from tests.writers.atb import write_bin
from tests.writers.native import write_native

A = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_folder_of_every_format(tmp_path):
    np.save(tmp_path / "logits.npy", A)
    np.save(tmp_path / "out10.npy", A)
    np.save(tmp_path / "out2.npy", A)
    (tmp_path / "layer" / "after").mkdir(parents=True)
    write_bin(tmp_path / "layer" / "after" / "outtensor3.bin", A)
    torch.save({"w": torch.ones(2), "b": [torch.zeros(3)]}, tmp_path / "layer" / "input.pt")
    torch.save(torch.ones(4), tmp_path / "one.pth")
    np.savez(tmp_path / "pair.npz", x=A, y=A + 1)
    save_file({"model.w": A}, tmp_path / "m.safetensors")
    (tmp_path / "readme.txt").write_text("not a tensor")
    dump = open_dump(tmp_path)
    assert (dump.layout, dump.problems, dump.steps, dump.ranks) == ("folder", [], [], [])
    assert dump.records.select("node", "role", "phase", "slot", "key", "shape").rows() == [
        ("layer/after/outtensor3", "output", "after", "3", None, [2, 3]),
        ("w", "tensor", None, "0", "w", [2]),
        ("b.0", "tensor", None, "0", "b.0", [3]),
        ("logits", "tensor", None, "0", None, [2, 3]),
        ("model.w", "tensor", None, "0", "model.w", [2, 3]),
        ("one", "tensor", None, "0", None, [4]),
        ("out2", "tensor", None, "0", None, [2, 3]),
        ("out10", "tensor", None, "0", None, [2, 3]),
        ("x", "tensor", None, "0", "x", [2, 3]),
        ("y", "tensor", None, "0", "y", [2, 3]),
    ]
    np.testing.assert_array_equal(dump.tensor(9), A + 1)


def test_equal_names_in_two_containers_keep_the_file_apart(tmp_path):
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", x=A)
    assert open_dump(tmp_path).nodes == ["a/x", "b/x"]


def test_a_broken_file_is_a_row_and_a_problem(tmp_path):
    np.save(tmp_path / "good.npy", A)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip at all")
    (tmp_path / "worse.npy").write_bytes(b"")
    dump = open_dump(tmp_path)
    assert dump.records["shape"].to_list() == [None, [2, 3], None]
    assert len(dump.problems) == 3
    assert "bad.npz" in dump.problems[0]


@pytest.mark.parametrize("suffix", ["npy", "bin", "pth"])
def test_a_single_tensor_file(tmp_path, suffix):
    path = tmp_path / f"outtensor0.{suffix}"
    {"npy": np.save, "bin": write_bin, "pth": lambda p, a: torch.save(torch.from_numpy(a), p)}[
        suffix
    ](path, A)
    dump = open_dump(path)
    assert (dump.layout, dump.variant, dump.root) == ("file", suffix, os.fspath(path))
    row = dump.records.row(0, named=True)
    assert (row["node"], row["role"], row["shape"]) == ("outtensor0", "output", [2, 3])
    np.testing.assert_array_equal(dump.tensor(0), A)


def test_a_container_file(tmp_path):
    save_file({"a": A, "b": A + 1}, tmp_path / "m.safetensors")
    dump = open_dump(tmp_path / "m.safetensors")
    assert dump.nodes == ["a", "b"]
    np.testing.assert_array_equal(dump.tensor(1), A + 1)
    with pytest.raises(IndexError):
        dump.tensor(2)


def test_a_description_can_be_looked_at(tmp_path):
    path = write_bin(tmp_path / "t.bin", A, mode="stats")
    row = open_dump(path).records.row(0, named=True)
    assert (row["dtype"], row["max"]) == ("float32", 5.0)


def test_relative_paths(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", A)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert len(open_dump("..")) == 1
    monkeypatch.chdir(tmp_path)
    assert len(open_dump(".")) == 1
    assert len(open_dump("a.npy")) == 1


def test_the_one_dump_below_is_found(tmp_path):
    record = {"step": 0, "node": "m", "role": "output", "slot": "0", "file": "data/a", "key": "t"}
    write_native(tmp_path / "a" / "b" / "run", {"a": {"t": A}}, [record])
    assert open_dump(tmp_path).layout == "native"
    write_native(tmp_path / "a" / "b" / "run2", {"a": {"t": A}}, [record])
    with pytest.raises(LlmdbgError, match=r"2 dumps here.* a/b/run \(llmdbg\), a/b/run2"):
        open_dump(tmp_path)


def test_no_dump(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_dump(tmp_path / "nothing")
    with pytest.raises(LlmdbgError, match="no dump here, the directory is empty"):
        open_dump(tmp_path)
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "c.txt").write_text("")
    with pytest.raises(LlmdbgError, match=r"no dump here; it holds a/, b/, c.txt. Known are"):
        open_dump(tmp_path)
    with pytest.raises(LlmdbgError, match="neither a tensor file"):
        open_dump(tmp_path / "c.txt")


def test_a_manifest_of_another_tool_is_no_dump(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "app"}')
    with pytest.raises(LlmdbgError, match="no dump here"):
        open_dump(tmp_path)


def test_many_links_in_a_circle_end(tmp_path):
    for a, b in (("a", "b"), ("b", "a")):
        (tmp_path / a).mkdir()
        np.save(tmp_path / a / "t.npy", A)
        (tmp_path / a / "other").symlink_to(tmp_path / b, target_is_directory=True)
    dump = open_dump(tmp_path)
    assert sorted(dump.nodes) == ["a/t", "b/t"]


def test_an_unknown_attribute_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llmdbg.nothing  # noqa: B018


def test_same_input_same_answer(tmp_path):
    for i in range(40):
        np.save(tmp_path / f"t{i}.npy", A)
    first, second = open_dump(tmp_path), open_dump(tmp_path)
    assert first.records.equals(second.records)
    assert first.nodes == [f"t{i}" for i in range(40)]
