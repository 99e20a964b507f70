"""Importing in the background what will be needed soon."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from threading import Thread


def import_meanwhile(*modules: str) -> None:
    """Begin to import modules; who imports one of them before that is done waits for it."""
    # An interpreter that is about to end starts no threads.
    with suppress(RuntimeError):
        Thread(target=_import, args=modules, name="llmdbg-import").start()


def _import(*modules: str) -> None:
    # Who needs a module that fails tries again, and is told.
    with suppress(Exception):
        for module in modules:
            import_module(module)
