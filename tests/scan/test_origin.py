"""Where NaN and Inf begin, and why: runs written by hand, numbers worked out in the test."""

import numpy as np
import pytest

from llmdbg.scan import Level, scan
from tests.scan.files import Run

RNG = np.random.default_rng(0)


def half(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float16)


def only_error(found):
    errors = [f for f in found.findings if f.level is Level.ERROR]
    assert len(errors) == 1, errors
    return errors[0]


def linear(x, w):
    with np.errstate(over="ignore", invalid="ignore"):
        return (x.astype(np.float64) @ w.astype(np.float64).T).astype(np.float16)


def test_overflow_of_a_linear_tells_what_float32_would_have_given(tmp_path):
    x, w = half(4, 32), half(16, 32)
    x[2], w[5] = 100, 100  # 32 · 100 · 100 = 320000
    y = linear(x, w)
    run = (
        Run()
        .call("l0.norm", [x], [x])
        .call("l0.proj", [x], [y], op_type="Linear", params={"weight": w})
    )
    found = scan(run.write(tmp_path / "d"))
    error = only_error(found)
    assert (error.kind, error.node, error.step) == ("overflow", "l0.proj", 0)
    assert "320000" in error.sentence and "65504" in error.sentence
    assert error.details["elements"]["first"] == [2, 5]
    assert error.details["values"]["float64"] == 320000


def test_overflow_between_modules_is_told_from_the_sum_of_its_inputs(tmp_path):
    a, b = half(4, 32), half(4, 32)
    a[1, 3], b[1, 3] = 60000, 10000
    with np.errstate(over="ignore"):
        total = a + b
    run = Run()
    run.call("m.layers.0.attn", [a], [b])
    run.call("m.layers.0", [a], [total])
    run.call("m.layers.1.norm", [total], [half(4, 32)])
    error = only_error(scan(run.write(tmp_path / "d")))
    assert (error.kind, error.node) == ("overflow", "m.layers.0")
    assert "after m.layers.0.attn" in error.sentence and "70000" in error.sentence
    assert error.details["elements"]["rows"] == [1]


def test_a_weight_that_is_not_finite_is_the_origin(tmp_path):
    x = half(4, 32)
    scale = half(4, 32)
    x[0, 0], scale[0, 0] = 0, np.inf
    with np.errstate(invalid="ignore"):
        y = x * scale
    # The scale is one number that is not finite; as a lone scalar it would be a constant.
    run = Run().call("gate", [x], [y], params={"scale": scale})
    error = only_error(scan(run.write(tmp_path / "d")))
    assert error.kind == "weight" and "scale of gate" in error.sentence


def test_the_difference_of_two_masked_tensors_is_inf_minus_inf(tmp_path):
    # Guidance: logits that both runs mask by the same vocabulary.
    ours, theirs = half(4, 32), half(4, 32)
    ours[:, 20:], theirs[:, 20:] = -np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        y = ours - theirs
    error = only_error(scan(Run().call("guide", [ours, theirs], [y]).write(tmp_path / "d")))
    assert (error.kind, error.node, error.details["cause"]) == ("nan", "guide", "inf-inf")
    assert "inputs that are masked" in error.sentence and "Inf − Inf" in error.sentence
    assert error.details["elements"]["first"] == [0, 20]


def test_a_mask_made_by_multiplying_is_zero_times_inf(tmp_path):
    keep = np.triu(np.ones((8, 8)), 1).astype(np.float16)
    with np.errstate(invalid="ignore"):
        y = keep * np.float16(-np.inf)
    # 1 · −Inf is the mask, 0 · −Inf is NaN.
    run = Run().call("mask", [keep, np.float16(-np.inf)], [y])
    error = only_error(scan(run.write(tmp_path / "d")))
    assert (error.kind, error.node, error.details["cause"]) == ("nan", "mask", "0*inf")


def test_a_norm_of_a_zero_row_without_epsilon(tmp_path):
    x = half(4, 32)
    x[2] = 0
    wide = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        y = (wide / np.sqrt((wide**2).mean(-1, keepdims=True))).astype(np.float16)
    error = only_error(scan(Run().call("norm", [x], [y]).write(tmp_path / "d")))
    assert (error.kind, error.node, error.details["cause"]) == ("nan", "norm", "0/0")
    assert "row 2" in error.sentence


def test_squares_that_overflow_inside_a_norm(tmp_path):
    x = half(4, 32)
    x[1, 7] = 600  # 600² = 360000
    with np.errstate(over="ignore"):
        mean = np.square(x).mean(-1, keepdims=True)
    y = (x / np.sqrt(mean)).astype(np.float16)
    y[1] = np.nan
    error = only_error(scan(Run().call("norm", [x], [y]).write(tmp_path / "d")))
    assert error.details["cause"] == "overflow"
    assert "x² reaches 360000" in error.sentence


def test_a_fully_masked_row(tmp_path):
    scores, mask = half(6, 6), np.zeros((6, 6), np.float16)
    mask[np.triu_indices(6, 1)] = -np.inf
    mask[4] = -np.inf
    with np.errstate(invalid="ignore"):
        exact = np.exp((scores + mask).astype(np.float64))
        y = (exact / exact.sum(-1, keepdims=True)).astype(np.float16)
    error = only_error(
        scan(Run().call("softmax", {"0": scores, "mask": mask}, [y]).write(tmp_path / "d"))
    )
    assert (error.kind, error.node) == ("masked_row", "softmax")
    assert "1 row (4)" in error.sentence


@pytest.mark.parametrize("value", [-np.inf, float(np.finfo(np.float16).min)])
def test_attention_masks_are_never_a_fault(tmp_path, value):
    mask = np.zeros((1, 1, 8, 8), np.float16)
    mask[..., np.triu_indices(8, 1)[0], np.triu_indices(8, 1)[1]] = value
    scores = half(1, 2, 8, 8)
    masked = scores + mask if np.isinf(value) else scores
    padding = scores.copy()
    padding[..., :3] = -np.inf
    logits = half(1, 8, 64)
    logits[..., 40:] = -np.inf
    run = Run()
    run.call("mask_maker", [np.arange(8)], [mask])
    run.call("attn.add", {"0": scores, "mask": mask}, [masked])
    run.call("attn.pad", [scores], [padding])
    run.call("attn.softmax", [masked], [half(1, 2, 8, 8)])
    run.call("logits_processor", [logits[..., :40]], [logits])
    found = scan(run.write(tmp_path / "d"))
    assert [f for f in found.findings if f.level is not Level.INFO] == []


def test_negative_overflow_is_no_mask(tmp_path):
    x, w = half(4, 32), half(16, 32)
    x[2], w[5] = 100, -100
    y = linear(x, w)
    assert np.isneginf(y).sum() == 1
    error = only_error(
        scan(Run().call("proj", [x], [y], params={"weight": w}).write(tmp_path / "d"))
    )
    assert (error.kind, error.node) == ("overflow", "proj") and "-320000" in error.sentence


def test_saturating_arithmetic_leaves_the_maximum(tmp_path):
    x, w = half(4, 32), half(16, 32)
    x[2], w[5] = 100, 100
    y = np.clip(linear(x, w), -65504, 65504)
    error = only_error(
        scan(Run().call("proj", [x], [y], params={"weight": w}).write(tmp_path / "d"))
    )
    assert (error.kind, error.node) == ("overflow", "proj")
    assert "clamped" in error.sentence and "320000" in error.sentence


def test_values_given_to_the_run(tmp_path):
    x = half(4, 32)
    x[0, 0] = np.nan
    run = Run().call("m.a", [x], [x]).call("m", [x], [x])
    error = only_error(scan(run.write(tmp_path / "d")))
    assert (error.kind, error.node) == ("input", "m")


def test_what_reaches_no_result_is_no_error(tmp_path):
    cache = half(8, 32)
    cache[5:] = np.nan  # slots nobody wrote yet
    found = scan(
        Run().call("attn", {"0": half(1, 32), "cache": cache}, [half(1, 32)]).write(tmp_path / "d")
    )
    assert found.outcome == "clean"
    assert [f.kind for f in found.findings] == ["input"]


def test_every_step_is_judged_and_a_repeated_place_is_told_once(tmp_path):
    good, bad = half(4, 32), half(4, 32)
    bad[0, 0] = np.inf
    run = Run()
    for step in range(3):
        run.call("a", [good], [good], step=step)
        run.call("b", [good], [bad if step else good], step=step)
    error = only_error(scan(run.write(tmp_path / "d")))
    assert (error.node, error.step) == ("b", 1)
    assert error.details["also"] == [{"step": 2, "rank": 0}]


def test_frames_before_the_origin_show_the_growth(tmp_path):
    run = Run()
    x = half(4, 32)
    for i in range(6):
        y = (x * 4).astype(np.float16)
        run.call(f"op{i}", [x], [y])
        x = y
    bad = x.copy()
    bad[0, 0] = np.inf
    run.call("last", [x], [bad])
    error = only_error(scan(run.write(tmp_path / "d")))
    frames = error.details["frames"]
    assert [f["node"] for f in frames] == [f"op{i}" for i in range(6)]
    assert frames[-1]["abs_max"] == pytest.approx(4 * frames[-2]["abs_max"], rel=1e-3)


def test_a_broken_tensor_in_the_middle_is_a_row(tmp_path):
    x = half(4, 32)
    bad = x.copy()
    bad[0, 0] = np.nan
    folder = (
        Run().call("a", [x], [x]).call("b", [x], [x]).call("c", [x], [bad]).write(tmp_path / "d")
    )
    text = (folder / "manifest.json").read_text().replace('"key": "t3"', '"key": "gone"')
    (folder / "manifest.json").write_text(text)
    found = scan(folder)
    kinds = {f.kind: f for f in found.findings}
    assert kinds["nan"].node == "c"
    assert kinds["unreadable"].node == "b" and "gone" in kinds["unreadable"].sentence
    assert found.counts["unread"] == 1 and found.frame.height == 6
