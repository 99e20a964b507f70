"""Alignment of generated runs against the truth; `benches/alignment.py` runs hundreds of them."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.align import variations
from tests.align.variations import KINDS, Score, score, write


def align_and_score(kind, seed, path):
    return score(write(KINDS[kind](seed), path))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "deep" not in kind])
def test_each_kind_of_difference(kind, tmp_path):
    total = Score()
    for seed in range(2):
        result = align_and_score(kind, seed, tmp_path / str(seed))
        assert result.sure_and_wrong == 0, result.wrong
        total.add(result)
    assert total.pairs > 50
    assert total.precision >= 0.99
    # A dropped file may take all that told a value with it.
    assert total.recall >= (0.95 if kind == "drop" else 0.99)


@pytest.mark.parametrize("kind", ["deep", "flat and deep"])
def test_a_deep_model(tmp_path, kind):
    result = align_and_score(kind, 0, tmp_path)
    assert (result.precision, result.sure_and_wrong) == (1.0, 0)
    assert result.recall >= 0.99


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kind=st.sampled_from([k for k in KINDS if "deep" not in k]), seed=st.integers(100, 10**6))
def test_any_difference(kind, seed, tmp_path_factory):
    result = align_and_score(kind, seed, tmp_path_factory.mktemp("runs"))
    assert result.sure_and_wrong == 0, result.wrong
    assert result.precision >= 0.97


def test_the_same_input_gives_the_same_bytes(tmp_path):
    written = write(KINDS["fuse"](3), tmp_path)
    texts = {variations.align(written)[0].to_json() for _ in range(3)}
    assert len(texts) == 1


def test_every_golden_tensor_is_in_a_pair_or_listed(tmp_path):
    alignment, golden, candidate = variations.align(write(KINDS["delete"](1), tmp_path))
    columns = alignment.columns()
    for side, dump in (("golden", golden), ("candidate", candidate)):
        paired = {i for records in columns[f"{side}_records"] for i in records}
        alone = {i for i, _ in getattr(alignment, f"unmatched_{side}")}
        assert paired | alone == set(range(len(dump)))
        assert not paired & alone


def test_blocks_that_nothing_tells_apart_are_shown_but_not_judged(tmp_path):
    case = KINDS["layers"](0)
    gone = case.golden_layers or case.candidate_layers
    first = next(i for i, layer in enumerate(gone) if layer != i)
    case = replace(
        case,
        golden=replace(case.golden, weights=False),
        candidate=replace(case.candidate, weights=False),
        golden_layers=gone,
        candidate_layers=None,
    )
    alignment, golden, _ = variations.align(write(case, tmp_path))
    assert any("blocks" in note for note in alignment.notes), alignment.notes
    columns, nodes = alignment.columns(), golden.columns()["node"]
    behind = [
        confidence
        for i, confidence in zip(columns["golden"], columns["confidence"], strict=True)
        if nodes[i].startswith(f"model.layers.{first + 1}.")
    ]
    assert max(behind, default=0) < 0.6


def test_the_shift_of_steps_is_found_and_said(tmp_path):
    # Raw numbers of execution with a warm-up: directory 1 holds the prefill and the second decode.
    case = KINDS["steps"](1)
    alignment, *_ = variations.align(write(case, tmp_path))
    assert case.candidate.warmup or case.candidate.one_model
    if case.candidate.warmup and case.candidate.era != "C":
        assert alignment.steps == [(0, 1), (1, 0), (2, 1), (3, 2)]
        assert any("golden step 1 is 0" in note for note in alignment.notes)


def test_the_written_alignment_is_read_back(tmp_path):
    written = write(KINDS["plain"](0), tmp_path)
    alignment, golden, candidate = variations.align(written)
    again = type(alignment).from_json(alignment.to_json(), golden, candidate)
    assert again.to_json() == alignment.to_json()
    assert json.loads(alignment.to_json())["schema"] == "llmdbg.alignment/1"
