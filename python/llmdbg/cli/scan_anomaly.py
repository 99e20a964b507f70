"""``llmdbg scan-anomaly``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from llmdbg.cli.command import COMMAND
from llmdbg.cli.errors import CLEAN, ERROR, FINDINGS, reports_errors
from llmdbg.cli.output import Format, LogLevel, deliver, formats
from llmdbg.cli.progress import progress as progress_bar

if TYPE_CHECKING:
    from llmdbg.scan.model import Scan

EXAMPLES = """Examples:

\b
  llmdbg scan-anomaly dumps/candidate
  llmdbg scan-anomaly model.safetensors --json
  llmdbg scan-anomaly run1 run2 run3 --save-calibration calibration.json
  llmdbg scan-anomaly dumps/fp16 --gate 'headroom_bits>=2' --also junit
  llmdbg scan-anomaly --exec "python run.py"
  llmdbg scan-anomaly --type overflow --exit -o out --exec "bash run_atb.sh"

Exit code: 0 clean, 1 findings, 2 error."""


class FailOn(StrEnum):
    """What makes the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"


class CheckType(StrEnum):
    """What ATB checks while it runs."""

    OVERFLOW = "overflow"


@reports_errors
def scan_anomaly(
    ctx: typer.Context,
    dumps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DUMP…",
            help="A dump, tensor file or checkpoint; several are recordings of one run.",
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="Watch this command's model while it runs."),
    ] = None,
    kind: Annotated[
        CheckType | None,
        typer.Option(
            "--type", help="With --exec: let ATB check its operators, as ait llm errcheck does."
        ),
    ] = None,
    stop: Annotated[
        bool, typer.Option("--exit", help="Stop the command at the first one found.")
    ] = False,
    probe_path: Annotated[
        Path | None,
        typer.Option("--probe", metavar="PATH", help="ATB's probe library, or its folder."),
    ] = None,
    root: Annotated[
        str,
        typer.Option(
            "--root",
            metavar="PATTERN",
            help="Class name of the torch model.  [default: the first called with submodules]",
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Report folder, new or empty; in any other folder one named "
            "llmdbg_scan_<time> is made.  [default: .]",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the report that --output holds.")
    ] = False,
    also: Annotated[
        list[Format] | None, typer.Option("--also", help="Write this report too; repeatable.")
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option(
            "--html/--no-html", help="Write report.html.  [default: where plotly is installed]"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")
    ] = False,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="From which level on the exit code is 1.")
    ] = FailOn.ERROR,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="BOUND",
            help="Exit with 1 unless it holds: 'headroom_bits>=2', 'max_abs_max<=1e4' (of every "
            "tensor), 'warning<=0', 'unread<=0'; repeatable.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--save-calibration", metavar="FILE", help="Save the spread of several runs here too."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=0, metavar="N", help="Worker threads; 0: all cores.")
    ] = 0,
    step: Annotated[
        list[int] | None,
        typer.Option("--step", metavar="N", help="Look at this step only; repeatable."),
    ] = None,
    rank: Annotated[
        list[int] | None,
        typer.Option("--rank", metavar="N", help="Look at this rank only; repeatable."),
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option("-l", "--log-level", help="warning and above hide progress.")
    ] = LogLevel.INFO,
) -> int:
    """Find NaN, overflow, near-overflow and overwritten memory in a dump or a live run."""
    from llmdbg.errors import UserError
    from llmdbg.report.destination import destination
    from llmdbg.scan import scan

    after = ctx.meta.get(COMMAND)
    if command is not None or after is not None:
        if dumps:
            raise UserError(f"either dumps or a command; leave out {dumps[0]!r}, or --exec")
        if gate:
            raise UserError("--gate bounds the tensors of a dump; a command that runs leaves none")
        from llmdbg.cli.scan_live import run_live

        return run_live(
            command,
            after,
            output,
            atb=kind is not None,
            probe_path=probe_path,
            root=root,
            stop=stop,
            as_json=as_json,
            fail_on=fail_on,
        )
    if not dumps:
        raise UserError("a dump is needed: llmdbg scan-anomaly DUMP; or a command: --exec COMMAND")
    if kind is not None or stop:
        raise UserError("--type and --exit are for a command that runs: add --exec")
    if calibration is not None and len(dumps) < 2:
        raise UserError("--save-calibration needs several runs: llmdbg scan-anomaly RUN1 RUN2 …")
    target = destination(output, force=force, command="scan")
    quiet = as_json or log_level.is_quiet
    with progress_bar("scanning", shown=not quiet and sys.stderr.isatty()) as progress:
        found = scan(
            *dumps, step=step, rank=rank, threads=threads, gates=gate or [], progress=progress
        )
    return _show(
        found,
        target,
        force=force,
        wanted=formats(also, page=page),
        calibration=calibration,
        as_json=as_json,
        fail_on=fail_on,
    )


def _show(
    found: Scan,
    destination: Path,
    *,
    force: bool,
    wanted: list[str],
    calibration: Path | None,
    as_json: bool,
    fail_on: FailOn,
) -> int:
    from llmdbg.report.summary import to_json
    from llmdbg.scan import folder, terminal
    from llmdbg.scan.summary import summary

    def write() -> dict[str, str]:
        files = folder.write(found, destination, force=force, formats=wanted)
        if calibration is not None and found.calibration is not None:
            calibration.write_text(found.calibration, encoding="utf-8")
        return files

    def show(stream: IO[str], files: dict[str, str]) -> None:
        if as_json:
            stream.write(to_json(summary(found, files)))
        else:
            terminal.render(found, stream, files=files)

    deliver(write, show)
    return exit_code(found, fail_on)


def exit_code(found: Scan, fail_on: FailOn) -> int:
    """Return 0 for a clean scan, 1 for findings, 2 when nothing could be read."""
    counts = found.counts
    if counts["tensors"] and not counts["read"]:
        return ERROR
    if not all(gate.holds for gate in found.gates):
        return FINDINGS
    if fail_on is FailOn.NEVER:
        return CLEAN
    if counts["error"] or (fail_on is FailOn.WARNING and counts["warning"]):
        return FINDINGS
    return CLEAN


scan_anomaly.__doc__ = f"{scan_anomaly.__doc__}\n\n{EXAMPLES}"
