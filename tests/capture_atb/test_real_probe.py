"""`llmdbg dump` against the real probe of mindstudio-probe and a stand-in for ATB."""

import csv
import json
import os
import shutil
import stat
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from tests.capture_atb.conftest import compile_program
from tests.capture_atb.reference import read_bin, step, tensors

LINEAR, ADD = "1_TinyLayer/0_LinearOperation", "1_TinyLayer/1_ElewiseOperation"


def executions(output: Path) -> dict[str, Path]:
    """Execution directories of the one process that ran."""
    (process,) = (output / "atb_dump_data" / "data").iterdir()
    return {path.name: path for path in process.iterdir()}


def assert_equal_to_reference(found, expected):
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name][1], values, err_msg=name, strict=True)


@pytest.mark.parametrize("abi", [0, 1])
def test_records_every_tensor_of_every_step(abi, request, llmdbg, run_model, tmp_path):
    atb = request.getfixturevalue(f"atb_abi{abi}")
    done = llmdbg(
        "dump", "-o", "out", "-er", "0,1", "--", *run_model, "--steps", "2", env=atb.environment()
    )
    assert done.returncode == 0, done.stderr
    assert "recorded 48 tensors" in done.stderr
    assert "next: llmdbg compare GOLDEN out/atb_dump_data" in done.stderr
    found = executions(tmp_path / "out")
    assert sorted(found) == ["0", "1"]
    for index in (0, 1):
        assert_equal_to_reference(tensors(found[str(index)]), step(index))


def test_first_step_is_there_although_the_probe_reads_its_file_late(
    llmdbg, run_model, tmp_path, atb_abi1
):
    done = llmdbg("dump", "-o", "out", "--", *run_model, env=atb_abi1.environment())
    assert done.returncode == 0, done.stderr
    assert sorted(executions(tmp_path / "out")) == ["0"]


def test_parameters_and_topology(llmdbg, run_model, tmp_path, atb_abi1):
    llmdbg("dump", "-o", "out", "--", *run_model, env=atb_abi1.environment())
    first = executions(tmp_path / "out")["0"]
    parameters = {
        str(path.parent.relative_to(first)): json.loads(path.read_text())
        for path in first.rglob("op_param.json")
    }
    assert parameters == {
        "0_WordEmbedding/0_GatherOperation": {"axis": 0},
        "1_TinyLayer/0_LinearOperation": {"hasBias": False},
        "1_TinyLayer/1_ElewiseOperation": {"elewiseType": 8},
    }
    (model_file,) = (tmp_path / "out" / "atb_dump_data" / "info" / "model").rglob("*.json")
    model = json.loads(model_file.read_text())
    assert [node["opName"] for node in model["nodes"]] == ["WordEmbedding_0", "TinyLayer_1"]
    assert [node["opName"] for node in model["nodes"][1]["nodes"]] == [
        "LinearOperation_1_0",
        "ElewiseOperation_1_1",
    ]


def test_statistics_without_tensors(llmdbg, run_model, tmp_path, atb_abi1):
    # The probe gives its pool as many threads as its first tensor has elements, and they append
    # to one file without a lock after each has looked whether it is there: rows are lost where two
    # find it missing. Step 1 begins with a tensor of one element, so that one thread writes.
    done = llmdbg(
        "dump",
        "-o",
        "out",
        "-er",
        "1,1",
        "--type",
        "stats",
        "--",
        *run_model,
        env=atb_abi1.environment(),
    )
    assert done.returncode == 0, done.stderr
    (number, found) = executions(tmp_path / "out").popitem()
    assert (number, tensors(found)) == ("1", {})
    with (found / "statistic.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    by_place = {(row["Op Name"], row["Input/Output"], row["Index"]): row for row in rows}
    output = by_place["TinyLayer/ElewiseOperation", "output", "0"]
    expected = step(1)["1_TinyLayer/1_ElewiseOperation/after/outtensor0.bin"].astype(np.float64)
    assert output["Shape"] == "1x4"
    assert output["Tensor Path"] == "N/A"
    assert float(output["Max"]) == expected.max()
    assert float(output["Min"]) == expected.min()
    assert float(output["Mean"]) == expected.mean()
    assert float(output["Norm"]) == pytest.approx(np.linalg.norm(expected), abs=5e-7)


def test_tensors_and_statistics_together(llmdbg, run_model, tmp_path, atb_abi1):
    llmdbg(
        "dump",
        "-o",
        "out",
        "--type",
        "tensor",
        "stats",
        "--",
        *run_model,
        env=atb_abi1.environment(),
    )
    first = executions(tmp_path / "out")["0"]
    assert_equal_to_reference(tensors(first), step(0))
    assert (first / "statistic.csv").read_text().count("\n") == 25


def test_description_only_becomes_statistics_and_says_so(llmdbg, run_model, tmp_path, atb_abi1):
    done = llmdbg("dump", "-o", "out", "-sd", "--", *run_model, env=atb_abi1.environment())
    assert "--only-save-desc: statistics are written instead" in done.stderr
    first = executions(tmp_path / "out")["0"]
    assert [path.name for path in first.rglob("*") if path.is_file()].count("statistic.csv") == 1
    assert tensors(first) == {}


@pytest.mark.parametrize(
    ("flags", "operations"),
    [
        (["-child", "False"], {"0_WordEmbedding", "1_TinyLayer"}),
        (["-ids", "1_0"], {LINEAR, f"{LINEAR}/0_MatMulKernel"}),
        (["-opname", "ELEWISE"], {ADD, f"{ADD}/0_AddKernel"}),
    ],
)
def test_filters(flags, operations, llmdbg, run_model, tmp_path, atb_abi1):
    done = llmdbg("dump", "-o", "out", *flags, "--", *run_model, env=atb_abi1.environment())
    assert done.returncode == 0, done.stderr
    expected = {
        name: values
        for name, values in step(0).items()
        if str(Path(name).parent.parent) in operations
    }
    assert expected
    assert_equal_to_reference(tensors(executions(tmp_path / "out")["0"]), expected)


def test_equal_tensors_are_written_once(llmdbg, run_model, tmp_path, atb_abi1):
    llmdbg("dump", "-o", "out", "-symlink", "--", *run_model, env=atb_abi1.environment())
    found = tensors(executions(tmp_path / "out")["0"])
    assert sorted(found) == sorted(step(0))
    aliases = {name: header["data"] for name, (header, values) in found.items() if values is None}
    # The embedding's only child reads and writes exactly what the embedding does.
    assert aliases["0_WordEmbedding/0_GatherOperation/before/intensor0.bin"] == "0_intensor0.bin"
    for name, (_, values) in found.items():
        if values is not None:
            np.testing.assert_array_equal(values, step(0)[name], strict=True)


@pytest.mark.parametrize(("level", "aliased"), [(0, False), (1, True), (2, True)])
def test_own_configuration_decides(level, aliased, llmdbg, run_model, tmp_path, atb_abi1):
    config = tmp_path / "mine.json"
    settings = {
        "task": "all",
        "dump_enable": True,
        "exec_range": "1,1",
        "ids": "",
        "op_name": "",
        "save_child": True,
        "device": "",
        "filter_level": level,
    }
    config.write_text(json.dumps(settings))
    config.chmod(0o600)
    done = llmdbg(
        "dump", "-o", "out", "--config", config, "--", *run_model, env=atb_abi1.environment()
    )
    assert done.returncode == 0, done.stderr
    assert ("filter_level 2 makes the probe abort" in done.stderr) == (level == 2)
    found = executions(tmp_path / "out")
    assert sorted(found) == ["1"]
    inner = found["1"] / "0_WordEmbedding" / "0_GatherOperation" / "before" / "intensor0.bin"
    assert (read_bin(inner)[1] is None) == aliased
    kernel = inner.parent.parent / "0_GatherKernel" / "before" / "intensor0.bin"
    assert (read_bin(kernel)[1] is None) == (level == 2)
    assert (found["1"] / "statistic.csv").is_file()


def test_flags_this_probe_cannot_honour_are_named(llmdbg, run_model, atb_abi1):
    done = llmdbg(
        "dump", "-o", "out", "--type", "tensor", "op", "kernel", "cpu_profiling",
        "-time", "2", "-stp", "1", "-tiling", "--", *run_model, env=atb_abi1.environment(),
    )  # fmt: skip
    for flag in (
        "--save-time",
        "--save-tensor-part",
        "--save-tiling",
        "--type op",
        "--type kernel",
    ):
        assert f"llmdbg: {flag}: this probe" in done.stderr
    assert "--type cpu_profiling: this probe does not write it" in done.stderr


def test_two_ranks_write_side_by_side(llmdbg, run_model, tmp_path, atb_abi1):
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "ranks = [subprocess.Popen(sys.argv[1:], env={**os.environ, 'STANDIN_DEVICE': str(rank)})\n"
        "         for rank in (0, 5)]\n"
        "sys.exit(max(rank.wait() for rank in ranks))\n"
    )
    done = llmdbg(
        "dump", "-o", "out", "--", sys.executable, script, *run_model, env=atb_abi1.environment()
    )
    assert done.returncode == 0, done.stderr
    processes = sorted((tmp_path / "out" / "atb_dump_data" / "data").iterdir())
    assert [path.name.partition("_")[0] for path in processes] == ["0", "5"]
    for process in processes:
        assert_equal_to_reference(tensors(process / "0"), step(0))


def test_one_device_above_two(llmdbg, run_model, tmp_path, atb_abi1):
    env = atb_abi1.environment(STANDIN_DEVICE="7")
    done = llmdbg("dump", "-o", "out", "-device", "7", "--", *run_model, env=env)
    assert "recorded 24 tensors" in done.stderr
    (process,) = (tmp_path / "out" / "atb_dump_data" / "data").iterdir()
    assert process.name.startswith("7_")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["-device", "3"], "--device-id 3 matches none of the devices that ran: 0"),
        (["-ids", "9"], "--save-operation-ids 9 (there are 0, 1, 0_0, 1_0, 1_1) matched no"),
        (["-opname", "flash"], "--operation-name flash (there are "),
        (["-er", "5"], "--execute-range 5,5 selects no execution that took place"),
    ],
)
def test_an_empty_dump_is_explained(flags, reason, llmdbg, run_model, atb_abi1):
    done = llmdbg("dump", "-o", "out", *flags, "--", *run_model, env=atb_abi1.environment())
    assert done.returncode == 0
    assert "0 tensors: " in done.stderr
    assert reason in done.stderr


def test_topologies_alone(llmdbg, run_model, atb_abi1):
    done = llmdbg(
        "dump", "-o", "out", "--type", "model", "--", *run_model, env=atb_abi1.environment()
    )
    assert "recorded 3 topology files: " in done.stderr
    assert "; no tensors, which --type model leaves out" in done.stderr


def test_an_empty_dump_without_atb_is_explained(llmdbg, atb_abi1):
    done = llmdbg("dump", "-o", "out", "--", "true", env=atb_abi1.environment())
    assert "0 tensors: the probe was never called: no ATB operation ran" in done.stderr


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_an_isolated_interpreter_is_recorded(flag, llmdbg, run_model, tmp_path, atb_abi1):
    python, *rest = run_model
    done = llmdbg("dump", "-o", "out", "--", python, flag, *rest, env=atb_abi1.environment())
    assert done.returncode == 0, done.stderr
    assert_equal_to_reference(tensors(executions(tmp_path / "out")["0"]), step(0))


@pytest.mark.parametrize("abi", [0, 1])
def test_a_program_without_python_is_recorded(abi, request, llmdbg, tmp_path):
    atb = request.getfixturevalue(f"atb_abi{abi}")
    program = compile_program(tmp_path / "model", atb, "main.cpp")
    done = llmdbg("dump", "-o", "out", "--", program, "1", env=atb.environment())
    assert done.returncode == 0, done.stderr
    assert "recorded 24 tensors" in done.stderr
    assert_equal_to_reference(tensors(executions(tmp_path / "out")["0"]), step(0))


def test_processes_without_atb_are_left_alone(llmdbg, tmp_path, atb_abi1):
    done = llmdbg("dump", "-o", "out", "--", "echo", "hello", env=atb_abi1.environment())
    assert done.stdout == "hello\n"
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".json"]


def test_where_nothing_can_be_preloaded_the_probe_is_used_alone(
    llmdbg, run_model, tmp_path, atb_abi1
):
    # What a folder mounted noexec does to every library in it.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import llmdbg.capture.primer as p\np._library = lambda *args: bytes(64)\n"
    )
    env = atb_abi1.environment(PYTHONPATH=str(broken))
    done = llmdbg("dump", "-o", "out", "--", *run_model, env=env)
    assert done.returncode == 0, done.stderr
    assert "the first 16384 operations of each process go unrecorded" in done.stderr
    assert "0 tensors: the probe reads its configuration only after 16384" in done.stderr


def test_an_earlier_dump_is_not_written_into(llmdbg, run_model, tmp_path, atb_abi1):
    for _ in range(2):
        llmdbg("dump", "-o", "out", "--", *run_model, env=atb_abi1.environment())
    assert len(executions(tmp_path / "out")) == 1
    (second,) = (tmp_path / "out").glob("dump_*")
    assert_equal_to_reference(tensors(executions(second)["0"]), step(0))


def test_configuration_is_only_the_users_to_write(llmdbg, run_model, tmp_path, atb_abi1):
    # The probe ignores a file that group or others may write.
    before = os.umask(0)
    try:
        llmdbg("dump", "-o", "out", "--", *run_model, env=atb_abi1.environment())
    finally:
        os.umask(before)
    (config,) = (tmp_path / "out").glob("*.json")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert json.loads(config.read_text())["dump_enable"] is True


def test_output_directory_is_closed_to_others(llmdbg, run_model, tmp_path, atb_abi1):
    llmdbg("dump", "-o", "new/out", "--", *run_model, env=atb_abi1.environment())
    assert stat.S_IMODE((tmp_path / "new" / "out").stat().st_mode) == 0o750


def test_a_path_the_probe_would_refuse_is_refused_first(llmdbg, run_model, tmp_path, atb_abi1):
    done = llmdbg("dump", "-o", "my dump++", "--", *run_model, env=atb_abi1.environment())
    assert done.returncode == 2
    assert "not ' ' '+'; choose another --output" in done.stderr
    assert not (tmp_path / "my dump++").exists()


def test_probe_below_a_path_with_blanks(llmdbg, run_model, tmp_path, atb_abi1):
    (library,) = (
        file
        for file in distribution("mindstudio-probe").files
        if file.name == "libatb_probe_abi1.so"
    )
    folder = tmp_path / "my probes: new"
    folder.mkdir()
    shutil.copy(library.locate(), folder)
    done = llmdbg(
        "dump", "-o", "out", "--probe", folder, "--", *run_model, env=atb_abi1.environment()
    )
    assert "recorded 24 tensors" in done.stderr


def test_atb_too_old_for_this_probe(llmdbg, run_model, old_atb):
    done = llmdbg("dump", "-o", "out", "--", *run_model, env=old_atb.environment())
    assert done.returncode == 2
    assert "this libatb is older than the probe" in done.stderr


def test_probe_of_the_other_abi(llmdbg, run_model, atb_abi0):
    (library,) = (
        file
        for file in distribution("mindstudio-probe").files
        if file.name == "libatb_probe_abi1.so"
    )
    done = llmdbg("dump", "--probe", library.locate(), "--", *run_model, env=atb_abi0.environment())
    assert done.returncode == 2
    assert "this probe would be loaded and never called" in done.stderr


def test_dry_run_touches_nothing(llmdbg, run_model, tmp_path, atb_abi1):
    done = llmdbg(
        "dump", "-o", "out", "--dry-run", "-er", "2,4", "--", *run_model, env=atb_abi1.environment()
    )
    assert done.returncode == 0
    assert "ATB_SAVE_TENSOR_RANGE=2,4\n" in done.stdout
    assert '"exec_range": "2,4"' in done.stdout
    assert done.stdout.rstrip().endswith("run_model.py")
    assert not (tmp_path / "out").exists()
