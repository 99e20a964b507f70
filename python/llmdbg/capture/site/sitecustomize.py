"""Runs first in every Python process of a command that llmdbg starts.

The interpreter imports it because this directory leads PYTHONPATH. It uses the standard library
alone: the command may run under an interpreter that has no llmdbg.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys


def _chain() -> None:
    """Run the sitecustomize that this one hides, and leave no trace on the module path."""
    here = os.path.realpath(os.path.dirname(__file__))  # noqa: PTH120
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("LLMDBG_CAPTURE"):
    try:
        from llmdbg.capture.injector import install
    except ImportError as error:
        print(f"llmdbg: torch is not recorded in {sys.executable}: {error}", file=sys.stderr)  # noqa: T201
    else:
        install()
if os.environ.get("LLMDBG_WATCH"):
    try:
        from llmdbg.scan.injected import install as install_watch
    except ImportError as error:
        print(f"llmdbg: torch is not watched in {sys.executable}: {error}", file=sys.stderr)  # noqa: T201
    else:
        install_watch()
_chain()
