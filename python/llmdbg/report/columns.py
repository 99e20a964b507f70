"""The columns of a report, by name and order."""

from __future__ import annotations

# The 22 columns of `ait llm compare`'s ait_cmp_report: scripts read them by name and by position.
AIT_COLUMNS = (
    "token_id",
    "data_id",
    "golden_data_path",
    "golden_dtype",
    "golden_shape",
    "golden_max_value",
    "golden_min_value",
    "golden_mean_value",
    "my_data_path",
    "my_dtype",
    "my_shape",
    "my_max_value",
    "my_min_value",
    "my_mean_value",
    "cosine_similarity",
    "max_relative_error",
    "mean_relative_error",
    "max_absolute_error",
    "mean_absolute_error",
    "kl_divergence",
    "relative_euclidean_distance",
    "cmp_fail_reason",
)

JUDGEMENT_COLUMNS = (
    "state",
    "reason",
    "ratio",
    "floor",
    "required_factor",
    "introduced",
    "shadow_ratio",
    "shadow_row_ratio",
)

# Which records a row compares, and why these two.
PAIR_COLUMNS = (
    "step",
    "candidate_step",
    "rank",
    "order",
    "call",
    "role",
    "slot",
    "phase",
    "golden_node",
    "candidate_node",
    "golden_op_type",
    "candidate_op_type",
    "transform",
    "confidence",
    "evidence",
    "golden_record",
    "candidate_record",
)
