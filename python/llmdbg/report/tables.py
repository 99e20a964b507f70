"""The frame as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdbg.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

# A spreadsheet runs a cell that starts so as a formula, and names in a dump are whatever its writer
# chose.
_FORMULA_STARTS = "^[=+\\-@\\t\\r]"


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """Write the frame as CSV; text that a spreadsheet would run gets a ``'`` in front."""
    _harmless(frame).write_csv(path)


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write the frame as Parquet."""
    frame.write_parquet(path)


def write_jsonl(frame: pl.DataFrame, path: Path) -> None:
    """Write one JSON object per row; NaN and infinity, unknown to JSON, become null."""
    import polars as pl
    from polars import selectors as cs

    finite = pl.when(cs.float().is_finite()).then(cs.float()).otherwise(None)
    frame.with_columns(finite.name.keep()).write_ndjson(path)


def write_xlsx(frame: pl.DataFrame, path: Path) -> None:
    """Write a workbook of one sheet, with a filter on every column and the states marked.

    Raises
    ------
    UserError
        XlsxWriter is not installed.
    """
    import polars as pl
    from polars import selectors as cs

    try:
        import xlsxwriter
    except ModuleNotFoundError as error:
        raise UserError(
            "an XLSX report needs XlsxWriter: pip install 'llmdbg-ascend[report]'"
        ) from error

    # A worksheet has no infinity; as text it is at least visible.
    infinite = pl.when(cs.float().is_nan()).then(None).otherwise(cs.float())
    with xlsxwriter.Workbook(path, {"nan_inf_to_errors": True}) as workbook:
        _harmless(frame).with_columns(infinite.name.keep()).write_excel(
            workbook,
            "compare",
            freeze_panes=(1, 0),
            autofilter=True,
            conditional_formats={
                "state": [
                    {
                        "type": "cell",
                        "criteria": "==",
                        "value": '"FAIL"',
                        "format": _fill("#f8c8d0"),
                    },
                    {
                        "type": "cell",
                        "criteria": "==",
                        "value": '"SUSPECT"',
                        "format": _fill("#fdebb8"),
                    },
                ]
            },
        )


def _fill(colour: str) -> dict[str, str]:
    return {"bg_color": colour}


def _harmless(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl
    from polars import selectors as cs

    text = cs.string()
    safe = pl.when(text.str.contains(_FORMULA_STARTS)).then("'" + text).otherwise(text)
    return frame.with_columns(safe.name.keep())
