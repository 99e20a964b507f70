"""Overwritten memory: ATB dumps with tensors before and after, one thing changed in each."""

import numpy as np
import pytest

from llmdbg.scan import Level, scan
from tests.writers.atb import AtbDump, layer_node, node

RNG = np.random.default_rng(0)
OPS = ["0_TinyLayer/0_LinearOperation", "0_TinyLayer/1_ElewiseOperation"]


def half(*shape):
    return RNG.standard_normal(shape).astype(np.float16)


class Model:
    """Two layers: y = x·w, z = y + x, then again with z; `found` is what an operator finds."""

    def __init__(self, tmp_path):
        self.dump = AtbDump(tmp_path)
        self.x, self.w = half(8, 16), [half(16, 16), half(16, 16)]
        self.found, self.after = {}, {}
        self.inputs_after = True
        self.dump.model(
            "Tiny",
            [
                layer_node(0, "TinyLayer", "Tiny_input_0", "Tiny_weight_0", "Tiny_internal_0"),
                layer_node(1, "TinyLayer", "Tiny_internal_0", "Tiny_weight_1", "Tiny_output_0"),
            ],
            inputs=["Tiny_input_0"],
            outputs=["Tiny_output_0"],
        )

    def step(self, number=0):
        x = self.x
        for layer in range(2):
            w = self.w[layer]
            y = (x.astype(np.float32) @ w.astype(np.float32).T).astype(np.float16)
            z = y + x
            self._op(number, f"{layer}_TinyLayer/0_LinearOperation", [x, w], [y])
            self._op(number, f"{layer}_TinyLayer/1_ElewiseOperation", [y, x], [z])
            x = z
        return self

    def _op(self, number, path, inputs, outputs):
        from tests.writers.atb import write_bin

        directory = self.dump.directory / str(number) / path
        for side, arrays in (("in", inputs), ("out", outputs)):
            for i, array in enumerate(arrays):
                name = f"{side}tensor{i}.bin"
                before = self.found.get((number, path, side, i), array)
                write_bin(directory / "before" / name, before)
                if side == "in" and not self.inputs_after:
                    continue
                write_bin(
                    directory / "after" / name,
                    self.after.get((number, path, side, i), before if side == "in" else array),
                )

    def errors(self):
        return [f for f in scan(self.dump.root).findings if f.level is Level.ERROR]


def test_a_clean_run_has_none(tmp_path):
    model = Model(tmp_path).step(0)
    assert model.step(1).errors() == []


def outputs(model, layer):
    x = model.x
    made = []
    for w in model.w[: layer + 1]:
        y = (x.astype(np.float32) @ w.astype(np.float32).T).astype(np.float16)
        made += [y, y + x]
        x = y + x
    return made


@pytest.mark.parametrize("what", ["zeros", "shifted", "tensor", "constant", "unknown"])
def test_a_result_changed_before_it_was_read(tmp_path, what):
    model = Model(tmp_path)
    _, z0, y1, _ = outputs(model, 1)
    stomped = z0.copy()
    flat, start, stop = stomped.reshape(-1), 32, 80
    old = z0.reshape(-1)
    flat[start:stop] = {
        "zeros": 0,
        "shifted": old[start - 5 : stop - 5],
        "tensor": y1.reshape(-1)[16:64],
        "constant": np.frombuffer(b"\x55\x55", np.float16)[0],
        "unknown": half(48),
    }[what]
    # Layer 1's addition finds z0 changed; the linear operation of layer 1 ran in between.
    model.inputs_after = False
    model.found[0, "1_TinyLayer/1_ElewiseOperation", "in", 1] = stomped
    (error,) = model.step().errors()
    assert error.kind == "overwritten"
    assert error.node == "0_TinyLayer/1_ElewiseOperation"
    details = error.details
    assert details["reader"] == "1_TinyLayer/1_ElewiseOperation"
    assert details["candidates"] == ["1_TinyLayer/0_LinearOperation"]
    differing = np.flatnonzero(stomped.view(np.uint8).reshape(-1) != z0.view(np.uint8).reshape(-1))
    assert details["bytes"] == [differing[0], differing[-1]]
    assert details["looks"] == what
    if what == "tensor":
        assert "1_TinyLayer/0_LinearOperation output 0" in details["content_of"]
    if what == "shifted":
        assert "shifted by +10 bytes" in error.evidence[0]


def test_an_operator_that_changes_its_input(tmp_path):
    model = Model(tmp_path)
    changed = model.x.copy()
    changed[3, 3] = 7
    model.after[0, OPS[0], "in", 0] = changed
    model.found[0, OPS[1], "in", 1] = changed
    errors = model.step().errors()
    assert [(e.kind, e.node) for e in errors] == [("changed_input", OPS[0])]
    assert errors[0].details["changed_bytes"] <= 2


def test_a_weight_that_differs_between_steps(tmp_path):
    model = Model(tmp_path).step(0)
    model.w[1] = model.w[1].copy()
    model.w[1][2, 2] = 9
    (error,) = model.step(1).errors()
    assert (error.kind, error.node, error.step) == (
        "changed_weight",
        "1_TinyLayer/0_LinearOperation",
        1,
    )
    assert "Tiny_weight_1" in error.sentence and "step 0" in error.sentence


@pytest.mark.parametrize("stray", [False, True])
def test_cache_slots_of_this_step_only(tmp_path, stray):
    dump = AtbDump(tmp_path)
    keys, values, slots = half(3, 2, 4), half(3, 2, 4), np.array([5, 6, 9], np.int32)
    k_cache, v_cache = half(4, 4, 2, 4), half(4, 4, 2, 4)
    k_after, v_after = k_cache.copy(), v_cache.copy()
    k_after.reshape(16, 2, 4)[slots] = keys
    v_after.reshape(16, 2, 4)[slots] = values
    if stray:
        v_after.reshape(16, 2, 4)[12] = 0
    name = "0_ReshapeAndCacheOperation"
    dump.model(
        "M",
        [
            node(
                "ReshapeAndCacheOperation_0",
                "ReshapeAndCacheOperation",
                ["k", "v", "M_kCache_0", "M_vCache_0", "slots"],
                ["M_kCache_0", "M_vCache_0"],
            )
        ],
    )
    dump.op(0, name, [keys, values, k_cache, v_cache, slots], [k_after, v_after])
    errors = [f for f in scan(dump.root).findings if f.level is Level.ERROR]
    if stray:
        assert [(e.kind, e.node) for e in errors] == [("kv_cache", name)]
        assert errors[0].details["slots"] == [12] and "value cache" in errors[0].sentence
    else:
        assert errors == []
