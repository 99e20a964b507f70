"""Writes llmdbg's own dump, version 1, from numpy arrays and plain records."""

import json
from pathlib import Path

from safetensors.numpy import save_file

HEADER = {
    "format": "llmdbg.dump/1",
    "about": {"llmdbg": "0.1.0", "model": "Tiny"},
    "rank": 0,
    "world_size": 1,
}


def write_native(directory, shards, records, *, weights=(), modules=(), journal=False, **header):
    """Write a manifest, or a journal as a killed run leaves it; the directory.

    `shards` maps file names below `data` to `{key: array}`.
    """
    directory = Path(directory)
    (directory / "data").mkdir(parents=True)
    for name, tensors in shards.items():
        save_file(tensors, directory / "data" / name)
    head = {**HEADER, "modules": list(modules), **header}
    if journal:
        lines = [head, *weights, *records]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / "journal.jsonl").write_text(text)
    else:
        manifest = {**head, "weights": list(weights), "records": list(records)}
        (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def record(node, role, slot, key, *, step=0, order=0, file="data/a.safetensors", **fields):
    """One record of a tensor."""
    place = {"file": file, "key": key}
    return {
        "step": step,
        "node": node,
        "call": 0,
        "role": role,
        "slot": slot,
        "order": order,
        **place,
        **fields,
    }
