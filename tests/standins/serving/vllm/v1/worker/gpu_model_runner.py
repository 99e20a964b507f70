"""The first generation of vLLM's runner.

Source: vllm-project/vllm, vllm/v1/worker/gpu_model_runner.py: `execute_model(scheduler_output,
intermediate_tensors)` updates `input_batch`, whose `req_ids` are in the order of the rows, and
calls the model once; profiling and warm-up call the model from `_dummy_run`, not from there.
"""

import torch

from vllm.model import TinyForCausalLM
from vllm.scheduled import SchedulerOutput


class InputBatch:
    def __init__(self):
        self.req_ids = []


class GPUModelRunner:
    def __init__(self):
        self.input_batch = InputBatch()
        self.tokens = {}
        self.computed = {}

    def load_model(self):
        self.model = TinyForCausalLM()

    def get_model(self):
        return self.model

    def profile_run(self):
        self._dummy_run(16)

    @torch.inference_mode()
    def _dummy_run(self, num_tokens):
        zeros = torch.zeros(num_tokens, dtype=torch.int64)
        self.model(zeros, zeros)

    @torch.inference_mode()
    def execute_model(self, scheduler_output, intermediate_tensors=None):
        assert isinstance(scheduler_output, SchedulerOutput)
        assert intermediate_tensors is None
        self._update_states(scheduler_output)
        if not scheduler_output.total_num_scheduled_tokens:
            return []
        ids, positions = self._prepare_inputs(scheduler_output)
        return self.model(ids, positions)

    def _update_states(self, scheduler_output):
        for request in scheduler_output.finished_req_ids:
            self.input_batch.req_ids.remove(request)
        for request in scheduler_output.scheduled_new_reqs:
            # Decodes lie before prefills, as the attention kernels want them.
            self.input_batch.req_ids.append(request.req_id)
            self.tokens[request.req_id] = list(request.prompt_token_ids)
            self.computed[request.req_id] = request.num_computed_tokens

    def _prepare_inputs(self, scheduler_output):
        ids, positions = [], []
        for request in self.input_batch.req_ids:
            count = scheduler_output.num_scheduled_tokens.get(request, 0)
            start = self.computed[request]
            known = self.tokens[request]
            known += [(start + len(known)) % 32] * max(0, start + count - len(known))
            ids += known[start : start + count]
            positions += range(start, start + count)
            self.computed[request] += count
        return torch.tensor(ids), torch.tensor(positions)
