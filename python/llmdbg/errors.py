"""Mistakes of the user's that the Python side finds: a message to act on, never a traceback."""

from __future__ import annotations

from llmdbg._core import LlmdbgError


class UserError(LlmdbgError):
    """An argument that cannot be worked with; the message says what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a comparison; the message says what is kept and how to go on."""
