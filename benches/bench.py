"""What every bench shares: a row of the printed table, and the timing of a whole command."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured figure, with its target where it has one."""

    name: str
    measured: str
    target: str = ""
    holds: bool | None = None


def seconds_of(command: list[str | Path], accept: tuple[int, ...] = (0, 1)) -> float:
    """Wall seconds of a command that exits with one of `accept`."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    elapsed = time.perf_counter() - start
    if done.returncode not in accept:
        raise RuntimeError(f"{command} exited with {done.returncode}: {done.stderr[-2000:]}")
    return elapsed
