"""Captured runs of a small decoder, clean and hurt."""

import copy
from collections.abc import Callable

import pytest
import torch

import llmdbg


@pytest.fixture(scope="session")
def decoder():
    """A random Llama of three layers in float32, with its prompt and one forced token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return model, torch.randint(0, 128, (1, 24)), torch.tensor([[7]])


@pytest.fixture(scope="session")
def captured(decoder, tmp_path_factory):
    """Capture the decoder after a change; ``captured(None, float32)`` is the golden run."""
    model, prompt, token = decoder

    def capture(hurt: Callable | None, dtype=torch.bfloat16, *, weights: bool = True, **options):
        path = tmp_path_factory.mktemp("run") / "dump"
        own = copy.deepcopy(model).to(dtype)
        if hurt is not None:
            hurt(own)
        with torch.no_grad(), llmdbg.capture_torch(own, path, weights=weights, **options):
            first = own(input_ids=prompt, use_cache=True)
            own(input_ids=token, past_key_values=first.past_key_values, use_cache=True)
        return path

    return capture


@pytest.fixture(scope="session")
def golden(captured):
    """The golden run, with its weights."""
    return captured(None, torch.float32)


@pytest.fixture(scope="session")
def golden_without_weights(captured):
    """The golden run as the capture leaves it when nothing more is asked for."""
    return captured(None, torch.float32, weights=False)


def change_output(name: str, change: Callable) -> Callable:
    """Hurt the output of a module."""

    def hurt(model):
        model.get_submodule(name).register_forward_hook(lambda _m, _a, y: change(y.clone()))

    return hurt
