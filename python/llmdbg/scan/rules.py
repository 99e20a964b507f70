"""Anomalies of finite values, each told where it starts: in a result, and in no input of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmdbg.scan.health import LARGEST, Row, is_bad, is_float, is_mask
from llmdbg.scan.model import Finding, Level
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmdbg.scan.passes import Call, Pass

# Fewer values may be constant, zero or equal by chance.
_ENOUGH = 64
# A row of fewer may repeat another by chance.
_ROW = 16
# Quantised values pinned to the ends of their range.
_SATURATED = 0.01
_HEADROOM = 1.0
_DEAD = 0.05


def finite_anomalies(passes: list[Pass]) -> list[Finding]:
    """Apply every rule to every call; of one kind the first place is told, with how many follow."""
    findings: list[Finding] = []
    for one in passes:
        place = {row["row"]: i for i, row in enumerate(r for c in one.calls for r in c.outputs)}
        found = [finding for rule in _RULES for finding in _first(one, rule)]
        findings += sorted(found, key=lambda finding: place.get(finding.row, 0))
    return _without_repetition(findings)


def _first(one: Pass, rule: Callable[[Call, Row], Finding | None]) -> list[Finding]:
    found: list[Finding] = []
    seen: set[int] = set()
    for call in one.calls:
        for row in call.outputs:
            # What a module hands on from the last one inside it was judged there.
            if row["reason"] or not row["numbers"] or row["stored"] in seen:
                continue
            seen.add(row["stored"])
            finding = rule(call, row)
            if finding is not None:
                found.append(finding)
    if not found:
        return []
    firsts = {finding.level: finding for finding in reversed(found)}
    return [_with_count(firsts[level], found, one) for level in sorted(firsts)]


def _with_count(first: Finding, found: list[Finding], one: Pass) -> Finding:
    """Say of the first finding of a level how many follow."""
    like = [f for f in found if f.level is first.level]
    more = f"; {len(like) - 1} later results too" if len(like) > 1 else ""
    return Finding(
        first.level,
        first.kind,
        first.node,
        one.step,
        one.rank,
        first.sentence + more,
        first.evidence,
        first.row,
        first.details | {"nodes": [f.node for f in like[:32]], "count": len(like)},
    )


def _without_repetition(findings: list[Finding]) -> list[Finding]:
    """Keep one finding of a kind and node; the other steps and ranks are listed in it."""
    kept: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        earlier = kept.setdefault((finding.kind, finding.node), finding)
        if earlier is not finding:
            also = earlier.details.setdefault("also", [])
            also.append({"step": finding.step, "rank": finding.rank})
    return list(kept.values())


def _finding(level: Level, kind: str, call: Call, row: Row, text: str, *evidence: str) -> Finding:
    return Finding(
        level,
        kind,
        call.node,
        row["step"],
        row["rank"],
        f"{_name(call)}'s result {row['slot'] or '0'} {text}",
        evidence,
        row["row"],
    )


def _name(call: Call) -> str:
    name = shown_node(call.node)
    return f"{name} ({call.op_type})" if call.op_type else name


def _given(call: Call) -> list[Row]:
    return [r for r in call.inputs if not r["reason"] and r["numbers"]]


def _same_rows(call: Call, row: Row) -> list[Row]:
    """Return the inputs that have the result's rows."""
    return [r for r in _given(call) if r["rows"] == row["rows"] and r["channels"] > 1]


def _makes_zeros(call: Call) -> bool:
    """Tell operators whose zeros are right: the sine of position 0, a padding token's embedding."""
    name = f"{call.node} {call.op_type or ''}".lower()
    return "rotary" in name or "embed" in name or "mask" in name


def _near_max(call: Call, row: Row) -> Finding | None:
    headroom = row["headroom_bits"]
    if headroom is None or headroom >= _HEADROOM or is_mask(row) or is_bad(row):
        return None
    if row["dtype"].startswith(("float8", "hifloat8")):
        return None
    if any(r["headroom_bits"] is not None and r["headroom_bits"] < _HEADROOM for r in _given(call)):
        return None
    return _finding(
        Level.WARNING,
        "near_max",
        call,
        row,
        f"is {headroom:.2f} bits below the {row['dtype']} maximum: |x| reaches "
        f"{row['abs_max']:.6g} of {LARGEST[row['dtype']]:.6g}",
        f"{row['near_max']} of {row['numbers']} values are beyond 0.9 of the maximum",
    )


def _saturated(call: Call, row: Row) -> Finding | None:
    if row["dtype"] not in ("int8", "float8_e4m3fn", "float8_e5m2", "hifloat8"):
        return None
    share = row["saturated"] / row["numbers"]
    if share < _SATURATED:
        return None
    return _finding(
        Level.WARNING,
        "saturated",
        call,
        row,
        f"has {share:.1%} of its {row['dtype']} values at the end of the range: the scale is too "
        "small",
    )


def _all_zero(call: Call, row: Row) -> Finding | None:
    if row["numbers"] < _ENOUGH or row["zero"] != row["numbers"] or not is_float(row):
        return None
    given = [r for r in _given(call) if is_float(r)]
    if any(r["zero"] == r["numbers"] for r in given):
        return None
    return _finding(Level.WARNING, "all_zero", call, row, f"is zero in all {row['numbers']} values")


def _constant(call: Call, row: Row) -> Finding | None:
    if not row["constant"] or row["numbers"] < _ENOUGH or not is_float(row):
        return None
    if row["zero"] or any(r["constant"] for r in _given(call)):
        return None
    return _finding(
        Level.WARNING,
        "constant",
        call,
        row,
        f"has one value, {row['max']:.6g}, {row['numbers']} times",
    )


def _dead_rows(call: Call, row: Row) -> Finding | None:
    if not row["dead_rows"] or row["channels"] < _ROW or row["dead_rows"] == row["rows"]:
        return None
    given = _same_rows(call, row)
    if not is_float(row) or not given or any(r["dead_rows"] for r in given) or is_mask(row):
        return None
    if _makes_zeros(call):
        return None
    return _finding(
        Level.WARNING,
        "dead_rows",
        call,
        row,
        f"has {row['dead_rows']} rows of zeros of {row['rows']}; no input has one",
    )


def _dead_channels(call: Call, row: Row) -> Finding | None:
    dead, channels = row["dead_channels"], row["channels"]
    # Of a few rows, channels are zero by chance where the operator makes zeros at all.
    if not dead or row["rows"] < _ROW or dead == channels or is_mask(row) or not is_float(row):
        return None
    if any(r["dead_channels"] for r in _given(call) if r["channels"] == channels):
        return None
    if _makes_zeros(call):
        return None
    # A few channels may have been trained to zero, as in Gemma's query norms.
    return _finding(
        Level.WARNING if dead > _DEAD * channels else Level.INFO,
        "dead_channels",
        call,
        row,
        f"has {dead} of {channels} channels that are zero in all {row['rows']} rows",
    )


def _repeated_rows(call: Call, row: Row) -> Finding | None:
    if not row["repeated_rows"] or row["channels"] < _ROW or is_mask(row) or not is_float(row):
        return None
    given = _same_rows(call, row)
    if not given or any(r["repeated_rows"] or r["dead_rows"] for r in given):
        return None
    if row["constant"] or any(r["channels"] < _ROW for r in given):
        return None
    # Rows of NaN are alike, and are told where they begin.
    if is_bad(row):
        return None
    return _finding(
        Level.WARNING,
        "repeated_rows",
        call,
        row,
        f"has {row['repeated_rows']} rows of {row['rows']} equal to an earlier one (first row "
        f"{row['first_repeated_row']}, equal to {row['first_repeated_of']}); its inputs' rows "
        "all differ",
    )


_RULES = (
    _near_max, _saturated, _all_zero, _constant, _dead_rows, _dead_channels, _repeated_rows,
)  # fmt: skip


# -- tensors without operators -----------------------------------------------------------------


def loose_anomalies(rows: Iterable[Row]) -> list[Finding]:
    """Judge tensors that stand alone: weights of a checkpoint, files of a folder."""
    findings: list[Finding] = []
    for row in rows:
        if row["reason"] or not row["numbers"] or is_mask(row):
            continue
        findings += _loose(row)
    return findings


def _loose(row: Row) -> Iterable[Finding]:
    from llmdbg.scan import cause

    name = _tensor_name(row)

    def finding(level: Level, kind: str, text: str) -> Finding:
        return Finding(
            level, kind, row["node"], row["step"], row["rank"], f"{name} {text}", (), row["row"]
        )

    is_weight = row["role"] == "param"
    if is_bad(row):
        places = {key: row[f"first_{key}"] for key in ("nan", "pos_inf", "neg_inf") if row[key]}
        shown = ", ".join(f"first {key} at {place}" for key, place in places.items())
        kind = "weight" if is_weight else "nonfinite"
        yield finding(Level.ERROR, kind, f"holds {cause.counts(row)} ({shown})")
        return
    if not is_float(row) and row["dtype"] != "int8":
        return
    numbers = row["numbers"]
    if row["saturated"] and row["dtype"] in ("float16", "bfloat16", "float32"):
        yield finding(
            Level.WARNING, "saturated", f"has {cause.counts(row)}, where a cast may have clamped it"
        )
    elif row["saturated"] / numbers >= 2 * _SATURATED and numbers >= _ENOUGH:
        yield finding(
            Level.WARNING,
            "saturated",
            f"has {row['saturated'] / numbers:.1%} of its values at the end of the range",
        )
    if numbers < _ENOUGH:
        return
    if row["zero"] == numbers:
        # Biases and buffers may well be zero; a matrix of weights may not.
        level = Level.WARNING if row["rows"] > 1 else Level.INFO
        yield finding(level, "all_zero", f"is zero in all {numbers} values")
    elif row["constant"] and row["rows"] > 1:
        yield finding(Level.WARNING, "constant", f"has one value, {row['max']:.6g}")
    elif row["rows"] > 1:
        if row["dead_rows"]:
            yield finding(
                Level.INFO, "dead_rows", f"has {row['dead_rows']} rows of zeros of {row['rows']}"
            )
        if row["dead_channels"]:
            text = f"has {row['dead_channels']} of {row['channels']} channels of zeros"
            yield finding(Level.INFO, "dead_channels", text)
    if row["subnormal"] > 0.5 * numbers:
        text = (
            f"has {row['subnormal'] / numbers:.0%} subnormal values: most of its precision is gone"
        )
        yield finding(Level.WARNING, "subnormal", text)


def _tensor_name(row: Row) -> str:
    if row["role"] in ("param", "input", "output"):
        name = f"{shown_node(row['node'])} {row['role']} {row['slot']}".strip()
    else:
        name = row["node"]
    return name or row["slot"] or str(row["path"])
