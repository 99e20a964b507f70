"""The shadow check on real runs: what is named, and what is left in peace."""

import types

import polars as pl
import pytest
import torch

import llmdbg
from llmdbg.verdict import State
from tests.verdict.conftest import change_output


def culprit_of(golden, candidate, **options):
    result = llmdbg.compare(golden, candidate, kl=False, **options)
    assert result.culprit is not None, result
    return result.culprit, result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("weights", [True, False])
def test_a_run_that_only_rounds_is_clean(golden, captured, dtype, weights):
    result = llmdbg.compare(golden, captured(None, dtype, weights=weights), kl=False)
    assert result.verdict == "clean", result
    paired = result.frame.drop_nulls(["golden_node", "candidate_node"])
    assert set(paired["state"].unique()) <= {"PASS", "INHERITED"}
    # What stands for minus infinity is another number in every dtype.
    masks = paired.filter(pl.col("slot").str.contains("mask"), pl.col("ratio").is_not_null())
    assert masks.height > 0
    assert masks["ratio"].unique().to_list() == [0.0]


def test_one_per_cent_is_seen_under_the_noise_of_the_layers_above(golden, captured):
    name = "model.layers.2.self_attn.v_proj"
    culprit, result = culprit_of(golden, captured(change_output(name, lambda y: y * 1.01)))
    assert culprit.patterns[0].startswith("a constant factor of 1.01")
    assert (culprit.golden, culprit.kind) == (name, "operator")
    # 1 % of what bfloat16 rounds by 0.166 %: hypot(1, 0.166) / 0.166, less the δ of both.
    row = result.frame.filter(golden_node=name, role="output", step=0)
    assert row["shadow_ratio"][0] == pytest.approx(5.0, abs=1.2)
    assert row["introduced"][0] == pytest.approx(0.0101, abs=5e-4)
    without = llmdbg.compare(
        golden, captured(change_output(name, lambda y: y * 1.01)), shadow="off"
    )
    assert without.frame["shadow_ratio"].is_null().all()


def test_one_wrong_token_is_named_by_its_row(golden, captured):
    name = "model.layers.1.mlp.down_proj"

    def repeat(y):
        if y.shape[1] > 5:
            y[:, 5] = y[:, 4]
        return y

    culprit, _ = culprit_of(golden, captured(change_output(name, repeat)))
    assert culprit.golden == name
    assert any("token 5" in e for e in culprit.evidence)
    assert culprit.patterns[0].startswith("wrong row: row 5 is what row 4 should be")
    assert any(e.startswith("its inputs are clean") for e in culprit.evidence)


def test_the_code_between_modules_is_a_gap_of_its_module(golden, captured):
    def scaled(model):
        model.model.layers[1].self_attn.scaling *= 1.4

    culprit, _ = culprit_of(golden, captured(scaled))
    assert (culprit.golden, culprit.kind) == ("model.layers.1.self_attn", "gap")
    assert culprit.label == "attention core between v_proj and o_proj of model.layers.1.self_attn"
    assert any("scaling is" in e for e in culprit.evidence)


def test_a_residual_that_is_lost_is_a_gap_of_the_layer(golden, captured):
    def hurt(model):
        layer = model.model.layers[1]

        def forward(self, hidden_states, **kwargs):
            attended, _ = self.self_attn(
                hidden_states=self.input_layernorm(hidden_states), **kwargs
            )
            return attended + self.mlp(self.post_attention_layernorm(attended))

        layer.forward = types.MethodType(forward, layer)

    culprit, _ = culprit_of(golden, captured(hurt))
    assert (culprit.golden, culprit.kind) == ("model.layers.1", "gap")
    assert "post_attention_layernorm" in culprit.label


def test_what_follows_is_inherited_and_itself_right(golden, captured):
    name = "model.layers.0.mlp.up_proj"
    _, result = culprit_of(golden, captured(change_output(name, lambda y: y * 1.5)))
    states = dict(
        result.frame.filter(pl.col("role") == "output", pl.col("step") == 0)
        .select("golden_node", "state")
        .iter_rows()
    )
    assert states[name] == State.FAIL
    assert states["model.layers.0.mlp.gate_proj"] == State.PASS
    assert states["model.layers.2.mlp.down_proj"] == State.INHERITED
    assert [f for f in result.frame["state"] if f == State.FAIL] == [State.FAIL] * 2  # two steps


def test_independent_faults_are_listed_in_order(golden, captured):
    def hurt(model):
        change_output("model.layers.2.mlp.gate_proj", lambda y: y * 1.2)(model)
        change_output("model.layers.0.self_attn.k_proj", lambda y: y * 1.2)(model)

    culprit, result = culprit_of(golden, captured(hurt))
    names = [culprit.golden, *(f.golden for f in result.report.verdict.suspects)]
    assert names == ["model.layers.0.self_attn.k_proj", "model.layers.2.mlp.gate_proj"]


def test_a_fault_in_one_step_is_told_with_its_step(golden, captured):
    name = "model.layers.1.mlp.up_proj"

    def second_only(y):
        return y * 1.3 if y.shape[1] == 1 else y

    culprit, _ = culprit_of(golden, captured(change_output(name, second_only)))
    assert (culprit.golden, culprit.step) == (name, 1)


def test_nan_and_overflow_are_told_apart(golden, captured):
    name = "model.layers.1.mlp.up_proj"

    def nan(y):
        y.view(-1)[3] = float("nan")
        return y

    culprit, _ = culprit_of(golden, captured(change_output(name, nan)))
    assert (culprit.golden, culprit.kind) == (name, "nonfinite")
    assert "NaN or infinity at 1 positions" in culprit.evidence[0]


def test_a_norm_is_checked_without_its_weight(golden_without_weights, captured):
    name = "model.layers.1.post_attention_layernorm"

    def hurt(model):
        model.get_submodule(name).variance_epsilon = 0.5

    candidate = captured(hurt, torch.float16, weights=False)
    culprit, result = culprit_of(golden_without_weights, candidate)
    assert culprit.golden == name
    assert any("variance_epsilon is 0.5" in e for e in culprit.evidence)
    row = result.frame.filter(golden_node=name, role="output", step=0)
    assert row["shadow_ratio"][0] > 3


def test_a_parameter_that_no_tensor_shows_is_still_named(golden, captured):
    name = "model.layers.1.input_layernorm"

    def hurt(model):
        model.get_submodule(name).variance_epsilon = 1.5e-6

    culprit, _ = culprit_of(golden, captured(hurt))
    assert (culprit.golden, culprit.kind) == (name, "parameter")
    assert culprit.evidence[0] == "variance_epsilon is 1.5e-06, golden has 1e-06"


def test_a_tensor_that_is_gone_leaves_a_verdict(golden, captured):
    candidate = captured(change_output("model.layers.1.mlp.up_proj", lambda y: y * 1.5))
    shard = sorted((candidate / "data").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:200])
    result = llmdbg.compare(golden, candidate, kl=False)
    assert result.verdict in ("diverged", "undecided")


def test_what_was_done_instead_is_named(golden, captured):
    def activation(model):
        model.model.layers[1].mlp.act_fn = torch.nn.GELU()

    culprit, _ = culprit_of(golden, captured(activation))
    assert culprit.golden == "model.layers.1.mlp.act_fn"
    assert culprit.patterns[0].startswith("gelu")

    def transposed(model):
        weight = model.model.layers[1].self_attn.o_proj.weight
        weight.data = weight.data.T.contiguous()

    culprit, _ = culprit_of(golden, captured(transposed, weights=False))
    assert culprit.golden == "model.layers.1.self_attn.o_proj"
    assert culprit.patterns[0].startswith("the transposed weight instead of the weight")


@pytest.mark.parametrize("weights", [True, False])
def test_a_rotary_table_of_one_position_is_not_too_small_to_check(golden, captured, weights):
    def hurt(model):
        rotary = model.model.rotary_emb
        forward = rotary.forward
        rotary.forward = lambda x, position_ids: forward(
            x, position_ids + (1 if position_ids.shape[-1] == 1 else 0)
        )

    culprit, _ = culprit_of(golden, captured(hurt, weights=weights))
    assert (culprit.golden, culprit.step) == ("model.rotary_emb", 1)


def _mask_moved(layer: int, by: int):
    """Show each query one key too many (`by` = 1) or one too few (-1), inside the attention."""

    def hurt(model):
        attention = model.model.layers[layer].self_attn
        forward = attention.forward

        def moved(hidden_states, attention_mask=None, **kwargs):
            rows, columns = attention_mask.shape[-2:]
            seen = torch.ones(rows, columns).tril(columns - rows + by).bool()
            seen[:, 0] = True
            mask = torch.zeros(1, 1, rows, columns, dtype=attention_mask.dtype)
            mask = mask.masked_fill(~seen, torch.finfo(mask.dtype).min)
            return forward(hidden_states, attention_mask=mask, **kwargs)

        attention.forward = moved

    return hurt


@pytest.mark.parametrize(("by", "words"), [(1, "shows"), (-1, "hides")])
def test_a_mask_off_by_one_is_told_from_other_faults_of_attention(golden, captured, by, words):
    culprit, _ = culprit_of(golden, captured(_mask_moved(1, by)))
    assert (culprit.golden, culprit.kind) == ("model.layers.1.self_attn", "gap")
    assert culprit.patterns[0].startswith(f"a mask that {words} one key too many instead of")

    def scaled(model):
        model.model.layers[1].self_attn.scaling *= 1.4

    culprit, _ = culprit_of(golden, captured(scaled))
    assert not any("mask" in p for p in culprit.patterns)
