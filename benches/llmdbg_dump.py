"""Capture one forward of Gemma 3 270M with llmdbg, in each mode.

    python llmdbg_dump.py OUT DTYPE TOKENS

Prints one line of JSON: by mode the seconds of the plain forward beside it and of the captured one,
each the fastest of as many; for "full" also tensors and bytes.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import torch

from llmdbg import capture_torch, open_dump
from llmdbg.demo import _gemma

MODES = ("full", "statistics", "sketch", "hash")
RUNS = 3


def main(out: Path, dtype: str, tokens: int) -> None:
    model, _, _ = _gemma(lambda _text: None)
    model = model.to(getattr(torch, dtype))
    ids = (torch.arange(tokens) % 1000 + 100)[None]
    plain, found = {mode: [] for mode in MODES}, {mode: [] for mode in MODES}
    with torch.no_grad():
        model(input_ids=ids)
        for _ in range(RUNS):
            for mode in MODES:
                # Beside each other, so that what else the machine does hits both.
                start = time.perf_counter()
                model(input_ids=ids)
                plain[mode].append(time.perf_counter() - start)
                folder = out / mode
                shutil.rmtree(folder, ignore_errors=True)
                os.sync()
                start = time.perf_counter()
                with capture_torch(model, folder, mode=mode):
                    model(input_ids=ids)
                found[mode].append(time.perf_counter() - start)
    files = [p for p in (out / "full").rglob("*") if p.is_file()]
    timings = {
        "plain": {mode: min(seconds) for mode, seconds in plain.items()},
        "captured": {mode: min(seconds) for mode, seconds in found.items()},
        "tensors": len(open_dump(out / "full")),
        "bytes": sum(p.stat().st_size for p in files),
    }
    print("\n" + json.dumps(timings))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
