"""Dumps of msprobe, in the structure its PrecisionDebugger writes."""

import json

import numpy as np
import pytest
import torch

from llmdbg import LlmdbgError, open_dump
from tests.writers.msprobe import MsprobeDump

X = torch.arange(6, dtype=torch.float32).reshape(2, 3)
W = torch.linspace(-1, 1, 9).reshape(3, 3).to(torch.bfloat16)
FRAMES = [f"File f.py, line {i}" for i in range(9)]
CONSTRUCT = {
    "Module.layers.0.fc.Linear.forward.0": "Module.layers.0.Block.forward.0",
    "Functional.linear.0.forward": "Module.layers.0.fc.Linear.forward.0",
    "Functional.silu.0.forward": "Module.layers.0.Block.forward.0",
    "Module.layers.0.Block.forward.0": None,
    "Module.layers.0.Block.forward.1": None,
    "Tensor.add.0.forward": None,
}


def fill(dump):
    dump.entry("Module.layers.0.Block.forward.0", args=[X])
    dump.entry("Module.layers.0.fc.Linear.forward.0", args=[X])
    dump.entry("Functional.linear.0.forward", args=[X, W, None], output=[X + 1])
    dump.entry(
        "Module.layers.0.fc.Linear.forward.0",
        args=[X],
        output=[X + 1],
        parameters={"weight": W},
    )
    dump.entry("Functional.silu.0.forward", args=[X], kwargs={"inplace": False}, output=[X])
    dump.entry(
        "Module.layers.0.Block.forward.0",
        args=[X],
        kwargs={"mask": X, "cache": [X, X + 2], "scale": 0.5},
        output=[(X, {"aux": W})],
    )
    dump.entry("Module.layers.0.Block.forward.1", args=[X], output=[X + 3])
    dump.entry("Tensor.add.0.forward", args=[X, 1], output=[X + 1])


def write(output, *, task="tensor", steps=("step0",), processes=("rank0",)):
    for step in steps:
        for process in processes:
            dump = MsprobeDump(output, step=step, process=process, task=task)
            fill(dump)
            stack = {
                "0": [
                    ["Functional.silu.0.forward"],
                    ["File /x/site-packages/torch/nn/modules/module.py, line 1", *FRAMES],
                ]
            }
            directory = dump.write(construct=CONSTRUCT, stack=stack)
    return directory


def test_every_tensor_and_value(tmp_path):
    write(tmp_path)
    dump = open_dump(tmp_path)
    assert (dump.layout, dump.variant, dump.problems) == ("msprobe", "tensor", [])
    assert (dump.steps, dump.ranks) == ([0], [0])
    columns = ("node", "op_type", "call", "role", "slot")
    assert dump.records.select(columns).rows() == [
        ("Functional.linear.0", "linear", 0, "input", "0"),
        ("Functional.linear.0", "linear", 0, "input", "1"),
        ("Functional.linear.0", "linear", 0, "output", "0"),
        ("Module.layers.0.fc", "Linear", 0, "input", "0"),
        ("Module.layers.0.fc", "Linear", 0, "output", "0"),
        ("Module.layers.0.fc", "Linear", 0, "param", "weight"),
        ("Functional.silu.0", "silu", 0, "input", "0"),
        ("Functional.silu.0", "silu", 0, "output", "0"),
        ("Module.layers.0", "Block", 0, "input", "0"),
        ("Module.layers.0", "Block", 0, "input", "kwargs.cache.0"),
        ("Module.layers.0", "Block", 0, "input", "kwargs.cache.1"),
        ("Module.layers.0", "Block", 0, "input", "kwargs.mask"),
        ("Module.layers.0", "Block", 0, "output", "0.0"),
        ("Module.layers.0", "Block", 0, "output", "0.1.aux"),
        ("Module.layers.0", "Block", 1, "input", "0"),
        ("Module.layers.0", "Block", 1, "output", "0"),
        ("Tensor.add.0", "add", 0, "input", "0"),
        ("Tensor.add.0", "add", 0, "output", "0"),
    ]
    slots = dump.records["slot"].to_list()
    np.testing.assert_array_equal(dump.tensor(slots.index("kwargs.cache.1")), (X + 2).numpy())
    weight = dump.tensor(slots.index("weight"))
    assert weight.dtype.name == "bfloat16"
    np.testing.assert_array_equal(weight.astype(np.float32), W.to(torch.float32).numpy())
    row = dump.records.row(slots.index("weight"), named=True)
    wide = W.to(torch.float64)
    assert (row["max"], row["min"], row["norm"]) == (wide.max(), wide.min(), wide.norm())
    values = {(v["node"], v["role"], v["slot"]): v["value"] for v in dump.values}
    assert values == {
        ("Functional.linear.0", "input", "2"): None,
        ("Functional.silu.0", "input", "kwargs.inplace"): False,
        ("Module.layers.0", "input", "kwargs.scale"): 0.5,
        ("Tensor.add.0", "input", "1"): 1,
    }


def test_construct_json_becomes_the_graph(tmp_path):
    write(tmp_path)
    graph = open_dump(tmp_path).graph
    assert [(n["name"], n["type"], n["parent"], n["order"]) for n in graph["nodes"]] == [
        ("Module.layers.0", "Block", None, 0),
        ("Module.layers.0.fc", "Linear", 0, 0),
        ("Functional.linear.0", "linear", 1, 0),
        ("Functional.silu.0", "silu", 0, 1),
        ("Tensor.add.0", "add", None, 1),
    ]
    by_name = {n["name"]: n for n in graph["nodes"]}
    assert by_name["Functional.silu.0"]["params"] == {
        "stack": ["File f.py, line 0", "File f.py, line 1", "File f.py, line 2"]
    }


def test_statistics_without_tensors(tmp_path):
    write(tmp_path, task="statistics")
    dump = open_dump(tmp_path)
    assert (dump.variant, dump.problems, len(dump)) == ("statistics", [], 18)
    row = dump.records.row(0, named=True)
    assert (row["path"], row["dtype"], row["shape"], row["max"]) == (None, "float32", [2, 3], 5.0)
    with pytest.raises(LlmdbgError, match="description or statistics"):
        dump.tensor(0)


def test_every_level_can_be_named(tmp_path):
    rank = write(tmp_path, steps=("step0", "step2", "step10"), processes=("rank0", "rank1"))
    for path, (steps, ranks) in {
        tmp_path: ([0, 2, 10], [0, 1]),
        tmp_path / "step2": ([2], [0, 1]),
        rank: ([10], [1]),
        rank / "dump.json": ([10], [1]),
        rank / "construct.json": ([10], [1]),
        rank / "dump_tensor_data": ([10], [1]),
    }.items():
        dump = open_dump(path)
        assert (dump.layout, dump.steps, dump.ranks) == ("msprobe", steps, ranks), path
        assert len(dump) == 18 * len(steps) * len(ranks)


def test_processes_without_ranks(tmp_path):
    write(tmp_path, processes=("proc900", "proc1000"))
    dump = open_dump(tmp_path)
    assert dump.ranks == [0, 1]
    assert dump.problems == [
        "proc900 is taken for rank 0: processes are ranked by their ids",
        "proc1000 is taken for rank 1: processes are ranked by their ids",
    ]
    single = open_dump(tmp_path / "step0" / "proc1000")
    assert (single.ranks, single.problems) == ([0], [])


def test_bare_nan_and_late_statistics(tmp_path):
    dump = MsprobeDump(tmp_path, task="statistics")
    fill(dump)
    item = dump.data["Functional.silu.0.forward"]["output"][0]
    item["Max"], item["Min"], item["Mean"] = float("nan"), float("-inf"), None
    del item["Norm"]
    item["tensor_stat_index"] = 7
    dump.write()
    row = open_dump(tmp_path).records.filter(node="Functional.silu.0", role="output")
    row = row.row(0, named=True)
    assert np.isnan(row["max"])
    assert (row["min"], row["mean"], row["norm"]) == (-np.inf, None, None)


def test_missing_and_escaping_files(tmp_path):
    dump = MsprobeDump(tmp_path)
    fill(dump)
    first, second = dump.data["Functional.linear.0.forward"]["input_args"][:2]
    (dump.files / first["data_name"]).unlink()
    second["data_name"] = "../../../etc/passwd"
    dump.write()
    opened = open_dump(tmp_path)
    assert opened.records["path"].null_count() == 2
    assert len(opened.problems) == 2
    assert "1 file name that lead out of the dump, left out: ../../../etc/passwd" in opened.problems
    assert "1 tensor file named in dump.json but not there" in opened.problems[1]


def test_backward_and_gradients(tmp_path):
    dump = MsprobeDump(tmp_path)
    name = "Module.fc.Linear.backward.0"
    dump.data[name] = {
        "input": [dump.item(f"{name}.input.0", X)],
        "output": [dump.item(f"{name}.output.0", X)],
    }
    name = "Module.fc.Linear.parameters_grad.0"
    dump.data[name] = {"weight": [dump.item(f"{name}.weight", W)]}
    dump.data["Tensor.add.4.backward"] = {"input": [dump.item("b.input.0", X)], "output": [None]}
    dump.write()
    columns = ("node", "op_type", "role", "slot")
    assert open_dump(tmp_path).records.select(columns).rows() == [
        ("Module.fc.backward", "Linear.backward", "input", "0"),
        ("Module.fc.backward", "Linear.backward", "output", "0"),
        ("Module.fc.parameters_grad", "Linear.parameters_grad", "output", "weight"),
        ("Tensor.add.4.backward", "add.backward", "input", "0"),
    ]


def test_a_circle_in_construct_json(tmp_path):
    dump = MsprobeDump(tmp_path, task="statistics")
    fill(dump)
    dump.write(
        construct={
            "Torch.a.0.forward": "Torch.b.0.forward",
            "Torch.b.0.forward": "Torch.a.0.forward",
        }
    )
    opened = open_dump(tmp_path)
    assert opened.problems == ["1 graph node its own ancestor, put at the top: Torch.a.0"]
    assert [n["name"] for n in opened.graph["nodes"]] == ["Torch.a.0", "Torch.b.0"]


def test_an_empty_construct_json_leaves_the_names(tmp_path):
    dump = MsprobeDump(tmp_path, task="statistics", level="L1")
    dump.entry("Module.a.Block.forward.0", args=[X])
    dump.entry("Module.a.fc.Linear.forward.0", args=[X])
    dump.write()
    graph = open_dump(tmp_path).graph
    assert [(n["name"], n["parent"]) for n in graph["nodes"]] == [
        ("Module.a", None),
        ("Module.a.fc", 0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a complete document"),
        ("[]", "expected an object, found a list"),
        ('{"task": "tensor"}', 'expected an object "data", found none'),
        ('{"data": {"a": ' + "[" * 10_000, "recursion limit"),
    ],
)
def test_a_bad_dump_json(tmp_path, text, message):
    write(tmp_path, steps=("step0", "step1"))
    (tmp_path / "step1" / "rank0" / "dump.json").write_text(text)
    with pytest.raises(LlmdbgError, match=message):
        open_dump(tmp_path / "step1")
    both = open_dump(tmp_path)
    assert (both.steps, len(both.problems)) == ([0], 1)


def test_tensors_saved_by_hand(tmp_path):
    dump = MsprobeDump(tmp_path, level="debug")
    dump.files.mkdir(parents=True)
    data = {
        "logits.0.debug": dump.item("logits.0.debug", X),
        "pair.1.debug": [dump.item("pair.1.debug.0", X), {"b": dump.item("pair.1.debug.1.b", W)}],
    }
    (dump.directory / "debug.json").write_text(json.dumps({**dump.head, "data": data}))
    opened = open_dump(tmp_path)
    assert opened.records.select("node", "role", "slot").rows() == [
        ("logits.0", "tensor", "0"),
        ("pair.1", "tensor", "0"),
        ("pair.1", "tensor", "1.b"),
    ]
