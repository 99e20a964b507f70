"""Splitting and running a command."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from llmdbg.capture.launch import CommandError, command_of, run, split_command


@pytest.mark.parametrize(
    ("text", "variables", "argv"),
    [
        ("python run.py", {}, ("python", "run.py")),
        ("python run.py --model 'my model'", {}, ("python", "run.py", "--model", "my model")),
        ('python "a b.py" --x="1 2"', {}, ("python", "a b.py", "--x=1 2")),
        (r"python a\ b.py", {}, ("python", "a b.py")),
        ("A=1 B='x y' python run.py", {"A": "1", "B": "x y"}, ("python", "run.py")),
        ("python run.py A=1", {}, ("python", "run.py", "A=1")),
        ("A= python", {"A": ""}, ("python",)),
        ("echo '$HOME && a | b; `c` <d> (e)'", {}, ("echo", "$HOME && a | b; `c` <d> (e)")),
        (r'echo "\$HOME" \&', {}, ("echo", "$HOME", "&")),
        ("bash -c 'cd x && python y.py'", {}, ("bash", "-c", "cd x && python y.py")),
        ("python run.py ''", {}, ("python", "run.py", "")),
        ("python a \\\n  b", {}, ("python", "a", "b")),
        (r'python "a\b\\c" a\\b', {}, ("python", r"a\b\c", r"a\b")),
        ("python 'it'\"'\"'s'", {}, ("python", "it's")),
        ("python a~b x[0] a#b {1,2}x", {}, ("python", "a~b", "x[0]", "a#b", "{1,2}x")),
        ("./模型 run", {}, ("./模型", "run")),
        ("  python   run.py \n", {}, ("python", "run.py")),
    ],
)
def test_splits_as_a_shell_does(text, variables, argv):
    command = split_command(text)
    assert (command.variables, command.argv) == (variables, argv)
    # A real shell agrees.
    arguments = (
        text.strip().partition(" python ")[2] if variables else text.strip().partition(" ")[2]
    )
    if arguments:
        printed = subprocess.run(
            ["sh", "-c", "printf '%s\\0' " + arguments], capture_output=True, check=True
        ).stdout
        assert tuple(printed.decode().split("\0")[:-1]) == argv[1:]


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("cd x && python y.py", "&"),
        ("python x.py | tee log", "|"),
        ("python x.py > log", ">"),
        ("python x.py; true", ";"),
        ("python $SCRIPT", "$"),
        ('python "$SCRIPT"', "$"),
        ("python `which x`", "`"),
        ("(python x.py)", "("),
        ("python ~/run.py", "~"),
        ("python *.py", "*"),
        ("python a\npython b", "a line break"),
    ],
)
def test_shell_syntax_is_named_not_guessed(text, sign):
    with pytest.raises(CommandError) as error:
        split_command(text)
    assert f"needs a shell for {sign}; give it one: llmdbg dump … -- bash -c " in str(error.value)


@pytest.mark.parametrize("text", ["", "  ", "A=1", "''", "python 'run.py"])
def test_incomplete_command(text):
    with pytest.raises(CommandError):
        split_command(text)


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_exit_code_is_the_commands(code):
    command = command_of([sys.executable, "-c", f"raise SystemExit({code})"])
    assert run(command, os.environ) == code


def test_exit_code_of_a_signal():
    command = command_of(["sh", "-c", "kill -SEGV $$"])
    assert run(command, os.environ) == 128 + signal.SIGSEGV


def test_program_is_looked_up_in_the_commands_own_path(tmp_path):
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert run(command_of(["mine"]), environment) == 9


def test_no_such_program():
    with pytest.raises(CommandError, match="no such program: nosuch"):
        run(command_of(["nosuch"]), os.environ)


def _until_ready(process):
    assert process.stdout.readline() == "ready\n"


def test_ctrl_c_reaches_the_command_and_we_wait_for_it():
    # A terminal sends SIGINT to the whole foreground group; so does this.
    child = (
        "import signal, sys, time\n"
        "def stop(*_):\n    time.sleep(0.3); print('saved', flush=True); sys.exit(7)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    parent = (
        "import os, sys\nfrom llmdbg.capture.launch import command_of, run\n"
        "sys.exit(run(command_of(sys.argv[1:]), os.environ))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, sys.executable, "-c", child],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    _until_ready(process)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (7, "saved\n")


def test_termination_is_passed_on():
    child = "import time; print('ready', flush=True); time.sleep(60)"
    parent = (
        "import os, sys\nfrom llmdbg.capture.launch import command_of, run\n"
        "sys.exit(run(command_of(sys.argv[1:]), os.environ))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, sys.executable, "-c", child],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    _until_ready(process)
    time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_while_the_command_is_being_started_is_passed_on(number, monkeypatch):
    start = subprocess.Popen

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), number)
        return start(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    command = command_of([sys.executable, "-c", "import time; time.sleep(60)"])
    # The tests themselves may run under nohup.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert run(command, os.environ) == 128 + number
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_ignored():
    # As under nohup.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code = "import signal; raise SystemExit(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
        assert run(command_of([sys.executable, "-c", code]), os.environ) == 1
    finally:
        signal.signal(signal.SIGHUP, before)


def read_until(terminal, word):
    seen = b""
    while word not in seen:
        seen += os.read(terminal, 4096)
    return seen.decode()


def test_the_command_has_the_terminal():
    # In a terminal of its own, typed at; Ctrl-C is typed, too.
    child = (
        "import os, sys, time\n"
        "print(sys.stdin.isatty(), os.tcgetpgrp(0) == os.getpgrp(), flush=True)\n"
        "name = input('name? ')\n"
        "try:\n    print('hello', name, flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('saved', flush=True)\n    sys.exit(5)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os._exit(run(command_of([sys.executable, "-c", child]), os.environ))
        finally:
            os._exit(99)
    assert "True True" in read_until(terminal, b"name?")
    os.write(terminal, b"you\n")
    read_until(terminal, b"hello you")
    os.write(terminal, b"\x03")
    read_until(terminal, b"saved")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 5


def test_standard_input_goes_through():
    parent = (
        "import os, sys\nfrom llmdbg.capture.launch import command_of, run\n"
        "sys.exit(run(command_of(['cat']), os.environ))"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], input="typed", capture_output=True, text=True, check=True
    )
    assert done.stdout == "typed"
