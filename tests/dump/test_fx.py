"""FX dumps of torchair's interpreter in the three generations of directories."""

import numpy as np
import pytest

import llmdbg

TIMES = ["20240125031118787351", "20240125031118787999", "20240125031119000000"]


def save(directory, name, array):
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / name, array)


def write_step(directory, step):
    """A cat of two tensors, then an add with a scalar; as the interpreter names them."""
    a, b = np.float32([step, 1]), np.float32([2, 3])
    both = np.concatenate([a, b])
    save(directory, f"cat-aten.cat.default.INPUT.0.0.{TIMES[0]}.npy", a)
    save(directory, f"cat-aten.cat.default.INPUT.0.1.{TIMES[0]}.npy", b)
    save(directory, f"cat-aten.cat.default.OUTPUT.0.{TIMES[0]}.npy", both)
    save(directory, f"add_1-aten.add.Tensor.INPUT.0.{TIMES[1]}.npy", both)
    save(directory, f"add_1-aten.add.Tensor.INPUT.1.{TIMES[1]}.npy", np.array(2))
    save(directory, f"add_1-aten.add.Tensor.OUTPUT.0.{TIMES[1]}.npy", both + 2)


LAYOUTS = {
    "graph": lambda step: f"worldsize1_global_rank0/graph_1/{step}",
    "data_dump": lambda step: f"llmdbg_fx_dump/data_dump/{step + 1}/gm_20240125031118_dump",
}


@pytest.mark.parametrize("generation", LAYOUTS)
def test_steps_nodes_and_slots(generation, tmp_path):
    for step in (0, 1):
        write_step(tmp_path / LAYOUTS[generation](step), step)
    dump = llmdbg.open_dump(tmp_path)
    assert (dump.layout, dump.variant, dump.problems) == ("fx", generation, [])
    rows = list(dump.records.iter_rows(named=True))
    assert [(r["node"], r["role"], r["slot"]) for r in rows if r["step"] == 1] == [
        ("cat", "input", "0.0"),
        ("cat", "input", "0.1"),
        ("cat", "output", "0"),
        ("add_1", "input", "0"),
        ("add_1", "input", "1"),
        ("add_1", "output", "0"),
    ]
    assert rows[0]["op_type"] == "aten.cat.default"
    assert {r["rank"] for r in rows} == ({0} if generation == "graph" else {None})
    np.testing.assert_array_equal(dump.tensor(len(rows) - 1), np.float32([3, 3, 4, 5]))


@pytest.mark.parametrize(
    "level",
    [
        "worldsize1_global_rank0",
        "worldsize1_global_rank0/graph_1",
        "worldsize1_global_rank0/graph_1/0",
    ],
)
def test_any_level_of_a_dump_opens_it(level, tmp_path):
    write_step(tmp_path / LAYOUTS["graph"](0), 0)
    dump = llmdbg.open_dump(tmp_path / level)
    assert dump.layout == "fx"
    assert dump.records["step"].unique().to_list() == [0]
    assert dump.records["rank"].unique().to_list() == [0]


def test_the_oldest_directories_have_no_token(tmp_path):
    write_step(tmp_path / "gm_20240125031118_dump", 0)
    dump = llmdbg.open_dump(tmp_path)
    assert dump.records["step"].unique().to_list() == [None]
    assert len(dump) == 6


def test_graphs_that_share_names_are_kept_apart(tmp_path):
    for graph in ("1", "2"):
        write_step(tmp_path / "worldsize1_global_rank0" / f"graph_{graph}" / "0", 0)
    nodes = llmdbg.open_dump(tmp_path).records["node"]
    assert set(nodes) == {"graph_1/cat", "graph_1/add_1", "graph_2/cat", "graph_2/add_1"}
    # Of modules in one token, the place among their siblings tells which graph they are.
    for token in (1, 2):
        for time in ("20240125031118", f"2024012503111{8 + token}"):
            write_step(tmp_path / "old" / "data_dump" / str(token) / f"gm_{time}_dump", 0)
    nodes = llmdbg.open_dump(tmp_path / "old").records["node"]
    assert set(nodes) == {"gm_0/cat", "gm_0/add_1", "gm_1/cat", "gm_1/add_1"}


def test_a_node_that_runs_twice(tmp_path):
    leaf = tmp_path / "worldsize1_global_rank0/graph_1/0"
    for time in TIMES:
        save(leaf, f"mul-aten.mul.Tensor.OUTPUT.0.{time}.npy", np.float32([int(time[-3:])]))
    dump = llmdbg.open_dump(tmp_path)
    assert dump.records["call"].to_list() == [0, 1, 2]
    assert [dump.tensor(i).item() for i in range(3)] == [351, 999, 0]


def test_arguments_that_are_no_tensors_are_values_and_never_unpickled(tmp_path):
    leaf = tmp_path / "worldsize1_global_rank0/graph_1/0"

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    write_step(leaf, 0)
    save(leaf, f"add_1-aten.add.Tensor.INPUT.2.{TIMES[1]}.npy", np.array(Bomb(), dtype=object))
    dump = llmdbg.open_dump(tmp_path)
    assert len(dump) == 6
    assert dump.problems == []
    (value,) = dump.values
    assert (value["node"], value["role"], value["slot"]) == ("add_1", "input", "2")
    assert not (tmp_path / "exploded").exists()


def test_a_captured_graph_leaves_torch_files(tmp_path):
    import torch

    leaf = tmp_path / "worldsize1_global_rank0"
    leaf.mkdir()
    for count in (0, 1):
        torch.save(torch.tensor([count]), leaf / f"mul_device_0_{count}.pt")
    dump = llmdbg.open_dump(tmp_path)
    assert dump.variant == "aclgraph"
    assert dump.records["node"].to_list() == ["mul", "mul"]
    assert dump.records["step"].to_list() == [0, 1]
    assert dump.tensor(1) == [1]


def test_damage_costs_the_damaged_only(tmp_path):
    leaf = tmp_path / "worldsize1_global_rank0/graph_1/0"
    write_step(leaf, 0)
    broken = leaf / f"add_1-aten.add.Tensor.OUTPUT.0.{TIMES[1]}.npy"
    broken.write_bytes(broken.read_bytes()[:-3])
    np.save(leaf / "notes.npy", np.zeros(1))
    dump = llmdbg.open_dump(tmp_path)
    assert len(dump) == 6
    text = "\n".join(dump.problems)
    assert "1 file whose name is none of torchair's" in text
    assert broken.name in text
    with pytest.raises(llmdbg.LlmdbgError):
        dump.tensor(5)
