"""``llmdbg scan-anomaly --exec``: a command's model while it runs."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llmdbg.cli.errors import CLEAN, ERROR, FINDINGS

if TYPE_CHECKING:
    from llmdbg.cli.scan_anomaly import FailOn
    from llmdbg.scan.model import Finding


def run_live(
    command: str | None,
    words: list[str] | None,
    output: Path | None,
    *,
    atb: bool,
    probe_path: Path | None,
    root: str,
    stop: bool,
    as_json: bool,
    fail_on: FailOn,
) -> int:
    """Run a command and report what its model did.

    Returns
    -------
    int
        1 when something was found, 2 when the command failed or nothing could be watched, else 0.
    """
    from llmdbg.capture.atb_probe import find_probe
    from llmdbg.capture.atb_run import preloadable
    from llmdbg.capture.launch import CommandError, command_of, run, split_command
    from llmdbg.scan import live

    if (command is None) == (words is None):
        raise CommandError('give the command once: --exec "python run.py", or -- python run.py')
    child = split_command(command) if command is not None else command_of(words or [])
    base = {**os.environ, **child.variables}
    if atb:
        probe = find_probe(base, probe_path)
        folder = (output or Path.cwd()).absolute()
        with preloadable(probe) as (preload, _):
            environment = live.errcheck_environment(base, probe, folder, stop=stop, preload=preload)
            folder.mkdir(parents=True, exist_ok=True)
            earlier = live.result_files(folder)
            code = run(child, environment)
        findings = live.errcheck_findings(folder, earlier)
        notes = ["ATB looks for Inf, not NaN, and takes bfloat16 for float16"]
        return _answer(findings, notes, code, as_json=as_json, stopped=stop, fail_on=fail_on)
    with tempfile.TemporaryDirectory(prefix="llmdbg-trace-") as trace:
        environment = live.watch_environment(base, root=root, stop=stop)
        code = run(child, {**environment, "LLMDBG_TRACE": trace})
        findings, processes, forwards = live.watched(Path(trace))
    if not processes:
        ended = f"the command ended with exit code {code}; " if code else ""
        _say(f"{ended}no process of it called a torch model, or it died; nothing was watched")
        return ERROR
    notes = [f"{forwards} forwards in {processes} processes were watched"]
    return _answer(findings, notes, code, as_json=as_json, stopped=stop, fail_on=fail_on)


def _answer(
    findings: list[Finding],
    notes: list[str],
    code: int,
    *,
    as_json: bool,
    stopped: bool,
    fail_on: FailOn,
) -> int:
    from llmdbg.report.summary import to_json
    from llmdbg.report.text import printable
    from llmdbg.scan import health
    from llmdbg.scan.model import Scan
    from llmdbg.scan.summary import summary

    found = Scan((), "live", health.frame([]), tuple(findings), notes=tuple(notes))
    if as_json:
        sys.stdout.write(to_json(summary(found, {})))
    else:
        if not findings:
            answer = "nothing that is not finite was found"
            sys.stdout.write(
                f"{answer} before the command failed\n" if code else f"clean: {answer}\n"
            )
        for finding in findings:
            sys.stdout.write(printable(finding.sentence) + "\n")
            for line in finding.evidence:
                sys.stdout.write(f"  {printable(line)}\n")
        for note in notes:
            sys.stdout.write(f"note: {note}\n")
    sys.stdout.flush()
    if code and not (findings and stopped):
        _say(f"the command ended with exit code {code}")
    if findings and fail_on != "never":
        return FINDINGS
    if findings and stopped:
        return CLEAN
    return ERROR if code else CLEAN


def _say(message: str) -> None:
    sys.stderr.write(f"llmdbg: {message}\n")
