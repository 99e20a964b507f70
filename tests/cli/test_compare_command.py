"""``llmdbg compare`` as a command: answers, exit codes, files, flags of `ait llm`, bad input."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from llmdbg.cli.app import app

NAMES = {"compare.csv", "compare.parquet", "alignment.json", "summary.json", "report.html"}


def compare(*args):
    return CliRunner().invoke(app, ["compare", *map(str, args)])


def command(*args, **kwargs):
    line = [sys.executable, "-m", "llmdbg", "compare", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **kwargs)


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two folders of four equal float32 tensors each, and a working directory beside them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("golden", "mine"):
        (tmp_path / name).mkdir()
    for layer in range(4):
        values = rng.normal(size=(16, 64)).astype("f4")
        for name in ("golden", "mine"):
            np.save(tmp_path / name / f"layer{layer}.npy", values)
    return tmp_path


def spoil(runs, layer=2, factor=2.0):
    path = runs / "mine" / f"layer{layer}.npy"
    np.save(path, np.load(path) * np.float32(factor))


def test_equal_runs_are_clean(runs):
    done = compare("golden", "mine", "-o", "report")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("clean: ")
    assert {p.name for p in (runs / "report").iterdir()} == NAMES


def test_a_difference_is_found_and_named(runs):
    spoil(runs)
    done = compare("golden", "mine", "-o", "report")
    assert done.exit_code == 1
    assert "layer2" in done.stdout.splitlines()[0]
    row = pl.read_csv("report/compare.csv").filter(state="FAIL").row(0, named=True)
    assert row["golden_data_path"].endswith("golden/layer2.npy")
    # Twice the golden tensor: |d| = |a|.
    assert row["relative_euclidean_distance"] == pytest.approx(1.0)
    assert row["mean_relative_error"] == pytest.approx(1.0)
    assert row["cosine_similarity"] == pytest.approx(1.0)


def test_json_is_the_summary_and_nothing_else(runs):
    spoil(runs)
    done = compare("golden", "mine", "-o", "report", "--json")
    assert done.exit_code == 1
    data = strict(done.stdout)
    assert data["schema"] == "llmdbg.compare/1"
    assert (data["verdict"], data["culprit"]["golden"]) == ("diverged", "layer2")
    assert data["counts"]["pairs"] == data["counts"]["measured"] == 4
    assert data["report"]["directory"] == str(runs / "report")
    written = strict((runs / "report" / "summary.json").read_text())
    assert written["report"]["csv"] == "compare.csv"
    assert {k: v for k, v in written.items() if k != "report"} == {
        k: v for k, v in data.items() if k != "report"
    }


def test_one_and_two_threads_write_the_same_bytes(runs):
    spoil(runs)
    for threads in (1, 2):
        compare("golden", "mine", "-o", f"report{threads}", "--threads", threads)
    for name in NAMES:
        assert (runs / "report1" / name).read_bytes() == (runs / "report2" / name).read_bytes()


def test_without_output_a_dated_folder_is_made(runs):
    compare("golden", "mine")
    (made,) = runs.glob("llmdbg_compare_*")
    assert {p.name for p in made.iterdir()} == NAMES


def test_an_earlier_report_is_refused_before_the_work(runs):
    compare("golden", "mine", "-o", "report")
    before = (runs / "report" / "summary.json").read_bytes()
    spoil(runs)
    done = compare("golden", "mine", "-o", "report")
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert (runs / "report" / "summary.json").read_bytes() == before
    assert compare("golden", "mine", "-o", "report", "--force").exit_code == 1
    assert strict((runs / "report" / "summary.json").read_text())["verdict"] == "diverged"


@pytest.mark.parametrize(
    ("fail_on", "factor", "code"),
    [
        ("fail", 2.0, 1),
        ("never", 2.0, 0),
        # Six floors of float32: suspicious, not wrong.
        ("fail", 1 + 2.5e-6, 0),
        ("suspect", 1 + 2.5e-6, 1),
    ],
)
def test_what_counts_as_a_finding_is_chosen(runs, fail_on, factor, code):
    spoil(runs, layer=0, factor=factor)
    done = compare("golden", "mine", "-o", "report", "--fail-on", fail_on)
    assert done.exit_code == code, done.output


def test_the_flags_of_ait_work(runs):
    (runs / "gap.py").write_text(
        "def gap(golden, mine):\n    return abs(mine - golden).max(), ''\n"
    )
    spoil(runs, factor=2.0)
    done = compare(
        *("-gp", "golden", "-mp", "mine", "-o", "report", "-cl", "layer", "-l", "error"),
        *("-alg", "gap.py:gap"),
    )
    assert done.exit_code == 1, done.output
    frame = pl.read_csv("report/compare.csv")
    assert "gap" in frame.columns[22:]
    gap = frame.filter(golden_node="layer2")["gap"].item()
    assert gap == pytest.approx(abs(np.load("golden/layer2.npy")).max())


def test_two_algorithms_after_one_flag_as_ait_takes_them(runs):
    (runs / "two.py").write_text(
        "def one(golden, mine):\n    return 1, ''\ndef two(golden, mine):\n    return 'b', 'said'\n"
    )
    done = compare("-gp", "golden", "-mp", "mine", "-o", "r", "-alg", "two.py:one", "two.py:two")
    assert done.exit_code == 0, done.output
    frame = pl.read_parquet("r/compare.parquet")
    assert frame["one"].to_list() == [1.0] * 4
    assert frame["two"].to_list() == ["b"] * 4
    assert frame["cmp_fail_reason"].to_list() == ["two: said"] * 4


def test_an_algorithm_that_fails_costs_its_own_cells_only(runs):
    (runs / "bad.py").write_text("def bad(golden, mine):\n    raise ValueError('nope')\n")
    compare("golden", "mine", "-o", "r", "-alg", "bad.py:bad")
    frame = pl.read_parquet("r/compare.parquet")
    assert frame["cmp_fail_reason"].to_list() == ["bad: ValueError: nope"] * 4
    assert frame["cosine_similarity"].to_list() == [1.0] * 4


def test_records_without_counterpart_are_rows_and_counted(runs):
    np.save(runs / "golden" / "extra.npy", np.zeros(3, "f4"))
    np.save(runs / "mine" / "other.npy", np.zeros(3, "f4"))
    done = compare("golden", "mine", "-o", "report", "--json")
    counts = strict(done.stdout)["counts"]
    assert (counts["unmatched_golden"], counts["unmatched_candidate"]) == (1, 1)
    frame = pl.read_parquet("report/compare.parquet")
    reasons = dict(
        frame.filter(pl.col("candidate_node").is_null())["golden_node", "cmp_fail_reason"].rows()
    )
    assert list(reasons) == ["extra"]
    assert reasons["extra"].startswith("no counterpart in the candidate")


@pytest.mark.usefixtures("runs")
def test_two_files_are_a_comparison_too():
    done = compare("golden/layer0.npy", "mine/layer0.npy", "-o", "report", "--json")
    assert done.exit_code == 0, done.output
    assert strict(done.stdout)["counts"]["measured"] == 1


@pytest.mark.parametrize("keep", [0, 100, 200])
def test_a_cut_file_is_a_row_with_a_reason(runs, keep):
    path = runs / "mine" / "layer2.npy"
    path.write_bytes(path.read_bytes()[:keep])
    done = compare("golden", "mine", "-o", "report")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    frame = pl.read_parquet("report/compare.parquet")
    broken = frame.filter(pl.col("cmp_fail_reason").is_not_null())
    assert broken["golden_node"].to_list() == ["layer2"]
    assert frame.filter(golden_node="layer3")["state"].item() == "PASS"


def test_shapes_that_differ_are_a_finding(runs):
    np.save(runs / "mine" / "layer2.npy", np.zeros((64, 16), "f4"))
    data = strict(compare("golden", "mine", "-o", "report", "--json").stdout)
    assert (data["culprit"]["golden"], data["culprit"]["kind"]) == ("layer2", "shape")


def test_a_nan_is_a_finding_with_its_place(runs):
    path = runs / "mine" / "layer1.npy"
    values = np.load(path)
    values[3, 5] = np.nan
    np.save(path, values)
    data = strict(compare("golden", "mine", "-o", "report", "--json").stdout)
    assert (data["culprit"]["golden"], data["culprit"]["kind"]) == ("layer1", "nonfinite")
    row = pl.read_parquet("report/compare.parquet").filter(golden_node="layer1").row(0, named=True)
    assert (row["candidate_nan"], row["finiteness_mismatch_index"]) == (1, 3 * 64 + 5)


def test_nothing_in_common_is_an_error_that_says_what_there_is(runs):
    for path in (runs / "mine").iterdir():
        np.save(path, np.load(path)[:3, :5] + 1)
        path.rename(path.with_stem(f"block_{path.stem}_out"))
    done = compare("golden", "mine", "-o", "report")
    assert done.exit_code == 2
    assert "layer0" in done.stderr
    assert "block_layer0_out" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (runs / "report").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["missing", "mine"], "No such file or directory"),
        (["golden", "empty"], "no dump here"),
        (["golden"], "two paths are needed"),
        ([], "two paths are needed"),
        (["golden", "mine", "-gp", "golden"], "given twice"),
        (["golden", "mine", "-o", "file"], "file"),
        (["golden", "mine", "-o", "file/below"], "cannot write the report"),
        (["golden", "mine", "-alg", "missing.py:f"], "no such file"),
        (["golden", "mine", "-mf", "missing.json"], "missing.json"),
        (["golden", "mine", "-mf", "file"], "file"),
        (["golden", "mine", "--step", "3"], "no pair of that step"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(runs, args, words):
    (runs / "empty").mkdir()
    (runs / "file").write_text("mine")
    before = sorted(p.name for p in runs.rglob("*"))
    done = compare(*args)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in runs.rglob("*")) == before


def test_a_full_disk_keeps_the_answer_and_leaves_no_report(runs):
    spoil(runs)

    def no_more_than_2000_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = command("golden", "mine", "-o", "report", preexec_fn=no_more_than_2000_bytes)
    assert done.returncode == 2
    assert done.stdout.startswith("diverged: ")
    assert "cannot write the report: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in runs.iterdir()) == ["golden", "mine"]


def test_ctrl_c_ends_with_one_word_and_no_report(runs):
    (runs / "slow.py").write_text(
        "import pathlib, time\n"
        "def slow(golden, mine):\n"
        "    pathlib.Path('started').touch()\n"
        "    time.sleep(60)\n"
        "    return 0, ''\n"
    )
    line = [sys.executable, "-m", "llmdbg", "compare", "golden", "mine", "-o", "report"]
    process = subprocess.Popen(
        [*line, "-alg", "slow.py:slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (runs / "started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert (out, err) == ("", "llmdbg: interrupted\n")
    assert not (runs / "report").exists()


@pytest.mark.usefixtures("runs")
def test_a_reader_that_stops_reading_is_no_error():
    line = [sys.executable, "-m", "llmdbg", "compare", "golden", "mine", "-o", "report"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr


def test_compare_never_imports_torch(runs):
    script = (
        "import sys, llmdbg.cli as cli\n"
        f"sys.argv = ['llmdbg', 'compare', '{runs}/golden', '{runs}/mine', '-o', 'report']\n"
        "try:\n    cli.main()\n"
        "finally:\n    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("gate", "code"),
    [("max_relative_l2<=2", 0), ("relative_l2<1e-3", 1), ("fail<=0", 1), ("unmatched<=0", 0)],
)
def test_gates_alone_decide_when_no_state_fails(runs, gate, code):
    spoil(runs)
    done = compare("golden", "mine", "-o", "report", "--fail-on", "never", "--gate", gate)
    assert done.exit_code == code, done.output
    assert f"gate {gate} {'does not hold' if code else 'holds'}: " in done.stdout
    kept = strict((runs / "report" / "summary.json").read_text())["gates"]
    assert [(g["gate"], g["holds"]) for g in kept] == [(gate, not code)]


@pytest.mark.parametrize("gate", ["ratio", "max_speed<=3"])
def test_a_gate_that_is_none_is_an_error(runs, gate):
    done = compare("golden", "mine", "-o", "report", "--gate", gate)
    assert done.exit_code == 2
    assert not (runs / "report").exists()


def test_a_second_clean_run_is_the_noise_floor(runs):
    (runs / "clean").mkdir()
    rng = np.random.default_rng(1)
    for path in (runs / "golden").iterdir():
        noise = rng.normal(size=(16, 64)).astype("f4")
        for name, size in (("clean", 1e-3), ("mine", 1.2e-3)):
            np.save(runs / name / path.name, np.load(path) + np.float32(size) * noise)
    assert compare("golden", "mine", "-o", "a").exit_code == 1
    done = compare("golden", "mine", "-o", "b", "--calibrate", "clean")
    assert done.exit_code == 0, done.output
    assert (runs / "b" / "calibration.json").exists()
    done = compare("golden", "mine", "-o", "c", "--calibrate", runs / "b" / "calibration.json")
    assert done.exit_code == 0, done.output
    done = compare("golden", "mine", "-o", "d", "--calibrate", "nowhere")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
