"""Capture Gemma 3 270M twice, in float32 and in bfloat16: what the benches measure on.

    python real_model.py OUT [TOKENS]

Writes the dumps `OUT/float32` and `OUT/bfloat16`, every module's inputs and outputs.
"""

import copy
import sys
from pathlib import Path

import torch

from llmdbg import capture_torch, demo


def main(out: Path, tokens: int = 512) -> None:
    model, _, _ = demo._gemma(print)
    ids = (torch.arange(tokens) % 1000 + 100)[None]
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        run = copy.deepcopy(model).to(dtype)
        with torch.no_grad(), capture_torch(run, out / name):
            run(ids, use_cache=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
