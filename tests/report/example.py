"""A report with known content, made without running a comparison."""

from pathlib import Path

import numpy as np

from llmdbg.frame import build, with_verdict
from llmdbg.report.model import Report, Side
from llmdbg.verdict import Finding, State, Verdict

HOSTILE = "model.layers.2.</script><img src=x onerror=alert(1)>"
SLOTS = ("input_layernorm", "self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


def tensors(folder: Path) -> tuple[Path, Path]:
    """Two 8×96 tensors that differ by 1 in row 5 and by 7 at [5, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    golden = np.random.default_rng(0).normal(size=(8, 96)).astype("f4")
    candidate = golden.copy()
    candidate[5] += 1
    candidate[5, 3] += 6
    np.save(folder / "golden.npy", golden)
    np.save(folder / "candidate.npy", candidate)
    return folder / "golden.npy", folder / "candidate.npy"


def report(folder: Path, layers: int = 4, steps: int = 1, slots: tuple[str, ...] = SLOTS) -> Report:
    """One row per layer, slot, role and step; the last two records of each side stand alone.

    The row in the middle is the culprit: rows before it are at half the floor, later ones at 20 ×.
    """
    golden, candidate = tensors(folder)
    names = [
        HOSTILE
        if (layer, slot) == (2, "mlp.down_proj")
        else f"model.layers.{layer}.{slot}".rstrip(".")
        for layer in range(layers)
        for slot in slots
    ]
    records = [
        {
            "step": step,
            "rank": 0,
            "order": order,
            "call": 0,
            "role": role,
            "slot": "0",
            "phase": None,
        }
        | {"node": name, "op_type": "Linear", "dtype": "float32", "shape": [8, 96], "key": None}
        for step in range(steps)
        for order, name in enumerate(names)
        for role in ("input", "output")
    ]
    count = len(records)
    columns = {key: [record[key] for record in records] for key in records[0]}
    pairs = count - 2
    floor, culprit = 1.7e-3, count // 2 + 1
    relative = np.where(np.arange(pairs) < culprit, 0.5, 20.0) * floor
    measures = {
        "relative_l2": relative.tolist(),
        "elements": [8 * 96] * pairs,
        "one_minus_cosine": (relative**2 / 2).tolist(),
        "worst_row": [5] * pairs,
        "worst_row_relative_l2": (relative * 2).tolist(),
        "finiteness_mismatch": [0] * pairs,
        "cmp_fail_reason": [""] * pairs,
    }
    alignment = {
        "golden": list(range(pairs)),
        "candidate": list(range(pairs)),
        "confidence": [0.97] * pairs,
        "evidence": ["name, shape"] * pairs,
        "transform": ["identity"] * pairs,
    }
    frame = build(
        columns | {"path": [str(golden)] * count},
        columns | {"path": [str(candidate)] * count},
        alignment,
        measures,
        list(range(pairs, count)),
        list(range(pairs, count)),
    )
    ratios = [None if value is None else value / floor for value in frame["relative_l2"]]
    states = [
        State.UNDECIDED
        if ratio is None
        else State.PASS
        if ratio < 3
        else State.FAIL
        if row == culprit
        else State.INHERITED
        for row, ratio in enumerate(ratios)
    ]
    name = frame["golden_node"][culprit]
    finding = Finding(
        name, name, 0, 0, "operator", 20.0, 0.97, ("its inputs are clean (0.5×)",), culprit
    )
    verdict = Verdict(
        "diverged",
        f"{name} FAIL: <b>20×</b> the floor",
        finding,
        (),
        states,
        ["in the test"] * frame.height,
        ratios,
        [floor] * frame.height,
    )
    frame = with_verdict(frame, verdict.states, verdict.reasons, verdict.ratios, verdict.floors)
    sides = [
        Side(str(folder / side), "native", "1", count, (), {"torch": "2"}) for side in ("a", "b")
    ]
    return Report(sides[0], sides[1], frame, verdict, "{}")
