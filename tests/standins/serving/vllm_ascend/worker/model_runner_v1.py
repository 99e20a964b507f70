"""vllm-ascend's runner.

Source: vllm-project/vllm-ascend, vllm_ascend/worker/model_runner_v1.py: `NPUModelRunner` derives
from vLLM's `GPUModelRunner` and has an `execute_model` of its own.
"""

import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class NPUModelRunner(GPUModelRunner):
    @torch.inference_mode()
    def execute_model(self, scheduler_output, intermediate_tensors=None):
        return super().execute_model(scheduler_output, intermediate_tensors)
