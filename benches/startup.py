"""How long a command takes before it does anything."""

import sys
from pathlib import Path

import numpy as np

from bench import Row, seconds_of


def run(work: Path) -> list[Row]:
    """Time `--help` and a compare of two small folders, each the fastest of seven."""
    llmdbg = Path(sys.executable).with_name("llmdbg")
    golden, candidate = work / "small" / "golden", work / "small" / "candidate"
    for folder in (golden, candidate):
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(8):
            values = np.random.default_rng(i).normal(size=(16, 64)).astype("f4")
            np.save(folder / f"layer{i}_output.npy", values)
    help_seconds = min(seconds_of([llmdbg, "--help"]) for _ in range(7))
    small = min(
        seconds_of([llmdbg, "compare", golden, candidate, "-o", work / "small" / f"report{i}"])
        for i in range(7)
    )
    return [
        Row("llmdbg --help", f"{help_seconds * 1000:.0f} ms", "< 150 ms", help_seconds < 0.15),
        Row("llmdbg compare, two small dumps", f"{small * 1000:.0f} ms", "< 400 ms", small < 0.4),
    ]
