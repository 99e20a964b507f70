"""Capture of every module of Gemma 3 270M: llmdbg against msprobe, and its writer against dd.

Added time is the captured forward less the plain one: both of the same process, run in turns, the
fastest of as many.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msprobe_compare
import torch

from bench import Row
from llmdbg import capture_torch

TOKENS = 512
_WRITTEN = 1 << 30
_PIECE = 64 << 20


def run(work: Path) -> list[Row]:
    """Measure the modes, msprobe's two, and the rate of writing."""
    ours = _ours(work / "capture")
    bin_folder = msprobe_compare.environment(work)
    theirs = {
        task: msprobe_compare.dump(bin_folder, work / f"msprobe_{task}", "float32", TOKENS, task, 3)
        for task in ("tensor", "statistics")
    }
    shutil.rmtree(work / "msprobe_tensor", ignore_errors=True)
    plain, captured = ours["plain"], ours["captured"]
    added = {mode: max(captured[mode] - plain[mode], 1e-3) for mode in ("full", "statistics")}
    beyond = {t: found["dumped_seconds"] - found["plain_seconds"] for t, found in theirs.items()}
    full, statistics = beyond["tensor"] / added["full"], beyond["statistics"] / added["statistics"]
    sketch = captured["sketch"] / plain["sketch"]
    mine, dd = _write_rates(work)
    size = f"{ours['tensors']} tensors, {ours['bytes'] / 1e9:.2f} GB"
    return [
        Row(f"plain forward of {TOKENS} tokens, float32", f"{min(plain.values()):.2f} s"),
        Row(f"added by llmdbg, full ({size})", f"{added['full']:.2f} s"),
        Row("added by msprobe, tensor", f"{beyond['tensor']:.2f} s"),
        Row("added by msprobe / by llmdbg, full", f"{full:.1f}×", "≥ 3×", full >= 3),
        Row("added by llmdbg, statistics", f"{added['statistics']:.2f} s"),
        Row("added by msprobe, statistics", f"{beyond['statistics']:.2f} s"),
        Row(
            "added by msprobe / by llmdbg, statistics",
            f"{statistics:.1f}×",
            "≥ 2×",
            statistics >= 2,
        ),
        Row("with sketches / plain forward", f"{sketch:.2f}×", "≤ 1.3×", sketch <= 1.3),
        Row("with hashes / plain forward", f"{captured['hash'] / plain['hash']:.2f}×"),
        Row("full dump, written and flushed", f"{mine / 1e9:.2f} GB/s"),
        Row("dd conv=fdatasync, as many bytes", f"{dd / 1e9:.2f} GB/s"),
        Row("llmdbg / dd", f"{mine / dd:.0%}", "≥ 70 %", mine / dd >= 0.7),
    ]


def _ours(out: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("llmdbg_dump.py")
    done = subprocess.run(
        [sys.executable, script, out, "float32", str(TOKENS)],
        check=True,
        capture_output=True,
        text=True,
    )
    shutil.rmtree(out, ignore_errors=True)
    timings: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return timings


def _write_rates(work: Path) -> tuple[float, float]:
    """Return bytes per second of a capture that computes nothing, and of dd; the best of three."""
    mine, dd = [], []
    tensors = [torch.randn(_PIECE // 4) for _ in range(_WRITTEN // _PIECE)]
    for _ in range(3):
        folder, file = work / "written", work / "dd"
        shutil.rmtree(folder, ignore_errors=True)
        file.unlink(missing_ok=True)
        os.sync()
        start = time.perf_counter()
        with capture_torch(torch.nn.Identity(), folder, outputs=False) as capture:
            for tensor in tensors:
                capture._model(tensor)
        for path in (folder / "data").iterdir():
            with path.open("rb") as written:
                os.fdatasync(written.fileno())
        mine.append(_WRITTEN / (time.perf_counter() - start))
        os.sync()
        start = time.perf_counter()
        pieces = _WRITTEN // (32 << 20)
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={file}", "bs=32M", f"count={pieces}", "conv=fdatasync"],
            check=True,
            capture_output=True,
        )
        dd.append(_WRITTEN / (time.perf_counter() - start))
    shutil.rmtree(work / "written", ignore_errors=True)
    (work / "dd").unlink(missing_ok=True)
    return max(mine), max(dd)
