"""Gemma 3 270M: no error in float32; in float16 it overflows by itself, in the residual sum."""

import copy

import pytest

from llmdbg import capture_torch
from llmdbg.scan import Level, scan

pytestmark = pytest.mark.real_model


def errors(dump):
    return [f for f in scan(dump).findings if f.level is Level.ERROR]


def test_float32_has_no_error_and_float16_overflows_in_the_residual_sum(tmp_path):
    import torch

    from llmdbg.demo import _gemma

    model, ids, _ = _gemma(lambda _text: None)
    for dtype in ("float32", "float16"):
        run = copy.deepcopy(model).to(getattr(torch, dtype))
        with torch.no_grad(), capture_torch(run, tmp_path / dtype):
            run(ids, use_cache=False, logits_to_keep=1)
    # Its residual stream grows and it never reads some inputs: warnings, and rightly.
    assert errors(tmp_path / "float32") == []
    (error,) = errors(tmp_path / "float16")
    layer = run.get_submodule(error.node)
    assert type(layer).__name__ == "Gemma3DecoderLayer"
    # The same sum in float32: what the layer gives there, at the element that overflowed.
    wide = scan(tmp_path / "float32").frame
    row = wide.filter((wide["node"] == error.node) & (wide["role"] == "output"))
    assert error.details["cause"] == "overflow"
    exact = error.details["values"]["float64"]
    assert 65504 < exact <= 1.02 * row["abs_max"][0]
