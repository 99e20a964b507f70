"""Shadow checks where no record is the tensor as it is: packs of another stack, a checkpoint."""

from dataclasses import replace

import polars as pl
import pytest

import llmdbg
from tests.align.decoder import Config
from tests.align.sides import Atb, Torch
from tests.align.variations import Case, write

CASE = Case(
    "shadow",
    1,
    config=Config(layers=3),
    golden=Torch(weights=True),
    candidate=Atb(era="C'"),
    passes=3,
)


def checked(result, name):
    """The rows of what a module gave in the first pass."""
    frame = result.frame.filter(golden_node=name, role="output", step=0)
    return frame.row(0, named=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("stacks")
    cases = {
        "clean": CASE,
        "fault": replace(CASE, fault=("L1.gate", "scaled")),
        "bare": replace(CASE, golden=Torch(weights=False), checkpoint=True),
    }
    return {name: write(case, root / name) for name, case in cases.items()}


def test_a_projection_is_checked_inside_the_pack_it_was_fused_into(runs):
    result = llmdbg.compare(runs["clean"].golden, runs["clean"].candidate, kl=False)
    packed = result.frame.filter(
        pl.col("transform").str.contains("slice"), pl.col("shadow_ratio").is_not_null()
    )
    leaves = set(packed["golden_node"].str.extract(r"\.(\w+)$"))
    assert {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"} <= leaves
    # numpy's float16 rounds where the golden operators do: R is that of a correct operator.
    assert packed["shadow_ratio"].max() < 2
    assert result.verdict == "clean", result


def test_a_fault_inside_a_pack_is_seen_by_the_check(runs):
    result = llmdbg.compare(runs["fault"].golden, runs["fault"].candidate, kl=False)
    assert result.culprit is not None
    assert result.culprit.golden == "model.layers.1.mlp.gate_proj"
    row = checked(result, "model.layers.1.mlp.gate_proj")
    assert "slice" in row["transform"]
    assert row["shadow_ratio"] > 3
    assert any(p.startswith("a constant factor") for p in result.culprit.patterns)
    assert checked(result, "model.layers.1.mlp.up_proj")["shadow_ratio"] < 2


def test_a_checkpoint_gives_the_weights_that_a_dump_lacks(runs):
    bare = runs["bare"]
    name = "model.layers.0.self_attn.o_proj"
    without = llmdbg.compare(bare.golden, bare.candidate, kl=False)
    assert checked(without, name)["shadow_ratio"] is None
    result = llmdbg.compare(bare.golden, bare.candidate, kl=False, weights=bare.checkpoint)
    assert checked(result, name)["shadow_ratio"] < 2
    assert result.verdict == "clean", result


def test_a_checkpoint_of_another_model_checks_nothing(runs, tmp_path):
    """A formula that does not give golden's own output is not used, whatever it was fed."""
    other = write(replace(CASE, seed=2, golden=Torch(weights=False), checkpoint=True), tmp_path)
    bare = runs["bare"]
    result = llmdbg.compare(bare.golden, bare.candidate, kl=False, weights=other.checkpoint)
    name = "model.layers.0.self_attn.o_proj"
    assert checked(result, name)["shadow_ratio"] is None
    assert result.verdict == "clean", result
