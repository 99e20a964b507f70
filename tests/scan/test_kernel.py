"""The scan kernel against numpy in float64, on every dtype, layout and thread count."""

import ml_dtypes
import numpy as np
import pytest

from llmdbg import _core
from tests.scan.files import write_safetensors

LIMITS = {
    "float64": np.finfo(np.float64),
    "float32": np.finfo(np.float32),
    "float16": np.finfo(np.float16),
    "bfloat16": ml_dtypes.finfo(ml_dtypes.bfloat16),
    "float8_e4m3fn": ml_dtypes.finfo(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": ml_dtypes.finfo(ml_dtypes.float8_e5m2),
}


def kind(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def scan(tmp_path, array, threads=1):
    path = write_safetensors(tmp_path / "x.safetensors", {"x": array})
    columns = _core.scan_tensors(path, ["x"], threads=threads)
    return {name: column[0] for name, column in columns.items()}


def expected(array, name):
    wide = array.astype(np.float64).ravel()
    finite = wide[np.isfinite(wide)]
    limit = LIMITS[name]
    top, normal = float(limit.max), float(limit.smallest_normal)
    size = np.abs(finite)
    counts = {
        "nan": np.isnan(wide),
        "pos_inf": np.isposinf(wide),
        "neg_inf": np.isneginf(wide),
        "zero": wide == 0,
        "subnormal": (np.abs(wide) < normal) & (wide != 0),
        "near_max": np.isfinite(wide) & (np.abs(wide) > 0.9 * top),
        "saturated": np.abs(wide) == top,
    }
    facts = {key: int(mask.sum()) for key, mask in counts.items()}
    facts |= {
        f"first_{key}": int(np.flatnonzero(mask)[0]) if mask.any() else -1
        for key, mask in counts.items()
    }
    facts |= {
        "numbers": wide.size,
        "min": finite.min(),
        "max": finite.max(),
        "abs_max": size.max(),
        "abs_min": size[size > 0].min(),
    }
    return facts, finite


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("shape", [(7,), (5, 3), (3, 1000), (70, 129), (4, 5, 2048)])
def test_counts_places_and_extremes_are_numpys(tmp_path, name, shape):
    rng = np.random.default_rng(len(shape))
    wide = rng.standard_normal(shape)
    with np.errstate(over="ignore"):
        array = wide.astype(kind(name))
    flat = array.reshape(-1)
    special = [np.nan, 0.0, -0.0, float(LIMITS[name].max), float(LIMITS[name].smallest_subnormal)]
    if name != "float8_e4m3fn":
        special += [np.inf, -np.inf]
    for value in special:
        flat[rng.integers(flat.size)] = value
    found = scan(tmp_path, array)
    facts, finite = expected(array, name)
    assert {key: found[key] for key in facts} == facts
    with np.errstate(over="ignore"):
        assert found["mean"] == pytest.approx(finite.mean(), rel=1e-5, abs=1e-9)
        assert found["rms"] == pytest.approx(np.sqrt((finite**2).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["int8", "uint8", "int32", "int64", "bool", "int16"])
def test_integers(tmp_path, name):
    rng = np.random.default_rng(1)
    if name == "bool":
        array = rng.integers(0, 2, (33, 70)).astype(bool)
    else:
        info = np.iinfo(name)
        array = rng.integers(max(info.min, -128), min(info.max, 255) + 1, (33, 70)).astype(name)
    found = scan(tmp_path, array)
    wide = array.astype(np.float64)
    assert (found["min"], found["max"]) == (wide.min(), wide.max())
    assert found["zero"] == (wide == 0).sum()
    assert found["mean"] == pytest.approx(wide.mean(), rel=1e-12)
    saturated = {"int8": np.abs(wide) >= 127, "uint8": wide == 255}.get(name, np.zeros(1))
    assert found["saturated"] == saturated.sum()
    assert found["nan"] == found["near_max"] == found["subnormal"] == 0


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-12, 1e12, 1e25])
def test_sums_neither_vanish_nor_overflow(tmp_path, scale):
    array = (np.random.default_rng(0).standard_normal((64, 100)) * scale).astype(np.float32)
    wide = array.astype(np.float64)
    found = scan(tmp_path, array)
    assert found["rms"] == pytest.approx(np.sqrt((wide**2).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e5m2", "int8"])
def test_dead_rows_and_channels(tmp_path, name):
    rng = np.random.default_rng(2)
    array = rng.integers(1, 9, (100, 777)).astype(kind(name))
    array[[3, 50, 99]] = 0
    array[:, [0, 400]] = 0
    found = scan(tmp_path, array)
    assert (found["rows"], found["channels"]) == (100, 777)
    assert (found["dead_rows"], found["dead_channels"]) == (3, 2)


def test_a_part_is_smaller_than_a_row(tmp_path):
    array = np.ones((3, 3 << 20), np.int8)
    array[1] = 0
    array[:, 5 << 18] = 0
    found = scan(tmp_path, np.concatenate([array, array], axis=1))
    assert found["dead_rows"] == 1
    assert found["dead_channels"] == 0  # nobody looks at more than 2**20 channels


def test_repeated_rows(tmp_path):
    array = np.random.default_rng(3).standard_normal((20, 64)).astype(np.float32)
    array[7] = array[2]
    array[19] = array[2]
    array[11] = 0
    array[12] = 0
    found = scan(tmp_path, array)
    assert found["repeated_rows"] == 2
    assert (found["first_repeated_row"], found["first_repeated_of"]) == (7, 2)


def test_rows_that_share_only_the_sampled_bytes_are_not_repeated(tmp_path):
    array = np.random.default_rng(3).standard_normal((2, 64)).astype(np.float32)
    array[1] = array[0]
    array[1, 10] += 1
    assert scan(tmp_path, array)["repeated_rows"] == 0


def test_constants(tmp_path):
    assert scan(tmp_path, np.full((3, 40), 1.5, np.float16))["constant"] == 1
    assert scan(tmp_path, np.arange(120, dtype=np.float16).reshape(3, 40))["constant"] == 0


def test_the_same_bits_for_any_number_of_threads(tmp_path):
    array = np.random.default_rng(4).standard_normal((3000, 1000)).astype(np.float32)
    array[77, 7] = np.nan
    one, many = scan(tmp_path, array, 1), scan(tmp_path, array, 5)
    bits = [
        {k: np.asarray(v).tobytes() for k, v in side.items() if k != "note"} for side in (one, many)
    ]
    assert bits[0] == bits[1]


def test_strided_and_complex_tensors(tmp_path):
    array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    array[1, 2] = np.nan
    np.save(tmp_path / "f.npy", array)
    found = _core.scan_tensors(tmp_path / "f.npy", [None])
    assert (found["first_nan"][0], found["nan"][0]) == (6, 1)
    np.save(tmp_path / "c.npy", np.array([1 + 2j, complex(0, np.inf), 3], np.complex64))
    found = _core.scan_tensors(tmp_path / "c.npy", [None])
    assert (found["numbers"][0], found["pos_inf"][0], found["first_pos_inf"][0]) == (6, 1, 1)


def test_empty_and_scalar_tensors(tmp_path):
    assert scan(tmp_path, np.zeros((0, 5), np.float32))["numbers"] == 0
    assert scan(tmp_path, np.array(np.nan, np.float32))["first_nan"] == 0


def test_byte_differences(tmp_path):
    a = np.zeros((2, 100), np.int16)
    b = a.copy()
    b[0, 10], b[1, 99] = 1, 256
    for name, array in (("a", a), ("b", b), ("short", a[:1])):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", array)
    dumps = {name: _core.open_dump(tmp_path / name) for name in ("a", "b", "short")}
    found = _core.byte_differences(dumps["a"], dumps["b"], [0], [0])
    assert [found[k][0] for k in ("count", "first", "last")] == [2, 20, 399]
    found = _core.byte_differences(dumps["a"], dumps["short"], [0], [0])
    assert "int16 [2, 100]" in found["reason"][0]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float8_e5m2", "int8"])
def test_a_large_tensor_is_summed_in_a_share_of_its_blocks(tmp_path, name):
    rng = np.random.default_rng(5)
    array = (rng.standard_normal((1100, 2048)) * 20).astype(kind(name))
    found = scan(tmp_path, array, threads=2)
    wide = array.astype(np.float64)
    assert (found["min"], found["max"]) == (wide.min(), wide.max())
    assert found["zero"] == (wide == 0).sum()
    # Every row is a block; a fourth of them, by the fractional part of their number times the
    # golden ratio.
    places = [block * 0x9E3779B97F4A7C15 % 2**64 < 2**62 for block in range(1100)]
    part = wide[places]
    assert len(part) == pytest.approx(1100 / 4, abs=2)
    assert found["rms"] == pytest.approx(np.sqrt((part**2).mean()), rel=1e-6)
    assert found["mean"] == pytest.approx(part.mean(), abs=1e-4)


@pytest.mark.parametrize("channel", [0, 3000, 5000, 8191])
def test_no_channel_of_a_large_tensor_is_left_out(tmp_path, channel):
    array = np.random.default_rng(6).standard_normal((1024, 8192)).astype(np.float16)
    array[:, channel] = 1000
    found = scan(tmp_path, array, threads=2)
    exact = np.sqrt((array.astype(np.float64) ** 2).mean())
    assert found["rms"] == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("name", ["float16", "float32", "float8_e4m3fn", "float8_e5m2"])
def test_values_that_are_not_finite_hide_no_others(tmp_path, name):
    rng = np.random.default_rng(7)
    wide = rng.standard_normal((40, 1000)).astype(kind(name)).astype(np.float64)
    # Some everywhere, whole blocks of them, and one row that begins with the largest number.
    wide[rng.random(wide.shape) < 0.3] = np.nan
    wide[10:20] = np.nan
    wide[30, 0] = float(LIMITS[name].max)
    if name != "float8_e4m3fn":
        wide[rng.random(wide.shape) < 0.1] = -np.inf
        wide[25] = np.inf
    with np.errstate(over="ignore"):
        array = wide.astype(kind(name))
    found = scan(tmp_path, array)
    facts, finite = expected(array, name)
    assert {key: found[key] for key in facts} == facts
    with np.errstate(over="ignore"):
        assert found["mean"] == pytest.approx(finite.mean(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8", "uint8"])
@pytest.mark.parametrize("late", ["low", "high", "least"])
def test_an_extreme_that_comes_late_is_seen(tmp_path, name, late):
    array = np.full((300, 1024), 2, kind(name))
    array[:, ::2] = 2 if name == "uint8" else -2
    # Nothing has a smaller magnitude, so that it is not looked for again.
    smallest = float(LIMITS[name].smallest_subnormal) if name in LIMITS else 1
    array[0, :2] = smallest if late != "least" else 2
    place = {"low": 0 if name == "uint8" else -5, "high": 7, "least": smallest}[late]
    array[-1, -1] = place
    found = scan(tmp_path, array)
    wide = array.astype(np.float64)
    assert (found["min"], found["max"]) == (wide.min(), wide.max())
    assert found["abs_min"] == np.abs(wide[wide != 0]).min()
    assert found["mean"] == pytest.approx(wide.mean(), rel=1e-6)
