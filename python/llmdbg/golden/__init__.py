"""Golden operators: what an operator should give, in float64 numpy or rounded as a device rounds.

One function per operator, from inputs and parameters to the output; `REGISTRY` says which module
and operation types each answers for. Nothing here imports torch.
"""

from llmdbg.golden.precision import EXACT, Precision
from llmdbg.golden.registry import REGISTRY, Case, Operator, operator_for

__all__ = ["EXACT", "REGISTRY", "Case", "Operator", "Precision", "operator_for"]
