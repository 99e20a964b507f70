"""The command before it does anything: help, version, unknown options, what it imports."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "polars", "numpy", "rich", "ml_dtypes")


def run(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


def llmdbg(*args):
    return run("-m", "llmdbg", *args)


def test_help_names_the_commands():
    done = llmdbg("--help")
    assert done.returncode == 0
    assert "  compare " in done.stdout
    assert "  show " in done.stdout


@pytest.mark.parametrize("command", ["compare", "show"])
def test_the_help_of_a_command_has_an_example(command):
    done = llmdbg(command, "--help")
    assert done.returncode == 0
    assert f"  llmdbg {command} " in done.stdout


def test_version():
    assert llmdbg("--version").stdout.startswith("llmdbg 0.")


def test_an_unknown_option_is_an_error_that_offers_the_near_one():
    done = llmdbg("compare", "a", "b", "--forse")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import llmdbg", (*HEAVY, "llmdbg._core")),
        ("from llmdbg.cli.app import app", (*HEAVY, "llmdbg._core")),
        ("import llmdbg.comparison", HEAVY),
    ],
)
def test_nothing_heavy_is_imported_before_a_command_runs(statement, heavy):
    script = f"import sys\n{statement}\nprint([m for m in {heavy} if m in sys.modules])"
    assert run("-c", script).stdout.strip() == "[]"


def test_a_mistake_of_ours_exits_with_the_code_of_an_error():
    script = (
        "import llmdbg.cli.app as app, llmdbg.cli as cli\n"
        "def broken(**_): raise ZeroDivisionError\n"
        "app.app = broken\n"
        "cli.main()\n"
    )
    done = run("-c", script)
    assert done.returncode == 2
    assert "please report" in done.stderr
