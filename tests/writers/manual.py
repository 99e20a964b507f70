"""Writes manual mappings, as `dump_data` of ait does."""

import json
from pathlib import Path

import torch


def dump_data(output, token_id, data_id, golden, my_path, *, root="ait_dump", pid=1234, device=-1):
    """Save one golden tensor and note the file it corresponds to; the directory of the mapping.

    As in the original, the entry of a data id is replaced: its last token alone stays noted.
    """
    directory = Path(output) / root / f"{pid}_{device}" / "golden_tensor"
    file = directory / str(token_id) / f"{data_id}_tensor.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(golden, file)
    metadata = directory / "metadata.json"
    known = json.loads(metadata.read_text()) if metadata.exists() else {}
    known[data_id] = {token_id: [str(file), str(my_path)]}
    metadata.write_text(json.dumps(known))
    return directory
