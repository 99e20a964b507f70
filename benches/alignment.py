"""Recall and precision of the aligner on generated runs whose truth is known, kind by kind.

    python benches/alignment.py [SEEDS | FIRST-END] [KIND …]

Not part of `make bench`: it measures quality, not speed. Exit code 1 when a target is missed.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.align.variations import KINDS, Score, score, write

TARGET = 0.99


def main(arguments: list[str]) -> int:
    first, _, end = (arguments[0] if arguments else "20").rpartition("-")
    seeds = range(int(first or 0), int(end))
    kinds = arguments[1:] or list(KINDS)
    total, cases = Score(), 0
    for kind in kinds:
        own = Score()
        for seed in seeds[:4] if "deep" in kind else seeds:
            with tempfile.TemporaryDirectory(prefix="llmdbg-align-") as path:
                own.add(score(write(KINDS[kind](seed), path)))
            cases += 1
        total.add(own)
        print(line(kind, own), flush=True)
    print(line(f"all {cases} runs", total))
    return int(total.precision < TARGET or total.recall < TARGET or total.sure_and_wrong > 0)


def line(name: str, result: Score) -> str:
    return (
        f"{name:<16} recall {result.recall:.4f}  precision {result.precision:.4f}  "
        f"wrong above 0.9: {result.sure_and_wrong}  ({result.pairs} pairs, {result.wanted} wanted)"
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
