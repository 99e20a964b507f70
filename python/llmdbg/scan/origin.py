"""Where NaN and Inf begin: the first place with finite values in and others out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmdbg.scan import cause as causes
from llmdbg.scan import ranks
from llmdbg.scan.health import LARGEST, Row, is_bad, is_mask
from llmdbg.scan.model import Finding, Level
from llmdbg.verdict.model import shown_node

if TYPE_CHECKING:
    from llmdbg.scan.passes import Call, Pass
    from llmdbg.scan.tensors import Tensors

FRAMES = 8
# Results of these are memory that nobody wrote yet, and so are a receiver's inputs.
_UNWRITTEN = ("torch.empty", "torch.fill", "masked_fill_")
_RECEIVERS = ("recv", "all_gather", "allgather", "reduce_scatter", "broadcast", "scatter")


@dataclass(frozen=True)
class Origin:
    """The first tensor that is not finite, and who made it.

    Attributes
    ----------
    call : Call
        The operator, or the module whose own code did it.
    row : dict
        The tensor.
    kind : str
        ``operator``, ``code`` (between the modules of `call`), ``weight`` or ``input``.
    after, before : str
        For ``code``: the modules that ran before and after.
    """

    call: Call
    row: Row
    kind: str
    after: str = ""
    before: str = ""


def nonfinite(passes: list[Pass], tensors: Tensors) -> list[Finding]:
    """Return the origin of each pass, and values that are not finite but reach no result."""
    findings: list[Finding] = []
    seen: dict[tuple[str, str], int] = {}
    entered: list[tuple[Pass, Origin, int | None]] = []
    for one in passes:
        judge = _Judge(tensors)
        origin = first_origin(one, judge)
        if origin is None:
            findings += _harmless(one, judge)
            continue
        source = ranks.through_collective(origin.call, one.step, passes, judge.bad)
        if source is not None:
            entered.append((one, origin, source))
            continue
        finding = _tell(origin, one, tensors)
        place = finding.node, finding.kind
        if place in seen:
            # The same operator in a later step or on another rank is one finding.
            earlier = findings[seen[place]]
            earlier.details.setdefault("also", []).append({"step": one.step, "rank": one.rank})
            continue
        seen[place] = len(findings)
        findings.append(finding)
    for one, origin, source in entered:
        text = f"rank {one.rank} gets it from rank {source} through {_name(origin.call)}"
        findings = [
            replace(
                f, evidence=(*f.evidence, text), details=f.details | {"through": origin.call.node}
            )
            if f.level is Level.ERROR and (f.step, f.rank) == (one.step, source)
            else f
            for f in findings
        ]
    return findings


class _Judge:
    """Whether a tensor holds what it should not; looks at −Inf closely, once per tensor."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._masked: dict[int, bool] = {}

    def bad(self, row: Row) -> bool:
        if clamped(row):
            return True
        if not is_bad(row):
            return False
        if row["nan"] or row["pos_inf"]:
            return not (row["numbers"] == 1 and row["role"] == "input" and not row["nan"])
        return not self._is_masked(row)

    def _is_masked(self, row: Row) -> bool:
        """Tell −Inf that a mask was meant to leave from −Inf that arithmetic left."""
        stored = row["stored"]
        if stored not in self._masked:
            self._masked[stored] = _roomy(row) and self._tensors.looks_masked(row)
        return self._masked[stored]


def clamped(row: Row) -> bool:
    """Tell whether saturating arithmetic left its mark: values exactly at a float's maximum."""
    return bool(
        row["saturated"]
        and row["dtype"] in ("float16", "bfloat16", "float32")
        and not is_mask(row)
        and row["numbers"] > 1
        # A mask combined with finite scores keeps the dtype's lowest value and no highest.
        and row["max"] == LARGEST[row["dtype"]]
    )


def _roomy(row: Row) -> bool:
    """Tell whether the finite values are far from overflowing."""
    return row["headroom_bits"] is None or row["headroom_bits"] > 4


def first_origin(one: Pass, judge: _Judge) -> Origin | None:
    """Find the first place of a pass with finite inputs and a result that is not."""
    for call in one.leaves:
        if _unwritten(call):
            continue
        given = _read(call)
        bad_in = next((r for r in given if judge.bad(r) and not r.get("weight")), None)
        bad_out = next((r for r in call.outputs if judge.bad(r)), None)
        weights = [*call.params, *(r for r in given if r.get("weight"))]
        weight = next((r for r in weights if is_bad(r)), None)
        if bad_in is None and bad_out is None:
            continue
        if weight is not None and bad_in is None:
            return Origin(call, weight, "weight")
        if bad_in is None and bad_out is not None:
            return Origin(call, bad_out, "operator")
        if bad_in is not None:
            if not _reaches_a_result(one, call, judge):
                continue
            return _between(one, call, bad_in, judge)
    for call in one.calls:
        bad_out = next((r for r in call.outputs if judge.bad(r)), None)
        if bad_out is not None and not any(judge.bad(r) for r in _read(call)):
            return _own_code(call, bad_out)
    return None


def _read(call: Call) -> list[Row]:
    """Return the inputs that an operator reads; a receiver's buffers are only written."""
    name = call.node.lower()
    if any(word in name for word in _RECEIVERS):
        return []
    return call.inputs


def _unwritten(call: Call) -> bool:
    return any(word in call.node.lower() for word in _UNWRITTEN)


def _reaches_a_result(one: Pass, first: Call, judge: _Judge) -> bool:
    return any(
        judge.bad(row) for call in one.calls if call.end >= first.end for row in call.outputs
    )


def _between(one: Pass, reader: Call, row: Row, judge: _Judge) -> Origin:
    """Name who made an input that no operator gave back: a module's own code, or the caller."""
    for call in one.calls:
        if call.children and call.end < reader.start:
            bad = next((r for r in call.outputs if judge.bad(r)), None)
            if bad is not None and not any(judge.bad(r) for r in _read(call)):
                return _own_code(call, bad)
    parent = reader.parent
    outermost = reader
    while parent is not None and any(judge.bad(r) for r in parent.inputs):
        outermost, parent = parent, parent.parent
    if parent is None:
        given = next((r for r in outermost.inputs if judge.bad(r)), row)
        earlier = [c for c in one.leaves if c.end < outermost.start]
        if not earlier:
            return Origin(outermost, given, "input")
        return Origin(outermost, given, "code", earlier[-1].node, outermost.node)
    earlier = [c for c in parent.children if c.end < outermost.start]
    return Origin(parent, row, "code", earlier[-1].node if earlier else "", outermost.node)


def _own_code(call: Call, row: Row) -> Origin:
    last = call.children[-1].node if call.children else ""
    return Origin(call, row, "code" if call.children else "operator", last, "")


def _harmless(one: Pass, judge: _Judge) -> list[Finding]:
    """Report what is not finite and has no consequence: cache slots nobody wrote, unused rows."""
    for call in one.calls:
        if _unwritten(call):
            continue
        for row in _read(call):
            if judge.bad(row) and not clamped(row):
                return [
                    Finding(
                        Level.INFO,
                        "input",
                        call.node,
                        one.step,
                        one.rank,
                        f"{_name(call)}'s {row['role']} {row['slot']} holds "
                        f"{causes.counts(row)}, none of which reaches a result",
                        row=row["row"],
                    )
                ]
    return []


def _tell(origin: Origin, one: Pass, tensors: Tensors) -> Finding:
    call, row = origin.call, origin.row
    where = _where(one)
    frames = _frames(one, call)
    if origin.kind == "weight":
        sentence = f"weight {row['slot']} of {_name(call)} is not finite: {causes.counts(row)}"
        why = causes.Cause("weight", "", ())
    elif origin.kind == "input":
        sentence = (
            f"the input {row['slot']} of {_name(call)} is not finite{where}: {causes.counts(row)}"
        )
        why = causes.Cause("input", "", ())
    else:
        known = _known(origin, one)
        why = causes.explain(call, row, known, tensors)
        place = _name(call)
        if origin.kind == "code":
            place = _code_name(origin)
        what = (
            "NaN"
            if row["nan"] and not row["pos_inf"]
            else "Inf"
            if not row["nan"]
            else "NaN and Inf"
        )
        if clamped(row) and not is_bad(row):
            what = "values clamped to the dtype's maximum"
        given = "inputs that are masked" if any(map(is_bad, call.inputs)) else "finite inputs"
        sentence = f"{place} makes {what} from {given}{where}: {why.sentence}"
    elements = causes.elements(row, tensors)
    evidence = [
        f"{row['role']} {row['slot'] or '0'} ({row['dtype']} {list(row['shape'] or ())}): "
        f"{causes.counts(row)}; {elements.sentence}",
        *why.evidence,
    ]
    if frames:
        evidence.append("before it: " + ", ".join(_frame(f) for f in frames[-4:]))
    details = {
        "origin": origin.kind,
        "cause": why.name,
        "elements": elements.as_dict(),
        "values": why.values,
        "frames": [
            {k: f[k] for k in ("node", "slot", "abs_max", "rms", "headroom_bits")} for f in frames
        ],
    }
    later = _first_nan(one, call, row)
    if later is not None:
        details["first_nan"] = later.node
        evidence.append(f"the first NaN after it is in {_name(later)}")
    return Finding(
        Level.ERROR,
        why.kind(row),
        call.node,
        one.step,
        one.rank,
        sentence,
        tuple(evidence),
        row["row"],
        details,
    )


def _first_nan(one: Pass, origin: Call, row: Row) -> Call | None:
    if row["nan"]:
        return None
    for call in one.leaves:
        if call.end >= origin.end and any(r["nan"] for r in call.outputs):
            return call
    return None


def _known(origin: Origin, one: Pass) -> list[Row]:
    """Return the tensors that what went wrong may have been computed from, latest first."""
    call = origin.call
    if origin.kind == "operator":
        return [*call.inputs, *call.params]
    inside = [r for child in call.children for r in (*child.outputs, *child.inputs)]
    recent = [r for leaf in one.leaves if leaf.end <= call.end for r in leaf.outputs]
    rows = [*call.inputs, *reversed(inside), *reversed(recent[-2 * FRAMES :])]
    unique: dict[int, Row] = {}
    for row in rows:
        unique.setdefault(row["stored"], row)
    return list(unique.values())


def _frames(one: Pass, call: Call) -> list[Row]:
    """Return the last results before a call, smallest unit only."""
    before = [
        leaf
        for leaf in one.leaves
        if leaf is not call and leaf.end < (call.end if call.children else call.start)
    ]
    return [row for leaf in before for row in leaf.outputs[:1] if row["numbers"]][-FRAMES:]


def _frame(row: Row) -> str:
    headroom = "" if row["headroom_bits"] is None else f" ({row['headroom_bits']:.1f} bits left)"
    return f"{row['node']} |x| ≤ {row['abs_max']:.3g}{headroom}"


def _name(call: Call) -> str:
    name = shown_node(call.node)
    return f"{name} ({call.op_type})" if call.op_type else name


def _code_name(origin: Origin) -> str:
    name = f"the code of {_name(origin.call)}"
    if origin.after and origin.before:
        return f"{name} between {origin.after} and {origin.before}"
    if origin.after:
        return f"{name} after {origin.after}"
    return f"{name} before {origin.before}" if origin.before else name


def _where(one: Pass) -> str:
    parts = []
    if one.step is not None:
        parts.append(f"step {one.step}")
    if one.rank is not None:
        parts.append(f"rank {one.rank}")
    return f" in {' of '.join(parts)}" if parts else ""
