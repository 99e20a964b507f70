"""One manifest over the dumps that the ranks of a run write side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmdbg.capture.encode import to_json

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "llmdbg.ranks/1"


def merge_ranks(base: Path, rank: int, world: int) -> None:
    """Write the manifest that names the dump of every rank below `base`, and how far it came.

    Each rank does so once its own dump is complete; the last to end leaves the final word. A rank
    that died is in it as `unfinished`, one that left nothing here as `missing`.

    Parameters
    ----------
    base
        The directory that holds `rank0`, `rank1`, …
    rank, world
        The rank that writes, and how many there are.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    partial, final = base / f"manifest.json.part{rank}", base / "manifest.json"
    written, found = None, _ranks(base, world)
    # Another rank may have ended, and written, between our look and our write.
    while found != written:
        manifest = {"format": FORMAT, "world_size": world, "ranks": found}
        partial.write_text(to_json(manifest) + "\n", encoding="utf-8", newline="\n")
        partial.replace(final)
        written, found = found, _ranks(base, world)


def _ranks(base: Path, world: int) -> list[dict[str, Any]]:
    ranks = []
    for rank in range(world):
        folder = base / f"rank{rank}"
        if (folder / "manifest.json").exists():
            state = "complete"
        else:
            state = "unfinished" if (folder / "journal.jsonl").exists() else "missing"
        ranks.append({"rank": rank, "folder": folder.name, "state": state})
    return ranks
