"""Anomalies of finite values, and tensors that stand alone."""

import numpy as np
import pytest

from llmdbg.scan import Level, scan
from tests.scan.files import Run, write_safetensors

RNG = np.random.default_rng(0)


def single(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def found(tmp_path, run, kind):
    findings = [f for f in scan(run.write(tmp_path / "d")).findings if f.level is not Level.INFO]
    assert [f.kind for f in findings] == [kind], findings
    return findings[0]


def test_near_the_maximum(tmp_path):
    x = single(4, 32).astype(np.float16)
    y = x.copy()
    y[3, 3] = 60000
    near = found(
        tmp_path, Run().call("a", [x], [x]).call("b", [x], [y]).call("c", [y], [y]), "near_max"
    )
    assert (near.node, near.level) == ("b", Level.WARNING)
    assert f"{np.log2(65504 / 60000):.2f} bits below the float16 maximum" in near.sentence


@pytest.mark.parametrize("dtype", ["int8"])
def test_saturated_quantisation(tmp_path, dtype):
    x = single(64, 32)
    y = (x * 100).clip(-127, 127).astype(dtype)
    assert found(tmp_path, Run().call("quant", [x], [y]), "saturated").node == "quant"


def test_dead_rows_begin_where_no_input_has_one(tmp_path):
    x, y = single(32, 32), single(32, 32)
    y[5] = 0
    dead = found(tmp_path, Run().call("a", [x], [y]).call("b", [y], [y]), "dead_rows")
    assert dead.node == "a" and "1 rows of zeros of 32" in dead.sentence


def test_dead_channels(tmp_path):
    x, y = single(32, 32), single(32, 32)
    y[:, :4] = 0
    assert found(tmp_path, Run().call("a", [x], [y]), "dead_channels").node == "a"


def test_all_zero_and_constant_results(tmp_path):
    x = single(8, 32)
    assert found(tmp_path / "0", Run().call("a", [x], [x * 0]), "all_zero").node == "a"
    assert found(tmp_path / "1", Run().call("a", [x], [x * 0 + 3]), "constant").node == "a"


def test_rows_that_became_equal(tmp_path):
    x, y = single(16, 32), single(16, 32)
    y[:] = y[0]
    repeated = found(tmp_path, Run().call("a", [x], [y]).call("b", [y], [y]), "repeated_rows")
    assert repeated.node == "a" and "15 rows of 16" in repeated.sentence


def test_equal_tokens_may_have_equal_rows(tmp_path):
    table = single(50, 32)
    ids = np.array([1, 2, 1, 4])
    x = table[ids]
    run = Run().call("embed", [ids], [x]).call("norm", [x], [x])
    assert scan(run.write(tmp_path / "d")).findings == ()


def layers(count, gain_of):
    """A residual network whose layer `i` multiplies by `gain_of(i)`."""
    run = Run()
    x = single(16, 32)
    for i in range(count):
        y = (x * gain_of(i)).astype(np.float32)
        run.call(f"layers.{i}.mlp", [x], [y])
        x = y
    return run


def test_one_operator_that_amplifies(tmp_path):
    run = layers(8, lambda i: 500 if i == 5 else 1.1)
    growth = found(tmp_path, run, "growth")
    assert growth.node == "layers.5.mlp" and "500 times" in growth.sentence


def test_growth_with_depth(tmp_path):
    growth = found(tmp_path, layers(12, lambda _: 3.0), "growth")
    assert "3.00 times per layer" in growth.sentence


def test_a_checkpoint(tmp_path):
    weights = {
        "embed.weight": single(40, 32),
        "layers.0.q.weight": single(32, 32),
        "layers.0.q.bias": np.zeros(100, np.float32),
        "norm.weight": np.ones(100, np.float32),
    }
    healthy = scan(write_safetensors(tmp_path / "ok.safetensors", weights))
    assert healthy.outcome == "clean" and healthy.counts["tensors"] == 4
    weights["layers.0.q.weight"][3, 4] = np.nan
    weights["embed.weight"][:] = 0
    sick = scan(write_safetensors(tmp_path / "sick.safetensors", weights))
    kinds = {f.kind: f for f in sick.findings if f.level is not Level.INFO}
    assert sick.outcome == "anomalous" and set(kinds) == {"nonfinite", "all_zero"}
    assert "layers.0.q.weight" in kinds["nonfinite"].sentence
    assert f"first nan at {3 * 32 + 4}" in kinds["nonfinite"].sentence
    assert "embed.weight" in kinds["all_zero"].sentence


def test_a_single_tensor(tmp_path):
    np.save(tmp_path / "x.npy", np.array([1.0, np.inf, 2.0], np.float32))
    assert scan(tmp_path / "x.npy").sentence.endswith("holds 1 +Inf of 3 (first pos_inf at 1)")


def test_warnings_come_in_the_order_of_the_run(tmp_path):
    x = single(8, 32)
    alike, hollow = np.repeat(single(1, 32), 8, axis=0), single(8, 32)
    hollow[3] = 0
    run = Run().call("a", [x], [alike]).call("b", [x], [hollow])
    findings = scan(run.write(tmp_path / "d")).findings
    assert [(f.kind, f.node) for f in findings] == [("repeated_rows", "a"), ("dead_rows", "b")]
