"""``scan-anomaly --type overflow`` with a probe of the environment era and the stand-in."""

import json

import pytest

from llmdbg.scan.live import errcheck_findings


def test_an_overflow_is_reported_with_operator_and_kernel(
    llmdbg, atb_abi1, legacy_probe, run_model, tmp_path
):
    out = tmp_path / "out put"
    env = atb_abi1.environment()
    done = llmdbg(
        "scan-anomaly", "--type", "overflow", "--probe", str(legacy_probe), "-o", str(out),
        "--json", "--", *run_model, "--poison", env=env,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout[done.stdout.index("{") :])
    assert data["origin"]["node"].startswith(("LinearOperation_1_0", "ElewiseOperation_1_1"))
    assert data["origin"]["kind"] == "npu_overflow"


def test_a_clean_run_is_zero(llmdbg, atb_abi1, legacy_probe, run_model, tmp_path):
    done = llmdbg(
        "scan-anomaly", "--type", "overflow", "--probe", str(legacy_probe), "-o", str(tmp_path),
        "--", *run_model, env=atb_abi1.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "clean" in done.stdout


def test_a_probe_without_the_check_is_refused(llmdbg, atb_abi1, run_model):
    done = llmdbg(
        "scan-anomaly", "--type", "overflow", "--", *run_model, env=atb_abi1.environment()
    )
    assert done.returncode == 2 and "has no overflow check" in done.stderr


@pytest.mark.parametrize("tail", ["", "\n", "Operator_9:LongerKernelName"])
def test_result_files_of_both_tools(tmp_path, tail):
    line = f"Overflow detected! Operator name: LinearOperation_3_4_0:MatMulKernel\n{tail}"
    (tmp_path / "ait_overflow_res_77.txt").write_text(line)
    (finding,) = errcheck_findings(tmp_path, {})
    assert finding.node == "LinearOperation_3_4_0" and finding.details["kernel"] == "MatMulKernel"
    assert finding.details["process"] == "77"


@pytest.mark.parametrize("words", [["--exit"], []])
def test_exit_stops_the_run(llmdbg, atb_abi1, legacy_probe, run_model, tmp_path, words):
    done = llmdbg(
        "scan-anomaly", "--type", "overflow", *words, "--probe", str(legacy_probe),
        "-o", str(tmp_path / "out"), "--", *run_model, "--poison", env=atb_abi1.environment(),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    # What the model's program says when ATB gives it an error status.
    assert ("stopped by overflow in step 0" in done.stdout) == bool(words)
    # A program that ends because it was told to is no failure.
    assert "exit code" not in done.stderr
