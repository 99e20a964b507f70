"""Running the command line as a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def run_llmdbg(
    *args: object, env: dict[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `llmdbg` and give back the finished process.

    When the time is over, everything it started ends with it: a grandchild left alive would hold
    the pipes, and reading them would never end.
    """
    command = [sys.executable, "-c", "from llmdbg.cli import main; main()", *map(str, args)]
    process = subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"not done after {timeout} s: {command}\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)
