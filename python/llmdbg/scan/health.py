"""The frame of a scan: one row of health per tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmdbg import _core

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from llmdbg.dump import Dump

Row = dict[str, Any]

# Largest finite value of each dtype (IEEE 754; OCP 8-bit floats; HiFloat8).
LARGEST = {
    "float64": 1.7976931348623157e308,
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
    "hifloat8": 32768.0,
    "complex64": 3.4028234663852886e38,
    "complex128": 1.7976931348623157e308,
    "complex32": 65504.0,
}
CLASSES = ("nan", "pos_inf", "neg_inf", "zero", "subnormal", "near_max", "saturated")
_PLACE = (
    "step",
    "rank",
    "order",
    "call",
    "node",
    "op_type",
    "role",
    "slot",
    "phase",
    "path",
    "key",
)
_WHOLE = (
    "numbers", *CLASSES, *(f"first_{name}" for name in CLASSES), "rows", "channels", "dead_rows",
    "dead_channels", "repeated_rows", "first_repeated_row", "first_repeated_of",
)  # fmt: skip
_REAL = ("min", "max", "abs_max", "abs_min", "mean", "rms")


def table(
    dump: Dump, *, threads: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[Row]:
    """Scan every tensor of a dump.

    Parameters
    ----------
    dump : Dump
        What to scan.
    threads : int
        Worker threads; 0 takes all cores.
    progress : callable, optional
        Called with tensors done and in all.

    Returns
    -------
    list of dict
        One per record, in the dump's order: its place, `health_row`'s numbers, ``shape`` as a tuple
        of int. A tensor that cannot be read has a ``reason`` and no numbers.
    """
    places = dump.core.columns()
    count = len(dump)
    # Several records may name one stored tensor, which is read once.
    first: dict[tuple[Any, Any], int] = {}
    same = [first.setdefault((places["path"][i] or i, places["key"][i]), i) for i in range(count)]
    index = sorted(set(same))
    health = _core.scan_records(dump.core, index, threads=threads, progress=progress)
    scanned = dict(zip(index, rows_of(health), strict=True))
    rows = []
    for i in range(count):
        place = {name: places[name][i] for name in _PLACE}
        rows.append(place | scanned[same[i]] | {"row": i, "stored": same[i]})
    return rows


def rows_of(health: dict[str, Any]) -> list[Row]:
    """Return `_core.scan_records`'s columns as rows, with headroom and dynamic range in bits."""
    columns = {name: health[name].tolist() for name in (*_WHOLE, *_REAL, "constant")}
    rows = []
    for i, (dtype, shape, reason, note) in enumerate(
        zip(health["dtype"], health["shape"], health["reason"], health["note"], strict=True)
    ):
        row: Row = {name: values[i] for name, values in columns.items()}
        row |= {
            "dtype": dtype,
            "shape": None if shape is None else tuple(shape),
            "reason": reason,
            "note": note,
            "constant": bool(row["constant"]),
        }
        row["headroom_bits"] = _bits(LARGEST.get(dtype or ""), row["abs_max"])
        row["range_bits"] = _bits(row["abs_max"], row["abs_min"])
        rows.append(row)
    return rows


def _bits(above: float | None, below: float) -> float | None:
    if above is None or not above > 0 or not below > 0:
        return None
    return math.log2(above) - math.log2(below)


def frame(rows: list[Row]) -> pl.DataFrame:
    """Return the rows as a frame: counts as integers, what does not exist as null."""
    import polars as pl

    types: dict[str, Any] = {
        "step": pl.Int64,
        "rank": pl.Int64,
        "order": pl.Int64,
        "call": pl.Int64,
        "node": pl.String,
        "op_type": pl.String,
        "role": pl.String,
        "slot": pl.String,
        "phase": pl.String,
        "dtype": pl.String,
        "shape": pl.String,
        "level": pl.String,
        "findings": pl.String,
        **dict.fromkeys(("headroom_bits", "range_bits", *_REAL), pl.Float64),
        **dict.fromkeys(_WHOLE, pl.Int64),
        "spread": pl.Float64,
        "constant": pl.Boolean,
        **dict.fromkeys(("path", "key", "note", "reason"), pl.String),
    }
    data = {name: [_cell(name, row.get(name)) for row in rows] for name in types}
    return pl.DataFrame(data, schema=types)


def _cell(name: str, value: Any) -> Any:
    if name == "shape" and value is not None:
        return ",".join(map(str, value))
    if isinstance(value, float) and math.isnan(value):
        return None
    if value == -1 and name.startswith("first_"):
        return None
    return value


def is_mask(row: Row) -> bool:
    """Tell whether a tensor is an additive mask: nothing but zeros and −Inf (or the lowest value).

    HF writes masks with the dtype's lowest finite value, ATB and vLLM with −Inf or −10000 and the
    like; all have two values, the higher of which is zero.
    """
    if row["numbers"] == 0 or row["nan"] or row["pos_inf"]:
        return False
    if row["neg_inf"]:
        return bool(row["zero"] + row["neg_inf"] + row["saturated"] == row["numbers"])
    low = row["min"]
    return bool(row["saturated"] and row["zero"] + row["saturated"] == row["numbers"] and low < 0)


def is_bad(row: Row) -> bool:
    """Tell whether a tensor holds NaN or Inf that no mask explains by its own values."""
    if row["nan"] or row["pos_inf"]:
        return True
    return bool(row["neg_inf"]) and not is_mask(row)


def is_float(row: Row) -> bool:
    """Tell whether a tensor holds floating-point numbers."""
    return (row["dtype"] or "") in LARGEST
