"""`llmdbg dump` with a probe that is told everything by the environment, on an ATB of its time."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from llmdbg.capture.atb import overflow_environment
from llmdbg.capture.atb_probe import ProbeEra, describe_probe
from llmdbg.capture.launch import command_of, run
from tests.capture_atb.reference import step, tensors

LINEAR, ADD = "1_TinyLayer/0_LinearOperation", "1_TinyLayer/1_ElewiseOperation"


@pytest.fixture
def dump(llmdbg, run_model, legacy_probe, old_atb, tmp_path):
    """Record the stand-in model; give back the process and the one dump directory."""

    def record(*flags, steps=1, env=None):
        done = llmdbg(
            "dump", "-o", "out", "--probe", legacy_probe, *flags,
            "--", *run_model, "--steps", str(steps), env=env or old_atb.environment(),
        )  # fmt: skip
        return done, next((tmp_path / "out").glob("msit_dump_*"), None)

    return record


def execution(root: Path, index: int = 0) -> Path:
    (process,) = (root / "tensors").iterdir()
    return process / str(index)


def test_tensors_inputs_before_and_outputs_after(dump):
    done, root = dump("-er", "0,1", steps=2)
    assert "recorded 48 tensors, 6 parameter files, 3 topology files" in done.stderr
    for index in (0, 1):
        found = tensors(execution(root, index))
        expected = step(index)
        assert sorted(found) == sorted(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name][1], values, strict=True)


@pytest.mark.parametrize(
    ("time", "phases"), [("0", {"before"}), ("1", {"after"}), ("2", {"before", "after"})]
)
def test_time(time, phases, dump):
    _, root = dump("-time", time)
    names = tensors(execution(root))
    assert {Path(name).parent.name for name in names} == phases
    assert {Path(name).name[:2] for name in names} == {"in", "ou"}


@pytest.mark.parametrize(("part", "sides"), [("0", {"in"}), ("1", {"ou"}), ("2", {"in", "ou"})])
def test_part(part, sides, dump):
    _, root = dump("-stp", part)
    assert {Path(name).name[:2] for name in tensors(execution(root))} == sides


def test_description_only(dump):
    _, root = dump("-sd")
    found = tensors(execution(root))
    assert sorted(found) == sorted(step(0))
    for name, values in step(0).items():
        header, data = found[name]
        assert data is None
        assert header["dims"] == ",".join(map(str, values.shape))


def test_statistics_in_the_header(dump):
    _, root = dump("--type", "stats")
    header, data = tensors(execution(root))[f"{ADD}/after/outtensor0.bin"]
    values = step(0)[f"{ADD}/after/outtensor0.bin"].astype(np.float64)
    assert data is None
    assert float(header["max"]) == values.max()
    assert float(header["min"]) == values.min()
    assert float(header["mean"]) == values.mean()
    assert float(header["l2norm"]) == pytest.approx(np.linalg.norm(values), abs=5e-7)


@pytest.mark.parametrize(
    ("flags", "operations"),
    [
        (["-ids", "1_0"], {LINEAR, f"{LINEAR}/0_MatMulKernel"}),
        (["-ids", "1_0", "-child", "False"], {LINEAR}),
        (["-opname", "ELEWISE"], {ADD, f"{ADD}/0_AddKernel"}),
    ],
)  # fmt: skip
def test_filters(flags, operations, dump):
    _, root = dump(*flags)
    assert {str(Path(name).parent.parent) for name in tensors(execution(root))} == operations


def test_every_kind_of_file(dump):
    done, root = dump(
        "--type", "model", "layer", "op", "kernel", "tensor", "cpu_profiling", "-tiling", steps=2
    )
    assert done.returncode == 0, done.stderr
    tiling = (root / "tiling").rglob("0_MatMulKernel/kernel_tilingdata.bin")
    (operations,) = (root / "operation_io_tensors").rglob("operation_tensors_0.csv")
    with operations.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="|"))
    assert [row["OpName"] for row in rows] == [
        "GatherOperation_0_0",
        "WordEmbedding_0",
        "LinearOperation_1_0",
        "ElewiseOperation_1_1",
        "TinyLayer_1",
    ]
    assert rows[2]["InShape"] == "3,4;4,4"
    assert rows[2]["OpParam"] == '{"hasBias":false}'
    (kernels,) = (root / "kernel_io_tensors").rglob("kernel_tensors_1.csv")
    assert kernels.read_text().count("\n") == 4
    assert [path.read_bytes() for path in tiling] == [bytes([1, 0, 0, 0, 32, 0, 0, 0])] * 2


def test_profiling_is_left_as_the_probe_wrote_it(dump):
    # One setup and one execute line for each of five operations, in the order they happened.
    _, root = dump("--type", "cpu_profiling")
    (profile,) = (root / "cpu_profiling").rglob("operation_statistic_0.txt")
    lines = profile.read_text().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("[WordEmbedding_0]:totalTime:11, runnerSetupTime:7")
    assert sum("kernelExecuteTime" in line for line in lines) == 5


def test_execution_range_of_everything(dump):
    done, root = dump("-er", "all", steps=3)
    assert "recorded 72 tensors" in done.stderr
    assert execution(root, 2).is_dir()


def test_several_devices_are_refused(dump):
    done, root = dump("-device", "0,1")
    assert done.returncode == 2
    assert "--device-id 0,1: this probe takes one device" in done.stderr
    assert root is None


def test_configuration_file_is_refused(dump, tmp_path):
    config = tmp_path / "c.json"
    config.write_text("{}")
    done, _ = dump("--config", config)
    assert done.returncode == 2
    assert "takes its orders from the environment and reads no file" in done.stderr


def test_found_in_the_toolkit_before_the_package(
    llmdbg, run_model, legacy_probe, old_atb, tmp_path
):
    place = tmp_path / "toolkit" / "tools" / "ait_backend" / "dump"
    place.mkdir(parents=True)
    library = shutil.copy(legacy_probe, place)
    env = old_atb.environment(ASCEND_TOOLKIT_HOME=str(tmp_path / "toolkit"))
    done = llmdbg("dump", "-o", "out", "--", *run_model, env=env)
    assert "recording with ATB's probe of the CANN toolkit" in done.stderr
    assert "recorded 24 tensors" in done.stderr
    Path(library).chmod(0o777)
    refused = llmdbg("dump", "-o", "out", "--", *run_model, env=env)
    assert refused.returncode == 2
    assert "others may write the probe library" in refused.stderr


@pytest.mark.parametrize(("stop", "code"), [(False, 0), (True, 3)])
def test_overflow_while_the_model_runs(stop, code, run_model, legacy_probe, old_atb, tmp_path):
    probe = describe_probe(legacy_probe, "test")
    assert probe.era is ProbeEra.ENVIRONMENT
    env = overflow_environment(tmp_path, probe, old_atb.environment(), stop=stop)
    assert run(command_of([*run_model, "--steps", "1", "--poison"]), env) == code
    (report,) = tmp_path.glob("msit_overflow_res_*.txt")
    assert report.read_text() == (
        "Overflow detected! Operator name: LinearOperation_1_0:MatMulKernel"
    )


def test_overflow_without_its_settings_would_have_aborted(run_model, legacy_probe, old_atb):
    # What the oldest probes do when ATB_DUMP_TYPE is not set at all.
    env = old_atb.environment(LD_PRELOAD=str(legacy_probe), ATB_CHECK_TYPE="1")
    assert run(command_of([sys.executable, *run_model[1:]]), env) == 70


def test_onnx_and_profiling_together(dump, tmp_path):
    done, root = dump("--type", "onnx", "model", "cpu_profiling")
    assert "wrote 3 ONNX graphs beside the topology files" in done.stderr
    graphs = sorted(path.name for path in root.rglob("*.onnx"))
    assert graphs == ["TinyLayer_1.onnx", "TinyModel.onnx", "WordEmbedding_0.onnx"]
    assert len(list((root / "cpu_profiling").rglob("*.txt"))) == 1
    layer = onnx.load(next(root.rglob("TinyLayer_1.onnx")))
    assert [node.name for node in layer.graph.node] == [
        "LinearOperation_1_0",
        "ElewiseOperation_1_1",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [root.name]
