"""Every measure against a value worked by hand or numpy's formula in float64."""

import ml_dtypes
import numpy as np
import pytest

from llmdbg import _core

INF = float("inf")
NAN = float("nan")


@pytest.fixture
def compare(tmp_path):
    """Compare two arrays; gives the single row of every column."""

    def run(golden, candidate, **options):
        np.save(tmp_path / "golden.npy", golden)
        np.save(tmp_path / "candidate.npy", candidate)
        columns = _core.compare_tensors(
            tmp_path / "golden.npy", tmp_path / "candidate.npy", **options
        )
        assert all(len(column) == 1 for column in columns.values())
        return {name: column[0] for name, column in columns.items()}

    return run


def f32(values):
    return np.array(values, dtype=np.float32)


def softmax_kl(a, b):
    """Give KL(softmax(a) ‖ softmax(b)) of every row."""

    def log_softmax(x):
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    p, q = log_softmax(a), log_softmax(b)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def relative_l2(a, b, axis=None):
    return np.sqrt(((b - a) ** 2).sum(axis=axis) / (a**2).sum(axis=axis))


def test_the_published_example_comes_out(compare):
    row = compare(f32([1, 2, 3, 4]), f32([1, 2, 3, 5]))
    assert row["cosine_similarity"] == pytest.approx(0.9939990885, abs=1e-10)
    assert row["max_relative_error"] == 0.25
    assert row["mean_relative_error"] == 0.0625
    assert row["max_absolute_error"] == 1.0
    assert row["mean_absolute_error"] == 0.25
    assert row["relative_l2"] == pytest.approx(0.1825742, abs=1e-7)
    # numpy in float64; the published 0.10107866 is a float32 sum, and our exp is good to 3e-7.
    assert row["kl_divergence"] == pytest.approx(0.1010784942, rel=3e-7)
    assert row["elements"] == 4
    assert row["max_absolute_error_index"] == 3
    assert (row["golden_at_max_abs"], row["candidate_at_max_abs"]) == (4, 5)
    assert row["max_relative_error_index"] == 3
    assert row["bitwise_equal"] == 0
    assert row["cmp_fail_reason"] is None


def test_an_error_where_golden_is_zero_is_seen(compare):
    row = compare(f32([1, 2, 3, 0]), f32([1, 2, 3, 100]))
    assert row["max_absolute_error"] == 100
    assert row["max_absolute_error_index"] == 3
    assert row["max_relative_error"] == 0
    assert row["mean_relative_error"] == 0
    assert row["golden_zero_candidate_nonzero"] == 1
    assert row["relative_l2"] == pytest.approx(np.sqrt(100**2 / 14), rel=1e-6)


def test_a_zero_golden_hides_nothing(compare):
    row = compare(f32([0, 0, 0, 0]), f32([1, 2, 3, 4]))
    assert row["relative_l2"] == INF
    assert row["cosine_similarity"] == 0
    assert row["one_minus_cosine"] == 1
    assert row["max_absolute_error"] == 4
    assert np.isnan(row["max_relative_error"])
    assert np.isnan(row["mean_relative_error"])
    assert row["max_relative_error_index"] == -1
    assert row["golden_zero_candidate_nonzero"] == 4


def test_two_zero_tensors_agree(compare):
    row = compare(f32([0, 0, 0]), f32([0, -0.0, 0]))
    assert row["cosine_similarity"] == 1
    assert row["relative_l2"] == 0
    assert row["kl_divergence"] == 0
    assert row["max_ulp"] == 0
    assert row["golden_zero"] == 3
    assert row["candidate_zero"] == 3


@pytest.mark.parametrize("scale", [2e-9, 1e-25, 1e-40, 1e30])
def test_identical_tensors_agree_at_any_scale(compare, scale):
    values = f32([scale, -scale, scale / 2])
    row = compare(values, values)
    assert row["cosine_similarity"] == 1
    assert row["one_minus_cosine"] == 0
    assert row["relative_l2"] == 0
    assert row["bitwise_equal"] == 1


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1.0, 1e25])
def test_a_relative_error_does_not_depend_on_the_scale(compare, scale):
    golden = f32([3 * scale, 4 * scale])
    candidate = f32([3 * scale, 4.5 * scale])
    row = compare(golden, candidate)
    assert row["relative_l2"] == pytest.approx(0.1, rel=1e-6)
    assert row["max_relative_error"] == pytest.approx(0.125, rel=1e-6)


def test_a_small_angle_keeps_its_digits(compare):
    rng = np.random.default_rng(1)
    golden = rng.standard_normal(100_000).astype(np.float32)
    candidate = golden + (rng.standard_normal(100_000) * 3e-4).astype(np.float32)
    a, b = golden.astype(np.longdouble), candidate.astype(np.longdouble)
    truth = float(1 - (a @ b) / np.sqrt((a @ a) * (b @ b)))
    row = compare(golden, candidate)
    assert row["one_minus_cosine"] == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("angle", [0, 1e-4, 1e-2, 1])
@pytest.mark.parametrize("factor", [1e-6, 0.3, 0.9, 1.05, 1.5, 1e6])
def test_the_angle_between_tensors_of_different_size(compare, factor, angle):
    rng = np.random.default_rng(2)
    golden = rng.standard_normal((40, 1000)).astype(np.float32)
    noise = rng.standard_normal((40, 1000)) * angle
    candidate = (factor * (golden + noise)).astype(np.float32)
    a, b = golden.astype(np.longdouble).ravel(), candidate.astype(np.longdouble).ravel()
    truth = float(1 - (a @ b) / np.sqrt((a @ a) * (b @ b)))
    row = compare(golden, candidate)
    assert row["one_minus_cosine"] == pytest.approx(truth, rel=1e-5, abs=2e-10)
    if not 0.8 < factor < 1.2:
        assert row["one_minus_cosine"] == pytest.approx(truth, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("factor", [-1, 1e-6, -3e10])
def test_the_cosine_of_scaled_tensors(compare, factor):
    golden = f32([1, 2, -3, 0.5])
    row = compare(golden, golden * np.float32(factor))
    assert row["cosine_similarity"] == pytest.approx(np.sign(factor), abs=1e-9)


def test_one_nan_does_not_blank_the_row(compare):
    row = compare(f32([1, NAN, 3, 4]), f32([1, 2, 3, 5]))
    assert row["relative_l2"] == pytest.approx(1 / np.sqrt(26))
    assert row["mean_absolute_error"] == pytest.approx(1 / 3)
    assert row["max_absolute_error_index"] == 3
    assert row["golden_nan"] == 1
    assert row["candidate_nan"] == 0
    assert row["finiteness_mismatch"] == 1
    assert row["finiteness_mismatch_index"] == 1
    assert row["cmp_fail_reason"] is None
    assert row["golden_mean"] == pytest.approx(8 / 3)
    assert row["candidate_mean"] == pytest.approx(11 / 4)


def test_infinities_of_different_sign_differ(compare):
    row = compare(f32([INF, INF, -INF, NAN, 1]), f32([-INF, INF, -INF, NAN, 1]))
    assert row["finiteness_mismatch"] == 1
    assert row["finiteness_mismatch_index"] == 0
    assert (row["golden_pos_inf"], row["golden_neg_inf"]) == (2, 1)
    assert (row["candidate_pos_inf"], row["candidate_neg_inf"]) == (1, 2)
    assert row["relative_l2"] == 0


def test_nothing_finite_is_a_reason(compare):
    row = compare(f32([NAN, 1]), f32([1, INF]))
    assert row["cmp_fail_reason"] == "no element is finite on both sides"
    assert np.isnan(row["relative_l2"])
    assert np.isnan(row["cosine_similarity"])
    assert row["max_absolute_error_index"] == -1
    assert row["golden_nan"] == 1
    assert (row["golden_max"], row["candidate_max"]) == (1, 1)


def test_an_empty_tensor_is_a_reason(compare):
    row = compare(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert row["cmp_fail_reason"] == "empty"
    assert row["elements"] == 0
    assert np.isnan(row["relative_l2"])


def test_a_scalar_is_one_row_of_one(compare):
    row = compare(np.float32(2), np.float32(3))
    assert row["relative_l2"] == 0.5
    assert row["cosine_similarity"] == 1
    assert row["kl_divergence"] == 0
    assert (row["worst_row"], row["worst_row_relative_l2"]) == (0, 0.5)
    assert row["worst_channel"] == -1
    assert np.isnan(row["worst_channel_relative_l2"])


def test_rows_of_one_element_have_no_divergence(compare):
    row = compare(f32([[1], [2], [3]]), f32([[9], [2], [3]]))
    assert row["kl_divergence"] == 0
    assert row["max_kl"] == 0
    assert (row["worst_row"], row["worst_row_relative_l2"]) == (0, 8)
    assert row["worst_channel"] == 0


@pytest.mark.parametrize(
    "shape", [(7, 5), (3, 4, 33), (5, 640), (2, 3, 1000), (300, 17), (2, 70_000)]
)
def test_every_sum_agrees_with_numpy(compare, shape):
    rng = np.random.default_rng(sum(shape))
    golden = rng.standard_normal(shape).astype(np.float32)
    candidate = (golden + 0.02 * rng.standard_normal(shape)).astype(np.float32)
    candidate[(1,) * len(shape)] += 3
    row = compare(golden, candidate)
    a, b = golden.astype(np.float64), candidate.astype(np.float64)
    d = np.abs(b - a)
    rows = a.reshape(-1, shape[-1]), b.reshape(-1, shape[-1])
    kl = softmax_kl(*rows)
    by_row, by_channel = relative_l2(*rows, axis=1), relative_l2(*rows, axis=0)
    expected = {
        "relative_l2": relative_l2(a, b),
        "cosine_similarity": (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()),
        "max_absolute_error": d.max(),
        "mean_absolute_error": d.mean(),
        "max_relative_error": (d / np.abs(a)).max(),
        "mean_relative_error": (d / np.abs(a)).mean(),
        "kl_divergence": kl.mean(),
        "max_kl": kl.max(),
        "worst_row_relative_l2": by_row.max(),
        "worst_channel_relative_l2": by_channel.max(),
        "golden_min": a.min(),
        "candidate_min": b.min(),
        "golden_max": a.max(),
        "candidate_max": b.max(),
        "golden_rms": np.sqrt((a**2).mean()),
        "candidate_rms": np.sqrt((b**2).mean()),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert row["golden_mean"] == pytest.approx(a.mean(), abs=1e-7)
    assert row["max_absolute_error_index"] == d.argmax()
    assert row["max_relative_error_index"] == (d / np.abs(a)).argmax()
    assert row["max_kl_row"] == kl.argmax()
    assert row["worst_row"] == by_row.argmax()
    assert row["worst_channel"] == by_channel.argmax()


def test_a_row_and_a_channel_of_a_zero_golden(compare):
    golden = f32([[0, 0], [1, 0]])
    candidate = f32([[0, 1], [1, 0]])
    row = compare(golden, candidate)
    assert (row["worst_row"], row["worst_row_relative_l2"]) == (0, INF)
    assert (row["worst_channel"], row["worst_channel_relative_l2"]) == (1, INF)


def test_two_minus_infinities_add_nothing_to_the_divergence(compare):
    golden = f32([[1, 2, -INF], [0, 1, 2]])
    candidate = f32([[1, 3, -INF], [0, 1, 2]])
    row = compare(golden, candidate)
    expected = softmax_kl(np.array([[1.0, 2.0]]), np.array([[1.0, 3.0]]))[0]
    assert row["max_kl"] == pytest.approx(expected, rel=1e-6)
    assert row["kl_divergence"] == pytest.approx(expected / 2, rel=1e-6)
    assert row["max_kl_row"] == 0
    assert row["finiteness_mismatch"] == 0


def test_causal_masks_are_measured(compare):
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((600, 600)).astype(np.float32)
    other = scores + np.float32(0.01) * rng.standard_normal((600, 600)).astype(np.float32)
    above = np.triu(np.ones((600, 600), bool), 1)
    expected = np.mean(
        [
            softmax_kl(a[: i + 1].astype(float), b[: i + 1].astype(float))
            for i, (a, b) in enumerate(zip(scores, other, strict=True))
        ]
    )
    for mask in (-INF, np.finfo(np.float32).min):
        golden, candidate = np.where(above, mask, scores), np.where(above, mask, other)
        row = compare(golden.astype(np.float32), candidate.astype(np.float32))
        assert row["kl_divergence"] == pytest.approx(expected, rel=1e-4)
        assert row["max_absolute_error"] == np.abs(other - scores)[~above].max()


def test_a_uniform_shift_of_logits_has_no_divergence(compare):
    golden = f32(np.linspace(-5, 5, 1000))
    row = compare(golden, golden + np.float32(4))
    assert row["kl_divergence"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 0.1, 5.0])
def test_divergences_of_logits(compare, noise):
    rng = np.random.default_rng(5)
    golden = (rng.standard_normal((4, 50_000)) * 6).astype(np.float32)
    candidate = (golden + noise * rng.standard_normal(golden.shape)).astype(np.float32)
    row = compare(golden, candidate)
    expected = softmax_kl(golden.astype(np.float64), candidate.astype(np.float64))
    assert row["kl_divergence"] == pytest.approx(expected.mean(), rel=2e-5)


def test_ulp_distances(compare):
    one = f32([1, 2])
    three_up = np.nextafter(
        np.nextafter(np.nextafter(one, INF, dtype=np.float32), INF, dtype=np.float32),
        INF,
        dtype=np.float32,
    )
    assert compare(one, three_up)["max_ulp"] == 3
    tiny = np.float32(1e-45)
    assert compare(f32([-tiny]), f32([2 * tiny]))["max_ulp"] == 3
    half = np.array([1.0], np.float16)
    assert compare(half, np.nextafter(half, np.float16(2)))["max_ulp"] == 1
    # One step of float16 at 1 is 2⁻¹⁰; the finer side is rounded first.
    assert compare(f32([1 + 2**-11]), half)["max_ulp"] == 0
    assert compare(f32([1 + 3 * 2**-11]), half)["max_ulp"] == 2
    assert compare(np.array([1], np.int32), np.array([2], np.int32))["max_ulp"] == -1
    assert compare(np.array([1.0]), np.array([1.0]))["max_ulp"] == -1


def test_special_counts(compare):
    tiny = np.finfo(np.float32).tiny
    golden = f32([0, -0.0, tiny, tiny / 2, -tiny / 4, 3.2e38, -3.2e38, 1])
    row = compare(golden, golden)
    assert row["golden_zero"] == 2
    assert row["golden_subnormal"] == 2
    assert row["golden_near_max"] == 2
    half = np.array([60000, 6e-5, 6.2e-5, 0], np.float16)
    row = compare(half, half)
    assert (row["golden_near_max"], row["golden_subnormal"], row["golden_zero"]) == (1, 1, 1)


def test_integers_keep_every_bit(compare):
    golden = np.array([2**60 + 1, 2**53 + 1, -5])
    candidate = np.array([2**60, 2**53 + 1, -5])
    row = compare(golden, candidate)
    assert row["max_absolute_error"] == 1
    assert row["max_absolute_error_index"] == 0
    assert row["relative_l2"] == pytest.approx(1 / 2**60)
    big = np.array([2**64 - 1], np.uint64)
    assert compare(big, np.array([2**64 - 3], np.uint64))["max_absolute_error"] == 2
    assert compare(big, np.array([-1]))["max_absolute_error"] == 2.0**64


def test_doubles_keep_what_floats_lose(compare):
    row = compare(np.array([1.0, 2.0]), np.array([1.0, 2.0 + 1e-12]))
    assert row["max_absolute_error"] == pytest.approx(1e-12, rel=1e-3)


def test_small_integers_and_booleans_are_numbers(compare):
    row = compare(np.array([-128, 127, 1], np.int8), np.array([127, 127, 1], np.int8))
    assert row["max_absolute_error"] == 255
    row = compare(np.array([True, False, True]), np.array([True, True, True]))
    assert row["mean_absolute_error"] == pytest.approx(1 / 3)
    assert row["golden_mean"] == pytest.approx(2 / 3)


def test_dtypes_may_differ(compare):
    golden = f32([1.5, 2.25, 3.125])
    assert compare(golden, golden.astype(np.float64))["relative_l2"] == 0
    assert compare(golden, golden.astype(np.float16))["relative_l2"] == 0
    row = compare(golden, np.array([1, 2, 3], np.uint8))
    assert row["max_absolute_error"] == 0.5
    assert row["bitwise_equal"] == 0


def test_complex_numbers_are_measured_by_their_parts(compare):
    golden = np.array([[1 + 2j], [3 + 4j]], np.complex64)
    candidate = np.array([[1 + 2j], [3 + 5j]], np.complex64)
    row = compare(golden, candidate)
    assert row["relative_l2"] == pytest.approx(1 / np.sqrt(30))
    assert (row["elements"], row["max_absolute_error_index"]) == (2, 1)
    assert (row["worst_row"], row["worst_channel"]) == (1, 0)
    assert np.isnan(row["kl_divergence"])
    reason = compare(golden, f32([[1], [2]]))["cmp_fail_reason"]
    assert reason == (
        "dtype not measurable: golden complex64, candidate float32: only one is complex"
    )


def test_shapes(compare):
    row = compare(f32([[1, 2, 3], [4, 5, 6]]), f32([[1, 2], [3, 4], [5, 6]]))
    assert row["cmp_fail_reason"] == "shape differs: golden [2, 3], candidate [3, 2]"
    assert (row["golden_shape"], row["candidate_shape"]) == ([2, 3], [3, 2])
    row = compare(f32([[[1, 2]]]), f32([[1], [2]]))
    assert row["cmp_fail_reason"] is None
    assert row["shape_note"] == (
        "compared without axes of size 1: golden [1, 1, 2], candidate [2, 1]"
    )
    assert row["relative_l2"] == 0


def test_fortran_order_is_read_in_order(compare):
    golden = f32(np.arange(6).reshape(2, 3))
    row = compare(np.asfortranarray(golden), golden)
    assert row["relative_l2"] == 0


def test_bfloat16_and_float8(tmp_path):
    rng = np.random.default_rng(7)
    golden = rng.standard_normal((64, 640)).astype(np.float32)
    safetensors(tmp_path / "g.safetensors", golden, "F32")
    for dtype, name in (
        (ml_dtypes.bfloat16, "BF16"),
        (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
        (ml_dtypes.float8_e5m2, "F8_E5M2"),
        (np.float16, "F16"),
    ):
        candidate = golden.astype(dtype)
        safetensors(tmp_path / "c.safetensors", candidate, name)
        columns = _core.compare_tensors(tmp_path / "g.safetensors", tmp_path / "c.safetensors")
        expected = relative_l2(golden.astype(np.float64), candidate.astype(np.float64))
        assert columns["relative_l2"][0] == pytest.approx(expected, rel=1e-6)
    bf16 = golden.astype(ml_dtypes.bfloat16)
    safetensors(tmp_path / "c.safetensors", bf16, "BF16")
    columns = _core.compare_tensors(tmp_path / "g.safetensors", tmp_path / "c.safetensors")
    assert columns["max_ulp"][0] == 0
    assert columns["candidate_dtype"] == ["bfloat16"]


def safetensors(path, array, dtype):
    import json

    header = {"x": {"dtype": dtype, "shape": list(array.shape), "data_offsets": [0, array.nbytes]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + array.tobytes())


@pytest.mark.parametrize("kl", [True, False])
def test_threads_do_not_change_a_bit(compare, kl):
    rng = np.random.default_rng(11)
    golden = rng.standard_normal((40, 200_000)).astype(np.float32)
    candidate = golden + np.float32(1e-3) * rng.standard_normal(golden.shape).astype(np.float32)
    rows = [compare(golden, candidate, threads=threads, kl=kl) for threads in (1, 2, 5)]
    for row in rows:
        for name, value in row.items():
            assert repr(value) == repr(rows[0][name]), name
    assert np.isnan(rows[0]["kl_divergence"]) != kl


def test_a_file_that_is_missing_is_a_row(tmp_path):
    np.save(tmp_path / "a.npy", f32([1]))
    columns = _core.compare_tensors(tmp_path / "a.npy", tmp_path / "none.npy")
    assert "none.npy" in columns["cmp_fail_reason"][0]
    assert columns["cmp_fail_reason"][0].startswith("candidate: ")
    assert columns["golden_shape"] == [[1]]


def test_progress_may_end_the_comparison(compare):
    def stop(done, total):
        raise RuntimeError(f"stop at {done} of {total}")

    with pytest.raises(RuntimeError, match=r"stop at . of 1"):
        compare(f32([1]), f32([1]), progress=stop)


def test_every_measure_has_a_name_and_a_meaning(compare):
    row = compare(f32([1]), f32([1]))
    names = [name for name, _ in _core.measures()]
    assert len(names) == len(set(names))
    assert list(row)[: len(names)] == names
    assert all(meaning for _, meaning in _core.measures())
