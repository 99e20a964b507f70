"""``llmdbg.compare`` from Python, on dumps written by another tool than ours."""

import json

import numpy as np
import pytest

import llmdbg
from llmdbg.report.columns import AIT_COLUMNS


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("golden", "mine"):
        (tmp_path / name).mkdir()
    for layer in range(3):
        values = rng.normal(size=(8, 32)).astype("f4")
        np.save(tmp_path / "golden" / f"layer{layer}.npy", values)
        np.save(tmp_path / "mine" / f"layer{layer}.npy", values * (1.5 if layer == 1 else 1.0))
    return tmp_path / "golden", tmp_path / "mine"


def test_a_result_has_frame_verdict_culprit_and_summary(runs):
    result = llmdbg.compare(*runs)
    assert result.verdict == "diverged"
    assert result.culprit.golden == "layer1"
    assert tuple(result.frame.columns[:22]) == AIT_COLUMNS
    assert result.frame["golden_node"].to_list() == ["layer0", "layer1", "layer2"]
    assert result.summary["verdict"] == "diverged"
    assert result.files is None
    assert json.loads(result.to_json())["culprit"]["golden"] == "layer1"


def test_measures_agree_with_numpy(runs):
    row = llmdbg.compare(*runs).frame.row(1, named=True)
    golden, mine = (np.load(p / "layer1.npy").astype(float) for p in runs)
    assert row["golden_max_value"] == golden.max()
    assert row["my_min_value"] == mine.min()
    assert row["golden_mean_value"] == pytest.approx(golden.mean(), rel=1e-6)
    assert row["max_absolute_error"] == abs(mine - golden).max()
    norm = np.linalg.norm
    assert row["relative_l2"] == pytest.approx(norm(mine - golden) / norm(golden), rel=1e-6)
    assert row["relative_euclidean_distance"] == row["relative_l2"]
    assert row["golden_shape"] == "[8, 32]"
    assert row["golden_dtype"] == "torch.float32"


def test_the_result_shows_itself_in_one_line(runs):
    assert repr(llmdbg.compare(*runs)).startswith("<llmdbg comparison of 3 pairs: diverged: ")


def test_a_notebook_shows_escaped_names(runs):
    golden, mine = runs
    for folder in runs:
        (folder / "layer1.npy").rename(folder / "<b>.npy")
    shown = llmdbg.compare(golden, mine)._repr_html_()
    assert "<b>.npy" not in shown.split("<table")[0]
    assert "&lt;b&gt;" in shown


def test_a_report_is_written_when_asked(tmp_path, runs):
    result = llmdbg.compare(*runs, output=tmp_path / "report", kl=False)
    assert (tmp_path / "report" / "compare.csv").exists()
    assert result.frame["kl_divergence"].to_list() == [None] * 3
    again = result.write(tmp_path / "again")
    assert again["directory"] == str(tmp_path / "again")


def test_nothing_in_common_is_an_error(tmp_path, runs):
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "unrelated.npy", np.zeros(3))
    with pytest.raises(llmdbg.LlmdbgError, match=r"nothing to compare.*layer0.*unrelated"):
        llmdbg.compare(runs[0], tmp_path / "other")


def test_progress_is_reported(runs):
    calls = []
    llmdbg.compare(*runs, progress=lambda done, total: calls.append((done, total)))
    assert all(total == 3 for _, total in calls)
    assert calls[-1] == (3, 3)
