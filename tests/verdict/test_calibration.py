"""Floors measured on a clean run: made, kept, used, refused."""

import json

import pytest
import torch

import llmdbg
from llmdbg.errors import UserError
from llmdbg.verdict import Calibration, judge
from tests.synthetic import Run
from tests.verdict.conftest import change_output


def clean_run():
    run = Run()
    run.call("a", [1.7e-3], [3e-2])
    run.call("b", [3e-2], [3.1e-2])
    return run


def test_a_tensor_that_is_noisy_in_a_clean_run_is_clean_and_the_double_is_not():
    calibration = Calibration.measured(clean_run().frame(), "by hand")
    same = judge(clean_run().frame(), calibration=calibration)
    assert same.outcome == "clean"
    assert same.ratios == pytest.approx([1.0] * 4, abs=0.03)
    worse = clean_run()
    worse.rows[1]["relative_l2"] = 3e-2 * 3.5
    found = judge(worse.frame(), calibration=calibration)
    assert found.culprit is not None
    assert (found.culprit.golden, found.culprit.ratio) == ("a", pytest.approx(3.5))


def test_a_gain_unlike_the_clean_runs_accuses():
    """Both errors are within three floors; that b doubles them is not the clean run's way."""
    calibration = Calibration.measured(clean_run().frame(), "by hand")
    run = Run()
    run.call("a", [1.7e-3], [2.9e-2])
    run.call("b", [2.9e-2], [7.5e-2])
    found = judge(run.frame(), calibration=calibration)
    assert found.culprit is not None
    assert found.culprit.golden == "b"
    assert found.culprit.evidence[0].startswith("error out over error in is 2.5× that of the clean")


def test_written_and_read_again(tmp_path):
    made = Calibration.measured(clean_run().frame(), "by hand")
    made.write(tmp_path / "calibration.json")
    assert Calibration.is_one(tmp_path / "calibration.json")
    assert Calibration.read(tmp_path / "calibration.json") == made


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"schema": "other/1", "floors": []}',
        '{"schema": "llmdbg.calibration/1", "floors": [{"node": "a"}]}',
        json.dumps(
            {
                "schema": "llmdbg.calibration/1",
                "floors": [
                    {"node": "a", "role": "output", "slot": "0"}
                    | {"relative_l2": -1, "worst_row_relative_l2": 0}
                ],
            }
        ),
    ],
)
def test_what_is_no_calibration_is_refused_by_name(tmp_path, content):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(
        UserError, match=r"not a calibration.*--calibrate CLEAN_DUMP.*calibration.json"
    ):
        Calibration.read(path)


def test_a_clean_dump_is_measured_kept_and_reused(golden_without_weights, captured, tmp_path):
    golden, name = golden_without_weights, "lm_head"
    clean = captured(None, torch.bfloat16, weights=False)
    hurt = change_output(name, lambda y: y + 0.06 * y.float().std() * torch.randn_like(y))
    candidate = captured(hurt, torch.bfloat16, weights=False)
    result = llmdbg.compare(golden, candidate, kl=False, calibrate=clean, output=tmp_path / "out")
    assert result.culprit is not None
    assert result.culprit.golden == name
    kept = tmp_path / "out" / "calibration.json"
    again = llmdbg.compare(golden, candidate, kl=False, calibrate=kept)
    assert again.frame.equals(result.frame)
    assert llmdbg.compare(golden, clean, kl=False, calibrate=kept).verdict == "clean"
