import pytest
import torch


@pytest.fixture
def llama():
    """A random Llama of two layers."""
    return small_llama(layers=2)


def small_llama(layers):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def ids():
    return torch.arange(12).reshape(1, 12) * 7 % 128
