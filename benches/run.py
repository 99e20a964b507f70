"""Every bench, as ratios within one run: `make bench`, or `make bench ARGS="startup engine"`.

Exit code 1 when a target is missed.
"""

import importlib
import shutil
import sys
import tempfile
from pathlib import Path

BENCHES = [
    "startup",
    "engine",
    "capture",
    "scan",
    "scan_faults",
    "msprobe_compare",
    "alignment_speed",
    "verdict",
    "report",
    "faults",
]


def main(names: list[str]) -> int:
    sys.path.insert(0, str(Path(__file__).parent))
    unknown = sorted(set(names) - set(BENCHES))
    if unknown:
        print(
            f"no bench named {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr
        )
        return 2
    work = Path(tempfile.mkdtemp(prefix="llmdbg-bench-"))
    missed = 0
    try:
        for name in names or BENCHES:
            print(f"\n{name}", flush=True)
            for row in importlib.import_module(name).run(work):
                mark = {True: "ok", False: "MISSED", None: ""}[row.holds]
                missed += row.holds is False
                print(f"  {row.name:<58} {row.measured:>12}  {row.target:<10} {mark}", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
