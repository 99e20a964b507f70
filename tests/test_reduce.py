"""Reducing dumps while they grow: nothing lost, the same bytes whatever the order of events."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import llmdbg
from llmdbg.errors import UserError
from llmdbg.reduce import reduce_dump
from tests.programs import run_llmdbg
from tests.writers.ge import NOW, block, ge_file, number, shape, tensor, write_op, write_run


@pytest.fixture
def random():
    return np.random.default_rng(11)


def step_dir(root, step, *, model="graph_1", device="0"):
    return root / "20250101120000" / device / model / "11" / str(step)


def rows(path):
    dump = llmdbg.open_dump(path)
    assert dump.layout == "native"
    return {
        (r["rank"], r["step"], r["node"], r["role"]): r for r in dump.records.iter_rows(named=True)
    }


def tree(path):
    """Every file of a directory with a digest of its bytes; the place of the original aside."""
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            text = file.read_bytes().replace(str(path.parent).encode(), b"HERE")
            found[str(file.relative_to(path))] = hashlib.sha256(text).hexdigest()
    return found


def assert_numbers(row, array):
    wide = array.astype(np.float64)
    assert (row["dtype"], row["shape"]) == (array.dtype.name, list(array.shape))
    assert row["max"] == wide.max()
    assert row["min"] == wide.min()
    # The engine adds float32 squares up in float32 lanes of a block.
    assert row["mean"] == pytest.approx(wide.mean(), rel=1e-6)
    assert row["norm"] == pytest.approx(np.linalg.norm(wide), rel=1e-6)
    assert row["nan"] == 0


@pytest.mark.parametrize("mode", ["statistics", "sketch"])
def test_every_tensor_with_its_numbers(mode, tmp_path, random):
    arrays = write_run(tmp_path / "ge", random)
    (tmp_path / "ge" / "dynamo_optimized_graph_1_rank_0_pid_7_ts_2.txt").write_text(
        'name: "graph_1" op { name: "Mul" type: "Mul" } '
        'op { name: "Add" type: "Add" input: "Mul:0" }'
    )
    done = reduce_dump(tmp_path / "ge", mode=mode)
    assert (done.tensors, done.files_deleted, done.problems) == (8, 0, [])
    assert done.read_bytes == sum(array.nbytes for array in arrays.values())
    found = rows(done.path)
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        assert_numbers(found[key], array)
        assert (found[key]["sketch_path"] is not None) == (mode == "sketch")
    dump = llmdbg.open_dump(done.path)
    assert dump.problems == []
    graph = dump.graph
    nodes = {node["name"]: node for node in graph["nodes"]}
    # The edge that the text above tells of.
    assert [graph["tensors"][number] for number in nodes["Add"]["inputs"]] == ["Mul:0"]
    assert dump.records["op_type"].to_list() == ["Mul", "Mul", "Add", "Add"] * 2


def test_compare_reads_it_and_sees_a_fault(tmp_path):
    for side, fault in (("a", 0), ("b", 0.5)):
        random = np.random.default_rng(1)
        leaf = step_dir(tmp_path / side, 0)
        x = random.normal(size=(64, 256)).astype(np.float32)
        noise = random.normal(size=x.shape).astype(np.float32)
        write_op(leaf, "Add", "Good", 1, NOW, [x], [x])
        write_op(leaf, "Add", "Bad", 2, NOW + 1, [x], [x + np.float32(fault) * noise])
        reduce_dump(tmp_path / side)
    true = 0.5 * np.linalg.norm(noise) / np.linalg.norm(x)
    for golden in ("a", "a_reduced"):
        frame = llmdbg.compare(tmp_path / golden, tmp_path / "b_reduced").frame
        errors = {
            (r["golden_node"], r["role"]): r["relative_l2"] for r in frame.iter_rows(named=True)
        }
        assert errors["Good", "output"] == 0
        # A sketch's standard deviation is about 5 %.
        assert errors["Bad", "output"] == pytest.approx(true, rel=0.25)


def test_whatever_the_order_of_events_the_bytes_are_the_same(tmp_path, random):
    write_run(tmp_path / "all", random, steps=3)
    write_op(step_dir(tmp_path / "all", 0), "Add", "Add", 8, NOW + 50, [], [np.float32([3])])
    growing = tmp_path / "growing"
    files = sorted(file for file in (tmp_path / "all").rglob("*") if file.is_file())

    def copy(file):
        target = growing / file.relative_to(tmp_path / "all")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)

    looks = 0
    pending = files[::-1]  # the latest first

    def watch(_new):
        nonlocal looks
        looks += 1
        for _ in range(3):
            if pending:
                copy(pending.pop(0))
        return bool(pending) or looks < 6

    done = reduce_dump(growing, watch=watch, settle=0, poll=0, delete=True)
    assert done.files_deleted == len(files)
    assert not [file for file in growing.rglob("*") if file.is_file()]
    at_once = reduce_dump(tmp_path / "all")
    assert at_once.path.name == "all_reduced"
    # The directory's own name is part of the text.
    shutil.move(at_once.path, tmp_path / "x")
    first, second = tree(tmp_path / "growing_reduced"), tree(tmp_path / "x")
    for side, name in ((tmp_path / "growing_reduced", "growing"), (tmp_path / "x", "all")):
        text = (side / "rank0" / "manifest.json").read_text()
        (side / "rank0" / "manifest.json").write_text(text.replace(str(tmp_path / name), "HERE"))
    first, second = tree(tmp_path / "growing_reduced"), tree(tmp_path / "x")
    assert first == second
    calls = llmdbg.open_dump(tmp_path / "x").records.filter(node="Add", step=0, role="output")
    assert calls["call"].to_list() == [0, 1]


def test_a_file_that_is_still_being_written_is_left_for_later(tmp_path):
    leaf = step_dir(tmp_path / "ge", 0)
    whole = ge_file([np.float32([1])], [np.float32([2])], op_name="Add")
    leaf.mkdir(parents=True)
    file = leaf / f"Add.Add.1.3.{NOW}"
    file.write_bytes(whole[:-2])
    looks = 0

    def watch(_new):
        nonlocal looks
        looks += 1
        if looks == 2:
            assert file.exists()
            file.write_bytes(whole)
        return looks < 3

    done = reduce_dump(tmp_path / "ge", watch=watch, settle=0, poll=0, delete=True)
    assert (done.tensors, done.files_deleted, done.problems) == (2, 1, [])
    assert {key[3]: row["max"] for key, row in rows(done.path).items()} == {"input": 1, "output": 2}


def test_what_cannot_be_reduced_is_said_and_never_deleted(tmp_path):
    leaf = step_dir(tmp_path / "ge", 0)
    write_op(leaf, "Add", "Good", 1, NOW, [], [np.float32([1])])
    cut = write_op(leaf, "Add", "Cut", 1, NOW, [np.float32([1])], [np.float32([2])])
    cut.write_bytes(cut.read_bytes()[:-2])
    (leaf / "note.txt").write_text("mine")
    done = reduce_dump(tmp_path / "ge", delete=True)
    assert (done.tensors, done.files_deleted) == (2, 1)
    assert sorted(path.name for path in leaf.iterdir()) == [cut.name, "note.txt"]
    (problem,) = done.problems
    assert problem.startswith("Cut output 0: output.0: expected 4 bytes")
    assert done.problems == llmdbg.open_dump(done.path).problems


def test_links_and_files_elsewhere_are_not_deleted(tmp_path):
    elsewhere = write_op(tmp_path / "other", "Add", "Add", 1, NOW, [], [np.float32([1])])
    leaf = step_dir(tmp_path / "ge", 0)
    leaf.mkdir(parents=True)
    (leaf / elsewhere.name).symlink_to(elsewhere)
    done = reduce_dump(tmp_path / "ge", delete=True)
    assert (done.tensors, done.files_deleted) == (1, 0)
    assert elsewhere.exists()


def test_started_again_it_goes_on(tmp_path, random):
    write_run(tmp_path / "ge", random, steps=1)
    first = reduce_dump(tmp_path / "ge", delete=True)
    assert first.tensors == 4
    write_run(tmp_path / "ge", random, steps=1, time="20250101120000", devices=("1",))
    second = reduce_dump(tmp_path / "ge", delete=True)
    assert second.tensors == 4
    assert {key[0] for key in rows(first.path)} == {0, 1} or len(rows(first.path)) == 4
    third = reduce_dump(tmp_path / "ge")
    assert third.tensors == 0
    assert len(llmdbg.open_dump(first.path)) == 8


def test_what_the_writer_left_out_holds_no_file_back(tmp_path):
    leaf = step_dir(tmp_path / "ge", 0)
    leaf.mkdir(parents=True)
    # An input with a size, an address of 0 and no bytes, as GE's writer leaves it.
    absent = block(4, tensor(np.float32([9]), output=False, address=0))
    whole = ge_file([], [np.float32([2])], more=absent)
    (leaf / f"Add.Add.1.3.{NOW}").write_bytes(whole)
    # A type without numbers has bytes that nobody has seen.
    text = number(1, 13) + number(2, 2) + block(3, shape([1])) + number(5, 4) + number(8, 1)
    opaque = block(4, text)
    data = ge_file([], [], more=opaque) + b"text"
    (leaf / f"Str.Str.1.3.{NOW}").write_bytes(data)
    done = reduce_dump(tmp_path / "ge", delete=True)
    assert (done.tensors, done.files_deleted, len(done.problems)) == (1, 1, 2)
    assert [path.name for path in leaf.iterdir()] == [f"Str.Str.1.3.{NOW}"]


@pytest.mark.parametrize("delete", [False, True])
def test_a_later_graph_tells_the_nodes_of_the_first_apart(delete, tmp_path):
    root = tmp_path / "ge"
    write_op(step_dir(root, 0), "Add", "Add", 1, NOW, [], [np.float32([1])])
    looks = 0

    def watch(_new):
        nonlocal looks
        looks += 1
        if looks == 2:
            write_op(
                step_dir(root, 0, model="graph_2"), "Add", "Add", 1, NOW + 1, [], [np.float32([2])]
            )
        return looks < 3

    done = reduce_dump(root, watch=watch, settle=0, poll=0, delete=delete)
    assert done.tensors == 2
    found = {(key[2], row["call"]): row["max"] for key, row in rows(done.path).items()}
    assert found == {("graph_1/Add", 0): 1, ("graph_2/Add", 0): 2}


def test_fx_and_values(tmp_path):
    leaf = tmp_path / "fx" / "worldsize1_global_rank0" / "graph_1" / "0"
    leaf.mkdir(parents=True)
    time_ = "20240125031118787351"
    np.save(leaf / f"add-aten.add.Tensor.INPUT.0.{time_}.npy", np.float32([1, 2]))
    np.save(leaf / f"add-aten.add.Tensor.INPUT.1.{time_}.npy", np.array(None, dtype=object))
    done = reduce_dump(tmp_path / "fx", delete=True)
    assert (done.tensors, done.files_deleted) == (1, 1)
    dump = llmdbg.open_dump(done.path)
    (value,) = dump.values
    assert (value["node"], value["slot"]) == ("add", "1")
    assert dump.records["op_type"].to_list() == ["aten.add.Tensor"]


def test_a_killed_reduction_loses_nothing(tmp_path, random):
    arrays = write_run(tmp_path / "ge", random, steps=2)
    code = (
        "import sys, time\nfrom llmdbg.reduce import reduce_dump\n"
        "def watch(new):\n    print('looked', flush=True)\n    return True\n"
        "reduce_dump(sys.argv[1], watch=watch, settle=0, poll=0.05, delete=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "ge")], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.kill()
    process.wait()
    # What was reduced can be read as it is.
    partial = llmdbg.open_dump(tmp_path / "ge_reduced")
    assert len(partial) == 8
    with (tmp_path / "ge_reduced" / "rank0" / "journal.jsonl").open("a") as journal:
        journal.write('{"step": 0, "no')  # cut off
    write_op(step_dir(tmp_path / "ge", 5), "Add", "Late", 1, NOW + 99, [], [np.float32([7])])
    done = reduce_dump(tmp_path / "ge")
    found = rows(done.path)
    assert found.keys() == {*arrays, (0, 5, "Late", "output")}
    for key, array in arrays.items():
        assert_numbers(found[key], array)


def test_the_command_until_ctrl_c(tmp_path, random):
    env = {k: v for k, v in os.environ.items() if not k.startswith("LLMDBG_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "llmdbg", "reduce", "ge", "--watch", "--settle", "0", "--json"],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = tmp_path / "ge_reduced" / "rank0" / "journal.jsonl"
    # The dump appears after the reduction began.
    deadline = time.monotonic() + 60
    while not (tmp_path / "ge_reduced").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    write_run(tmp_path / "ge", random, steps=1)
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["tensors"] == 4
    assert len(llmdbg.open_dump(tmp_path / "ge_reduced")) == 4


def test_the_command_says_what_it_did(tmp_path):
    leaf = step_dir(tmp_path / "ge", 0)
    write_op(leaf, "Add", "Add", 1, NOW, [], [np.float32([1, 2])])
    cut = write_op(leaf, "Add", "Cut", 1, NOW, [], [np.float32([2])])
    cut.write_bytes(cut.read_bytes()[:-2])
    done = run_llmdbg("reduce", "ge", env=dict(os.environ), cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "reduced 1 tensors (8 B)",
        f"next: llmdbg compare GOLDEN {tmp_path / 'ge_reduced'}",
    ]
    assert "llmdbg: not reduced: Cut output 0: output.0: expected 4 bytes" in done.stderr
    for args, reason in (
        (["nowhere"], "no such dump"),
        (["ge", "--idle", "3"], "--idle ends a --watch"),
        (["ge", "--settle", "-1"], "are seconds, and not negative"),
    ):
        done = run_llmdbg("reduce", *args, env=dict(os.environ), cwd=tmp_path, timeout=60)
        assert (done.returncode, reason in done.stderr) == (2, True), done.stderr


def test_mistakes(tmp_path, random):
    with pytest.raises(UserError, match="no such dump"):
        reduce_dump(tmp_path / "nothing")
    write_run(tmp_path / "ge", random)
    with pytest.raises(UserError, match="must not lie in the dump"):
        reduce_dump(tmp_path / "ge", tmp_path / "ge" / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="never overwritten"):
        reduce_dump(tmp_path / "ge", tmp_path / "mine")
    reduce_dump(tmp_path / "ge", tmp_path / "out")
    with pytest.raises(UserError, match="holds a reduction with mode 'sketch'"):
        reduce_dump(tmp_path / "ge", tmp_path / "out", mode="statistics")
    write_run(tmp_path / "ge", random, time="20250101130000")
    with pytest.raises(llmdbg.LlmdbgError, match="2 dumps here"):
        reduce_dump(tmp_path / "ge", tmp_path / "out2")
