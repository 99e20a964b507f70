"""Scanning a command while it runs: torch by hooks, ATB by its own overflow check."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from llmdbg.capture.atb_probe import Probe, ProbeEra
from llmdbg.capture.torch_run import SITE
from llmdbg.errors import UserError
from llmdbg.scan.injected import SETTINGS
from llmdbg.scan.model import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_RESULT = re.compile(r"Overflow detected! Operator name: ([A-Za-z0-9_]+):([A-Za-z0-9_]+)")
_RESULT_FILES = ("ait_overflow_res_*.txt", "msit_overflow_res_*.txt")
_MOST_BYTES = 1 << 16


def watch_environment(base: Mapping[str, str], *, root: str, stop: bool) -> dict[str, str]:
    """Give the environment in which every Python process watches the first model it calls."""
    paths = [path for path in base.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {
        **base,
        SETTINGS: json.dumps({"root": root, "stop": stop}),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(SITE), *paths])),
    }


def watched(trace: Path) -> tuple[list[Finding], int, int]:
    """Read what the command's processes found.

    Returns
    -------
    tuple of list of Finding, int and int
        The findings, the processes that ran a model, and their forwards.
    """
    findings, processes, forwards = [], 0, 0
    for path in sorted(trace.glob("watch.*")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a process that died while writing it
        processes += 1
        forwards += facts["forwards"]
        if facts["finding"]:
            findings.append(_finding(facts["finding"]))
    return findings, processes, forwards


def _finding(facts: dict[str, Any]) -> Finding:
    return Finding(
        Level(facts["level"]), facts["kind"], facts["node"], facts["step"], facts["rank"],
        facts["sentence"], tuple(facts["evidence"]), None, facts["details"],
    )  # fmt: skip


def errcheck_environment(
    base: Mapping[str, str], probe: Probe, output: Path, *, stop: bool, preload: Path
) -> dict[str, str]:
    """Give the environment in which ATB checks its operators for overflow.

    Raises
    ------
    UserError
        This probe has no such check.
    """
    if probe.era is ProbeEra.JSON or "ATB_CHECK_TYPE" not in probe.variables:
        raise UserError(
            "this probe has no overflow check (those of CANN 8.5 and mindstudio-probe lost it); "
            f"name an older one with --probe, or dump and scan the dump: {probe.path}"
        )
    loaded = [path for path in base.get("LD_PRELOAD", "").split(":") if path]
    return {
        **base,
        "ATB_CHECK_TYPE": "1",
        "ATB_EXIT": "1" if stop else "0",
        # Joined with a slash by the probe; the first one crashes without a dump type.
        "ATB_OUTPUT_DIR": str(output.resolve()),
        "ATB_DUMP_TYPE": base.get("ATB_DUMP_TYPE", "-"),
        "LD_PRELOAD": ":".join([str(preload), *loaded]),
    }


def result_files(output: Path) -> dict[Path, tuple[int, int]]:
    """List the probe's result files with time and size, to tell later which are new."""
    found = {}
    for pattern in _RESULT_FILES:
        for path in output.glob(pattern):
            status = path.stat()
            found[path] = status.st_mtime_ns, status.st_size
    return dict(sorted(found.items()))


def errcheck_findings(output: Path, earlier: Mapping[Path, tuple[int, int]]) -> list[Finding]:
    """Read back what ATB reported since `earlier`.

    One build of the probe overwrites without truncating, so what follows the name is ignored.
    """
    findings = []
    for path, status in result_files(output).items():
        if earlier.get(path) == status:
            continue
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
        pid = path.stem.rsplit("_", 1)[-1]
        match = _RESULT.search(text)
        name, kernel = match.groups() if match else (text.strip()[:200], "")
        findings.append(
            Finding(
                Level.ERROR,
                "npu_overflow",
                name,
                None,
                None,
                f"ATB reports an overflow in {name}" + (f", kernel {kernel}" if kernel else ""),
                (f"process {pid}, {path}", "without --exit ATB keeps only the last one it found"),
                None,
                {"kernel": kernel, "process": pid, "file": str(path)},
            )
        )
    return findings
