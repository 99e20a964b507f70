"""``llmdbg show`` on tensors and folders, and what it says to bad input."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from llmdbg.cli.app import app


def show(*args):
    return CliRunner().invoke(app, ["show", *map(str, args)])


@pytest.fixture
def small(tmp_path):
    """[[0, 1, 2, 3], [4, 5, NaN, inf]] as float32."""
    path = tmp_path / "small.npy"
    np.save(path, np.array([[0, 1, 2, 3], [4, 5, np.nan, np.inf]], np.float32))
    return path


def test_a_tensor_in_words(small):
    done = show(small)
    assert done.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["dtype"] == "float32"
    assert lines["shape"] == "[2, 4]"
    assert lines["bytes"] == "32 B"
    assert (lines["min"], lines["max"], lines["mean"]) == ("0", "5", "2.5")
    assert (lines["zero"], lines["nan"], lines["pos_inf"], lines["neg_inf"]) == tuple("1110")
    assert lines["histogram"].startswith("0 █")
    assert lines["histogram"].endswith("█ 5")


def test_a_tensor_as_json(small):
    data = json.loads(show(small, "--json").stdout)
    assert (data["schema"], data["kind"]) == ("llmdbg.show/1", "tensor")
    assert (data["dtype"], data["shape"], data["bytes"]) == ("float32", [2, 4], 32)
    # 0² + 1² + 2² + 3² + 4² + 5²
    assert data["statistics"]["norm"] == pytest.approx(np.sqrt(55))
    assert sum(data["histogram"]["counts"]) == 6


def test_a_slice_is_printed_and_written(small, tmp_path):
    target = tmp_path / "part.npy"
    done = show(small, "--slice", "0,1:3", "--to", target, "--json")
    assert json.loads(done.stdout)["slice"]["values"] == [1.0, 2.0]
    assert np.load(target).tolist() == [1.0, 2.0]
    assert "[1. 2.]" in show(small, "--slice", "0,1:3").stdout


def test_a_slice_with_nan_is_still_json(small):
    done = show(small, "--slice", "1", "--json")
    values = json.loads(done.stdout, parse_constant=pytest.fail)["slice"]["values"]
    assert values == [4.0, 5.0, None, None]


def test_writing_never_replaces_a_file_unless_forced(small, tmp_path):
    target = tmp_path / "part.npy"
    target.write_text("mine")
    done = show(small, "--to", target)
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert target.read_text() == "mine"
    assert show(small, "--to", target, "--force").exit_code == 0
    assert np.load(target).shape == (2, 4)
    assert {p.name for p in tmp_path.iterdir()} == {"small.npy", "part.npy"}


def test_bfloat16_is_written_as_float32_which_numpy_knows(tmp_path):
    values = np.array([1.5, -3.0, 256.0], ml_dtypes.bfloat16)
    save_file({"w": values}, tmp_path / "w.safetensors")
    done = show(tmp_path / "w.safetensors", "--to", tmp_path / "w.npy")
    assert done.exit_code == 0
    assert "float32" in done.stdout
    assert np.load(tmp_path / "w.npy").tolist() == [1.5, -3.0, 256.0]


def test_one_tensor_of_several_by_name(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": np.zeros(3, np.float32), "b": np.ones((2, 2), np.int64)}, path)
    assert json.loads(show(f"{path}#b", "--json").stdout)["dtype"] == "int64"
    done = show(f"{path}#c")
    assert done.exit_code == 2
    assert "c" in done.stderr


def test_a_folder_is_counted(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "b.npy", np.zeros(5, np.int8))
    data = json.loads(show(tmp_path, "--json").stdout)
    assert (data["kind"], data["layout"], data["tensors"]) == ("dump", "folder", 2)
    assert data["bytes"] == 2 * 3 * 4 + 5
    assert data["dtypes"] == {"float32": 1, "int8": 1}
    text = show(tmp_path).stdout
    assert "29 B of tensors" in text
    assert "next: llmdbg show" in text


def test_the_tensors_of_a_node(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float32))
    done = show(tmp_path, "--node", "a")
    assert done.exit_code == 0
    header, row = done.stdout.splitlines()
    assert header.split()[:6] == ["tensor", "dtype", "shape", "min", "max", "mean"]
    assert "float32" in row
    assert row.split("[4]")[1].split()[:3] == ["0", "3", "1.5"]


def test_an_unknown_node_is_answered_with_the_nearest(tmp_path):
    np.save(tmp_path / "layers.0.mlp.npy", np.zeros(4, np.float32))
    np.save(tmp_path / "layers.1.mlp.npy", np.zeros(4, np.float32))
    done = show(tmp_path, "--node", "layer.1.mlp")
    assert done.exit_code == 2
    assert "did you mean layers.1.mlp" in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--slice", "5"], "index 5 is outside axis 0 of [2, 4]"),
        (["--slice", "0,0,0"], "3 axes"),
        (["--slice", "0,x"], "'x' is no index or range"),
        (["--slice", "0,::0"], "'::0' is no index or range"),
        (["--to", "part.txt"], ".npy"),
        (["--node", "a"], "this is a file"),
    ],
)
def test_wrong_arguments_are_one_line(small, args, words):
    done = show(small, *args)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["missing.npy", "missing"])
def test_nothing_there(tmp_path, name):
    done = show(tmp_path / name)
    assert done.exit_code == 2
    assert "No such file or directory" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("suffix", ["npy", "npz", "pth", "safetensors", "bin"])
def test_an_empty_or_cut_file_is_refused_in_one_line(tmp_path, suffix):
    for content in (b"", b"\x93NUMPY\x01\x00"):
        path = tmp_path / f"t.{suffix}"
        path.write_bytes(content)
        done = show(path)
        assert done.exit_code == 2, done.stdout
        assert str(path) in done.stderr
        assert done.stderr.count("\n") == 1
