"""From exceptions to one line on stderr and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

CLEAN, FINDINGS, ERROR = 0, 1, 2
P = ParamSpec("P")


def reports_errors(command: Callable[P, int]) -> Callable[P, None]:
    """Make a command exit with the code it returns, and with 2 and one line on a user's mistake."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from llmdbg._core import LlmdbgError

        try:
            code = command(*args, **kwargs)
        except KeyboardInterrupt as error:
            _say(str(error) or "interrupted")
            code = ERROR
        except BrokenPipeError:
            # The reader of a pipe has gone (`| head`): typer ends this quietly.
            raise
        except LlmdbgError as error:
            _say(str(error))
            code = ERROR
        except OSError as error:
            _say(_words(error))
            code = ERROR
        raise typer.Exit(code)

    return run


def _words(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{text}: {error.filename}" if error.filename else text


def _say(message: str) -> None:
    from llmdbg.report.text import printable

    sys.stderr.write(f"llmdbg: {printable(message)}\n")
