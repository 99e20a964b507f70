"""From a frame of measures to a judgement: which rows are wrong, and what went wrong first."""

from llmdbg.verdict.calibration import Calibration
from llmdbg.verdict.gates import Gate, GateResult
from llmdbg.verdict.model import Finding, State, Verdict
from llmdbg.verdict.parameters import parameter_differences
from llmdbg.verdict.rule import judge
from llmdbg.verdict.shadow import Checker, Mode, Sources

__all__ = [
    "Calibration",
    "Checker",
    "Finding",
    "Gate",
    "GateResult",
    "Mode",
    "Sources",
    "State",
    "Verdict",
    "judge",
    "parameter_differences",
]
