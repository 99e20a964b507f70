"""GE dumps: layout, names, graphs, and what is wrong in them."""

import shutil

import numpy as np
import pytest

import llmdbg
from tests.writers.ge import FRACTAL_NZ, NOW, ge_file, write_op, write_run

GRAPH = """name: "graph_1"
op { name: "arg0_1" type: "Data" output_desc { name: "y" } }
op {
  name: "Mul_1/Square"
  type: "Mul"
  input: "arg0_1:0"
  attr { key: "note" value { s: "a: {b}" } }
  output_desc { attr { key: "_fx_tensor_name" value { s: "mul-aten.mul.Tensor.OUTPUT.0" } } }
}
op { name: "Add" type: "Add" input: "Mul_1/Square:0" output_desc { name: "y" } }
attr { key: "x" value { i: 1 } }
"""


@pytest.fixture
def random():
    return np.random.default_rng(7)


def read(dump):
    """The arrays of a dump by (rank, step, node, role)."""
    return {
        (row["rank"], row["step"], row["node"], row["role"]): dump.tensor(i)
        for i, row in enumerate(dump.records.iter_rows(named=True))
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, err_msg=str(key), strict=True)


@pytest.mark.parametrize(
    "level",
    [
        ".",
        "llmdbg_ge_dump",
        "llmdbg_ge_dump/20250101120000",
        "llmdbg_ge_dump/20250101120000/0",
        "llmdbg_ge_dump/20250101120000/0/graph_1",
        "llmdbg_ge_dump/20250101120000/0/graph_1/11",
    ],
)
def test_any_level_of_a_dump_opens_it(level, tmp_path, random):
    expected = write_run(tmp_path / "llmdbg_ge_dump", random)
    dump = llmdbg.open_dump(tmp_path / level)
    assert (dump.layout, dump.variant, dump.problems) == ("ge", "tensors", [])
    assert_same(read(dump), expected)


def test_one_step(tmp_path, random):
    expected = write_run(tmp_path, random)
    dump = llmdbg.open_dump(tmp_path / "20250101120000/0/graph_1/11/1")
    assert_same(read(dump), {key: array for key, array in expected.items() if key[1] == 1})
    # Copied away from its dump, the name of the directory is all there is.
    shutil.copytree(tmp_path / "20250101120000/0/graph_1/11/1", tmp_path / "elsewhere" / "1")
    assert llmdbg.open_dump(tmp_path / "elsewhere" / "1").records["step"].unique().to_list() == [1]


def test_order_is_that_of_execution(tmp_path, random):
    write_run(tmp_path, random, steps=1)
    records = llmdbg.open_dump(tmp_path).records
    assert records["node"].to_list() == ["Mul_1/Square", "Mul_1/Square", "Add", "Add"]
    assert records["op_type"].to_list() == ["Mul", "Mul", "Add", "Add"]


def test_ranks_of_torchair_and_of_devices(tmp_path, random):
    torchair = write_run(tmp_path / "a", random, ranks=(0, 1), devices=("5",))
    assert_same(read(llmdbg.open_dump(tmp_path / "a")), torchair)
    devices = write_run(tmp_path / "b", random, devices=("0", "1"))
    assert_same(read(llmdbg.open_dump(tmp_path / "b")), devices)


def test_processes_that_began_in_different_seconds_are_one_run(tmp_path, random):
    expected = write_run(tmp_path, random, devices=("0",))
    expected |= write_run(tmp_path, random, devices=("1",), time="20250101120001")
    assert_same(read(llmdbg.open_dump(tmp_path)), expected)


def test_two_runs_in_one_place_are_two_dumps(tmp_path, random):
    write_run(tmp_path, random)
    second = write_run(tmp_path, random, time="20250101130000")
    with pytest.raises(llmdbg.LlmdbgError, match=r"2 dumps here, name one of them: 20250101120000"):
        llmdbg.open_dump(tmp_path)
    assert_same(read(llmdbg.open_dump(tmp_path / "20250101130000")), second)


def test_single_kernels_have_no_graph(tmp_path, random):
    x = random.normal(size=4).astype(np.float32)
    write_op(tmp_path / "20250101120000" / "0", "Add", "Add", 3, NOW, [x], [x + 1])
    dump = llmdbg.open_dump(tmp_path)
    assert dump.records["step"].to_list() == [None, None]
    np.testing.assert_array_equal(dump.tensor(1), x + 1)


def test_graph_text_gives_nodes_edges_and_names_of_fx(tmp_path, random):
    write_run(tmp_path, random)
    names = [
        "dynamo_original_graph_0_rank_0_pid_7_ts_20250101120000000000.txt",
        "dynamo_optimized_graph_1_rank_0_pid_7_ts_20250101120000000001.txt",
    ]
    (tmp_path / names[0]).write_text('name: "graph_1" op { name: "Early" type: "Mul" }')
    (tmp_path / names[1]).write_text(GRAPH)
    dump = llmdbg.open_dump(tmp_path)
    assert dump.problems == []
    nodes = {node["name"]: node for node in dump.graph["nodes"]}
    assert list(nodes) == ["arg0_1", "Mul_1/Square", "Add"]
    assert nodes["Mul_1/Square"]["params"]["note"] == "a: {b}"
    descriptions = nodes["Mul_1/Square"]["params"]["output_desc"]
    assert descriptions == [{"_fx_tensor_name": "mul-aten.mul.Tensor.OUTPUT.0"}]
    tensors = dump.graph["tensors"]
    assert [tensors[i] for i in nodes["Add"]["inputs"]] == ["Mul_1/Square:0"]


def test_graphs_that_share_names_are_kept_apart(tmp_path, random):
    x = random.normal(size=4).astype(np.float32)
    for model in ("graph_1", "graph_2_0"):
        write_op(tmp_path / "20250101120000/0" / model / "1/0", "Add", "Add", 3, NOW, [x], [x])
    for graph in (1, 2):
        text = f'name: "graph_{graph}" op {{ name: "Add" type: "Add" }}'
        (tmp_path / f"dynamo_optimized_graph_{graph}_rank_0_pid_7_ts_2.txt").write_text(text)
    dump = llmdbg.open_dump(tmp_path)
    names = ["graph_1/Add", "graph_2_0/Add"]
    assert dump.records["node"].unique(maintain_order=True).to_list() == names
    assert [node["name"] for node in dump.graph["nodes"]] == names


def test_a_loop_runs_an_operator_several_times_a_step(tmp_path):
    leaf = tmp_path / "20250101120000/0/graph_1/1/0"
    for i in range(3):
        write_op(leaf, "Add", "Add", 3, NOW + i, [], [np.float32([i])])
    dump = llmdbg.open_dump(tmp_path)
    assert dump.records["call"].to_list() == [0, 1, 2]
    assert [dump.tensor(i).item() for i in range(3)] == [0, 1, 2]


def test_slices_of_one_operator_are_not_merged(tmp_path):
    leaf = tmp_path / "20250101120000/0/graph_1/1/0"
    for thread in range(2):
        path = write_op(leaf, "Add", "Add", 3, NOW, [], [np.float32([thread])], f".4.9.{thread}.0")
        assert path.name.endswith(f".{NOW}.4.9.{thread}.0")
    dump = llmdbg.open_dump(tmp_path)
    assert dump.records["node"].to_list() == ["Add", "Add"]
    assert dump.records["call"].to_list() == [0, 1]


def test_names_too_long_for_a_file(tmp_path):
    leaf = tmp_path / "20250101120000/0/graph_1/1/0"
    leaf.mkdir(parents=True)
    long = "_".join(["Fused"] * 60)
    (leaf / "9284710").write_bytes(ge_file([], [np.float32([4])], time=NOW))
    (leaf / "mapping.csv").write_text(f"9284710,Mul.{long}.5.6.{NOW}\n")
    dump = llmdbg.open_dump(tmp_path)
    assert dump.records["node"].to_list() == [long]
    assert dump.tensor(0) == [4]


def test_statistics_instead_of_tensors(tmp_path):
    leaf = tmp_path / "20250101120000/0/graph_1/1/0"
    leaf.mkdir(parents=True)
    (leaf / f"Add.Add.5.6.{NOW}.csv").write_text(
        "Input/Output,Index,Data Size,Data Type,Format,Shape,Max Value,Min Value,Avg Value,Count,"
        "Nan Count,Negative Inf Count,Positive Inf Count\n"
        "Input,0,24,DT_FLOAT,ND,2x3,5.5,-1,0.25,6,0,0,0\n"
        "Output,0,4,DT_BF16,ND,-,,,,1,0,0,0\n"
        "Sideways,0,4,DT_BF16,ND,-,,,,1,0,0,0\n"
    )
    dump = llmdbg.open_dump(tmp_path)
    first, second = dump.records.iter_rows(named=True)
    assert (first["role"], first["dtype"], first["shape"]) == ("input", "float32", [2, 3])
    assert (first["max"], first["min"], first["mean"]) == (5.5, -1, 0.25)
    assert (second["role"], second["dtype"], second["shape"]) == ("output", "bfloat16", [])
    assert second["max"] is None
    (problem,) = dump.problems
    assert "1 line whose first cell is neither Input nor Output" in problem


def test_what_a_converter_made_of_it(tmp_path):
    leaf = tmp_path / "20250101120000/0/graph_1/1/0"
    leaf.mkdir(parents=True)
    for i, role in enumerate(("input", "output")):
        np.save(leaf / f"Add.Add.5.6.{NOW}.{role}.0.npy", np.float32([i]))
    dump = llmdbg.open_dump(tmp_path)
    assert dump.records["role"].to_list() == ["input", "output"]
    assert dump.records["call"].to_list() == [0, 0]
    assert [dump.tensor(i).item() for i in range(2)] == [0, 1]


def test_layouts_are_named_not_converted(tmp_path):
    leaf = tmp_path / "20250101120000/0/graph_1/1/0"
    leaf.mkdir(parents=True)
    stored = np.arange(256, dtype=np.float32).reshape(1, 2, 16, 8)
    path = leaf / f"MatMul.MatMul.5.6.{NOW}"
    path.write_bytes(ge_file([], [stored], layout=FRACTAL_NZ, original=(17, 5)))
    dump = llmdbg.open_dump(tmp_path)
    (problem,) = dump.problems
    assert problem.startswith("1 tensor stored as FRACTAL_NZ")
    np.testing.assert_array_equal(dump.tensor(0), stored)
    assert dump.core.tensor(0).notes == [
        "stored as FRACTAL_NZ, original shape [17, 5]; layout not converted"
    ]


def test_damage_costs_the_damaged_only(tmp_path, random):
    expected = write_run(tmp_path, random, steps=1)
    leaf = tmp_path / "20250101120000/0/graph_1/11/0"
    cut = leaf / f"Cut.Cut.9.3.{NOW + 9}"
    cut.write_bytes(ge_file([np.float32([1])], [np.float32([2])])[:-2])
    (leaf / f"Bad.Bad.9.3.{NOW + 10}").write_bytes(b"\xff" * 40)
    (leaf / f"None.None.9.3.{NOW + 11}").write_bytes(b"")
    (leaf / "surprise.dat").write_text("?")
    dump = llmdbg.open_dump(tmp_path)
    found = {}
    for i, row in enumerate(dump.records.iter_rows(named=True)):
        if row["node"] in ("Cut", "Bad", "None") and not (
            row["node"] == "Cut" and row["role"] == "input"
        ):
            with pytest.raises(llmdbg.LlmdbgError):
                dump.tensor(i)
        else:
            found[row["rank"], row["step"], row["node"], row["role"]] = dump.tensor(i)
    assert_same(found, expected | {(0, 0, "Cut", "input"): np.float32([1])})
    text = "\n".join(dump.problems)
    for part in ("output.0: expected 4 bytes", "protobuf message", "surprise.dat"):
        assert part in text


def test_two_dumps_are_compared(tmp_path):
    for side in (0, 1):
        write_run(tmp_path / str(side), np.random.default_rng(3))
    frame = llmdbg.compare(tmp_path / "0", tmp_path / "1").frame
    assert len(frame) == 8
    assert frame["relative_l2"].max() == 0
