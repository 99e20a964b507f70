"""The scan of a tensor against the bare positional read of the same bytes, and its memory.

Both use two threads and the same cached file; the read takes one reused buffer per thread, of the
size that reads fastest. They take turns, and of both the fastest turn counts, which other work on
the machine disturbs least.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from bench import Row
from llmdbg import _core

THREADS = 2
BUFFERS = [256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20]
BYTES = 256 << 20
ROUNDS = int(os.environ.get("LLMDBG_BENCH_ROUNDS", 15))
LARGE = int(os.environ.get("LLMDBG_BENCH_LARGE_BYTES", 8 << 30))
DTYPES = {
    "float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8",
}  # fmt: skip


def read_seconds(path: Path, size: int) -> float:
    """Seconds to read a file by position with `THREADS` threads into reused buffers."""
    share = path.stat().st_size // THREADS
    file = os.open(path, os.O_RDONLY)
    buffers = [[bytearray(size)] for _ in range(THREADS)]

    def work(thread: int) -> None:
        first = thread * share
        for at in range(first, first + share, size):
            os.preadv(file, buffers[thread], at)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    os.close(file)
    return elapsed


def scan_seconds(path: Path) -> float:
    """Seconds to scan the one tensor of a file with `THREADS` threads."""
    start = time.perf_counter()
    _core.scan_tensors(path, [None], threads=THREADS)
    return time.perf_counter() - start


def tensor_of(dtype: str) -> np.ndarray:
    """Values like an activation's: normal, a few channels far larger, no two rows alike."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tile = np.random.default_rng(0).standard_normal((4096, 2048), dtype=np.float32)
    tile[:, ::512] *= 100
    if kind.kind in "iu":
        tile = (tile * 30).clip(-127 if kind.kind == "i" else 0, 127)
    tile = tile.astype(kind)
    copies = BYTES // tile.nbytes
    return np.concatenate([np.roll(tile, 3 * copy, axis=1) for copy in range(copies)])


def ratio(path: Path) -> tuple[float, float]:
    """Scan speed over read speed, and the read speed in bytes per second."""
    scan_seconds(path)
    scans, reads = [], []
    for _ in range(ROUNDS):
        for size in BUFFERS:
            # As many turns of either: the fastest of more turns is faster.
            scans.append(scan_seconds(path))
            reads.append(read_seconds(path, size))
    return min(reads) / min(scans), path.stat().st_size / min(reads)


def memory(path: Path) -> tuple[int, float]:
    """Peak resident bytes of a process that scans the whole file, and its seconds."""
    code = (
        "import re, sys, time\n"
        "from llmdbg import _core\n"
        "start = time.perf_counter()\n"
        f"_core.scan_tensors(sys.argv[1], [None], threads={THREADS})\n"
        # Not ru_maxrss: it starts with the peak of the process that forked this one.
        "status = open('/proc/self/status').read()\n"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) * 1024\n"
        "print(peak, time.perf_counter() - start)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], check=True, capture_output=True, text=True
    )
    peak, seconds = done.stdout.split()
    return int(peak), float(seconds)


def sparse_tensor(path: Path, size: int) -> None:
    """Write a `.npy` file of zeros that takes no room on disk."""
    rows = size // (4096 * 4)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 4096)).flush()


def run(work: Path) -> list[Row]:
    """Measure every common dtype, then the memory on a large file."""
    rows = []
    for dtype in DTYPES:
        path = work / "scan.safetensors"
        write_safetensors(path, DTYPES[dtype], tensor_of(dtype))
        share, speed = ratio(path)
        path.unlink()
        name = f"scan / read, {dtype}, {THREADS} threads (read {speed / 1e9:.1f} GB/s)"
        rows.append(Row(name, f"{share:.0%}", "≥ 60 %", share >= 0.6))
    large = work / "large.npy"
    sparse_tensor(large, LARGE)
    peak, seconds = memory(large)
    large.unlink()
    name = f"memory to scan {LARGE / 1e9:.1f} GB (in {seconds:.1f} s)"
    rows.append(Row(name, f"{peak / 1e6:.0f} MB", "< 300 MB", peak < 300e6))
    return rows


def write_safetensors(path: Path, dtype: str, array: np.ndarray) -> None:
    """Write a file of one tensor."""
    entry = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
    head = json.dumps({"x": entry}).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        array.view(np.uint8).tofile(file)


if __name__ == "__main__":
    from run import main

    sys.exit(main(["scan"]))
