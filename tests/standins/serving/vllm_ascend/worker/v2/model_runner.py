"""vllm-ascend's runner of the second generation.

Source: vllm-project/vllm-ascend, vllm_ascend/worker/v2/model_runner.py: `NPUModelRunner` derives
from the `GPUModelRunner` of vllm/v1/worker/gpu/model_runner.py; its own `execute_model` takes more
words and hands the dummies' on by name.
"""

import torch
from vllm.v1.worker.gpu.model_runner import GPUModelRunner


class NPUModelRunner(GPUModelRunner):
    def profile_run(self):
        self.execute_model(None, dummy_run=True, is_profile=True)

    @torch.inference_mode()
    def execute_model(
        self,
        scheduler_output,
        intermediate_tensors=None,
        dummy_run=False,
        skip_attn_for_dummy_run=False,
        is_profile=False,
        context_len=0,
        valid_dummy_state_slots=False,
    ):
        assert (is_profile, context_len, valid_dummy_state_slots) == (dummy_run, 0, False)
        return super().execute_model(
            scheduler_output,
            intermediate_tensors=intermediate_tensors,
            dummy_run=dummy_run,
            skip_attn_for_dummy_run=skip_attn_for_dummy_run,
        )
