"""Which rows of a recorded step belong to which request.

A server runs the tokens of several requests as one batch. Beside the dump of each rank lies
``requests.jsonl``, one line per recorded forward:
``{"step", "engine_step", "requests": [{"id", "position", "rows", "first_row"}]}``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "requests.jsonl"


@dataclass(frozen=True)
class RequestRows:
    """The rows of one request in one recorded forward.

    Attributes
    ----------
    rank
        The rank that recorded it; 0 of a single process.
    step
        The forward's number, which is the records' `step`.
    engine_step
        The engine's step, counted from 0 without profiling and warm-up.
    request
        Its id.
    first_row
        Row of the batch at which its tokens begin; None where the runner does not tell.
    rows
        Number of its tokens.
    position
        Tokens of the request that were computed before; None where the scheduler does not tell.
    """

    rank: int
    step: int
    engine_step: int
    request: str
    first_row: int | None
    rows: int
    position: int | None


def request_rows(path: str | Path, request: str | None = None) -> list[RequestRows]:
    """List the rows that requests have in the steps of a dump.

    Parameters
    ----------
    path
        The dump, or one rank of it.
    request
        Only this request's.

    Returns
    -------
    list of RequestRows
        By rank, then in the order they ran. A line that a dying process cut off is left out.
    """
    folder = Path(path)
    files = [(0, folder / FILE)] if (folder / FILE).is_file() else _of_ranks(folder)
    found = []
    for rank, file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                forward: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            found += [
                RequestRows(
                    rank,
                    forward["step"],
                    forward["engine_step"],
                    entry["id"],
                    entry["first_row"],
                    entry["rows"],
                    entry["position"],
                )
                for entry in forward["requests"]
                if request in (None, entry["id"])
            ]
    return found


def _of_ranks(folder: Path) -> list[tuple[int, Path]]:
    ranks = [
        (int(file.parent.name.removeprefix("rank")), file)
        for file in folder.glob(f"rank*/{FILE}")
        if file.parent.name.removeprefix("rank").isdigit()
    ]
    return sorted(ranks)
