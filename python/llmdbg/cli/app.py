"""The commands, one module each."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmdbg.cli.command import TakesCommand
from llmdbg.cli.compare import compare
from llmdbg.cli.dump import EXAMPLES as DUMP_EXAMPLES
from llmdbg.cli.dump import DumpCommand, dump
from llmdbg.cli.reduce import EXAMPLES as REDUCE_EXAMPLES
from llmdbg.cli.reduce import reduce
from llmdbg.cli.scan_anomaly import scan_anomaly
from llmdbg.cli.show import show

# `ait llm`'s short names.
_ALIASES = {"cc": "compare", "dd": "dump"}


class _Commands(TyperGroup):
    # Registered as commands of their own, they would be built at every start.
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))


app = typer.Typer(
    name="llmdbg",
    cls=_Commands,
    help="Find the first operator that goes wrong between two runs of one LLM.",
    epilog="Example: llmdbg compare dumps/golden dumps/candidate",
    no_args_is_help=True,
    add_completion=False,
    # Drawing help and tracebacks with rich costs more start-up time than the help is worth.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:  # noqa: FBT001
    if value:
        from llmdbg._core import __version__

        typer.echo(f"llmdbg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


app.command("compare")(compare)
app.command("scan-anomaly", cls=TakesCommand)(scan_anomaly)
app.command("show")(show)
app.command("dump", cls=DumpCommand, epilog=DUMP_EXAMPLES)(dump)
app.command("reduce", epilog=REDUCE_EXAMPLES)(reduce)
