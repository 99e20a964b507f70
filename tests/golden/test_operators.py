"""Golden operators against torch in float64, and against transformers' own modules."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmdbg.golden import EXACT, Case, Precision, operator_for
from llmdbg.golden.activation import ACTIVATIONS, mlp
from llmdbg.golden.attention import attention, rotary_table, rotate

torch.manual_seed(0)
TORCH_ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "squared_relu": lambda x: functional.relu(x) ** 2,
}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def computed(op_type: str, *inputs: torch.Tensor, params=None, variant=0, **weights) -> np.ndarray:
    operator = operator_for(op_type)
    assert operator is not None
    arrays = {name.replace("__", "."): w.detach().numpy() for name, w in weights.items()}
    case = Case([i.numpy() for i in inputs], arrays, params or {})
    return operator.formulas[variant](case, EXACT)[0]


def same(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    expected = theirs.detach().numpy()
    return np.allclose(ours, expected.reshape(ours.shape), rtol=1e-11, atol=1e-13)


def test_linear():
    x, weight, bias = random(2, 3, 8), random(5, 8), random(5)
    assert same(computed("Linear", x, weight=weight, bias=bias), functional.linear(x, weight, bias))
    assert same(
        computed("Conv1D", x, weight=weight.T, bias=bias), functional.linear(x, weight, bias)
    )


def test_some_rows_and_columns_of_a_linear():
    x, weight = random(4, 8), random(6, 8)
    case = Case(
        [x.numpy()], {"weight": weight.numpy()}, rows=np.array([1, 3]), columns=np.array([5])
    )
    part = operator_for("Linear").formulas[0](case, EXACT)[0]
    assert same(part, functional.linear(x, weight)[[1, 3]][:, [5]])


def test_embedding():
    ids, table = torch.tensor([[3, 0, 3]]), random(5, 7)
    assert same(computed("Embedding", ids, weight=table), functional.embedding(ids, table))
    scaled = computed(
        "Gemma3TextScaledWordEmbedding", ids, weight=table, embed_scale=random(()) * 0 + 3
    )
    assert same(scaled, 3 * functional.embedding(ids, table))


def test_norms():
    x, weight, bias = random(2, 3, 8), random(8), random(8)
    ours = computed("LayerNorm", x, weight=weight, bias=bias, params={"eps": 1e-3})
    assert same(ours, functional.layer_norm(x, (8,), weight, bias, 1e-3))
    ours = computed("LlamaRMSNorm", x, weight=weight, params={"variance_epsilon": 1e-3})
    assert same(ours, functional.rms_norm(x, (8,), weight, 1e-3))
    ours = computed("Gemma3RMSNorm", x, weight=weight, params={"eps": 1e-3}, variant=1)
    assert same(ours, functional.rms_norm(x, (8,), 1 + weight, 1e-3))


def test_a_rounded_norm_is_transformers_bit_for_bit():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(64, eps=1e-6).to(torch.bfloat16)
    norm.weight.data = torch.randn(64).to(torch.bfloat16)
    x = torch.randn(10, 64).to(torch.bfloat16)
    case = Case(
        [x.float().numpy()],
        {"weight": norm.weight.detach().float().numpy()},
        {"variance_epsilon": 1e-6},
    )
    ours = operator_for("LlamaRMSNorm").formulas[0](case, Precision("bfloat16"))[0]
    assert np.array_equal(ours, norm(x).detach().double().numpy())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = torch.cat([torch.linspace(-40, 40, 20_001, dtype=torch.float64), random(100)])
    assert same(ACTIVATIONS[name](x.numpy()), TORCH_ACTIVATIONS[name](x))


def test_a_whole_mlp():
    x, gate, up, down = random(3, 8), random(12, 8), random(12, 8), random(8, 12)
    expected = functional.linear(
        functional.silu(functional.linear(x, gate)) * functional.linear(x, up), down
    )
    assert same(mlp(x.numpy(), up.numpy(), down.numpy(), "silu", gate.numpy()), expected)
    weights = {"up_proj__weight": up, "down_proj__weight": down, "gate_proj__weight": gate}
    ours = computed("LlamaMLP", x, **weights)
    assert same(ours, expected)
    plain = functional.linear(functional.gelu(functional.linear(x, up)), down)
    assert same(computed("MLP", x, variant=2, up_proj__weight=up, down_proj__weight=down), plain)


def test_rotary_is_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    frequencies = 1.0 / 10000 ** (np.arange(0, 8, 2) / 8)
    cos, sin = rotary_table(np.arange(5.0), frequencies)
    query, key = random(2, 3, 5, 8), random(2, 1, 5, 8)
    turned = apply_rotary_pos_emb(query, key, torch.tensor(cos)[None], torch.tensor(sin)[None])
    for x, expected in zip((query, key), turned, strict=True):
        assert same(rotate(x.numpy(), cos, sin), expected)


def test_rotary_by_neighbours_turns_each_pair():
    cos, sin = rotary_table(np.array([1.0]), np.array([0.5, 0.25]))
    x = np.array([[1.0, 0.0, 0.0, 1.0]])
    wide = (np.repeat(t[..., :2], 2, -1) for t in (cos, sin))
    turned = rotate(x[None, None], *wide, interleaved=True)[0, 0, 0]
    assert turned == pytest.approx([np.cos(0.5), np.sin(0.5), -np.sin(0.25), np.cos(0.25)])


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_attention_is_torchs(groups):
    query, key, value = random(2, 6, 5, 8), random(2, groups, 9, 8), random(2, groups, 9, 8)
    mask = random(2, 1, 5, 9)
    expected = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    ours, weights = attention(*(t.numpy() for t in (query, key, value)), 0.3, mask.numpy())
    assert same(ours, expected)
    assert np.allclose(weights.sum(-1), 1)


def test_without_a_mask_attention_is_causal_and_minds_its_window():
    query, key, value = random(1, 2, 4, 8), random(1, 2, 6, 8), random(1, 2, 6, 8)
    seen = torch.ones(4, 6, dtype=torch.bool).tril(2)
    arrays = [t.numpy() for t in (query, key, value)]
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.5)
    assert same(attention(*arrays, 0.5)[0], expected)
    near = seen & torch.ones(4, 6, dtype=torch.bool).triu(1)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=near, scale=0.5)
    assert same(attention(*arrays, 0.5, window=2)[0], expected)


def test_a_soft_cap_bounds_the_scores():
    query, key = np.full((1, 1, 1, 1), 100.0), np.array([1.0, -1.0]).reshape(1, 1, 2, 1)
    value = np.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    found = attention(query, key, value, 1.0, np.zeros((1, 2)), softcap=2.0)[0]
    cap = 2.0 * np.tanh(50.0)
    assert found.item() == pytest.approx(np.exp(cap) / (np.exp(cap) + np.exp(-cap)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_is_torchs(dtype):
    x = torch.randn(1000) * torch.logspace(-8, 8, 1000)
    ours = Precision(str(dtype).removeprefix("torch."))(x.numpy())
    assert np.array_equal(ours, x.to(dtype).double().numpy())


def test_types_find_their_operator():
    expected = {
        "Linear": "linear",
        "Qwen3RMSNorm": "RMS norm",
        "LayerNorm": "layer norm",
        "SiLUActivation": "activation",
        "LlamaRotaryEmbedding": "rotary table",
        "Embedding": "embedding",
        "Dropout": "dropout that is off",
    }
    assert {t: operator_for(t).name for t in expected} == expected
    assert operator_for("LlamaDecoderLayer") is None


def test_torch_is_never_imported():
    code = "import sys, llmdbg.golden, llmdbg.verdict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
