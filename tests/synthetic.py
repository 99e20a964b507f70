"""Comparisons made by hand: rows with chosen errors, no dump and no engine behind them."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from llmdbg import frame as frames
from llmdbg.report.model import Report, Side
from llmdbg.verdict import judge

MEASURES = (
    "relative_l2",
    "worst_row_relative_l2",
    "worst_row",
    "finiteness_mismatch",
    "max_absolute_error",
    "cmp_fail_reason",
    "bitwise_equal",
    "relative_l2_at_least",
    "golden_min",
    "golden_max",
    "golden_rms",
)


@dataclass
class Run:
    """Rows in the order they are added; `frame` builds what `llmdbg.compare` would."""

    golden_dtype: str = "float32"
    candidate_dtype: str = "bfloat16"
    rows: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0

    def call(self, node: str, inputs: list[float], outputs: list[float], **cells: Any) -> None:
        """Add one call of an operator with these relative L2 errors."""
        for role, errors in (("input", inputs), ("output", outputs)):
            for slot, error in enumerate(errors):
                self.row(node, role, str(slot), error, **cells)
        self.calls += 1

    def row(self, node: str, role: str, slot: str, error: float | None, **cells: Any) -> None:
        """Add one row; `cells` overrides anything in it."""
        row = {
            "node": node,
            "op_type": None,
            "step": 0,
            "rank": None,
            "call": 0,
            "role": role,
            "slot": slot,
            "phase": None,
            "order": self.calls,
            "path": "data.safetensors",
            "key": f"t{len(self.rows)}",
            "golden_dtype": self.golden_dtype,
            "candidate_dtype": self.candidate_dtype,
            "golden_shape": [16, 64],
            "candidate_shape": [16, 64],
            "candidate_node": node,
            "confidence": 1.0,
            "evidence": "name",
            "transform": None,
            "relative_l2": error,
            "worst_row_relative_l2": error,
            "worst_row": 0,
            "finiteness_mismatch": None if error is None else 0,
            "max_absolute_error": error,
            "cmp_fail_reason": None,
            "bitwise_equal": None,
            "relative_l2_at_least": None,
            "golden_min": None,
            "golden_max": None,
            "golden_rms": None,
        }
        unknown = cells.keys() - row.keys()
        assert not unknown, unknown
        self.rows.append(row | cells)

    def frame(self) -> pl.DataFrame:
        paired = range(len(self.rows))
        return frames.build(
            self._side("golden"),
            self._side("candidate"),
            {
                "golden": list(paired),
                "candidate": list(paired),
                **{c: self._column(c) for c in ("confidence", "evidence", "transform")},
            },
            {c: self._column(c) for c in MEASURES},
            [],
            [],
        )

    def report(self, path: str = "dumps") -> Report:
        frame = self.frame()
        verdict = judge(frame)
        return Report(
            golden=Side(f"{path}/golden", "native", "1", len(self.rows)),
            candidate=Side(f"{path}/candidate", "native", "1", len(self.rows)),
            frame=frames.with_verdict(
                frame, verdict.states, verdict.reasons, verdict.ratios, verdict.floors
            ),
            verdict=verdict,
            alignment="{}\n",
        )

    def _column(self, name: str) -> list[Any]:
        return [r[name] for r in self.rows]

    def _side(self, side: str) -> dict[str, list[Any]]:
        shared = (
            "op_type",
            "step",
            "rank",
            "call",
            "role",
            "slot",
            "phase",
            "order",
            "path",
            "key",
        )
        node = "node" if side == "golden" else "candidate_node"
        return {
            "node": self._column(node),
            "dtype": self._column(f"{side}_dtype"),
            "shape": self._column(f"{side}_shape"),
            **{c: self._column(c) for c in shared},
        }


# The operators of a layer, with error out over error in.
BLOCKS = {
    "self_attn": {"q_proj": 0.9, "k_proj": 0.9, "v_proj": 0.9, "q_norm": 1.5, "o_proj": 0.9},
    "mlp": {"up_proj": 0.9, "down_proj": 1.1},
}


def network(layers: int = 8, wrong: tuple[str, float] | None = None, **kwargs: Any) -> Run:
    """A decoder whose error grows by a few per cent per layer from the bfloat16 floor.

    `wrong` names an operator (``layers.4.mlp.down_proj``) and the error its output gets.
    """
    run = Run(**kwargs)
    error = 1.7e-3
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        before = error
        for block, leaves in BLOCKS.items():
            out = error
            for name, gain in leaves.items():
                node = f"{prefix}.{block}.{name}"
                result = wrong[1] if wrong and node.endswith(wrong[0]) else error * gain
                out = max(out, result)
                run.call(node, [error], [result])
            run.call(f"{prefix}.{block}", [error], [out])
            error = max(error * 1.025, out / 2)
        run.call(prefix, [before], [error])
    run.call("model.norm", [error], [error])
    run.call("lm_head", [error], [error])
    return run
