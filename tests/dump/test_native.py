"""llmdbg's own dumps, whole and cut off."""

import json

import numpy as np
import pytest

from llmdbg import LlmdbgError, open_dump
from tests.writers.native import record, write_native

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.float16([1, -2])
SHARDS = {"a.safetensors": {"t1": A, "t2": B}, "b.safetensors": {"t3": A + 1}}
MODULES = [
    {"name": "", "type": "Tiny", "parent": None, "params": {}},
    {"name": "layers", "type": "ModuleList", "parent": "", "params": {}},
    {"name": "layers.1", "type": "Linear", "parent": "layers", "params": {"in_features": 3}},
    {"name": "layers.0", "type": "Norm", "parent": "layers", "params": {"eps": 1e-6}},
]
RECORDS = [
    record("layers.0", "input", "0", "t1", order=0, dtype="float32", shape=[2, 3]),
    record("layers.0", "output", "0", "t2", order=0, dtype="float16", shape=[2]),
    record("layers.1", "input", "kwargs.x", "t2", order=1, call=2),
    record("layers.1", "output", "0.1", "t3", order=1, file="data/b.safetensors"),
    record("layers.1", "output", "0", "t1", order=0, step=1),
    {
        "step": 0,
        "node": "layers.1",
        "call": 2,
        "role": "input",
        "slot": "kwargs.flag",
        "order": 1,
        "value": True,
    },
    {
        "step": 0,
        "node": "layers.1",
        "call": 0,
        "role": "output",
        "slot": "9",
        "order": 1,
        "skipped": "sparse",
    },
]
WEIGHTS = [record("layers.0", "param", "weight", "t2", step=None)]


def write(directory, **how):
    return write_native(directory, SHARDS, RECORDS, weights=WEIGHTS, modules=MODULES, **how)


@pytest.mark.parametrize("journal", [False, True])
def test_records_values_and_graph(tmp_path, journal):
    write(tmp_path / "d", journal=journal)
    dump = open_dump(tmp_path / "d")
    assert (dump.layout, dump.variant, dump.steps, dump.ranks) == ("native", "1", [0, 1], [0])
    columns = ("step", "node", "op_type", "call", "role", "slot", "order", "key", "dtype", "shape")
    assert dump.records.select(columns).rows() == [
        (None, "layers.0", "Norm", 0, "param", "weight", 0, "t2", "float16", [2]),
        (0, "layers.0", "Norm", 0, "input", "0", 0, "t1", "float32", [2, 3]),
        (0, "layers.0", "Norm", 0, "output", "0", 0, "t2", "float16", [2]),
        (0, "layers.1", "Linear", 0, "output", "0.1", 1, "t3", "float32", [2, 3]),
        (0, "layers.1", "Linear", 2, "input", "kwargs.x", 1, "t2", "float16", [2]),
        (1, "layers.1", "Linear", 0, "output", "0", 0, "t1", "float32", [2, 3]),
    ]
    np.testing.assert_array_equal(dump.tensor(3), A + 1)
    assert dump.values == [
        {
            "step": 0,
            "rank": 0,
            "node": "layers.1",
            "call": 2,
            "role": "input",
            "slot": "kwargs.flag",
            "value": True,
        }
    ]
    nodes = {n["name"]: n for n in dump.graph["nodes"]}
    assert nodes["layers.0"]["params"] == {"eps": 1e-6}
    # Siblings are numbered as they ran, not as they were defined.
    assert (nodes["layers.0"]["order"], nodes["layers.1"]["order"]) == (0, 1)
    assert dump.about["model"] == "Tiny"
    problems = ["1 tensor not stored by the capture: layers.1 9: sparse"]
    if journal:
        cut = "the run ended before its dump was complete; what was written is read: "
        problems.insert(0, cut + str(tmp_path / "d" / "journal.jsonl"))
        assert dump.about["complete"] is False
    assert dump.problems == problems


def test_a_journal_cut_in_the_middle_of_a_line(tmp_path):
    path = write(tmp_path / "d", journal=True) / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    dump = open_dump(tmp_path / "d")
    assert len(dump) == 3
    assert any("1 journal line cut off or damaged" in p for p in dump.problems)


def test_every_level_can_be_named(tmp_path):
    directory = write(tmp_path / "run" / "d")
    for path in (
        tmp_path,
        tmp_path / "run",
        directory,
        directory / "data",
        directory / "manifest.json",
    ):
        dump = open_dump(path)
        assert (dump.layout, len(dump)) == ("native", 6), path


def test_one_directory_per_rank(tmp_path):
    for rank in (0, 1, 10):
        write(tmp_path / f"rank{rank}", rank=rank, world_size=11)
    dump = open_dump(tmp_path)
    assert (dump.ranks, len(dump)) == ([0, 1, 10], 18)
    assert open_dump(tmp_path / "rank10").ranks == [10]
    missing = "of 11 ranks, 2, 3, 4, 5, 6, 7, 8, 9 left nothing here"
    assert [p for p in dump.problems if p.startswith(missing)], dump.problems


def test_a_rank_that_cannot_be_read_leaves_the_rest(tmp_path):
    for rank in (0, 1):
        write(tmp_path / f"rank{rank}", rank=rank, world_size=2)
    manifest = tmp_path / "rank1" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    dump = open_dump(tmp_path)
    assert (dump.ranks, len(dump)) == ([0], 6)
    assert [p for p in dump.problems if p.startswith("rank 1 is not read")], dump.problems
    manifest = tmp_path / "rank0" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(LlmdbgError, match=r"rank0.manifest\.json"):
        open_dump(tmp_path)


def test_what_the_capture_could_not_do_is_told(tmp_path):
    write(tmp_path / "d", problems=["module x was compiled"])
    assert "module x was compiled" in open_dump(tmp_path / "d").problems


def test_complex128_lies_as_pairs(tmp_path):
    values = np.array([1 + 2j, 3 - 4j], dtype=np.complex128)
    pairs = values.view(np.float64).reshape(2, 2)
    entry = record("m", "output", "0", "t", dtype="complex128", shape=[2])
    write_native(tmp_path / "d", {"a.safetensors": {"t": pairs}}, [entry])
    dump = open_dump(tmp_path / "d")
    assert dump.records.row(0, named=True)["dtype"] == "complex128"
    np.testing.assert_array_equal(dump.tensor(0), values)


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "data/../../x", ""])
def test_no_path_leads_out_of_the_dump(tmp_path, file):
    bad = record("m", "output", "0", "t1", file=file)
    write_native(tmp_path / "d", SHARDS, [bad, RECORDS[0]])
    dump = open_dump(tmp_path / "d")
    assert len(dump) == 1
    assert "leads out of the dump" in dump.problems[0]


def test_missing_shards_and_members_are_rows_with_a_problem(tmp_path):
    directory = write(tmp_path / "d")
    (directory / "data" / "b.safetensors").unlink()
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["records"][0]["key"] = "gone"
    (directory / "manifest.json").write_text(json.dumps(manifest))
    dump = open_dump(directory)
    assert len(dump) == 6
    text = " ".join(dump.problems)
    assert "b.safetensors" in text
    assert "gone" in text
    with pytest.raises(FileNotFoundError):
        dump.tensor(3)
    with pytest.raises(LlmdbgError, match="gone"):
        dump.tensor(1)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"format": "llmdbg.dump/2"}', "llmdbg.dump/1 \\(a later llmdbg may have written it\\)"),
        ('{"format": "llmdbg.dump/1", "records": [', "expected a complete document"),
    ],
)
def test_a_bad_manifest(tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(LlmdbgError, match=message):
        open_dump(tmp_path)


def test_bad_records_are_told_one_by_one(tmp_path):
    records = [{"role": "input", "slot": "0"}, record("m", "sideways", "0", "t1"), RECORDS[0]]
    write_native(tmp_path / "d", SHARDS, records)
    dump = open_dump(tmp_path / "d")
    assert len(dump) == 1
    assert [p.split(": /")[0] for p in dump.problems] == [
        "records[0]: no node",
        'records[1]: role Some("sideways") is none of input, output, param',
    ]


def test_circles_among_modules(tmp_path):
    modules = [{"name": "a", "type": "A", "parent": "b"}, {"name": "b", "type": "B", "parent": "a"}]
    write_native(tmp_path / "d", SHARDS, RECORDS[:1], modules=modules)
    dump = open_dump(tmp_path / "d")
    assert "1 graph node its own ancestor, put at the top: a" in dump.problems
    assert [(n["name"], n["parent"]) for n in dump.graph["nodes"]] == [("a", None), ("b", 0)]
