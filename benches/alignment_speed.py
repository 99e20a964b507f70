"""Time and memory of aligning 10,000 operations with 10,000 of other names, blocks or not."""

import json
import subprocess
import sys
from pathlib import Path

from bench import Row

SECONDS, MEGABYTES = 2.0, 500
HEADER = (
    "Device and PID,Execution Count,Op Name,Op Type,Op Id,Input/Output,Index,Dtype,Format,Shape,"
    "Max,Min,Mean,Norm,Tensor Path\n"
)
KINDS = [
    ("RmsNormOperation", "Norm", 64),
    ("LinearOperation", "MatMul", 192),
    ("RopeOperation", "Rotary", 64),
    ("SelfAttentionOperation", "FlashAttention", 64),
    ("LinearOperation", "MatMul", 64),
    ("ElewiseOperation", "Add", 64),
    ("RmsNormOperation", "Norm", 64),
    ("LinearOperation", "MatMul", 256),
    ("ActivationOperation", "Silu", 128),
    ("LinearOperation", "MatMul", 64),
]
PROBE = """
import json, resource, sys, time
from llmdbg import _core
golden, candidate = _core.open_dump(sys.argv[1]), _core.open_dump(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
pairs = len(_core.align(golden, candidate))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, peak / 1024, pairs]))
"""


def run(work: Path) -> list[Row]:
    """Align statistics of an ATB run with those of another fusion and other names."""
    rows = []
    for name, layers, inside in [("200 blocks", 200, 50), ("no blocks", 10_000, 1)]:
        dumps = [_dump(work / name.replace(" ", "_"), side, layers, inside) for side in (0, 1)]
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *map(str, dumps)],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, megabytes, pairs = json.loads(done.stdout)
        what = f"align 10,000 × 10,000 operations, {name}"
        rows.append(Row(what, f"{seconds:.2f} s", f"< {SECONDS:.0f} s", seconds < SECONDS))
        rows.append(
            Row(
                f"  peak memory ({pairs} pairs)",
                f"{megabytes:.0f} MB",
                f"< {MEGABYTES} MB",
                megabytes < MEGABYTES,
            )
        )
    return rows


def _dump(work: Path, side: int, layers: int, inside: int) -> Path:
    """Statistics of every operation's output, as msprobe's probe writes them."""
    directory = work / str(side) / "atb_dump_data" / "data" / "0_1" / "0"
    directory.mkdir(parents=True)
    lines = [HEADER]
    for layer in range(layers):
        for k in range(inside):
            kind = KINDS[(layer * inside + k) % len(KINDS)]
            name, ids = kind[side], str(layer)
            if inside > 1:
                name, ids = f"{('DecoderLayer', 'Block')[side]}/{name}", f"{layer}_{k}"
            shape = f"8x{kind[2]}"
            op_type = kind[side]
            cells = ["0_1", "0", name, op_type, ids, "output", "0", "float16", "nd", shape]
            lines.append(",".join([*cells, "1.0", "-1.0", "0.0", "9.0", "N/A"]) + "\n")
    (directory / "statistic.csv").write_text("".join(lines))
    return work / str(side)
