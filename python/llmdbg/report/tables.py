"""The frame as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

# A spreadsheet runs a cell that starts so as a formula, and names in a dump are whatever its writer
# chose.
_FORMULA_STARTS = "^[=+\\-@\\t\\r]"


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """Write the frame as CSV; text that a spreadsheet would run gets a ``'`` in front."""
    import polars as pl
    from polars import selectors as cs

    text = cs.string()
    safe = pl.when(text.str.contains(_FORMULA_STARTS)).then("'" + text).otherwise(text)
    frame.with_columns(safe.name.keep()).write_csv(path)


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write the frame as Parquet."""
    frame.write_parquet(path)
