"""How records are spelled: strict JSON, one line each."""

from __future__ import annotations

import json
from typing import Any


def to_json(value: Any) -> str:
    """Spell plain data as one line of strict JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
