"""``llmdbg reduce``."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmdbg.cli.errors import CLEAN, FINDINGS, reports_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from llmdbg.reduce import Reduced

EXAMPLES = """Examples:

\b
  llmdbg reduce dumps/llmdbg_ge_dump --watch --delete    # beside the run; Ctrl-C when it is over
  llmdbg reduce dumps/llmdbg_ge_dump --watch --idle 120
  llmdbg reduce dumps/npu --to statistics -o dumps/npu_stats
  llmdbg compare dumps/golden dumps/llmdbg_ge_dump_reduced

Exit code: 0 when every tensor was reduced, 1 when some could not be, 2 on a mistake."""


class Mode(StrEnum):
    """What is kept of a tensor."""

    SKETCH = "sketch"
    STATISTICS = "statistics"


@reports_errors
def reduce(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="The dump; it may still be growing.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="By default DIR_reduced beside it."),
    ] = None,
    to: Annotated[
        Mode, typer.Option("--to", help="sketch: statistics and about 2 KB a tensor.")
    ] = Mode.SKETCH,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on while the dump grows, until Ctrl-C.")
    ] = False,
    idle: Annotated[
        float | None,
        typer.Option("--idle", metavar="S", help="With --watch: end after S seconds of nothing."),
    ] = None,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Delete each file once its tensors are safely reduced."),
    ] = False,
    settle: Annotated[
        float,
        typer.Option("--settle", metavar="S", help="Read what has not changed for S seconds."),
    ] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> int:
    """Reduce a dump to statistics or sketches that compare reads, while it grows or afterwards.

    The originals stay unless --delete is given. Started again it goes on where it ended.
    """
    from llmdbg.errors import UserError
    from llmdbg.reduce import reduce_dump

    if idle is not None and not watch:
        raise UserError("--idle ends a --watch; give both, or neither")
    if settle < 0 or (idle is not None and idle <= 0):
        raise UserError("--settle and --idle are seconds, and not negative")
    found = reduce_dump(
        path,
        output,
        mode=to.value,
        delete=delete,
        watch=_until_asked(idle) if watch else None,
        settle=settle,
    )
    if as_json:
        typer.echo(json.dumps({**vars(found), "path": str(found.path)}))
    else:
        _say(found)
    return FINDINGS if found.problems else CLEAN


def _until_asked(idle: float | None) -> Callable[[bool], bool]:
    """Answer whether to look again: not after Ctrl-C or SIGTERM, nor after `idle` seconds."""
    asked = False
    latest = time.monotonic()

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        # A second one ends it at once; what is written stays and can be continued.
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    def again(new: bool) -> bool:  # noqa: FBT001
        nonlocal latest
        if new:
            latest = time.monotonic()
        return not asked and (idle is None or time.monotonic() - latest < idle)

    return again


def _say(found: Reduced) -> None:
    from llmdbg.report.text import printable, size

    deleted = f", {found.files_deleted} files deleted" if found.files_deleted else ""
    typer.echo(f"reduced {found.tensors} tensors ({size(found.read_bytes)}){deleted}")
    for problem in found.problems[:20]:
        sys.stderr.write(f"llmdbg: not reduced: {printable(problem)}\n")
    if len(found.problems) > 20:
        sys.stderr.write(f"llmdbg: and {len(found.problems) - 20} more, in the manifest\n")
    typer.echo(f"next: llmdbg compare GOLDEN {shlex.quote(str(found.path))}")
