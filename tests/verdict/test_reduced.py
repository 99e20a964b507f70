"""The verdict on dumps that hold no tensors: sketches estimate an error, statistics bound it."""

import pytest
import torch

import llmdbg
from tests.verdict.conftest import change_output

NAME = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("full", [True, False])
def test_sketches_name_the_operator(golden, captured, full):
    """Half too much is 300 roundings of bfloat16: seen through any estimate."""
    mine = golden if full else captured(None, torch.float32, mode="sketch")
    theirs = captured(change_output(NAME, lambda y: y * 1.5), mode="sketch")
    result = llmdbg.compare(mine, theirs, kl=False)
    assert result.culprit is not None, result
    assert result.culprit.golden == NAME
    clean = llmdbg.compare(mine, captured(None, mode="sketch"), kl=False)
    assert clean.culprit is None, clean


def test_statistics_show_where_to_look_and_accuse_nobody(golden, captured):
    theirs = captured(change_output(NAME, lambda y: y * 1.5), mode="statistics")
    result = llmdbg.compare(golden, theirs, kl=False)
    assert (result.verdict, result.culprit) == ("undecided", None)
    assert f"{NAME} output 0 is off for certain: at least " in result.report.verdict.sentence
    clean = llmdbg.compare(golden, captured(None, mode="statistics"), kl=False)
    assert "SUSPECT" not in clean.frame["state"].to_list()
    assert clean.verdict == "undecided"
    assert "for certain" not in clean.report.verdict.sentence
