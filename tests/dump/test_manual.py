"""Manual mappings: one directory, both sides."""

import json

import numpy as np
import pytest
import torch

from llmdbg import LlmdbgError, open_dump
from tests.writers.atb import write_bin
from tests.writers.manual import dump_data

X = torch.arange(6, dtype=torch.float32).reshape(2, 3)


def mapping(tmp_path, **process):
    """Three data ids, one of them at two tokens; the candidate's files lie elsewhere."""
    for i, (token, data) in enumerate([(0, 1), (0, 10), (0, 2), (1, 2)]):
        mine = write_bin(tmp_path / "mine" / f"{i}.bin", X.numpy() + i, mode="tensor")
        directory = dump_data(tmp_path / "out", token, data, X + 10 * i, mine, **process)
    return directory


def rows(dump):
    return dump.records.select("step", "rank", "node", "role", "slot").rows()


def test_both_sides_of_a_mapping(tmp_path):
    mapping(tmp_path)
    golden = open_dump(tmp_path / "out")
    assert (golden.layout, golden.about["side"]) == ("manual", "golden")
    assert rows(golden) == [
        (0, 0, "1", "output", "0"),
        (0, 0, "10", "output", "0"),
        (0, 0, "2", "output", "0"),
        (1, 0, "2", "output", "0"),
    ]
    candidate = golden.candidate()
    assert (candidate.layout, candidate.about["side"]) == ("manual", "candidate")
    assert rows(candidate) == [row for row in rows(golden) if row[:3] != (0, 0, "2")]
    for i, factor in ((0, 0), (1, 1), (2, 3)):
        np.testing.assert_array_equal(candidate.tensor(i), X.numpy() + factor)
    np.testing.assert_array_equal(golden.tensor(3), X.numpy() + 30)
    # metadata.json keeps the last token of a data id; the other's golden file is not lost.
    assert len(golden.problems) == 1
    assert golden.problems[0].startswith("1 golden file without an entry in metadata.json")
    assert golden.problems[0].endswith("golden_tensor/0/2_tensor.pth")
    assert candidate.problems == []


def test_every_level_can_be_named(tmp_path):
    directory = mapping(tmp_path)
    for path in (
        tmp_path / "out",
        directory.parent.parent,
        directory.parent,
        directory,
        directory / "metadata.json",
        directory / "0",
    ):
        dump = open_dump(path)
        assert (dump.layout, len(dump), len(dump.candidate())) == ("manual", 4, 3), path


def test_a_moved_dump_is_found_beside_its_metadata(tmp_path):
    mapping(tmp_path)
    (tmp_path / "out").rename(tmp_path / "moved")
    dump = open_dump(tmp_path / "moved")
    assert len(dump) == 4
    assert all(str(tmp_path / "moved") in path for path in dump.records["path"])


def test_devices_come_second_in_the_name(tmp_path):
    for pid, device in ((9, 3), (8, 0)):
        mapping(tmp_path, pid=pid, device=device)
    dump = open_dump(tmp_path / "out")
    assert dump.about["processes"] == [
        {"rank": 0, "device": "0", "pid": "8"},
        {"rank": 1, "device": "3", "pid": "9"},
    ]
    assert (dump.ranks, len(dump)) == ([0, 1], 8)


def test_ids_of_either_type_are_one_key(tmp_path):
    """Given once as 7 and once as "7", the file has the key twice; the later counts."""
    directory = mapping(tmp_path)
    pair = [str(directory / "0/1_tensor.pth"), str(tmp_path / "mine/0.bin")]
    text = f'{{"1": {{"0": {json.dumps(pair)}}}, "1": {{"3": {json.dumps(pair)}}}}}'
    (directory / "metadata.json").write_text(text)
    dump = open_dump(directory)
    assert rows(dump.candidate()) == [(3, 0, "1", "output", "0")]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (["only one"], "1 entry that are no two paths: 1, token 0"),
        ({"a": 1}, "1 entry that are no two paths: 1, token 0"),
        (
            ["g.pth", "missing.bin"],
            "1 file named in metadata.json but not there, or no tensor file",
        ),
        (
            ["g.pth", "/etc/passwd"],
            "1 file named in metadata.json but not there, or no tensor file",
        ),
    ],
)
def test_bad_entries_are_told(tmp_path, entry, problem):
    directory = mapping(tmp_path)
    (directory / "metadata.json").write_text(json.dumps({"1": {"0": entry}}))
    candidate = open_dump(directory).candidate()
    assert len(candidate) == 0
    assert len(candidate.problems) == 1
    assert candidate.problems[0].startswith(problem)


def test_a_missing_token_number(tmp_path):
    mine = write_bin(tmp_path / "mine.bin", X.numpy())
    directory = dump_data(tmp_path, -1, 5, X, mine)
    assert rows(open_dump(directory)) == [(None, 0, "5", "output", "0")]


def test_bad_metadata(tmp_path):
    directory = mapping(tmp_path)
    (directory / "metadata.json").write_text("[]")
    with pytest.raises(LlmdbgError, match="expected an object, found a list"):
        open_dump(directory)


def test_other_layouts_have_no_other_side(tmp_path):
    write_bin(tmp_path / "a.bin", X.numpy())
    assert open_dump(tmp_path / "a.bin").candidate() is None
