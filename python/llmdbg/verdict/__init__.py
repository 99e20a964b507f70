"""From a frame of measures to a judgement: which rows are wrong, and what went wrong first."""

from llmdbg.verdict.model import Finding, State, Verdict
from llmdbg.verdict.rule import judge

__all__ = ["Finding", "State", "Verdict", "judge"]
