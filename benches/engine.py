"""The comparing engine against a raw read of the same bytes, its memory, and its threads.

The data are two captures of Gemma 3 270M, 512 tokens, in float32 and bfloat16, in a warm page
cache. The raw read is `os.preadv` of both tensors of every pair by as many threads as the engine
has, each into one reused buffer of the size that reads fastest. A second one reads each byte only
once: modules that share a tensor share its bytes in the dump, and the engine measures such pairs
once. The pairs are cut into slices, those of the same bytes into the same one; within one process
the runs of a slice take turns, and a figure is the sum over the slices of the fastest run, which
other work on the machine disturbs least.
"""

import functools
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import Row, seconds_of
from llmdbg import _core
from llmdbg.dump import Dump, open_dump

THREADS = min(2, os.cpu_count() or 1)
ROUNDS = 9
SLICES = 12
BUFFERS = [256 << 10, 1 << 20, 2 << 20]
MEMORY_LIMIT = 300e6

Place = tuple[str, int, int]


def run(work: Path) -> list[Row]:
    golden, candidate = captured(work)
    sides = open_dump(golden), open_dump(candidate)
    pairs = _core.align(sides[0].core, sides[1].core).columns()
    groups = pairs_by_place(sides, pairs)
    wall, cpu = Counter[str](), Counter[str]()
    for first in range(SLICES):
        some = dict(itertools.islice(groups.items(), first, None, SLICES))
        slice_wall, slice_cpu = interleaved(slice_runs(sides, pairs, some))
        wall.update(slice_wall)
        cpu.update(slice_cpu)
    read = min(wall[f"read {size}"] for size in BUFFERS)
    read_cpu = min(cpu[f"read {size}"] for size in BUFFERS)
    read_once = min(wall[f"once {size}"] for size in BUFFERS)
    report = work / "engine_reports"
    command = whole_command(golden, candidate, report)
    over, slowdown = command - wall["all"], wall["one thread"] / wall["all"]
    same = reports_equal(golden, candidate, report)
    memory = peak_memory(golden, candidate, report / "memory")
    large = peak_memory(*large_pair(work), report / "large")
    with_kl, without = wall["all"] / read, wall["no kl"] / read
    once = sum(a[2] + b[2] for a, b in groups)
    every = sum((a[2] + b[2]) * len(numbers) for (a, b), numbers in groups.items())
    count = f"{len(pairs['golden'])} pairs, {every / 1e9:.2f} GB, {THREADS} threads"
    return [
        Row(f"raw read: {count}", f"{read:.3f} s"),
        Row("engine, every measure", f"{wall['all']:.3f} s"),
        Row("engine, every measure / raw read", f"{with_kl:.1f}×", "≤ 3×", with_kl <= 3),
        Row("engine without KL / raw read", f"{without:.1f}×", "≤ 2×", without <= 2),
        Row(f"raw read, each byte once: {once / 1e9:.2f} GB", f"{read_once:.3f} s"),
        Row("engine, every measure / that", f"{wall['all'] / read_once:.1f}×"),
        Row("engine without KL / that", f"{wall['no kl'] / read_once:.1f}×"),
        Row("… in seconds of CPU, every measure", f"{cpu['all'] / read_cpu:.1f}×"),
        Row("… in seconds of CPU, without KL", f"{cpu['no kl'] / read_cpu:.1f}×"),
        Row("whole command, beyond the engine", f"{over:.2f} s", "≤ 1 s", over <= 1),
        Row(f"1 thread / {THREADS} threads", f"{slowdown:.2f}×"),
        Row("reports of 1 and 2 threads, byte by byte", "equal" if same else "differ", "", same),
        memory_row("peak anonymous memory, this dump", memory),
        memory_row("peak anonymous memory, one pair of 2 × 4 GB", large),
    ]


def memory_row(name: str, peak: float) -> Row:
    return Row(name, f"{peak / 1e6:.0f} MB", "< 300 MB", peak < MEMORY_LIMIT)


def captured(work: Path) -> tuple[Path, Path]:
    """Return the two dumps, capturing them when they are not there yet."""
    out = work / "gemma"
    dumps = out / "float32", out / "bfloat16"
    if not all((dump / "manifest.json").exists() for dump in dumps):
        script = Path(__file__).with_name("real_model.py")
        subprocess.run([sys.executable, script, out], check=True, capture_output=True)
    return dumps


def slice_runs(
    sides: tuple[Dump, Dump],
    pairs: dict[str, list[int]],
    groups: dict[tuple[Place, Place], list[int]],
) -> dict[str, Callable[[], None]]:
    """Return what is timed, for some of the pairs."""
    numbers = sorted(number for group in groups.values() for number in group)
    golden, candidate = ([pairs[name][i] for i in numbers] for name in ("golden", "candidate"))

    def engine(threads: int, *, kl: bool) -> None:
        _core.compare_pairs(sides[0].core, sides[1].core, golden, candidate, threads=threads, kl=kl)

    pair_of = {number: pair for pair, group in groups.items() for number in group}
    every = [place for number in numbers for place in pair_of[number]]
    once = [place for pair in groups for place in pair]
    return {
        **{f"read {size}": raw_read(every, size, THREADS) for size in BUFFERS},
        **{f"once {size}": raw_read(once, size, THREADS) for size in BUFFERS},
        "all": lambda: engine(THREADS, kl=True),
        "no kl": lambda: engine(THREADS, kl=False),
        "one thread": lambda: engine(1, kl=True),
    }


def pairs_by_place(
    sides: tuple[Dump, Dump], pairs: dict[str, list[int]]
) -> dict[tuple[Place, Place], list[int]]:
    """Return the byte ranges of both sides of every pair, and the numbers of the pairs there."""
    golden, candidate = (
        [found[i] for i in pairs[name]]
        for found, name in zip(map(places, sides), ("golden", "candidate"), strict=True)
    )
    groups: dict[tuple[Place, Place], list[int]] = {}
    for number, pair in enumerate(zip(golden, candidate, strict=True)):
        groups.setdefault(pair, []).append(number)
    return groups


def places(dump: Dump) -> list[Place]:
    """Return file, first byte and length of every record, from the safetensors headers."""
    headers: dict[str, tuple[int, dict[str, dict[str, list[int]]]]] = {}
    columns = dump.core.columns()
    found = []
    for path, key in zip(columns["path"], columns["key"], strict=True):
        if path not in headers:
            with Path(path).open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                headers[path] = length + 8, json.loads(file.read(length))
        base, header = headers[path]
        start, end = header[key]["data_offsets"]
        found.append((path, base + start, end - start))
    return found


@functools.cache
def opened(path: str) -> int:
    return os.open(path, os.O_RDONLY)


def raw_read(places: list[Place], size: int, threads: int) -> Callable[[], None]:
    """Return a function that reads the ranges, in pieces of `size` bytes, and keeps nothing."""
    jobs = [
        (opened(path), start + at, min(size, length - at))
        for path, start, length in places
        for at in range(0, length, size)
    ]
    buffers = [memoryview(bytearray(size)) for _ in range(threads)]

    def work(first: int) -> None:
        buffer = buffers[first]
        for file, start, length in jobs[first::threads]:
            os.preadv(file, [buffer[:length]], start)

    def read() -> None:
        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return read


def interleaved(
    runs: dict[str, Callable[[], None]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the fewest wall and CPU seconds of each run, taken in turns."""
    wall = dict.fromkeys(runs, math.inf)
    cpu = dict.fromkeys(runs, math.inf)
    for _ in range(ROUNDS):
        for name, one in runs.items():
            before, start = cpu_seconds(), time.perf_counter()
            one()
            wall[name] = min(wall[name], time.perf_counter() - start)
            cpu[name] = min(cpu[name], cpu_seconds() - before)
    return wall, cpu


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def whole_command(golden: Path, candidate: Path, report: Path) -> float:
    command = [sys.executable, "-m", "llmdbg", "compare", golden, candidate, "--no-html"]
    command += ["--force", "-o", report / "command"]
    return min(seconds_of(command) for _ in range(5))


def reports_equal(golden: Path, candidate: Path, report: Path) -> bool:
    folders = []
    for threads in (1, 2):
        folder = report / f"threads{threads}"
        command = [sys.executable, "-m", "llmdbg", "compare", golden, candidate]
        seconds_of([*command, "--force", "--threads", str(threads), "-o", folder])
        folders.append(folder)
    one, two = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    return bool(one) and one == two


def large_pair(work: Path) -> tuple[Path, Path]:
    """Return two tensor files of 4 GiB whose first rows are noise; the rest is a hole."""
    rng = np.random.default_rng(0)
    files = []
    for name in ("golden", "candidate"):
        path = work / f"large_{name}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(32768, 32768))
        array[:256] = rng.standard_normal((256, 32768), dtype=np.float32)
        del array
        files.append(path)
    return files[0], files[1]


def peak_memory(golden: Path, candidate: Path, report: Path) -> float:
    """Return the most anonymous resident bytes that comparing takes, as a whole command."""
    command = [sys.executable, "-m", "llmdbg", "compare", golden, candidate, "--no-html"]
    process = subprocess.Popen(
        [*command, "--force", "-o", report], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.002)
    return peak
