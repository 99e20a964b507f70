"""What `llmdbg.show` described, as lines of text."""

from __future__ import annotations

import shlex
from typing import Any

from llmdbg.report.text import printable, ranges

_BARS = "▁▂▃▄▅▆▇█"
_LABEL_WIDTH = 11


def dump_lines(shown: dict[str, Any]) -> list[str]:
    """Return the lines about a dump."""
    variant = f" ({shown['variant']})" if shown["variant"] else ""
    dtypes = ", ".join(f"{count} {name}" for name, count in shown["dtypes"].items())
    nodes = ", ".join(shown["first_nodes"])
    more = ", …" if shown["nodes"] > len(shown["first_nodes"]) else ""
    lines = [
        _line("layout", f"{shown['layout']}{variant}"),
        _line("root", shown["root"]),
        *(_line(key, _plain(value)) for key, value in shown["about"].items()),
        _line("steps", ranges(shown["steps"])),
        _line("ranks", ranges(shown["ranks"])),
        _line("nodes", f"{shown['nodes']}: {nodes}{more}"),
        _line("tensors", f"{shown['tensors']} ({dtypes})" if dtypes else "0"),
        _line("bytes", f"{size(shown['bytes'])} of tensors"),
        _line("graph", "yes" if shown["graph"] else "none"),
    ]
    lines += [_line("problem", p) for p in shown["problems"]]
    if shown["first_nodes"]:
        command = shlex.join(["llmdbg", "show", shown["path"], "--node", shown["first_nodes"][-1]])
        lines += ["", printable(f"next: {command}")]
    return lines


def record_lines(records: list[dict[str, Any]]) -> list[str]:
    """Return a table of records, one line each."""
    table: list[tuple[str, ...]] = [
        ("tensor", "dtype", "shape", "min", "max", "mean", "NaN", "Inf", "where")
    ]
    for record in records:
        statistics = record["statistics"] or {}
        step = "" if record["step"] is None else f"step {record['step']} "
        rank = "" if record["rank"] is None else f"rank {record['rank']} "
        call = f"#{record['call']} " if record["call"] else ""
        where = record["path"] or "no data"
        where += f"#{record['key']}" if record["key"] else ""
        table.append(
            (
                f"{step}{rank}{call}{record['role']} {record['slot']}".rstrip(),
                record["dtype"] or "?",
                "?" if record["shape"] is None else str(record["shape"]),
                *(_number(statistics.get(s)) for s in ("min", "max", "mean")),
                _number(statistics.get("nan")),
                _number(_infinities(statistics)),
                record["problem"] or where,
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        printable("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
        for row in table
    ]


def tensor_lines(shown: dict[str, Any]) -> list[str]:
    """Return the lines about a tensor."""
    lines = [
        _line("dtype", shown["dtype"]),
        _line("shape", str(shown["shape"])),
        _line("bytes", size(shown["bytes"])),
        *(_line("note", note) for note in shown["notes"]),
        *(_line(name, _number(value)) for name, value in shown["statistics"].items()),
    ]
    histogram = shown["histogram"]
    if histogram is not None:
        low, high = _number(histogram["low"]), _number(histogram["high"])
        lines.append(_line("histogram", f"{low} {bars(histogram['counts'])} {high}"))
    return lines


def bars(counts: list[int]) -> str:
    """Return counts as one bar each; an empty bin is blank, so a single value stays visible."""
    most = max(counts)
    return "".join(" " if not c else _BARS[min(7, c * 8 // most)] for c in counts)


def size(count: int) -> str:
    """Return a number of bytes for a person."""
    amount, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _line(label: str, text: str) -> str:
    return printable(f"{label:<{_LABEL_WIDTH}} {text}".rstrip())


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _infinities(statistics: dict[str, Any]) -> int | None:
    found = [statistics[k] for k in ("pos_inf", "neg_inf") if statistics.get(k) is not None]
    return sum(found) if found else None


def _plain(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value)
