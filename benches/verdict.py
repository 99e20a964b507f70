"""What the verdict adds to a comparison: seconds, processor seconds, memory.

Seconds are held against the whole command, and against the call of a program that has everything
imported and asks for no report.

The data are those of the engine's bench: Gemma 3 270M, 512 tokens, float32 against bfloat16, in a
warm page cache; clean, and with one fault (a projection scaled by 1 % in layer 9), whose evidence
is read again.
"""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from engine import captured, memory_row

import llmdbg
from bench import Row, seconds_of
from llmdbg import verdict as verdicts

ROUNDS = 5
HURT = "model.layers.9.mlp.up_proj"


def run(work: Path) -> list[Row]:
    golden, clean = captured(work)
    hurt = work / "gemma" / "hurt"
    if not (hurt / "manifest.json").exists():
        script = Path(__file__).with_name("real_model.py")
        subprocess.run([sys.executable, script, hurt.parent, "512", HURT], check=True)
    rows = []
    for name, candidate in (("clean run", clean), ("one fault", hurt)):
        compare = lambda path=candidate: llmdbg.compare(golden, path)  # noqa: E731
        # The least of each: what else runs on the machine only ever adds.
        rounds = [shares(compare) for _ in range(ROUNDS)]
        wall, cpu, rest_wall, rest_cpu = (min(column) for column in zip(*rounds, strict=True))
        command = command_seconds(golden, candidate, work / "verdict") - wall
        rows += [
            Row(f"verdict, {name}", f"{wall:.3f} s"),
            Row(
                "… to the command without it",
                f"{wall / command:.1%}",
                "< 10 %",
                wall < 0.1 * command,
            ),
            Row("… to the bare call without it", f"{wall / rest_wall:.1%}"),
            Row("… in processor seconds", f"{cpu / rest_cpu:.1%}", "< 10 %", cpu < 0.1 * rest_cpu),
            memory_row("… anonymous memory it adds", growth(compare)),
        ]
    return rows


def command_seconds(golden: Path, candidate: Path, report: Path) -> float:
    """Return the least wall seconds of the command, which writes its report."""
    command = [sys.executable, "-m", "llmdbg", "compare", golden, candidate, "-o", report]
    return min(seconds_of([*command, "--force"]) for _ in range(ROUNDS))


def shares(compare: Callable[[], Any]) -> tuple[float, float, float, float]:
    """Return wall and processor seconds of the verdict, and of everything else."""
    used = [0.0, 0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = now()
        found = judge(*args, **kwargs)
        used[:] = [u + b - a for u, a, b in zip(used, start, now(), strict=True)]
        return found

    judge = verdicts.judge
    with mock.patch.object(verdicts, "judge", timed):
        start = now()
        compare()
        whole = [b - a for a, b in zip(start, now(), strict=True)]
    return used[0], used[1], whole[0] - used[0], whole[1] - used[1]


def now() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def growth(compare: Callable[[], Any]) -> float:
    """Return the most anonymous bytes that judging holds beyond what was held before it."""
    peak = [0.0]

    def watched(*args: Any, **kwargs: Any) -> Any:
        done = threading.Event()
        before = anonymous()

        def watch() -> None:
            while not done.wait(0.002):
                peak[0] = max(peak[0], anonymous() - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            return judge(*args, **kwargs)
        finally:
            done.set()
            watcher.join()

    judge = verdicts.judge
    with mock.patch.object(verdicts, "judge", watched):
        compare()
    return peak[0]


def anonymous() -> float:
    with Path(f"/proc/{os.getpid()}/status").open() as status:
        line = next(line for line in status if line.startswith("RssAnon:"))
    return float(line.split()[1]) * 1024
