"""``llmdbg scan-anomaly`` as its user meets it."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import numpy as np
import polars as pl
import pytest

from tests.scan.files import Run


def llmdbg(*words, cwd=None, command="scan-anomaly"):
    return subprocess.run(
        [sys.executable, "-m", "llmdbg", command, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def dump(tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    bad = x.copy()
    bad[1, 2] = np.nan
    return Run().call("<b>a", [x], [x]).call("b", [x], [bad]).write(tmp_path / "d")


def test_answer_first_then_rows_then_the_next_command(dump, tmp_path):
    done = llmdbg(dump, "-o", tmp_path / "r")
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and done.stderr == ""
    assert lines[0].startswith("b makes NaN from finite inputs in step 0 of rank 0")
    assert lines[-1] == f"next:   llmdbg show {dump} --node b --step 0"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "report.html", "scan.csv", "scan.parquet", "summary.json",
    ]  # fmt: skip
    page = (tmp_path / "r/report.html").read_text()
    assert "<b>a" not in page and "\\u003cb>a" in page
    frame = pl.read_parquet(tmp_path / "r/scan.parquet")
    assert frame["nan"].to_list() == [0, 0, 0, 1] and frame["first_nan"][3] == 34


def test_json_and_fail_on(dump, tmp_path):
    done = llmdbg(dump, "--json", "-o", tmp_path / "r", "--fail-on", "never", "--no-html")
    data = json.loads(done.stdout)
    assert done.returncode == 0
    assert (data["schema"], data["verdict"]) == ("llmdbg.scan/1", "anomalous")
    assert data["origin"]["node"] == "b" and data["counts"]["error"] == 1
    assert "html" not in data["report"]


@pytest.mark.parametrize(
    ("gate", "met"),
    [
        # One NaN in one of four tensors.
        ("nan<=0", "gate nan<=0 does not hold: 1 at b output 0"),
        ("nan<=1", "gate nan<=1 holds: 1 at b output 0"),
        ("mean_nan<0.25", "gate mean_nan<0.25 does not hold: 0.25"),
        ("error<=0", "gate error<=0 does not hold: 1"),
        ("unread<=0", "gate unread<=0 holds: 0"),
    ],
)
def test_gates_decide_beside_the_findings(dump, tmp_path, gate, met):
    words = (dump, "-o", tmp_path / "r", "--no-html", "--fail-on", "never", "--gate", gate)
    done = llmdbg(*words)
    assert met in done.stdout.splitlines()
    holds = " holds: " in met
    assert done.returncode == (0 if holds else 1)
    assert json.loads((tmp_path / "r/summary.json").read_text())["gates"][0]["holds"] is holds


def test_junit_and_markdown(dump, tmp_path):
    words = ("-o", tmp_path / "r", "--no-html", "--also", "junit", "--also", "markdown")
    llmdbg(dump, *words, "--gate", "zero<=0")
    suite = ET.parse(tmp_path / "r/junit.xml").getroot()
    # Four tensors and a gate; the finding is a tensor's.
    assert suite.attrib["tests"] == "5" and suite.attrib["failures"] == "1"
    failed = [case for case in suite if case.find("failure") is not None]
    assert [case.attrib["classname"] for case in failed] == ["b"]
    assert failed[0].attrib["name"] == "step 0 rank 0 output 0"
    assert failed[0].find("failure").attrib["type"] == "nan"
    text = (tmp_path / "r/report.md").read_text()
    assert text.startswith("**✗ anomalous**: b makes NaN from finite inputs in step 0 of rank 0")
    # The name of an operator stays text.
    assert "\\<b\\>a input 0" in text and "<b>a" not in text


def test_a_clean_dump_is_zero(tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    done = llmdbg(Run().call("a", [x], [x]).write(tmp_path / "d"), "-o", tmp_path / "r")
    assert done.returncode == 0 and done.stdout.startswith("clean: no anomaly in 2 tensors")


def test_an_earlier_report_is_kept(dump, tmp_path):
    llmdbg(dump, "-o", tmp_path / "r")
    again = llmdbg(dump, "-o", tmp_path / "r")
    assert again.returncode == 2 and "--force replaces it" in again.stderr
    assert llmdbg(dump, "-o", tmp_path / "r", "--force").returncode == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a dump is needed"),
        (["nowhere"], "No such file"),
        (["d", "--step", "7"], "steps: 0, ranks: 0"),
        (["d", "--exit"], "add --exec"),
        (["d", "--gate", "speed<=3"], "no measure 'speed' for the gate 'speed<=3'"),
        (["d", "--gate", "speed"], "not a gate: 'speed'"),
        (["--gate", "nan<=0", "--exec", "true"], "bounds the tensors of a dump"),
        (["d", "--exec", "true"], "either dumps or a command"),
        (["d", "--save-calibration", "c.json"], "needs several runs"),
    ],
)
def test_mistakes_are_one_line(dump, words, message):
    done = llmdbg(*words, cwd=dump.parent)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_has_examples():
    assert "llmdbg scan-anomaly dumps/candidate" in llmdbg("--help").stdout


def test_the_spread_of_runs_is_the_noise_floor_of_a_comparison(tmp_path):
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)

    def run(name, noise, seed):
        unequal = 1 + noise * np.random.default_rng(seed).standard_normal(x.shape)
        y = (x * unequal).astype(np.float32)
        calls = Run().call("a", [x], [x]).call("b", [x], [y]).call("c", [y], [np.tanh(y)])
        return calls.write(tmp_path / name)

    golden, *others = [run(name, 1e-3, seed) for seed, name in enumerate("xyz")]
    floors = tmp_path / "calibration.json"
    words = ("--save-calibration", floors, "-o", tmp_path / "scan", "--no-html")
    found = llmdbg(golden, *others, *words)
    assert found.returncode == 1 and found.stdout.startswith("b gives unequal results")

    def compared(candidate, *words):
        out = tmp_path / f"{candidate.name}{len(words)}"
        words = (golden, candidate, *words, "-o", out, "--no-html")
        return llmdbg(*words, command="compare")

    # As far away as the runs are from each other, which without their spread is a fault.
    usual, faulty = run("usual", 1e-3, 8), run("faulty", 5e-2, 9)
    assert compared(usual).returncode == 1
    assert compared(usual, "--calibrate", floors).returncode == 0
    done = compared(faulty, "--calibrate", floors)
    assert done.returncode == 1 and done.stdout.startswith("diverged: b ")
