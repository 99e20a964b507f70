"""Comparing dumps of which one or both keep less than bytes; the truth comes from numpy."""

import itertools

import numpy as np
import polars as pl
import pytest
import torch

from llmdbg import capture_torch, compare
from llmdbg._core import LlmdbgError
from tests.writers.atb import AtbDump
from tests.writers.msprobe import MsprobeDump

MODES = ("full", "statistics", "sketch", "hash")
ROWS, COLUMNS = 96, 640


def noise(x):
    return x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))


def offset(x):
    return x + 0.1


def one_channel(x):
    y = x.clone()
    y[:, 77] *= 3
    return y


def swapped_tokens(x):
    y = x.clone()
    y[[5, 40]] = x[[40, 5]]
    return y


def zeroed_token(x):
    y = x.clone()
    y[17] = 0
    return y


def scaled(x):
    return x * 1.02


def one_element(x):
    y = x.clone()
    y[3, 4] += 20
    return y


def shifted(x):
    return x.roll(1, 0)


FAULTS = (noise, offset, one_channel, swapped_tokens, zeroed_token, scaled, one_element, shifted)


def tensor():
    x = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    # A few channels are far larger than the rest, as in a residual stream.
    x[:, ::97] *= 30
    return x


def record(path, x, mode, **options):
    model = torch.nn.Identity()
    with capture_torch(model, path, mode=mode, inputs=False, **options):
        model(x)
    return path


def row_of(tmp_path, golden, candidate, modes):
    a = record(tmp_path / "a", golden, modes[0])
    b = record(tmp_path / "b", candidate, modes[1])
    (row,) = compare(a, b).frame.iter_rows(named=True)
    return row


def truth(golden, candidate):
    x, y = golden.double().numpy(), candidate.double().numpy()
    d = y - x
    rows = np.linalg.norm(d, axis=1) / np.linalg.norm(x, axis=1)
    return np.linalg.norm(d) / np.linalg.norm(x), np.abs(d).max(), rows.max()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("modes", [("sketch", "sketch"), ("full", "sketch"), ("sketch", "full")])
def test_sketches_estimate_relative_l2(tmp_path, fault, modes):
    golden = tensor()
    candidate = fault(golden)
    row = row_of(tmp_path, golden, candidate, modes)
    error, largest, worst_row = truth(golden, candidate)
    # Two standard deviations of the estimate are 10 %.
    assert row["relative_euclidean_distance"] == pytest.approx(error, rel=0.15)
    assert row["relative_l2_at_least"] <= error * 1.0001
    assert row["max_absolute_error_at_least"] <= largest * 1.0001
    assert row["worst_row_relative_l2"] <= worst_row * 1.0001
    assert row["basis"] == "sketches"
    assert "estimates" in row["note"]
    assert row["bitwise_equal"] is False
    assert row["cmp_fail_reason"] is None
    assert row["kl_divergence"] is row["max_ulp"] is row["mean_absolute_error"] is None


def test_the_estimate_over_many_tensors_has_the_deviation_it_claims():
    from llmdbg.capture.reduce import reduce

    generator = torch.Generator().manual_seed(11)
    errors = []
    for _ in range(200):
        x = torch.randn(64, 192, generator=generator)
        d = torch.randn(64, 192, generator=generator) * torch.rand(192, generator=generator) ** 3
        estimate = reduce(x + d, "sketch").sketch[:193] - reduce(x, "sketch").sketch[:193]
        errors.append((estimate.norm() / d.norm()).item() - 1)
    assert abs(np.mean(errors)) < 0.015
    assert 0.03 < np.std(errors) < 0.08


def test_the_zeroed_token_is_located_and_swapped_ones_are_not_missed(tmp_path):
    golden = tensor()
    row = row_of(tmp_path, golden, zeroed_token(golden), ("sketch", "sketch"))
    assert (row["worst_row"], row["worst_row_relative_l2"]) == (17, pytest.approx(1, abs=1e-6))
    assert row["state"] == "FAIL"


@pytest.mark.parametrize("modes", list(itertools.product(MODES, MODES)), ids="-".join)
def test_any_mix_of_equal_tensors(tmp_path, modes):
    row = row_of(tmp_path, tensor(), tensor(), modes)
    kinds = set(modes)
    if kinds <= {"full"}:
        assert row["bitwise_equal"] is True
    elif kinds <= {"full", "hash"}:
        assert (row["basis"], row["bitwise_equal"]) == ("hashes", True)
        assert (row["state"], row["cmp_fail_reason"]) == ("PASS", None)
    elif kinds <= {"full", "sketch"}:
        assert (row["basis"], row["relative_euclidean_distance"]) == ("sketches", 0)
        assert (row["bitwise_equal"], row["state"]) == (None, "PASS")
    elif kinds <= {"full", "sketch", "statistics"}:
        assert (row["basis"], row["relative_l2_at_least"]) == ("statistics", 0)
        assert row["relative_euclidean_distance"] is None
        assert "does not prove" in row["cmp_fail_reason"]
        assert row["state"] == "UNDECIDED"
        assert row["golden_mean_value"] == pytest.approx(tensor().double().mean().item(), rel=1e-6)
    else:
        assert row["basis"] is None
        assert "nothing that both can tell" in row["cmp_fail_reason"]


def test_statistics_bound_the_error(tmp_path):
    golden = tensor()
    row = row_of(tmp_path, golden, scaled(golden), ("statistics", "full"))
    assert row["relative_l2_at_least"] == pytest.approx(0.02, rel=1e-4)
    assert "at least 2.00e-02" in row["cmp_fail_reason"]
    assert "swapped" in row["note"]


def test_hashes_that_differ(tmp_path):
    golden = tensor()
    row = row_of(tmp_path, golden, one_element(golden), ("hash", "full"))
    assert (row["basis"], row["bitwise_equal"], row["state"]) == ("hashes", False, "UNDECIDED")
    assert "by how much cannot be seen" in row["cmp_fail_reason"]


def test_other_dtypes_and_shapes(tmp_path):
    golden = tensor()
    row = row_of(tmp_path, golden, golden.bfloat16(), ("sketch", "sketch"))
    error, _, _ = truth(golden, golden.bfloat16())
    assert row["relative_euclidean_distance"] == pytest.approx(error, rel=0.15)
    folder = tmp_path / "more"
    row = row_of(folder, golden, golden[:50], ("sketch", "sketch"))
    assert (row["basis"], row["cmp_fail_reason"]) == ("statistics", "shape differs")
    row = row_of(folder / "x", golden, golden.bfloat16(), ("hash", "hash"))
    assert row["basis"] is None


def test_values_that_are_not_finite(tmp_path):
    golden = tensor()
    broken = golden.clone()
    broken[2, 3], broken[4, 5] = float("nan"), float("inf")
    row = row_of(tmp_path, golden, broken, ("sketch", "full"))
    assert (row["candidate_nan"], row["candidate_pos_inf"], row["golden_nan"]) == (1, 1, 0)
    assert row["finiteness_mismatch"] >= 1
    assert row["state"] == "FAIL"


def test_a_llama_with_a_fault_is_found_by_sketches(tmp_path):
    from tests.capture.conftest import small_llama

    model, ids = small_llama(layers=8), torch.arange(64)[None] * 7 % 128
    for mode in ("full", "sketch"):
        with torch.no_grad(), capture_torch(model, tmp_path / f"golden_{mode}", mode=mode):
            model(ids)
    with torch.no_grad():
        model.model.layers[4].mlp.down_proj.weight *= 1.5
        with capture_torch(model, tmp_path / "candidate", mode="sketch"):
            model(ids)
    for golden in ("golden_full", "golden_sketch"):
        result = compare(tmp_path / golden, tmp_path / "candidate")
        assert result.culprit.golden == "model.layers.4.mlp.down_proj"
        assert set(result.frame["basis"]) == {"sketches"}
    exact = compare(tmp_path / "golden_full", tmp_path / "golden_full").frame
    assert "basis" not in exact.columns


def test_a_damaged_sketch_is_a_row(tmp_path):
    golden = tensor()
    a = record(tmp_path / "a", golden, "sketch")
    b = record(tmp_path / "b", golden, "sketch")
    (file,) = (b / "data").iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    frame = compare(a, b).frame
    assert frame["state"].to_list() == ["UNDECIDED"]
    assert frame["cmp_fail_reason"][0]
    assert isinstance(frame, pl.DataFrame)


def test_nothing_but_descriptions(tmp_path):
    with pytest.raises(LlmdbgError):
        compare(tmp_path, tmp_path)


@pytest.mark.parametrize("tasks", [("statistics", "statistics"), ("tensor", "statistics")])
def test_statistics_of_msprobe_take_the_same_way(tmp_path, tasks):
    x = tensor()
    for side, task, value in zip("ab", tasks, (x, x * 1.02), strict=True):
        dump = MsprobeDump(tmp_path / side, task=task)
        dump.entry("Torch.matmul.0.forward", args=[x], output=[value])
        dump.write()
    rows = {row["role"]: row for row in compare(tmp_path / "a", tmp_path / "b").frame.to_dicts()}
    output = rows["output"]
    # Off for certain, but whether the input was, too, its statistics do not say.
    assert (output["basis"], output["state"]) == ("statistics", "SUSPECT")
    assert output["relative_l2_at_least"] == pytest.approx(0.02, rel=1e-4)
    largest = max(abs(x.max().item()), abs(x.min().item()))
    assert output["max_absolute_error_at_least"] == pytest.approx(0.02 * largest, rel=1e-4)
    assert output["my_mean_value"] == pytest.approx(1.02 * x.double().mean().item(), rel=1e-4)
    assert "does not prove" in rows["input"]["cmp_fail_reason"]
    # msprobe counts no NaN.
    assert output["golden_nan"] == (0 if tasks[0] == "tensor" else None)


def test_statistics_inside_atbs_files(tmp_path):
    x = np.float16([[0, 1, 2], [3, 4, 5]])
    AtbDump(tmp_path / "a", "B").op(0, "0_Layer", [x], mode="stats")
    AtbDump(tmp_path / "b", "B").op(0, "0_Layer", [x + 1], mode="stats")
    (row,) = compare(tmp_path / "a", tmp_path / "b").frame.to_dicts()
    assert row["basis"] == "statistics"
    assert (row["golden_max_value"], row["my_max_value"]) == (5, 6)
    assert row["max_absolute_error_at_least"] == 1
    # ‖d‖ is at least √n times the difference of the means, which here it is.
    error = np.sqrt(6) / np.linalg.norm(x.astype(float))
    assert row["relative_l2_at_least"] == pytest.approx(error, rel=1e-3)
