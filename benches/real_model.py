"""Capture Gemma 3 270M twice, in float32 and in bfloat16: what the benches measure on.

    python real_model.py OUT [TOKENS [MODULE]]

Writes the dumps `OUT/float32` and `OUT/bfloat16`, every module's inputs and outputs; with MODULE
`OUT/hurt` alone, in bfloat16, that module's result being 1 % too large.
"""

import copy
import sys
from pathlib import Path

import torch

from llmdbg import capture_torch, demo


def main(out: Path, tokens: int = 512, hurt: str = "") -> None:
    model, _, _ = demo._gemma(print)
    ids = (torch.arange(tokens) % 1000 + 100)[None]
    runs = [("hurt", torch.bfloat16)] if hurt else []
    for name, dtype in runs or [("float32", torch.float32), ("bfloat16", torch.bfloat16)]:
        run = copy.deepcopy(model).to(dtype)
        if hurt:
            run.get_submodule(hurt).register_forward_hook(lambda _m, _a, y: y * 1.01)
        with torch.no_grad(), capture_torch(run, out / name):
            run(ids, use_cache=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2] if sys.argv[2:] else 512), *sys.argv[3:])
