"""Where the golden run's weights are: in its dump, or in the checkpoint that it loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from llmdbg.dump import Dump

Places = dict[str, dict[str, "tuple[Dump, int]"]]
"""By module and name: ``weight``, and of a module also those further down, ``up_proj.weight``."""


def weights_of(golden: Dump, checkpoint: str | os.PathLike[str] | None = None) -> Places:
    """Return where each module's weights can be read.

    Parameters
    ----------
    golden : Dump
    checkpoint : path, optional
        A ``.safetensors`` file or a folder of them, for what the dump does not hold.
    """
    found: Places = {}
    if checkpoint is not None:
        from llmdbg.dump import open_dump

        stored = open_dump(checkpoint)
        modules = _Modules(golden.nodes)
        for index, name in _names(stored):
            module, _, slot = name.rpartition(".")
            own = modules.named(module)
            if own is not None:
                _put(found, own, slot, (stored, index))
    columns = golden.core.columns()
    for index, (node, role, slot) in enumerate(
        zip(columns["node"], columns["role"], columns["slot"], strict=True)
    ):
        if role == "param":
            _put(found, node, slot, (golden, index))
    return found


def _put(found: Places, node: str, slot: str, place: tuple[Dump, int]) -> None:
    found.setdefault(node, {})[slot] = place
    outer, _, inner = node.rpartition(".")
    found.setdefault(outer, {})[f"{inner}.{slot}"] = place


def _names(stored: Dump) -> Iterator[tuple[int, str]]:
    columns = stored.core.columns()
    for index, (key, path) in enumerate(zip(columns["key"], columns["path"], strict=True)):
        if key and str(path).endswith(".safetensors"):
            yield index, key


class _Modules:
    """Modules of a dump by the names that a checkpoint has for them."""

    def __init__(self, nodes: list[str]) -> None:
        self._nodes = set(nodes)
        self._tails: dict[str, list[str]] = {}
        for node in nodes:
            parts = node.split(".")
            for at in range(1, len(parts)):
                self._tails.setdefault(".".join(parts[at:]), []).append(node)

    def named(self, module: str) -> str | None:
        """Return the module of that name; either side's may have parts in front."""
        parts = module.split(".")
        for at in range(len(parts)):
            tail = ".".join(parts[at:])
            if tail in self._nodes:
                return tail
        longer = self._tails.get(module, [])
        return longer[0] if len(longer) == 1 else None
