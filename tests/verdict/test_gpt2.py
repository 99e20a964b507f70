"""GPT-2: weights the other way round, an MLP of Conv1D and no gate, learned positions."""

import copy

import pytest
import torch

import llmdbg
from tests.verdict.conftest import change_output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function from a change and a dtype to the dump of a random GPT-2 of two layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=96,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1).add_(
                0.2 * torch.randn(parameter.shape) if parameter.ndim == 1 else 0
            )
    prompt = torch.randint(0, 96, (1, 24))

    def capture(hurt, dtype=torch.bfloat16):
        path = tmp_path_factory.mktemp("gpt2") / "dump"
        own = copy.deepcopy(model).to(dtype)
        if hurt is not None:
            hurt(own)
        with torch.no_grad(), llmdbg.capture_torch(own, path, weights=True):
            own(input_ids=prompt, use_cache=False)
        return path

    return capture


@pytest.fixture(scope="module")
def golden_gpt2(runs):
    return runs(None, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_run_that_only_rounds_is_clean_and_its_mlp_is_checked(golden_gpt2, runs, dtype):
    result = llmdbg.compare(golden_gpt2, runs(None, dtype), kl=False)
    assert result.verdict == "clean", result
    frame = result.frame.filter(role="output")
    for leaf in ("c_fc", "act", "c_proj"):
        row = frame.filter(golden_node=f"transformer.h.1.mlp.{leaf}").row(0, named=True)
        assert row["shadow_ratio"] < 2, leaf


def _activation(model):
    model.transformer.h[1].mlp.act = torch.nn.SiLU()


def _transposed(model):
    weight = model.transformer.h[1].attn.c_proj.weight
    weight.data = weight.data.T.contiguous()


@pytest.mark.parametrize(
    ("hurt", "name", "words"),
    [
        (
            change_output("transformer.h.1.mlp.c_fc", lambda y: y * 1.02),
            "transformer.h.1.mlp.c_fc",
            "a constant factor of 1.02",
        ),
        (_activation, "transformer.h.1.mlp.act", "silu instead of gelu_tanh"),
        (
            change_output("transformer.h.0.mlp.c_proj", lambda y: y.clamp(-0.5, 0.5)),
            "transformer.h.0.mlp.c_proj",
            "saturated",
        ),
        (_transposed, "transformer.h.1.attn.c_proj", "the transposed weight instead of the weight"),
    ],
    ids=["c_fc", "act", "c_proj", "transposed"],
)
def test_what_is_wrong_in_it_is_named(golden_gpt2, runs, hurt, name, words):
    result = llmdbg.compare(golden_gpt2, runs(hurt), kl=False)
    assert result.culprit is not None
    assert result.culprit.golden == name
    assert any(p.startswith(words) for p in result.culprit.patterns), result.culprit.patterns
