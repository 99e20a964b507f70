"""Several recordings of one run: where they part, by how much, and the calibration from it."""

import json

import numpy as np
import pytest

from llmdbg.scan import Level, scan
from llmdbg.verdict import Calibration
from tests.scan.files import Run


def run(tmp_path, name, noise=0.0, given=0.0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 64)).astype(np.float32)
    x[0, 0] += given
    w = rng.standard_normal((64, 64)).astype(np.float32) / 8
    y = x @ w
    z = y * np.float32(1 + noise)
    made = Run().call("m.layers.0.norm", [x], [x]).call("m.layers.0.proj", [x], [y])
    made.call("m.layers.1.reduce", [y], [z]).call("m.layers.1.out", [z], [z * 2])
    return made.write(tmp_path / name)


def test_equal_runs(tmp_path):
    found = scan(run(tmp_path, "a"), run(tmp_path, "b"))
    assert found.outcome == "clean"
    assert "8 of 8 tensors are bitwise equal in all 2 runs" in found.notes


def test_the_first_nondeterministic_operator_and_its_spread(tmp_path):
    runs = [run(tmp_path, "a"), run(tmp_path, "b"), run(tmp_path, "c", noise=1e-6)]
    found = scan(*runs)
    (finding,) = [f for f in found.findings if f.kind == "nondeterministic"]
    assert finding.node == "m.layers.1.reduce"
    assert finding.details["relative_l2"] == pytest.approx(1e-6, rel=0.1)
    assert any("m.layers.1: 2 of 2 results differ" in line for line in finding.evidence)
    floors = {(f["node"], f["role"]): f for f in json.loads(found.calibration)["floors"]}
    assert floors["m.layers.1.reduce", "output"]["relative_l2"] == pytest.approx(1e-6, rel=0.1)
    assert floors["m.layers.0.proj", "output"]["relative_l2"] == 0
    path = tmp_path / "calibration.json"
    path.write_text(found.calibration)
    assert Calibration.read(path).floors["m.layers.1.out", "output", "0"].samples == 2


def test_a_large_spread_is_an_error(tmp_path):
    found = scan(run(tmp_path, "a"), run(tmp_path, "b", noise=0.1))
    assert [f.level for f in found.findings if f.kind == "nondeterministic"] == [Level.ERROR]


def test_unequal_inputs_are_said_to_be(tmp_path):
    found = scan(run(tmp_path, "a"), run(tmp_path, "b", given=1))
    (finding,) = [f for f in found.findings if f.kind == "nondeterministic"]
    assert "were given unequal inputs" in finding.sentence and finding.level is Level.WARNING
