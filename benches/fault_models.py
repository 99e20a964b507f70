"""The models that the fault bench hurts: small ones of several families, and one real LLM.

Random weights as `from_config` makes them are unlike an LLM's: attention is flat and no channel
stands out. Here norms scatter, some channels of the residual stream are large, and queries are
scaled so that attention has peaks.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
VOCABULARY, HIDDEN, LAYERS = 512, 256, 8


@dataclass(frozen=True)
class Subject:
    """A model in float32, and what it is given."""

    name: str
    model: Any
    prompt: torch.Tensor
    forced: tuple[int, ...]
    dtypes: tuple[str, ...] = ("bf16", "fp16")


def llama(seed: int) -> Subject:
    """Llama with grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**_common(), num_key_value_heads=4, intermediate_size=512)
    return _subject("llama", LlamaForCausalLM(_eager(config)), seed)


def qwen2(seed: int) -> Subject:
    """Qwen2: biases on q, k and v."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**_common(), num_key_value_heads=2, intermediate_size=640)
    return _subject("qwen2", Qwen2ForCausalLM(_eager(config)), seed)


def qwen3(seed: int) -> Subject:
    """Qwen3: norms on queries and keys, a head size of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**_common(), num_key_value_heads=4, intermediate_size=512, head_dim=48)
    return _subject("qwen3", Qwen3ForCausalLM(_eager(config)), seed)


def gpt2(seed: int) -> Subject:
    """GPT-2: LayerNorm, learned positions, Conv1D, no gate, torch's fused attention."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=8, n_positions=256
    )
    return _subject("gpt2", GPT2LMHeadModel(config), seed)


def gemma2(seed: int) -> Subject:
    """Gemma 2: norms that add 1 around both halves, soft caps, windows in every other layer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **_common(),
        num_key_value_heads=4,
        intermediate_size=512,
        head_dim=32,
        sliding_window=16,
        query_pre_attn_scalar=32,
    )
    return _subject("gemma2", Gemma2ForCausalLM(_eager(config)), seed)


def gemma(_seed: int) -> Subject:
    """Gemma 3 270M, trained weights."""
    from llmdbg.demo import _gemma

    model, ids, _ = _gemma(lambda _text: None)
    model.config._attn_implementation = "eager"
    # Its residual stream leaves float16's range: a clean run in float16 is none.
    return Subject("gemma-3-270m", model, ids, (9079, 236761, 669), ("bf16",))


MODELS: dict[str, Callable[[int], Subject]] = {
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gpt2": gpt2,
    "gemma2": gemma2,
    "gemma": gemma,
}
SMALL = ("llama", "qwen2", "qwen3", "gpt2")


def _common() -> dict[str, int]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "max_position_embeddings": 512,
    }


def _eager(config: Any) -> Any:
    config._attn_implementation = "eager"
    return config


def _subject(name: str, model: Any, seed: int) -> Subject:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    outliers = torch.randperm(HIDDEN, generator=generator)[:4]
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            leaf = path.rsplit(".", 1)[0]
            if parameter.ndim == 1:
                scatter = normal(parameter.numel())
                if path.endswith("bias"):
                    parameter.copy_(0.3 * scatter)
                else:
                    parameter.copy_(torch.exp(0.4 * scatter))
                continue
            conv = type(model.get_submodule(leaf)).__name__ == "Conv1D"
            fan_in = parameter.shape[0] if conv else parameter.shape[1]
            rows = torch.exp(0.3 * normal(parameter.shape[0], 1))
            parameter.copy_(normal(*parameter.shape) * rows / fan_in**0.5)
            if leaf.endswith(("embed_tokens", "wte")):
                parameter.mul_(fan_in**0.5)
                parameter[:, outliers] *= 12.0
            elif leaf.endswith(("q_proj", "c_attn")):
                parameter.mul_(1.6)
            elif leaf.endswith(("o_proj", "down_proj", "c_proj")):
                parameter.mul_(0.5)
    prompt = torch.randint(0, VOCABULARY, (1, 40), generator=generator)
    forced = tuple(torch.randint(0, VOCABULARY, (3,), generator=generator).tolist())
    return Subject(name, model.eval(), prompt, forced)
