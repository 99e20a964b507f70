"""Split a command as a shell would, and run it in the user's terminal."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

NOT_FOUND, NOT_EXECUTABLE = 127, 126
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_SHELL_ONLY = frozenset(";&|<>()*?\n")


class CommandError(UserError):
    """A command line that cannot be run as given; the message says how to write it."""


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and the variables set before it.

    Attributes
    ----------
    argv
        Program and arguments.
    variables
        What stood before it as `NAME=value`.
    """

    argv: tuple[str, ...]
    variables: Mapping[str, str]

    def __str__(self) -> str:
        """Spell the command so that a shell would read it back."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*settings, shlex.join(self.argv)])


def split_command(text: str) -> Command:
    """Split one string into a command, with quotes, escapes and `NAME=value` prefixes.

    Raises
    ------
    CommandError
        When it is empty, a quote is left open, or it needs a shell: pipes, `&&`, redirections and
        `$` are not guessed at.
    """
    return command_of(_words(text))


def command_of(words: Sequence[str]) -> Command:
    """Take leading `NAME=value` words as variables, and the rest as the command.

    Raises
    ------
    CommandError
        When no program is left.
    """
    variables: dict[str, str] = {}
    rest = list(words)
    while rest and (assignment := _ASSIGNMENT.fullmatch(rest[0])):
        variables[assignment[1]] = assignment[2]
        del rest[0]
    if not rest or not rest[0]:
        raise CommandError(
            'no command to run; give one: --exec "python run.py", or -- python run.py'
        )
    return Command(tuple(rest), variables)


def run(command: Command, environment: Mapping[str, str]) -> int:
    """Run the command with our terminal and wait for it.

    Ctrl-C reaches it from the terminal as it would without us; SIGTERM and SIGHUP are passed on.

    Returns
    -------
    int
        Its exit code, 128 + n when signal n ended it.

    Raises
    ------
    CommandError
        When the program does not exist or may not be run.
    """
    program = command.argv[0]
    child: subprocess.Popen[bytes] | None = None
    kept: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if child is None:
            kept.append(number)
        else:
            child.send_signal(number)

    def leave_it(_number: int, _frame: FrameType | None) -> None:
        """Do nothing: the terminal has told the command already."""

    handlers = {
        signal.SIGTERM: pass_on,
        signal.SIGHUP: pass_on,
        signal.SIGINT: leave_it,
        signal.SIGQUIT: leave_it,
    }
    # What is ignored, as under nohup, the command ignores too.
    previous = {
        number: before
        for number in handlers
        if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    try:
        # Before there is a child: a signal in between would end us and leave the child running.
        for number in previous:
            signal.signal(number, handlers[number])
        child = subprocess.Popen(command.argv, env=dict(environment))
        for early in kept:
            child.send_signal(early)
        code = child.wait()
    except FileNotFoundError as error:
        raise CommandError(f"no such program: {program}") from error
    except OSError as error:
        raise CommandError(f"cannot run it ({error.strerror}): {program}") from error
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
    return code if code >= 0 else 128 - code


def _words(text: str) -> list[str]:
    r"""Split by the quoting rules of the POSIX shell, and refuse what else it would do.

    `shlex.split` keeps the backslash of `"\\$x"` and of a continued line, and passes operators
    through as words.
    """
    words: list[str] = []
    word: str | None = None  # None between words, "" inside an empty quoted one
    quote = ""
    chars = iter(text.strip())
    for char in chars:
        if quote == "'":
            if char == quote:
                quote = ""
            else:
                word = (word or "") + char
        elif char == "\\":
            following = next(chars, "")
            if following == "\n":
                continue
            keeps_backslash = quote and following not in '"$`\\'
            word = (word or "") + (char if keeps_backslash else "") + following
        elif char in "$`":
            raise _needs_shell(char, text)
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = (word or "") + char
        elif char in "'\"":
            quote, word = char, word or ""
        elif char in " \t":
            if word is not None:
                words.append(word)
            word = None
        elif char in _SHELL_ONLY or (char == "~" and word is None):
            raise _needs_shell("a line break" if char == "\n" else char, text)
        else:
            word = (word or "") + char
    if quote:
        raise CommandError(f"the command ends inside {quote}: {text}")
    return words if word is None else [*words, word]


def _needs_shell(what: str, text: str) -> CommandError:
    return CommandError(
        f"the command needs a shell for {what}; give it one: "
        f"llmdbg dump … -- bash -c {shlex.quote(text)}"
    )
