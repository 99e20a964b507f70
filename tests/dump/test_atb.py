"""ATB dumps of every writer era, as `tests.writers.atb` writes them."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest

from llmdbg import LlmdbgError, open_dump
from tests.writers.atb import AtbDump, layer_node, node, tiny_model, write_bin, write_model_json

ERAS = ["A0", "A", "A'", "B", "C'", "E"]
X = np.arange(6, dtype=np.float16).reshape(2, 3)
W = np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)
Y = (X.astype(np.float32) @ W).astype(ml_dtypes.bfloat16)


def decoder(output, era="C'", *, executions=(0, 1), **process):
    """An embedding, a layer and a head, run in each execution."""
    dump = AtbDump(output, era, **process)
    for e in executions:
        dump.op(e, "0_WordEmbedding/0_GatherOperation", [W, X], [X], params={"axis": 0})
        dump.op(e, "0_WordEmbedding", [W, X], [X])
        dump.op(e, "1_TinyLayer/0_LinearOperation", [X, W], [Y], params={"hasBias": False})
        dump.op(e, "1_TinyLayer/0_LinearOperation/0_MatMulKernel", [X, W], [Y])
        dump.op(e, "1_TinyLayer/1_ElewiseOperation", [Y, X], [Y], params={"elewiseType": 8})
        dump.op(e, "1_TinyLayer", [X, W], [Y])
        dump.op(e, "2_LmHead", [Y], [Y])
    dump.model("TinyModel", tiny_model())
    return dump


def places(dump):
    frame = dump.records
    return list(
        frame.select("step", "rank", "node", "role", "phase", "slot").iter_rows(),
    )


@pytest.mark.parametrize("era", ERAS)
def test_every_era_reads_the_same_tensors(tmp_path, era):
    decoder(tmp_path, era)
    dump = open_dump(tmp_path)
    assert dump.layout == "atb"
    assert (dump.steps, dump.ranks, dump.problems) == ([0, 1], [0], [])
    expected = {"A0": "A0", "A": "A", "A'": "A'", "B": "B", "C'": "B", "E": "E"}
    assert dump.variant == expected[era]
    first = [row[2:] for row in places(dump) if row[0] == 0]
    assert first == [
        ("0_WordEmbedding/0_GatherOperation", "input", "before", "0"),
        ("0_WordEmbedding/0_GatherOperation", "input", "before", "1"),
        ("0_WordEmbedding/0_GatherOperation", "output", "after", "0"),
        ("0_WordEmbedding", "input", "before", "0"),
        ("0_WordEmbedding", "input", "before", "1"),
        ("0_WordEmbedding", "output", "after", "0"),
        ("1_TinyLayer/0_LinearOperation/0_MatMulKernel", "input", "before", "0"),
        ("1_TinyLayer/0_LinearOperation/0_MatMulKernel", "input", "before", "1"),
        ("1_TinyLayer/0_LinearOperation/0_MatMulKernel", "output", "after", "0"),
        ("1_TinyLayer/0_LinearOperation", "input", "before", "0"),
        ("1_TinyLayer/0_LinearOperation", "input", "before", "1"),
        ("1_TinyLayer/0_LinearOperation", "output", "after", "0"),
        ("1_TinyLayer/1_ElewiseOperation", "input", "before", "0"),
        ("1_TinyLayer/1_ElewiseOperation", "input", "before", "1"),
        ("1_TinyLayer/1_ElewiseOperation", "output", "after", "0"),
        ("1_TinyLayer", "input", "before", "0"),
        ("1_TinyLayer", "input", "before", "1"),
        ("1_TinyLayer", "output", "after", "0"),
        ("2_LmHead", "input", "before", "0"),
        ("2_LmHead", "output", "after", "0"),
    ]
    frame = dump.records
    for i, row in enumerate(frame.iter_rows(named=True)):
        want = {"float16": X, "float32": W, "bfloat16": Y}[row["dtype"]]
        assert row["shape"] == list(want.shape)
        np.testing.assert_array_equal(dump.tensor(i), want)


@pytest.mark.parametrize("era", ERAS)
def test_the_topology_is_tied_to_the_directories(tmp_path, era):
    decoder(tmp_path, era)
    graph = open_dump(tmp_path).graph
    nodes = {n["name"]: n for n in graph["nodes"]}
    assert {name: n["type"] for name, n in nodes.items()} == {
        "0_WordEmbedding": "WordEmbedding",
        "0_WordEmbedding/0_GatherOperation": "GatherOperation",
        "1_TinyLayer": "TinyLayer",
        "1_TinyLayer/0_LinearOperation": "LinearOperation",
        "1_TinyLayer/0_LinearOperation/0_MatMulKernel": "MatMulKernel",
        "1_TinyLayer/1_ElewiseOperation": "ElewiseOperation",
        "2_LmHead": "LmHead",
    }
    assert nodes["0_WordEmbedding/0_GatherOperation"]["params"] == {"axis": 0}
    assert nodes["1_TinyLayer/1_ElewiseOperation"]["params"] == {"elewiseType": 8}
    linear = nodes["1_TinyLayer/0_LinearOperation"]
    assert graph["nodes"][linear["parent"]]["name"] == "1_TinyLayer"
    assert [graph["tensors"][t] for t in linear["inputs"]] == [
        "TinyModel_internal_0",
        "TinyModel_weight_1",
    ]
    assert [graph["tensors"][t] for t in linear["outputs"]] == ["TinyLayer_1_internal_0"]
    kernel = nodes["1_TinyLayer/0_LinearOperation/0_MatMulKernel"]
    assert graph["nodes"][kernel["parent"]] is linear


def test_every_level_of_the_dump_can_be_named(tmp_path):
    dump = decoder(tmp_path, "C'")
    whole = len(open_dump(dump.root))
    assert whole == 40
    layer = dump.directory / "1" / "1_TinyLayer"
    expected = {
        tmp_path: 40,
        dump.root / "tensors": 40,
        dump.directory: 40,
        dump.directory / "1": 20,
        layer: 12,
        layer / "0_LinearOperation" / "before": 2,
        layer / "0_LinearOperation" / "op_param.json": 6,
    }
    for path, count in expected.items():
        part = open_dump(path)
        assert (len(part), part.layout) == (count, "atb"), path
        # The topology is found from below, too.
        types = {n["name"]: n["type"] for n in part.graph["nodes"]}
        assert types["1_TinyLayer/0_LinearOperation"] == "LinearOperation"
        assert part.problems == []
    part = open_dump(layer / "0_LinearOperation")
    assert part.nodes == [
        "1_TinyLayer/0_LinearOperation/0_MatMulKernel",
        "1_TinyLayer/0_LinearOperation",
    ]
    assert (part.steps, part.ranks) == ([1], [0])


def test_a_single_tensor_file_is_a_dump_of_one(tmp_path):
    directory = decoder(tmp_path).directory / "0" / "2_LmHead"
    dump = open_dump(directory / "after" / "outtensor0.bin")
    assert (dump.layout, len(dump)) == ("file", 1)
    np.testing.assert_array_equal(dump.tensor(0), Y)


def test_numbers_sort_as_numbers(tmp_path):
    dump = AtbDump(tmp_path)
    dump.op(0, "2_B", outputs=[np.float32([i]) for i in range(11)])
    dump.op(0, "10_A", outputs=[X])
    dump.op(10, "2_B", outputs=[X])
    opened = open_dump(tmp_path)
    rows = places(opened)
    assert [row[5] for row in rows[:11]] == [str(i) for i in range(11)]
    assert [(row[0], row[2]) for row in rows[10:]] == [(0, "2_B"), (0, "10_A"), (10, "2_B")]
    assert [opened.tensor(i)[0] for i in range(11)] == list(range(11))


def test_one_leading_number_is_not_another(tmp_path):
    """`1_*` as a pattern would meet both `1_A` and, as text, the start of `11_B`."""
    dump = AtbDump(tmp_path)
    for k in range(12):
        dump.op(0, f"{k}_{'AB'[k > 9]}", outputs=[np.float32([k])])
    dump.model("M", [node(f"{'AB'[k > 9]}_{k}", f"T{k}", [], [f"t{k}"]) for k in range(12)])
    opened = open_dump(tmp_path)
    assert opened.problems == []
    assert opened.records["op_type"].to_list() == [f"T{k}" for k in range(12)]
    assert [opened.tensor(i)[0] for i in range(12)] == list(range(12))


def test_names_with_underscores_keep_them(tmp_path):
    dump = AtbDump(tmp_path)
    dump.op(0, "5_Prefill_layer/1_QKV_Linear_2", outputs=[X])
    dump.model(
        "M",
        [
            node(
                "Prefill_layer_5",
                "Prefill_layer",
                [],
                [],
                nodes=[
                    node("Norm_5_0", "Norm", [], []),
                    node("QKV_Linear_2_5_1", "LinearOperation", [], [], param={"a": 1}),
                ],
            )
        ],
    )
    opened = open_dump(tmp_path)
    assert opened.problems == []
    nodes = {n["name"]: (n["type"], n["params"]) for n in opened.graph["nodes"]}
    assert nodes == {
        "5_Prefill_layer": ("Prefill_layer", None),
        "5_Prefill_layer/0_Norm": ("Norm", None),
        "5_Prefill_layer/1_QKV_Linear_2": ("LinearOperation", {"a": 1}),
    }


def test_parameter_names_in_file_names(tmp_path):
    AtbDump(tmp_path).op(0, "0_Linear", [X, W], [Y], names=["x", "weight_t", "y"])
    opened = open_dump(tmp_path)
    assert [row[3:] for row in places(opened)] == [
        ("input", "before", "0"),
        ("input", "before", "1"),
        ("output", "after", "0"),
    ]
    np.testing.assert_array_equal(opened.tensor(1), W)


def test_inputs_and_outputs_on_both_sides(tmp_path):
    AtbDump(tmp_path).op(0, "0_Linear", [X], [Y], everything=True)
    assert [row[3:] for row in places(open_dump(tmp_path))] == [
        ("input", "before", "0"),
        ("input", "after", "0"),
        ("output", "before", "0"),
        ("output", "after", "0"),
    ]


def test_devices_are_ranks(tmp_path):
    for device, pid in ((0, 22), (1, 21), (10, 20), (2, 23)):
        decoder(tmp_path, device=device, pid=pid, executions=(0,))
    dump = open_dump(tmp_path)
    assert dump.ranks == [0, 1, 2, 3]
    assert dump.about["processes"] == [
        {"rank": 0, "device": "0", "pid": "22"},
        {"rank": 1, "device": "1", "pid": "21"},
        {"rank": 2, "device": "2", "pid": "23"},
        {"rank": 3, "device": "10", "pid": "20"},
    ]
    assert open_dump(dump.root + "/10_20").ranks == [3]


def test_two_runs_in_one_root_must_be_named(tmp_path):
    decoder(tmp_path, "A", pid=11)
    second = decoder(tmp_path, "A", pid=22)
    with pytest.raises(LlmdbgError, match=r"2 dumps here.*0_11 \(ATB\).*0_22 \(ATB\)"):
        open_dump(tmp_path)
    assert open_dump(second.directory).ranks == [0]


def test_two_time_stamps_must_be_named(tmp_path):
    for stamp in ("20250101_000000", "20250102_000000"):
        decoder(tmp_path, stamp=stamp)
    with pytest.raises(LlmdbgError, match=r"2 dumps here.*20250101_000000.*20250102_000000"):
        open_dump(tmp_path)


def test_the_device_may_be_unknown(tmp_path):
    decoder(tmp_path, "A", device=-1)
    dump = open_dump(tmp_path)
    assert (dump.ranks, dump.about["processes"][0]["device"]) == ([0], "-1")


def test_processes_of_one_stamped_run_without_devices_are_ranked_by_pid(tmp_path):
    decoder(tmp_path, device=-1, pid=30)
    decoder(tmp_path, device=-1, pid=7)
    dump = open_dump(tmp_path)
    assert [p["pid"] for p in dump.about["processes"]] == ["7", "30"]
    assert dump.ranks == [0, 1]


def test_renumbered_executions_are_told_from_raw_ones(tmp_path):
    """Raw numbers put prefill and first decode into directory 0; era C puts the prefill alone."""
    raw, renumbered = AtbDump(tmp_path / "raw"), AtbDump(tmp_path / "c", "C")
    for dump, decodes in ((raw, (0, 1)), (renumbered, (1, 2))):
        dump.op(0, "0_Layer", outputs=[X])
        dump.op(0, "1_LmHead", outputs=[X])
        for e in decodes:
            dump.op(e, "2_Layer", outputs=[X])
            dump.op(e, "3_LmHead", outputs=[X])
    assert open_dump(tmp_path / "raw").about["renumbered"] is False
    opened = open_dump(tmp_path / "c")
    assert (opened.about["renumbered"], opened.variant, opened.steps) == (True, "C", [0, 1, 2])


def test_prefill_and_decode_models_of_one_process(tmp_path):
    dump = AtbDump(tmp_path)
    for k, name in enumerate(["WordEmbedding", "TinyLayer", "LmHead"] * 2):
        dump.op(0, f"{k}_{name}", outputs=[X])
    # Natural order of the files is not the order of the numbers.
    dump.model("B_prefill", tiny_model(name="B_prefill"))
    dump.model("A_decode", tiny_model(start=3, name="A_decode"))
    opened = open_dump(tmp_path)
    assert opened.problems == []
    assert opened.about["models"] == [
        {"name": "B_prefill", "first": 0, "last": 2},
        {"name": "A_decode", "first": 3, "last": 5},
    ]
    names = [n["name"] for n in opened.graph["nodes"] if n["parent"] is None]
    assert names == [f"{k}_{n}" for k, n in enumerate(["WordEmbedding", "TinyLayer", "LmHead"] * 2)]
    decode = next(n for n in opened.graph["nodes"] if n["name"] == "4_TinyLayer/0_LinearOperation")
    assert opened.graph["tensors"][decode["inputs"][0]] == "A_decode_internal_0"


def test_numbers_used_by_a_stand_alone_operation_are_corrected(tmp_path):
    """Then the writer merges no inner graphs, and the layer files have the real numbers."""
    dump = AtbDump(tmp_path)
    names = ["WordEmbedding", "TinyLayer", "TinyLayer", "LmHead"]
    dump.op(0, "0_TransdataOperation", [X], [X])
    for k, name in enumerate(names):
        dump.op(0, f"{k + 1}_{name}", outputs=[X])
    dump.op(0, "3_TinyLayer/0_LinearOperation", outputs=[Y])
    nodes = tiny_model(layers=2)
    dump.model(
        "M", [{k: v for k, v in n.items() if k not in ("nodes", "internalTensors")} for n in nodes]
    )
    dump.layer(
        layer_node(
            3, "TinyLayer", "TinyLayer_3_input_0", "TinyLayer_3_input_1", "TinyLayer_3_output_0"
        )
    )
    opened = open_dump(tmp_path)
    assert len(opened.problems) == 1
    assert "numbers are +1 off the directories'" in opened.problems[0]
    nodes = {n["name"]: n for n in opened.graph["nodes"]}
    assert [n for n in nodes if "/" not in n] == [
        *(f"{k + 1}_{name}" for k, name in enumerate(names)),
        "0_TransdataOperation",
    ]
    linear = nodes["3_TinyLayer/0_LinearOperation"]
    # The layer's own name of its input gives way to the model's.
    tensors = opened.graph["tensors"]
    assert [tensors[t] for t in linear["inputs"]] == ["TinyModel_internal_1", "TinyModel_weight_2"]


def test_a_topology_of_another_model_is_told(tmp_path):
    dump = AtbDump(tmp_path)
    dump.op(0, "0_Alpha", outputs=[X])
    dump.model("M", [node("Beta_0", "Beta", [], [])])
    opened = open_dump(tmp_path)
    assert "does not fit the directories" in opened.problems[0]
    assert [n["name"] for n in opened.graph["nodes"]] == ["0_Alpha"]


def test_names_that_differ_are_tied_by_number_and_told(tmp_path):
    dump = AtbDump(tmp_path)
    dump.op(0, "0_Layer", outputs=[X])
    dump.op(0, "1_Renamed", outputs=[X])
    dump.op(0, "0_Layer/0_Linear", outputs=[X])
    dump.op(0, "0_Layer/7_Extra", outputs=[X])
    layer = node("Layer_0", "Layer", [], [], nodes=[node("Linear_0_0", "Linear", [], [])])
    dump.model("M", [layer, node("Head_1", "Head", [], [])])
    opened = open_dump(tmp_path)
    assert opened.problems == [
        "1 directory named otherwise in the topology, tied by number: 1_Renamed, there Head",
        "1 directory not in the topology of its parent: 0_Layer/7_Extra",
    ]
    types = {n["name"]: n["type"] for n in opened.graph["nodes"]}
    assert (types["1_Renamed"], types["0_Layer/7_Extra"]) == ("Head", "Extra")


def test_bloom_as_the_reference_cuts_it_down(tmp_path):
    """One layer whose name and type differ and whose number is not its index."""
    linear = node(
        "LinearOperation_3_4_0", "LinearOperation", ["w"], ["t"], param={"hasBias": False}
    )
    add = node("ElewiseOperation_3_4_1", "ElewiseOperation", ["t"], ["u"], param={"elewiseType": 8})
    children = [node(f"Child_3_{i}", f"Child{i}", [], []) for i in range(4)] + [
        node(
            "ParallelLinearBaseV2_3_4",
            "ParallelLinearBaseV2",
            ["w"],
            ["u"],
            param="",
            nodes=[linear, add],
        )
    ]
    layer = node("Bloom7bCommonLayer_3", "BloomLayer", ["x"], ["y"], nodes=children)
    dump = AtbDump(tmp_path)
    dump.op(0, "3_Bloom7bCommonLayer/4_ParallelLinearBaseV2/1_ElewiseOperation", outputs=[X])
    dump.op(0, "3_Bloom7bCommonLayer", outputs=[X])
    dump.model("Bloom7BFlashAttentionModel", [layer])
    opened = open_dump(tmp_path)
    assert opened.problems == []
    nodes = {n["name"]: (n["type"], n["params"]) for n in opened.graph["nodes"]}
    base = "3_Bloom7bCommonLayer/4_ParallelLinearBaseV2"
    assert nodes["3_Bloom7bCommonLayer"] == ("BloomLayer", None)
    assert nodes[base] == ("ParallelLinearBaseV2", None)
    assert nodes[f"{base}/0_LinearOperation"] == ("LinearOperation", {"hasBias": False})
    assert nodes[f"{base}/1_ElewiseOperation"] == ("ElewiseOperation", {"elewiseType": 8})
    assert opened.records["op_type"].to_list() == ["ElewiseOperation", "BloomLayer"]


def test_graph_operations_nest_to_any_depth(tmp_path):
    inner = node("Op_0_0_0_0_0", "Op", [], [], param={"deep": True})
    for ids in ("0_0_0_0", "0_0_0", "0_0", "0"):
        inner = node(f"Graph_{ids}", "Graph", [], [], nodes=[inner])
    dump = AtbDump(tmp_path)
    dump.op(0, "0_Graph/0_Graph/0_Graph/0_Graph/0_Op", outputs=[X])
    dump.model("M", [inner])
    opened = open_dump(tmp_path)
    assert opened.problems == []
    assert len(opened.graph["nodes"]) == 5
    assert opened.graph["nodes"][4]["params"] == {"deep": True}


def test_operations_without_a_name_are_placed_by_position(tmp_path):
    dump = AtbDump(tmp_path)
    dump.op(0, "0_Layer/1_Plugin", outputs=[X])
    plugin, nameless = {"name": "Plugin"}, {"opType": "Mystery"}
    dump.model("M", [node("Layer_0", "Layer", [], [], nodes=[nameless, plugin])])
    opened = open_dump(tmp_path)
    assert len(opened.problems) == 1
    assert opened.problems[0].startswith("2 operations without a number in its opName")
    types = {n["name"]: n["type"] for n in opened.graph["nodes"]}
    assert types == {
        "0_Layer": "Layer",
        "0_Layer/0_Mystery": "Mystery",
        "0_Layer/1_Plugin": "Plugin",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected an object, found a list"),
        ('{"nodes": {"a": 1}}', "nodes: expected a list, found an object"),
        ('{"nodes": [', "expected a complete document"),
        ('{"nodes":' + "[" * 100_000, "recursion limit"),
    ],
)
def test_a_bad_topology_is_a_problem_not_the_end(tmp_path, text, message):
    dump = AtbDump(tmp_path)
    dump.op(0, "0_Layer", outputs=[X])
    path = dump.model("M", [])
    path.write_text(text)
    opened = open_dump(tmp_path)
    assert len(opened.problems) == 1
    assert message in opened.problems[0]
    assert opened.problems[0].endswith(str(path))
    np.testing.assert_array_equal(opened.tensor(0), X)


def test_one_foreign_topology_serves_a_dump_put_together_by_hand(tmp_path):
    dump = AtbDump(tmp_path, pid=1)
    dump.op(0, "0_WordEmbedding", outputs=[X])
    write_model_json(dump.root / "model" / "999" / "M.json", "M", tiny_model())
    opened = open_dump(tmp_path)
    assert "no model topology of process 0_1; another's is used" in opened.problems[0]
    assert len(opened.graph["nodes"]) == 6


def test_statistics_of_era_e(tmp_path):
    masked = np.float32([1, -np.inf, 2])
    spectrum = np.complex64([1 + 2j, 0.5 - 1j])
    dump = AtbDump(tmp_path, "E")
    dump.op(0, "0_Mask", [masked], [X])
    dump.op(0, "1_Layer/0_Rope", [spectrum], names=["freqs"])
    dump.statistics_only(0, "2_Head", [X])
    opened = open_dump(tmp_path)
    assert opened.problems == []
    rows = {(r["node"], r["role"]): r for r in opened.records.iter_rows(named=True)}
    # The writer leaves out the row of a tensor with -inf; its file is there all the same.
    mask = rows["0_Mask", "input"]
    assert (mask["max"], mask["dtype"], mask["shape"]) == (None, "float32", [3])
    assert rows["0_Mask", "output"]["max"] == 5.0
    assert rows["0_Mask", "output"]["norm"] == pytest.approx(np.sqrt(55), abs=1e-6)
    # Complex statistics, "(1.0,2.0)", do not break the line into more cells.
    rope = rows["1_Layer/0_Rope", "input"]
    assert (rope["slot"], rope["dtype"], rope["shape"]) == ("0", "complex64", [2])
    head = rows["2_Head", "input"]
    assert (head["path"], head["min"], head["shape"], head["order"]) == (None, 0.0, [2, 3], 2)
    index = opened.records["node"].to_list().index("2_Head")
    with pytest.raises(LlmdbgError, match="description or statistics"):
        opened.tensor(index)


def test_statistics_inside_the_files(tmp_path):
    AtbDump(tmp_path, "B").op(0, "0_Layer", [X], mode="stats")
    row = open_dump(tmp_path).records.row(0, named=True)
    assert (row["dtype"], row["shape"]) == ("float16", [2, 3])
    assert (row["max"], row["min"], row["mean"]) == (5.0, 0.0, 2.5)


def test_description_only_files(tmp_path):
    AtbDump(tmp_path, "A").op(0, "0_Layer", [X], mode="desc")
    dump = open_dump(tmp_path)
    row = dump.records.row(0, named=True)
    assert (row["dtype"], row["shape"], row["max"]) == ("float16", [2, 3], None)
    assert dump.problems == []
    with pytest.raises(LlmdbgError, match="only its description"):
        dump.tensor(0)


def test_appended_records_are_told(tmp_path):
    dump = AtbDump(tmp_path, "A")
    dump.op(0, "0_Layer", [X])
    dump.op(0, "0_Layer", [X + 1])
    opened = open_dump(tmp_path)
    opened.core.describe()
    assert "2 records in the file, the last complete one is read" in opened.problems[0]
    np.testing.assert_array_equal(opened.tensor(0), X + 1)


def test_alias_files_lead_to_the_bytes(tmp_path):
    dump = AtbDump(tmp_path, "E")
    dump.op(0, "3_Layer/1_Linear", outputs=[X], names=["y"])
    write_bin(
        dump.directory / "0/3_Layer/2_Norm/before/intensor0_x.bin", X, alias="3_1_outtensor0.bin"
    )
    opened = open_dump(tmp_path)
    index = opened.records["node"].to_list().index("3_Layer/2_Norm")
    assert opened.records.row(index, named=True)["shape"] == [2, 3]
    np.testing.assert_array_equal(opened.tensor(index), X)


def test_links_are_followed_also_after_a_move(tmp_path):
    dump = AtbDump(tmp_path / "was", "C'")
    dump.op(0, "0_A", outputs=[X])
    link = dump.directory / "0" / "1_B" / "before" / "intensor0.bin"
    link.parent.mkdir(parents=True)
    link.symlink_to(dump.directory / "0" / "0_A" / "after" / "outtensor0.bin")
    dead = link.parent / "intensor1.bin"
    dead.symlink_to(tmp_path / "nowhere")
    (tmp_path / "was").rename(tmp_path / "now")
    opened = open_dump(tmp_path / "now")
    assert opened.about["links"] == 2
    assert opened.problems == [f"1 link that lead nowhere: {os.fspath(dead).replace('was', 'now')}"]
    np.testing.assert_array_equal(opened.tensor(1), X)
    with pytest.raises(OSError, match="intensor1"):
        opened.tensor(2)


def test_a_loop_of_links_ends(tmp_path):
    dump = AtbDump(tmp_path)
    layer = dump.op(0, "0_A", outputs=[X])
    (layer / "1_B").symlink_to(layer)
    opened = open_dump(tmp_path)
    assert len(opened) == 1
    assert "already read under another name" in opened.problems[0]


def test_strange_names_are_told(tmp_path):
    dump = AtbDump(tmp_path)
    layer = dump.op(0, "0_A", outputs=[X])
    (layer / "after" / "notes.txt").write_text("")
    (layer / "after" / "outtensorX.bin").write_text("")
    (layer / "odd").mkdir()
    (layer / "0_K").mkdir()
    (layer / "0_K" / "kernel_tilingdata.bin").write_bytes(b"123")
    (dump.directory / "first").mkdir()
    opened = open_dump(tmp_path)
    assert len(opened) == 1
    assert opened.about["tiling_files"] == 1
    assert opened.problems == [
        f"2 directories not understood, first: {layer / 'odd'}",
        f"2 files not understood, first: {layer / 'after' / 'notes.txt'}",
    ]


def test_a_truncated_file_is_a_problem_of_its_own(tmp_path):
    layer = AtbDump(tmp_path).op(0, "0_A", [X], [X])
    file = layer / "before" / "intensor0.bin"
    file.write_bytes(file.read_bytes()[:-1])
    opened = open_dump(tmp_path)
    assert opened.records["shape"].to_list() == [None, [2, 3]]
    assert len(opened.problems) == 1
    assert opened.problems[0].endswith(str(file))


def test_a_copied_part_still_reads(tmp_path):
    """One execution copied elsewhere, without the levels above."""
    dump = decoder(tmp_path / "a", executions=(3,))
    shutil.copytree(dump.directory / "3", tmp_path / "copy")
    opened = open_dump(tmp_path / "copy")
    assert (opened.layout, len(opened), opened.steps) == ("atb", 20, [])
    assert opened.nodes[-1] == "2_LmHead"
    params = {n["name"]: n["params"] for n in opened.graph["nodes"]}
    assert params["1_TinyLayer/1_ElewiseOperation"] == {"elewiseType": 8}


def test_parameters_come_from_the_operation_where_the_topology_has_none(tmp_path):
    dump = AtbDump(tmp_path)
    dump.op(0, "0_A", outputs=[X], params={"eps": 1e-5})
    dump.op(0, "1_B", outputs=[X], params={"broken": 1}).joinpath("op_param.json").write_text("{")
    opened = open_dump(tmp_path)
    assert opened.graph["nodes"][0]["params"] == {"eps": 1e-5}
    assert "op_param.json" in opened.problems[0]
    assert json.loads(opened.core.graph_json()) == opened.graph
