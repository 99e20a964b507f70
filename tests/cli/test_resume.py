"""A comparison that was interrupted goes on where it was."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

PAIRS = 30
# Rows are kept at once here; a run of seconds keeps none.
MAIN = """
import sys
from llmdbg import resume
from llmdbg.cli import main
resume.AFTER_MS = 0
main()
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two folders of tensors, and a measure that stops on the first pair when told to."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("golden", "mine"):
        (tmp_path / name).mkdir()
    for i in range(PAIRS):
        values = rng.normal(size=(4, 16)).astype("f4")
        np.save(tmp_path / "golden" / f"layer{i}.npy", values)
        np.save(tmp_path / "mine" / f"layer{i}.npy", values * np.float32(1 + 1e-3 * i))
    (tmp_path / "own.py").write_text(
        "import os, pathlib, time\n"
        "def own(golden, mine):\n"
        "    if 'SLOW' in os.environ:\n"
        "        pathlib.Path('reached').touch()\n"
        "        time.sleep(60)\n"
        "    return float(golden[0, 0]), ''\n"
    )
    return tmp_path


def command(output):
    compare = ["compare", "golden", "mine", "-alg", "own.py:own", "-o", output]
    return [sys.executable, "-c", MAIN, *compare]


def finish(output):
    return subprocess.run(command(output), capture_output=True, text=True, check=False)


def interrupt(runs, output, signal_number):
    slow = subprocess.Popen(
        command(output),
        env={**os.environ, "SLOW": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (runs / "reached").exists():
        assert slow.poll() is None, slow.stderr.read()
        time.sleep(0.01)
    slow.send_signal(signal_number)
    _, said = slow.communicate(timeout=30)
    return slow.returncode, said


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_after_ctrl_c_the_same_command_goes_on_and_writes_the_same_report(runs):
    code, said = interrupt(runs, "report", signal.SIGINT)
    assert code == 2
    assert f"interrupted; {PAIRS} finished pairs are kept in" in said
    assert "report.journal: the same command goes on from there" in said
    assert not (runs / "report").exists()
    done = finish("report")
    assert f"resumed: {PAIRS} of {PAIRS} pairs were already measured" in done.stderr
    assert not (runs / "report.journal").exists()
    whole = finish("whole")
    assert whole.stderr == ""
    assert whole.returncode == done.returncode
    assert files(runs / "report") == files(runs / "whole")


@pytest.mark.parametrize("share", [0.4, 0.75])
def test_a_killed_run_that_left_half_a_journal_is_finished(runs, share):
    code, _ = interrupt(runs, "report", signal.SIGKILL)
    assert code == -signal.SIGKILL
    journal = runs / "report.journal"
    kept = journal.read_bytes()
    journal.write_bytes(kept[: int(len(kept) * share)])
    done = finish("report")
    resumed = int(done.stderr.split("resumed: ")[1].split(" of ")[0])
    assert 0.3 * PAIRS < resumed < 0.8 * PAIRS
    finish("whole")
    assert files(runs / "report") == files(runs / "whole")
    assert not journal.exists()


def test_a_file_that_changed_since_is_measured_again(runs):
    interrupt(runs, "report", signal.SIGKILL)
    np.save(runs / "mine" / "layer3.npy", np.zeros((4, 16), "f4"))
    done = finish("report")
    assert f"resumed: {PAIRS - 1} of {PAIRS} pairs" in done.stderr
    finish("whole")
    assert files(runs / "report") == files(runs / "whole")


def test_a_journal_that_does_not_fit_is_ignored_with_a_word(runs):
    interrupt(runs, "report", signal.SIGKILL)
    for path in (runs / "golden").iterdir():
        np.save(path, np.load(path) + 1)
    done = finish("report")
    assert "is of other files or options: none of its rows are used" in done.stderr
    assert not (runs / "report.journal").exists()


def test_a_file_of_the_users_is_left_alone(runs):
    (runs / "report.journal").write_bytes(b"dear diary")
    done = finish("report")
    assert "report.journal is not used: it is a file of something else" in done.stderr
    assert (runs / "report" / "summary.json").exists()
    assert (runs / "report.journal").read_bytes() == b"dear diary"


def test_a_place_that_cannot_be_written_costs_only_the_journal(runs):
    (runs / "report.journal").mkdir()
    done = finish("report")
    assert "report.journal is not used: " in done.stderr
    assert (runs / "report" / "summary.json").exists()
