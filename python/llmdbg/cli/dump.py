"""``llmdbg dump``."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmdbg.cli.command import COMMAND, TakesCommand
from llmdbg.cli.errors import reports_errors
from llmdbg.cli.many import fill, spread
from llmdbg.cli.output import LogLevel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmdbg.capture.atb_run import AtbRun
    from llmdbg.capture.injector import TorchSettings
    from llmdbg.capture.launch import Command

DEFAULT_SEED = "2024"
EXAMPLES = """Examples:

\b
  llmdbg dump --exec "python run.py --model 'my model'" -o dumps/npu
  llmdbg dump -o dumps/npu --type tensor model layer -er 0,2 -- torchrun run.py
  llmdbg dump --dry-run -- python run.py

Exit code: that of the command; 127 without such a program, 126 when it may not be run, 2 for a
mistake in the options."""


class DumpType(StrEnum):
    """What to record: `torch`, or what ATB's probe writes."""

    TORCH = "torch"
    TENSOR = "tensor"
    MODEL = "model"
    LAYER = "layer"
    OP = "op"
    KERNEL = "kernel"
    CPU_PROFILING = "cpu_profiling"
    ONNX = "onnx"
    STATS = "stats"


class DumpCommand(TakesCommand):
    """Accepts `--type a b c`, a bare `-seed`, and a command after `--`."""

    def spelled(self, args: list[str]) -> list[str]:
        """Return the options with one word each."""
        args = spread(args, {"--type"}, set(DumpType))
        return fill(args, {"-seed", "--seed"}, DEFAULT_SEED)


@reports_errors
def dump(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    command: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="The command, as you would type it."),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where the dump goes.")
    ] = Path(),
    types: Annotated[
        list[DumpType] | None,
        typer.Option(
            "--type",
            help="What to record; several words may follow. torch records torch modules, all "
            "others are ATB's.  [default: tensor model where there is ATB, else torch]",
        ),
    ] = None,
    only_description: Annotated[
        bool, typer.Option("-sd", "--only-save-desc", help="Shapes and dtypes without data.")
    ] = False,
    ids: Annotated[
        str,
        typer.Option("-ids", "--save-operation-ids", help="Operation ids, such as 2,3_1."),
    ] = "",
    executions: Annotated[
        str,
        typer.Option(
            "-er",
            "--execute-range",
            help="Executions from 0: pairs first,last[,first,last], a number, all, or none.",
        ),
    ] = "0,0",
    children: Annotated[
        str,
        typer.Option(
            "-child", "--save-operation-child", metavar="BOOL", help="Also operations inside."
        ),
    ] = "True",
    when: Annotated[
        int | None,
        typer.Option(
            "-time",
            "--save-time",
            help="0 before, 1 after, 2 both, 3 inputs before and outputs after execution.  "
            "[default: 3 where the probe can, else 1]",
        ),
    ] = None,
    names: Annotated[
        str,
        typer.Option(
            "-opname",
            "--operation-name",
            help="Name prefixes of ATB operations, or patterns of torch modules; comma separated.",
        ),
    ] = "",
    tiling: Annotated[
        bool, typer.Option("-tiling", "--save-tiling", help="Also the kernels' tiling data.")
    ] = False,
    part: Annotated[
        int, typer.Option("-stp", "--save-tensor-part", help="0 inputs, 1 outputs, 2 both.")
    ] = 2,
    device: Annotated[
        str, typer.Option("-device", "--device-id", help="This device only; any number.")
    ] = "",
    log_level: Annotated[
        LogLevel, typer.Option("-l", "--log-level", help="What the probe prints.")
    ] = LogLevel.INFO,
    seed: Annotated[
        int | None,
        typer.Option(
            "-seed", "--seed", help=f"Deterministic Ascend kernels; {DEFAULT_SEED} when bare."
        ),
    ] = None,
    deduplicate: Annotated[
        bool, typer.Option("-symlink", "--enable-symlink", help="Write equal tensors once.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "-config", "--config", metavar="FILE", help="The probe's own JSON configuration."
        ),
    ] = None,
    probe_path: Annotated[
        Path | None,
        typer.Option("--probe", metavar="PATH", help="ATB's probe library, or its folder."),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Also the parameters of a torch model.")
    ] = False,
    root: Annotated[
        str,
        typer.Option(
            "--root",
            metavar="PATTERN",
            help="Class name of the torch model.  [default: the first called with submodules]",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be set and run; start nothing.")
    ] = False,
) -> int:
    """Record a run of a command without editing it.

    ATB models are recorded by ATB's probe, torch models by hooks; both are put into the command
    through its environment.
    """
    from llmdbg.capture.atb import AtbDumpOptions
    from llmdbg.capture.atb_probe import find_probe, has_atb
    from llmdbg.capture.atb_run import plan_atb_run, preloadable
    from llmdbg.capture.launch import CommandError, command_of, split_command
    from llmdbg.capture.torch_run import refuse_isolated, torch_settings

    given = ctx.meta.get(COMMAND)
    if words:
        raise CommandError(
            f"unexpected word {words[0]!r}; put the command after --: "
            f"llmdbg dump … -- {shlex.join(words)}"
        )
    if (command is None) == (given is None):
        raise CommandError(
            'give the command once: llmdbg dump --exec "python run.py", '
            "or llmdbg dump -- python run.py"
        )
    child = split_command(command) if command is not None else command_of(given or [])
    base_env = {**os.environ, **child.variables}
    atb_types = tuple(kind.value for kind in types or [] if kind is not DumpType.TORCH)
    wants_torch = DumpType.TORCH in (types or [])
    if not types:
        if probe_path is not None or has_atb(base_env):
            atb_types = ("tensor", "model")
        else:
            wants_torch = True
    options = AtbDumpOptions(
        output=output.absolute(),
        types=atb_types,
        only_description=only_description,
        ids=ids,
        executions=executions,
        children=_truth(children),
        time=when,
        names=names,
        tiling=tiling,
        part=part,
        device=device,
        log_level=log_level.value,
        seed=seed,
        deduplicate=deduplicate,
    )
    if wants_torch:
        refuse_isolated(child)
    now = time.time()
    torch = torch_settings(options, now=now, weights=weights, root=root) if wants_torch else None
    if not atb_types:
        return _go(child, base_env, None, torch, dry_run=dry_run)
    probe = find_probe(base_env, probe_path)
    with preloadable(probe, tried=not dry_run) as (preload, primer):
        plan = plan_atb_run(
            options,
            probe,
            base_env,
            now=now,
            pid=os.getpid(),
            preload=preload,
            primer=primer,
            user_config=config,
        )
        return _go(child, plan.environment, plan, torch, dry_run=dry_run)


def _go(
    child: Command,
    environment: Mapping[str, str],
    atb: AtbRun | None,
    torch: TorchSettings | None,
    *,
    dry_run: bool,
) -> int:
    """Start the command in the environment that was decided, and say what came of it."""
    from llmdbg.capture.atb_run import prepare
    from llmdbg.capture.launch import NOT_EXECUTABLE, NOT_FOUND, CommandError, run
    from llmdbg.capture.recorded import dump_roots
    from llmdbg.capture.torch_run import torch_environment

    if torch is not None:
        environment = torch_environment(torch, environment)
    if atb is not None:
        for note in atb.notes:
            _say(note)
    if dry_run:
        _print_plan(child, environment, atb)
        if atb is not None and atb.primer is not None:
            _say(f"{atb.primer} is made anew for each run")
        return 0
    earlier: list[Path] = []
    if atb is not None:
        prepare(atb)
        earlier = dump_roots(atb.options.output)
        _say(f"recording with ATB's probe of {atb.probe.source} into {atb.options.output}")
    import tempfile

    with tempfile.TemporaryDirectory(prefix="llmdbg-trace-") as folder:
        trace = Path(folder)
        try:
            code = run(child, {**environment, "LLMDBG_TRACE": folder})
        except CommandError as error:
            _say(str(error))
            missing = isinstance(error.__cause__, FileNotFoundError)
            return NOT_FOUND if missing else NOT_EXECUTABLE
        if code:
            _say(f"the command ended with exit code {code}")
        if atb is not None:
            _say_atb(atb, earlier)
        if torch is not None:
            _say_torch(torch, trace)
    return code


def _say_atb(atb: AtbRun, earlier: list[Path]) -> None:
    from llmdbg.capture.atb_run import convert_topologies
    from llmdbg.capture.recorded import recorded_since, why_empty
    from llmdbg.report.text import size

    seen = recorded_since(atb.options.output, earlier)
    graphs, problems = convert_topologies(atb, seen)
    for problem in problems:
        _say(problem)
    if graphs:
        _say(f"wrote {graphs} ONNX graphs beside the topology files")
    if seen.has_data:
        _say(f"recorded {seen}: {size(seen.bytes)}")
        _say_next(seen.roots[-1])
    elif seen.kinds and not {"tensor", "stats"} & set(atb.options.types):
        types = " ".join(atb.options.types)
        _say(f"recorded {seen}: {size(seen.bytes)}; no tensors, which --type {types} leaves out")
    else:
        primed = atb.config is None or atb.primer is not None
        _say(f"0 tensors: {why_empty(atb.options, seen, atb.environment, primed=primed)}")


def _say_torch(torch: TorchSettings, trace: Path) -> None:
    from llmdbg._core import LlmdbgError
    from llmdbg.capture.torch_run import problems, recorded_paths, why_no_torch
    from llmdbg.dump import open_dump

    paths = recorded_paths(trace)
    died = not paths and Path(torch.path).is_dir()
    if died:
        paths = [Path(torch.path)]  # what its process had written before is there
    if not paths:
        _say(f"0 tensors: {why_no_torch(trace, torch)}")
    for problem in problems(trace):
        _say(problem)
    for path in paths:
        try:
            count = len(open_dump(path))
        except (LlmdbgError, OSError) as error:
            _say(f"cannot read what was recorded: {error}")
            continue
        if count:
            _say(f"recorded {count} tensors of torch modules")
            _say_next(path)
        elif died:
            _say("0 tensors of torch modules: the process died before a file of them was complete")


def _say_next(path: Path) -> None:
    here = Path.cwd()
    short = path.relative_to(here) if path.is_relative_to(here) else path
    _say(f"next: llmdbg compare GOLDEN {shlex.quote(str(short))}")


def _print_plan(child: Command, environment: Mapping[str, str], atb: AtbRun | None) -> None:
    for name, value in _changes(os.environ, environment):
        typer.echo(f"{name}={shlex.quote(value)}" if value is not None else f"unset {name}")
    if atb is not None and atb.config_text is not None:
        typer.echo(f"{atb.config}: {json.dumps(json.loads(atb.config_text))}")
    typer.echo(shlex.join(child.argv))


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str | None]]:
    names = sorted({*before, *after})
    return [(name, after.get(name)) for name in names if before.get(name) != after.get(name)]


def _truth(text: str) -> bool:
    from llmdbg.capture.atb import OptionError

    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise OptionError(f"--save-operation-child {text}: expected True or False")


def _say(message: str) -> None:
    from llmdbg.report.text import printable

    sys.stderr.write(f"llmdbg: {printable(message)}\n")
    sys.stderr.flush()
