"""``llmdbg compare``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from llmdbg.cli.errors import CLEAN, ERROR, FINDINGS, reports_errors
from llmdbg.cli.output import Format, LogLevel, deliver, formats
from llmdbg.cli.progress import progress as progress_bar

if TYPE_CHECKING:
    from llmdbg.result import Result

EXAMPLES = """Examples:

\b
  llmdbg compare dumps/golden dumps/candidate
  llmdbg compare golden.npy candidate.bin --json
  llmdbg compare torch_dump atb_dump --weights model/ --level layer
  llmdbg compare -gp GOLDEN -mp MINE -o report -alg mine.py:my_measure
  llmdbg compare GOLDEN MINE --calibrate CLEAN --gate 'max_ratio<=3' --fail-on never

Exit code: 0 clean, 1 findings (or undecided), 2 error."""


class FailOn(StrEnum):
    """What makes the exit code 1."""

    FAIL = "fail"
    SUSPECT = "suspect"
    NEVER = "never"


class Shadow(StrEnum):
    """When operators are computed again."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Level(StrEnum):
    """What is compared; the last three are `ait llm`'s words for op, op and token."""

    LAYER = "layer"
    OP = "op"
    TOKEN = "token"
    MODULE = "module"
    API = "api"
    LOGITS = "logits"


_LEVELS = {Level.MODULE: "op", Level.API: "op", Level.LOGITS: "token"}


@reports_errors
def compare(
    golden: Annotated[
        str | None,
        typer.Argument(metavar="GOLDEN", help="Dump or tensor file of the run that is right."),
    ] = None,
    candidate: Annotated[
        str | None,
        typer.Argument(metavar="CANDIDATE", help="Dump or tensor file of the run in question."),
    ] = None,
    golden_path: Annotated[
        str | None, typer.Option("-gp", "--golden-path", metavar="PATH", help="The same as GOLDEN.")
    ] = None,
    my_path: Annotated[
        str | None, typer.Option("-mp", "--my-path", metavar="PATH", help="The same as CANDIDATE.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Report folder, new or empty; in any other folder one named "
            "llmdbg_compare_<time> is made.  [default: .]",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the report that --output holds.")
    ] = False,
    also: Annotated[
        list[Format] | None,
        typer.Option("--also", help="Write this report too; repeatable."),
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
        FailOn,
        typer.Option("--fail-on", help="From which row state on the exit code is 1."),
    ] = FailOn.FAIL,
    shadow: Annotated[
        Shadow,
        typer.Option(
            "--shadow",
            help="Compute operators again, in float64, from the candidate's own inputs: "
            "auto where something is in question or tensors are few, on wherever possible.",
        ),
    ] = Shadow.AUTO,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="CLEAN",
            help="A second clean run (other dtype, batch or kernels): how far it is from GOLDEN is "
            "each tensor's noise floor, kept as calibration.json, which may be given instead.",
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="BOUND",
            help="Exit with 1 unless it holds: 'max_ratio<=3', 'relative_l2<0.01' (every pair), "
            "'fail<=0', 'unmatched<=0'; repeatable.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=0, metavar="N", help="Worker threads; 0: all cores.")
    ] = 0,
    kl: Annotated[
        bool, typer.Option("--kl/--no-kl", help="Measure the KL divergence (a second pass).")
    ] = True,
    step: Annotated[
        list[int] | None,
        typer.Option("--step", metavar="N", help="Compare this step only; repeatable."),
    ] = None,
    rank: Annotated[
        list[int] | None,
        typer.Option("--rank", metavar="N", help="Compare this rank only; repeatable."),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "-mf",
            "--mapping-file",
            "--op-mapping-file",
            "--mapping",
            metavar="FILE",
            help="An edited alignment.json, or ait's op_mapping_file.json (or its folder).",
        ),
    ] = None,
    algorithms: Annotated[
        list[str] | None,
        typer.Option(
            "-alg",
            "--custom-algorithms",
            metavar="FILE.py:FUNC",
            help="A measure of your own: FUNC(golden, mine) -> (value, message); repeatable. "
            "It runs that file.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="PATH",
            help="Checkpoint that both runs loaded (.safetensors or a folder of them): tells "
            "operators of different names apart.",
        ),
    ] = None,
    ignore_topology: Annotated[
        bool,
        typer.Option(
            "--ignore-topology",
            help="Go on, by names and tensors alone, where a dump's topology is not its run's.",
        ),
    ] = False,
    level: Annotated[
        Level,
        typer.Option(
            "-cl",
            "--level",
            "--cmp-level",
            help="layer: blocks first, then the operators of the one to blame; op: all "
            "operators; token: the logits of each step.",
        ),
    ] = Level.OP,
    log_level: Annotated[
        LogLevel, typer.Option("-l", "--log-level", help="warning and above hide progress.")
    ] = LogLevel.INFO,
) -> int:
    """Compare two runs and name the first operator that goes wrong."""
    from llmdbg.comparison import compare as run
    from llmdbg.errors import UserError
    from llmdbg.report.destination import destination, journal
    from llmdbg.report.text import printable

    # `-alg a.py:f b.py:g`, as ait takes it, leaves the second one in GOLDEN's place.
    custom = [*(algorithms or [])]
    if custom and golden_path and my_path:
        custom += [path for path in (golden, candidate) if path]
        golden = candidate = None
    golden = _given_once(golden, golden_path, "-gp")
    candidate = _given_once(candidate, my_path, "-mp")
    if golden is None:
        raise UserError("two paths are needed: llmdbg compare GOLDEN CANDIDATE")
    target = destination(output, force=force)
    quiet = as_json or log_level.is_quiet
    with progress_bar("comparing", shown=not quiet and sys.stderr.isatty()) as progress:
        result = run(
            golden,
            candidate,
            threads=threads,
            kl=kl,
            mapping=mapping,
            weights=weights,
            custom=custom,
            step=step,
            rank=rank,
            ignore_topology=ignore_topology,
            level=_LEVELS.get(level, level.value),
            shadow=shadow.value,
            calibrate=calibrate,
            gates=gate or [],
            journal=journal(output, target),
            progress=progress,
        )
    for notice in result.notices:
        sys.stderr.write(f"llmdbg: {printable(notice)}\n")

    def show(stream: IO[str], files: dict[str, str]) -> None:
        if as_json:
            stream.write(result.to_json())
        else:
            from llmdbg.report import terminal

            terminal.render(result.report, stream, files=files)

    wanted = formats(also, page=page)
    deliver(lambda: result.write(target, force=force, formats=wanted), show)
    return _exit_code(result, fail_on)


def _given_once(positional: str | None, option: str | None, flag: str) -> str | None:
    from llmdbg.errors import UserError

    if positional and option:
        raise UserError(f"given twice: {positional!r} and {flag} {option!r}; leave one out")
    return positional or option


def _exit_code(result: Result, fail_on: FailOn) -> int:
    counts = result.report.counts
    if result.verdict == "undecided" and not counts["measured"]:
        return ERROR
    if not all(gate.holds for gate in result.gates):
        return FINDINGS
    if fail_on is FailOn.NEVER:
        return CLEAN
    if result.verdict != "clean":
        return FINDINGS
    if fail_on is FailOn.SUSPECT and counts["states"]["SUSPECT"]:
        return FINDINGS
    return CLEAN


compare.__doc__ = f"{compare.__doc__}\n\n{EXAMPLES}"
