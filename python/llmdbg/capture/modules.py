"""What a model is made of: which modules to record, and what a dump says about them."""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

from llmdbg._core import LlmdbgError
from llmdbg.capture.walk import plain

Selection: TypeAlias = str | type[torch.nn.Module] | Sequence[str | type[torch.nn.Module]] | None

_MAX_TUPLE = 16


def select(model: torch.nn.Module, wanted: Selection) -> dict[torch.nn.Module, str]:
    """Modules to record, with their names.

    Parameters
    ----------
    model
        The root; its own name is the empty string.
    wanted
        None for all, or patterns (`*`, `?`, `[…]`) over names or class names, or classes.

    Raises
    ------
    LlmdbgError
        If a pattern or class matches no module.
    """
    named = {module: name for name, module in model.named_modules()}
    if wanted is None:
        return named
    wants = [wanted] if isinstance(wanted, (str, type)) else list(wanted)
    chosen: dict[torch.nn.Module, str] = {}
    for want in wants:
        hits = {m: n for m, n in named.items() if _matches(m, n, want)}
        if not hits:
            raise LlmdbgError(no_match(named, want))
        chosen.update(hits)
    return {module: name for module, name in named.items() if module in chosen}


def _matches(module: torch.nn.Module, name: str, want: str | type[torch.nn.Module]) -> bool:
    if isinstance(want, type):
        return isinstance(module, want)
    return fnmatch.fnmatchcase(name, want) or fnmatch.fnmatchcase(type(module).__name__, want)


def no_match(named: dict[torch.nn.Module, str], want: str | type[torch.nn.Module]) -> str:
    """Say that nothing matches `want`, and what names look like."""
    if isinstance(want, type):
        return f"no module of the model is a {want.__name__}"
    known = {*named.values(), *(type(m).__name__ for m in named)}
    near = difflib.get_close_matches(want, sorted(known), n=3, cutoff=0.5) or sorted(known)[1:4]
    return (
        f"no module's name or class matches {want!r}; "
        f"names are full paths such as {', '.join(near)}, and * stands for any text"
    )


def describe(model: torch.nn.Module) -> list[dict[str, Any]]:
    """One entry per module: name, type, parent and its plain attributes such as eps."""
    entries = []
    for name, module in model.named_modules():
        parent = None if not name else name.rpartition(".")[0]
        entries.append(
            {
                "name": name,
                "type": type(module).__name__,
                "parent": parent,
                "params": plain_attributes(module),
            }
        )
    return entries


def plain_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """Numbers, flags, texts and short tuples of them that configure `module`."""
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training" or value is None:
            continue
        if isinstance(value, (list, tuple)) and len(value) > _MAX_TUPLE:
            continue
        try:
            found[name] = plain(value)
        except TypeError:
            continue
    return found


def weights(model: torch.nn.Module) -> Iterable[tuple[str, str, torch.Tensor]]:
    """Every parameter and buffer: its module's name, its own name, the tensor."""
    for name, module in model.named_modules():
        own = {
            **dict(module.named_parameters(recurse=False)),
            **dict(module.named_buffers(recurse=False)),
        }
        for own_name, tensor in own.items():
            yield name, own_name, tensor


def config_of(model: torch.nn.Module) -> dict[str, Any] | None:
    """Return the configuration of `model` where it has one that is plain data."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    if to_dict is None:
        return None
    try:
        config = json.loads(json.dumps(to_dict(), default=str), parse_constant=str)
    except (TypeError, ValueError):
        return None
    return config if isinstance(config, dict) else None
