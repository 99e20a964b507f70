"""The second generation of vLLM's runner.

Source: vllm-project/vllm, vllm/v1/worker/gpu/model_runner.py: `execute_model` also runs dummies,
with `dummy_run=True`, and leaves its batch in `execute_model_state` for `sample_tokens`.
"""

from collections import namedtuple

import torch

from vllm.v1.worker import gpu_model_runner

ExecuteModelState = namedtuple("ExecuteModelState", ["input_batch", "hidden_states"])


class GPUModelRunner:
    def __init__(self):
        self.inner = gpu_model_runner.GPUModelRunner.__new__(gpu_model_runner.GPUModelRunner)
        gpu_model_runner.GPUModelRunner.__init__(self.inner)
        self.execute_model_state = None

    def load_model(self):
        self.inner.load_model()
        self.model = self.inner.model

    def profile_run(self):
        self.execute_model(None, dummy_run=True)

    @torch.inference_mode()
    def execute_model(
        self,
        scheduler_output,
        intermediate_tensors=None,
        dummy_run=False,
        skip_attn_for_dummy_run=False,
    ):
        assert intermediate_tensors is None
        assert skip_attn_for_dummy_run is False
        if dummy_run:
            zeros = torch.zeros(16, dtype=torch.int64)
            return self.model(zeros, zeros)
        self.inner._update_states(scheduler_output)
        ids, positions = self.inner._prepare_inputs(scheduler_output)
        hidden = self.model(ids, positions)
        self.execute_model_state = ExecuteModelState(self.inner.input_batch, hidden)
        return None
