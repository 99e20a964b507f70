"""What the scheduler hands to the workers each step.

Source: vllm-project/vllm, vllm/v1/core/sched/output.py at 00e8f1fd0936; the fields that a model
runner needs to know whose tokens it computes.
"""

from dataclasses import dataclass, field


@dataclass
class NewRequestData:
    req_id: str
    prompt_token_ids: list
    num_computed_tokens: int = 0


@dataclass
class CachedRequestData:
    req_ids: list = field(default_factory=list)
    num_computed_tokens: list = field(default_factory=list)


@dataclass
class SchedulerOutput:
    scheduled_new_reqs: list
    scheduled_cached_reqs: CachedRequestData
    num_scheduled_tokens: dict
    total_num_scheduled_tokens: int
    finished_req_ids: set = field(default_factory=set)
