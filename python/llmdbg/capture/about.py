"""What a dump says about the run it came from."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import sys
from typing import Any

import torch

from llmdbg._core import LlmdbgError, __version__
from llmdbg.capture.modules import config_of


def about_run(model: torch.nn.Module) -> dict[str, Any]:
    """Versions, device, dtype, model and command line, as plain data."""
    first = next(model.parameters(), None)
    about: dict[str, Any] = {
        "llmdbg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(first.device) if first is not None else "cpu",
        "dtype": str(first.dtype).removeprefix("torch.") if first is not None else None,
        "model": type(model).__name__,
        "command": sys.orig_argv,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
    }
    for package in ("transformers", "torch_npu"):
        try:
            about[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    config = config_of(model)
    if config is not None:
        about["config"] = config
    return about


def rank_and_world(rank: int | None) -> tuple[int, int]:
    """Find this process's rank and how many there are.

    Parameters
    ----------
    rank
        The rank its caller gave, or None to ask torch.distributed, then the environment.

    Raises
    ------
    LlmdbgError
        If the rank is negative or the environment's numbers are none.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        found, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    else:
        try:
            found = int(os.environ.get("RANK", "0"))
            world = int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError as error:
            raise LlmdbgError(f"RANK and WORLD_SIZE must be whole numbers: {error}") from error
    if rank is None:
        return found, world
    if rank < 0:
        raise LlmdbgError(f"a rank is counted from 0 upwards, found {rank}")
    return rank, max(world, rank + 1)
