"""A command that is given after `--`, as `llmdbg dump -- python run.py`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

COMMAND = "llmdbg.command"
"""Where in a context's ``meta`` the words after `--` stand; absent where there was no `--`."""


class TakesCommand(TyperCommand):
    """Accepts a command after `--`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Set the command aside before click reads the options."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[COMMAND] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, self.spelled(args))

    def spelled(self, args: list[str]) -> list[str]:
        """Return the options as click reads them."""
        return args
