"""Values that two stacks keep differently: dumps on disk, compared as a user does."""

from dataclasses import replace

import numpy as np
import pytest

from llmdbg.comparison import compare
from tests.align.decoder import Config
from tests.align.sides import Atb, Torch
from tests.align.variations import Case, Written, align, score, write
from tests.writers.native import record, write_native

# float16 rounds each value by 2^-11 at most; the error grows over two layers.
NOISE = 5e-3
CASE = Case(
    "transforms",
    3,
    config=Config(layers=2),
    golden=Torch(weights=True, functional=True),
    candidate=Atb(era="C'", fused="flat"),
    passes=2,
)


def rows(path, case):
    """The judged rows of a comparison of both sides of a case, none of them wrong."""
    written = write(case, path)
    scored = score(written)
    assert not scored.wrong
    frame = compare(written.golden, written.candidate, shadow="off").frame
    return frame.filter(frame["confidence"] >= 0.6)


def with_transform(frame, words):
    """The rows whose transform says so; all of them equal but for rounding."""
    found = frame.filter(frame["transform"].str.contains(words))
    assert found.height > 0, frame["transform"].unique().to_list()
    assert found["relative_l2"].max() < NOISE
    return found


def outputs(frame):
    return set(frame.filter(frame["role"] == "output")["golden_node"])


def test_the_sum_that_an_add_norm_keeps_to_itself(tmp_path):
    case = replace(CASE, candidate=replace(CASE.candidate, fused="addnorm", bare_norm=True))
    found = with_transform(rows(tmp_path, case), "candidate: sum")
    assert outputs(found) == {"model.layers.0.attn_add", "model.layers.1.attn_add"}


@pytest.mark.parametrize("weights", [True, False])
def test_q_k_and_v_packed_head_group_by_head_group(tmp_path, weights):
    golden = replace(CASE.golden, weights=weights)
    case = replace(CASE, golden=golden, candidate=replace(CASE.candidate, groups=2))
    # Two groups, each of 16 columns of q, 8 of k and 8 of v.
    found = rows(tmp_path, case)
    for name, start, end in (("q", 0, 16), ("k", 16, 24), ("v", 24, 32)):
        own = with_transform(found, f"2, 32\\], slice axis 2 {start}:{end}")
        assert outputs(own) == {f"model.layers.{i}.self_attn.{name}_proj" for i in range(2)}


@pytest.mark.parametrize("weights", [True, False])
def test_rotary_pairs_against_rotary_halves(tmp_path, weights):
    golden = replace(CASE.golden, weights=weights)
    candidate = replace(CASE.candidate, qkv=(), interleaved=8)
    found = rows(tmp_path, replace(CASE, golden=golden, candidate=candidate))
    found = with_transform(found, "candidate: heads of 8: pairs to halves")
    assert "model.layers.0.self_attn.rope" in outputs(found)


def test_a_batch_of_copies(tmp_path):
    case = replace(CASE, candidate=replace(CASE.candidate, copies=3, last_logits=False))
    found = with_transform(rows(tmp_path, case), "golden: .*repeat 3 times")
    assert {"model.layers.1.mlp.up_proj", "model.norm", "lm_head"} <= outputs(found)


def test_tokens_padded_at_the_end(tmp_path):
    case = replace(CASE, candidate=replace(CASE.candidate, padding=3, last_logits=False))
    found = with_transform(rows(tmp_path, case), "slice axis 0 0:5")
    assert {"model.layers.1.mlp.up_proj", "model.norm", "lm_head"} <= outputs(found)


def test_blocks_of_sixteen(tmp_path):
    candidate = replace(CASE.candidate, qkv=(), gate_up=(), nz=True, last_logits=False)
    found = with_transform(rows(tmp_path, replace(CASE, candidate=candidate)), "candidate: NZ to")
    assert {"model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"} <= outputs(found)
    assert found.filter(found["role"] == "param").height >= 14


def test_integers_with_their_scales(tmp_path):
    candidate = replace(CASE.candidate, int8=True)
    found = rows(tmp_path, replace(CASE, candidate=candidate))
    found = found.filter(found["transform"].str.contains("dequantise"))
    assert found["role"].unique().to_list() == ["param"]
    # A row's scale is its largest value by 127; rounding is off by half a step at most.
    assert 1e-3 < found["relative_l2"].min() < found["relative_l2"].max() < 2e-2


def test_shards_side_by_side_and_partial_sums(tmp_path):
    case = replace(CASE, candidate=replace(CASE.candidate, ranks=2))
    found = rows(tmp_path, case)
    columns = with_transform(found, "candidate: ranks concat axis 1")
    assert "model.layers.0.self_attn.core" in outputs(columns)
    sums = with_transform(found, "candidate: ranks sum")
    assert "model.layers.0.self_attn.o_proj" in outputs(sums)


def small(path, tensors, rows):
    """A native dump of a few calls: `(node, class, inputs, outputs)`, by the names of tensors."""
    records = []
    for order, (name, _, inputs, out) in enumerate(rows):
        for role, keys in (("input", inputs), ("output", out)):
            for slot, key in enumerate(keys):
                records.append(record(name, role, str(slot), key, step=0, order=order))
    modules = [{"name": n, "type": t, "parent": None} for n, t, *_ in rows]
    write_native(path, {"a.safetensors": tensors}, records, modules=modules)
    return path


def test_a_bias_added_by_an_operation_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s).astype("f4") for s in ((1, 6, 32), (32, 32), (32,)))
    plain = x @ w.T
    after = np.maximum(plain + b, 0)
    golden = small(
        tmp_path / "golden",
        {"x": x, "y": plain + b, "z": after},
        [("fc", "Linear", ["x"], ["y"]), ("act", "ReLU", ["y"], ["z"])],
    )
    mine = small(
        tmp_path / "mine",
        {"x": x, "p": plain, "y": plain + b, "z": after},
        [
            ("a", "MatMul", ["x"], ["p"]),
            ("b", "Add", ["p"], ["y"]),
            ("c", "Relu", ["y"], ["z"]),
        ],
    )
    frame = compare(golden, mine, shadow="off").frame
    own = frame.filter((frame["golden_node"] == "fc") & (frame["role"] == "output"))
    assert set(own["candidate_node"]) == {"b"}
    assert own["relative_l2"].max() == 0


def test_sums_that_are_no_sums_are_not_taken(tmp_path):
    # The add-norm's own sum is off by half: no two tensors make it up.
    case = replace(CASE, candidate=replace(CASE.candidate, fused="addnorm", bare_norm=True))
    case = replace(case, fault=("L1.o", "noise"))
    found = rows(tmp_path, case)
    sums = found.filter(found["transform"].str.contains("sum"))
    assert outputs(sums) == {"model.layers.0.attn_add"}


def test_permutations_that_are_none_are_not_taken(tmp_path):
    # Columns rolled by three are neither pairs nor halves of any head.
    case = replace(CASE, fault=("L0.q_rot", "rolled"))
    found = rows(tmp_path, case)
    assert not found["transform"].str.contains("heads of").any()


def test_groups_that_are_none_are_not_taken(tmp_path):
    case = replace(CASE, golden=replace(CASE.golden, weights=False), fault=("L0.q", "noise"))
    found = rows(tmp_path, case)
    assert not found["transform"].str.contains("slice axis 2").any()


def test_a_pack_of_groups_behind_a_split_has_no_plain_parts(tmp_path):
    golden = replace(CASE.golden, weights=False)
    case = replace(CASE, golden=golden, candidate=replace(CASE.candidate, groups=2))
    written: Written = write(case, tmp_path)
    alignment, *_ = align(written)
    transforms = set(alignment.columns()["transform"])
    assert not any("slice axis 1 32:48" in t for t in transforms)
