"""scan-anomaly on dumps that a probe wrote of the stand-in for ATB, whole and spoiled."""

import json
from pathlib import Path

import numpy as np
import pytest

from llmdbg import read_tensor
from llmdbg.scan import Level, scan

LINEAR, ADD = "1_TinyLayer/0_LinearOperation", "1_TinyLayer/1_ElewiseOperation"


@pytest.fixture
def dump(llmdbg, atb_abi1, legacy_probe, run_model, tmp_path):
    """Record the stand-in, tensors before and after; its folder of tensors."""

    def record(*words):
        out = tmp_path / "out"
        done = llmdbg(
            "dump", "--type", "tensor", "model", "layer", "-time", "2", "-stp", "2", "-er", "0,9",
            "--probe", str(legacy_probe), "-o", str(out), "--", *run_model, *words,
            env=atb_abi1.environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return out

    return record


def errors(path):
    return [f for f in scan(path).findings if f.level is Level.ERROR]


def spoil(out: Path, step: int, node: str, file: str, change) -> None:
    """Rewrite the payload of one recorded tensor."""
    (path,) = out.glob(f"*/tensors/*/{step}/{node}/{file}")
    content = path.read_bytes()
    head, end, payload = content.partition(b"$End=1\n")
    dtype = read_tensor(path).dtype
    array = np.frombuffer(payload, dtype).copy()
    change(array)
    path.write_bytes(head + end + array.tobytes())


def test_a_clean_run(dump):
    assert errors(dump("--steps", "3")) == []


def test_an_inf_weight_is_named(dump):
    (error,) = errors(dump("--steps", "2", "--poison"))
    assert (error.kind, error.node, error.step) == ("weight", LINEAR, 0)


def test_a_result_zeroed_before_its_reader(dump):
    out = dump("--steps", "2")
    for file in ("before/intensor0.bin", "after/intensor0.bin"):
        spoil(out, 1, ADD, file, lambda a: a[:2].fill(0))
    (error,) = errors(out)
    assert (error.kind, error.node, error.step) == ("overwritten", LINEAR, 1)
    assert error.details["reader"] == ADD and error.details["looks"] == "zeros"
    assert error.details["bytes"][1] <= 3


def test_an_operator_that_writes_its_input(dump):
    out = dump("--steps", "1")
    spoil(out, 0, LINEAR, "after/intensor0.bin", lambda a: a[:1].fill(5))
    told = [(e.kind, e.node) for e in errors(out)]
    assert ("changed_input", LINEAR) in told


def test_a_weight_that_changes_between_steps(dump):
    out = dump("--steps", "3")
    for file in ("before/intensor1.bin", "after/intensor1.bin"):
        spoil(out, 2, LINEAR, file, lambda a: a[3:4].fill(2.5))
    (error,) = errors(out)
    assert (error.kind, error.node, error.step) == ("changed_weight", LINEAR, 2)


def test_nan_from_an_operator(dump):
    out = dump("--steps", "2")
    spoil(out, 1, ADD, "after/outtensor0.bin", lambda a: a[1:2].fill(np.nan))
    spoil(out, 1, "1_TinyLayer", "after/outtensor0.bin", lambda a: a[1:2].fill(np.nan))
    told = errors(out)
    assert (told[0].kind, told[0].node, told[0].step) == ("nan", ADD, 1)
    assert told[0].details["values"]["float64"] == pytest.approx(
        sum(told[0].details["values"]["inputs"].values())
    )


def test_the_command_names_it_as_well(dump, llmdbg, atb_abi1, tmp_path):
    out = dump("--steps", "2", "--poison")
    done = llmdbg(
        "scan-anomaly", str(out), "--json", "-o", str(tmp_path / "r"), env=atb_abi1.environment()
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["origin"]["node"] == LINEAR
