"""Noise floors measured instead of assumed: how far a second clean run is from golden.

`calibration.json`::

    {"schema": "llmdbg.calibration/1",
     "source": "what was measured, in words",
     "floors": [{"node": "model.norm", "role": "output", "slot": "0",
                 "relative_l2": 2.1e-3, "worst_row_relative_l2": 4.0e-3, "samples": 4}]}

`node` is golden's; a floor is the largest error of that tensor over all steps, ranks and calls.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmdbg.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import polars as pl

    from llmdbg.verdict.calls import Row

SCHEMA = "llmdbg.calibration/1"
FILE_NAME = "calibration.json"
_MOST_BYTES = 1 << 28
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Floor:
    """How far a clean run's tensor is from golden's."""

    relative_l2: float
    worst_row_relative_l2: float
    samples: int


@dataclass(frozen=True)
class Calibration:
    """Measured floors by golden node, role and slot.

    Attributes
    ----------
    floors : dict
    source : str
        What was measured.
    """

    floors: dict[Key, Floor]
    source: str = ""

    @staticmethod
    def measured(frame: pl.DataFrame, source: str) -> Calibration:
        """Take the floors from the comparison of golden with a clean run.

        Parameters
        ----------
        frame : polars.DataFrame
            As `llmdbg.compare` builds it.
        source : str
            What was measured, in words.
        """
        floors: dict[Key, Floor] = {}
        columns = ("golden_node", "role", "slot", "relative_euclidean_distance")
        worst = "worst_row_relative_l2"
        for node, role, slot, error, row in frame.select(*columns, worst).iter_rows():
            if node is None or error is None or not math.isfinite(error):
                continue
            row = row if row is not None and math.isfinite(row) else error
            known = floors.get((node, role or "", slot or ""), Floor(0.0, 0.0, 0))
            floors[node, role or "", slot or ""] = Floor(
                max(known.relative_l2, error),
                max(known.worst_row_relative_l2, row),
                known.samples + 1,
            )
        return Calibration(floors, source)

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a file names the schema near its beginning; dumps have JSON files too."""
        try:
            with path.open("rb") as file:
                return b'"llmdbg.calibration/' in file.read(4096)
        except OSError:
            return False

    @staticmethod
    def read(path: Path) -> Calibration:
        """Read a calibration file.

        Raises
        ------
        UserError
            It is not one; the message says what was expected.
        """
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(
                f"a calibration of {path.stat().st_size} bytes is no calibration: {path}"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("schema") != SCHEMA:
                raise KeyError(f"schema {content.get('schema')!r}")
            floors = dict(_floor(entry) for entry in content["floors"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"not a calibration: expected JSON with schema {SCHEMA!r} and a list of floors, "
                f"found {error}; make one with --calibrate CLEAN_DUMP: {path}"
            ) from error
        return Calibration(floors, str(content.get("source", "")))

    def write(self, path: Path) -> None:
        """Write the calibration as JSON."""
        entries = [
            {
                "node": node,
                "role": role,
                "slot": slot,
                "relative_l2": floor.relative_l2,
                "worst_row_relative_l2": floor.worst_row_relative_l2,
                "samples": floor.samples,
            }
            for (node, role, slot), floor in self.floors.items()
        ]
        content = {"schema": SCHEMA, "source": self.source, "floors": entries}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def floor_of(self, row: Row) -> float | None:
        """Return a row's floor, never below what its dtype rounds; None where none is known."""
        cells = row.cells
        found = self.floors.get((cells["golden_node"], cells["role"] or "", cells["slot"] or ""))
        if found is None or row.floor is None:
            return None
        return max(found.relative_l2, row.floor)

    def gain_of(self, inputs: Iterable[Row], outputs: Iterable[Row]) -> float | None:
        """Return error out over error in, as the clean run has it."""
        given = [f for f in map(self.floor_of, inputs) if f is not None]
        made = [f for f in map(self.floor_of, outputs) if f is not None]
        return max(made) / max(given) if given and made else None


def _floor(entry: Any) -> tuple[Key, Floor]:
    numbers = [float(entry[n]) for n in ("relative_l2", "worst_row_relative_l2")]
    if not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise ValueError(f"the floor {numbers[0]} of {entry['node']}")
    key = (str(entry["node"]), str(entry["role"]), str(entry["slot"]))
    return key, Floor(numbers[0], numbers[1], int(entry.get("samples", 1)))
