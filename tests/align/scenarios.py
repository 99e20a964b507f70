"""Writes the dumps that `docs/scenarios` is about: `python -m tests.align.scenarios DIR`."""

import sys
from dataclasses import replace
from pathlib import Path

from tests.align.decoder import Config
from tests.align.sides import Atb, Torch
from tests.align.variations import Case, write

FAULT = ("L2.gate", "scaled")
WHOLE = Case(
    "scenario",
    7,
    config=Config(layers=4),
    golden=Torch(weights=True),
    candidate=Atb(era="C'"),
    passes=4,
    fault=FAULT,
    checkpoint=True,
)
CASES = {
    ("torch_dump", "atb_dump"): WHOLE,
    ("atb_fp16", "atb_bf16"): replace(
        WHOLE,
        golden=WHOLE.candidate,
        golden_dtype="float16",
        candidate_dtype="bfloat16",
        fault=("L1.o", "scaled"),
    ),
    ("atb_float", "atb_int8"): replace(
        WHOLE,
        golden=WHOLE.candidate,
        candidate=replace(WHOLE.candidate, int8=True),
        golden_dtype="float16",
        fault=("L3.down", "scaled"),
    ),
}


def main(directory):
    """Write every page's dumps into a folder that does not exist yet."""
    directory.mkdir(parents=True)
    for (golden, candidate), case in CASES.items():
        written = write(case, directory)
        written.golden.rename(directory / golden)
        written.candidate.rename(directory / candidate)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
