"""Dumps of the torch hook of ait and msit."""

import json

import numpy as np
import pytest
import torch

from llmdbg import LlmdbgError, open_dump
from tests.writers.atb import AtbDump
from tests.writers.torch_hook import TorchHookDump

X = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
TREE = {
    "name": "root",
    "type": "Model",
    "children": [
        {
            "name": "root.layers",
            "type": "ModuleList",
            "children": [
                {
                    "name": f"root.layers.{i}",
                    "type": "Layer",
                    "children": [
                        {"name": f"root.layers.{i}.{name}", "type": kind, "children": []}
                        for name, kind in (("norm", "RMSNorm"), ("fc", "Linear"))
                    ],
                }
                for i in range(11)
            ],
        },
        {"name": "root.head", "type": "Linear", "children": []},
    ],
}


def model(output, **process):
    """Two tokens of a model with eleven layers."""
    dump = TorchHookDump(output, **process)
    for token in (0, 1):
        for i in range(11):
            for name in ("norm", "fc"):
                dump.module(token, f"root.layers.{i}.{name}", [X], X + i)
            dump.module(token, f"root.layers.{i}", [X], (X + i, [X, X + 1]))
        dump.module(token, "root.head", [X], X)
        dump.module(token, "root", [X], X)
    dump.weights({"layers.0.fc.weight": X, "head.weight": X + 7})
    dump.tree(TREE)
    return dump


def test_the_whole_dump(tmp_path):
    model(tmp_path)
    dump = open_dump(tmp_path)
    assert (dump.layout, dump.variant, dump.problems) == ("ait", "ait", [])
    assert (dump.steps, dump.ranks) == ([0, 1], [0])
    # Per token: 22 modules of 2 tensors, 11 layers of 4, head and root of 2; 2 weights.
    assert len(dump) == 2 * (44 + 44 + 4) + 2
    first = dump.records.filter(step=0)
    order = list(dict.fromkeys(first["node"]))
    expected = []
    for i in range(11):
        expected += [f"root.layers.{i}.norm", f"root.layers.{i}.fc", f"root.layers.{i}"]
    assert order == [*expected, "root.head", "root"]
    layer = first.filter(node="root.layers.10")
    assert layer.select("role", "slot", "op_type").rows() == [
        ("input", "0", "Layer"),
        ("output", "0", "Layer"),
        ("output", "1.0", "Layer"),
        ("output", "1.1", "Layer"),
    ]
    weights = dump.records.filter(role="param")
    assert weights.select("step", "node", "slot", "op_type").rows() == [
        (None, "root.layers.0.fc", "weight", "Linear"),
        (None, "root.head", "weight", "Linear"),
    ]
    index = dump.records["slot"].to_list().index("1.1")
    np.testing.assert_array_equal(
        dump.tensor(index).astype(np.float32), (X + 1).to(torch.float32).numpy()
    )


def test_the_tree_becomes_the_graph(tmp_path):
    model(tmp_path)
    graph = open_dump(tmp_path).graph
    nodes = {n["name"]: n for n in graph["nodes"]}
    assert len(nodes) == 36
    fc = nodes["root.layers.2.fc"]
    assert (fc["type"], fc["order"]) == ("Linear", 1)
    assert graph["nodes"][fc["parent"]]["name"] == "root.layers.2"
    assert nodes["root"]["parent"] is None


def test_a_tree_of_attribute_names_is_understood(tmp_path):
    dump = TorchHookDump(tmp_path)
    dump.module(0, "root.a.b", [X], X)
    child = {"name": "b", "type": "Linear"}
    dump.tree(
        {"name": "root", "type": "M", "children": [{"name": "a", "type": "A", "children": [child]}]}
    )
    opened = open_dump(tmp_path)
    assert [n["name"] for n in opened.graph["nodes"]] == ["root", "root.a", "root.a.b"]
    assert opened.records["op_type"].to_list() == ["Linear", "Linear"]


def test_every_level_can_be_named(tmp_path):
    dump = model(tmp_path)
    token = 44 + 44 + 4
    for path, count in {
        tmp_path: 2 * token + 2,
        dump.root: 2 * token + 2,
        dump.root / "torch_tensors": 2 * token + 2,
        dump.directory: 2 * token + 2,
        dump.directory / "model_tree.json": 2 * token + 2,
        dump.directory / "1": token,
        dump.directory / "1" / "root.layers.3": 4,
        dump.directory / "weights": 2,
    }.items():
        part = open_dump(path)
        assert (part.layout, len(part), part.problems) == ("ait", count, []), path
        assert len(part.graph["nodes"]) == 36
    assert open_dump(dump.directory / "1").steps == [1]


def test_without_a_tree_names_tell_the_order(tmp_path):
    dump = TorchHookDump(tmp_path)
    for name in ("root", "root.layers.10", "root.layers.2", "root.layers.2.fc"):
        dump.module(0, name, [X], X)
    opened = open_dump(tmp_path)
    assert opened.nodes == ["root.layers.2.fc", "root.layers.2", "root.layers.10", "root"]
    assert [n["name"] for n in opened.graph["nodes"]] == [
        "root",
        "root.layers.2",
        "root.layers.2.fc",
        "root.layers.10",
    ]


def test_functions_belong_to_the_module_that_called_them(tmp_path):
    dump = TorchHookDump(tmp_path)
    dump.tree(
        {
            "name": "root",
            "type": "M",
            "children": [{"name": "root.fc", "type": "Linear", "children": []}],
        }
    )
    dump.module(0, "root.fc", [X], X)
    dump.module(0, "root.fc.linear", [X, X], X)
    dump.module(0, "root.softmax.1", [X], X)
    dump.module(0, "root", [X], X)
    opened = open_dump(tmp_path)
    types = dict(opened.records.select("node", "op_type").rows())
    assert list(types.items()) == [
        ("root.fc.linear", "linear"),
        ("root.fc", "Linear"),
        ("root.softmax.1", "softmax"),
        ("root", "M"),
    ]


def test_devices_are_ranks(tmp_path):
    for device in ("npu10", "npu2", "npu0"):
        model(tmp_path, device=device, pid=5)
    dump = open_dump(tmp_path)
    assert [p["device"] for p in dump.about["processes"]] == ["npu0", "npu2", "npu10"]
    assert dump.ranks == [0, 1, 2]
    assert open_dump(tmp_path / "ait_dump" / "torch_tensors" / "npu2_5").ranks == [1]


def test_two_runs_on_one_device_must_be_named(tmp_path):
    model(tmp_path, pid=1)
    model(tmp_path, pid=2)
    with pytest.raises(LlmdbgError, match=r"2 dumps here.*cpu_1 \(ait torch\).*cpu_2"):
        open_dump(tmp_path)
    assert len(open_dump(tmp_path / "ait_dump/torch_tensors/cpu_2")) == 186


def test_a_torch_dump_inside_an_atb_root(tmp_path):
    dump = model(tmp_path, root="msit_dump_20250101_120000", device="npu0")
    AtbDump(tmp_path, "C'").op(0, "0_Layer", outputs=[np.float32([1])])
    with pytest.raises(LlmdbgError, match=r"torch_tensors \(ait torch\).*tensors \(ATB\)"):
        open_dump(tmp_path)
    assert open_dump(dump.root / "torch_tensors").variant == "msit"
    assert open_dump(dump.root / "tensors").layout == "atb"


def test_statistics_beside_and_instead_of_tensors(tmp_path):
    dump = TorchHookDump(tmp_path, "msit_dump_20250101_120000")
    dump.module(0, "root.fc", [X], X)
    row = ["root.fc", "Linear", "output", 0, "torch.bfloat16", '"(2, 3)"', 5.0, 0.0, 2.5, "7.4"]
    dump.statistics(0, "root.fc", [row])
    row = ["root.norm", "RMSNorm", "input", 1, "torch.float32", "(4,)", "nan", -1e9, 0.5, 2]
    dump.statistics(0, "root.norm", [row, ["half a row"]])
    opened = open_dump(tmp_path)
    frame = opened.records
    assert frame.select("node", "role", "slot", "op_type", "max", "norm").rows()[1] == (
        "root.fc",
        "output",
        "0",
        None,
        5.0,
        7.4,
    )
    norm = frame.filter(node="root.norm").row(0, named=True)
    assert (norm["slot"], norm["dtype"], norm["shape"], norm["min"]) == ("1", "float32", [4], -1e9)
    assert (np.isnan(norm["max"]), norm["path"], norm["op_type"]) == (True, None, "RMSNorm")
    assert len(opened.problems) == 1
    assert "half a row" in opened.problems[0]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("{", "expected a complete document"),
        (json.dumps({"type": "M"}), "a node without a name"),
        (json.dumps({"name": "root", "children": 3}), "a number as children of root"),
    ],
)
def test_a_bad_tree_is_a_problem(tmp_path, tree, message):
    dump = TorchHookDump(tmp_path)
    dump.module(0, "root.fc", [X], X)
    (dump.directory / "model_tree.json").write_text(tree)
    opened = open_dump(tmp_path)
    assert len(opened) == 2
    assert len(opened.problems) == 1
    assert message in opened.problems[0]


def test_strange_files_are_told(tmp_path):
    dump = TorchHookDump(tmp_path)
    module = dump.module(0, "root.fc", [X], X)
    (module / "inputs.txt").write_text("")
    (dump.directory / "notes").mkdir()
    assert open_dump(tmp_path).problems == [
        f"1 directory not understood: {dump.directory / 'notes'}",
        f"1 file not understood: {module / 'inputs.txt'}",
    ]
