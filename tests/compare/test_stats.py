"""One tensor's statistics."""

import numpy as np
import pytest

from llmdbg import _core


def test_statistics_agree_with_numpy(tmp_path):
    values = np.random.default_rng(0).standard_normal((33, 100)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    stats = _core.tensor_stats(tmp_path / "x.npy", histogram=True)
    wide = values.astype(np.float64)
    assert (stats["dtype"], stats["shape"], stats["elements"]) == ("float32", [33, 100], 3300)
    assert (stats["min"], stats["max"]) == (values.min(), values.max())
    assert stats["mean"] == pytest.approx(wide.mean(), abs=1e-7)
    assert stats["norm"] == pytest.approx(np.linalg.norm(wide), rel=1e-9)
    assert stats["rms"] == pytest.approx(np.sqrt((wide**2).mean()), rel=1e-9)
    expected, _ = np.histogram(wide, bins=64)
    assert np.array_equal(stats["histogram"], expected)


def test_special_values_are_counted(tmp_path):
    values = np.array([np.nan, np.inf, -np.inf, -np.inf, 0, 6e-5, 65000, -1], np.float16)
    np.save(tmp_path / "x.npy", values)
    stats = _core.tensor_stats(tmp_path / "x.npy")
    counts = ("finite", "nan", "pos_inf", "neg_inf", "zero", "subnormal", "near_max")
    assert [stats[name] for name in counts] == [4, 1, 1, 2, 1, 1, 1]
    assert (stats["min"], stats["max"]) == (-1, 64992)
    assert "histogram" not in stats


def test_an_empty_tensor_has_no_extremes(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0,), np.float32))
    stats = _core.tensor_stats(tmp_path / "x.npy", histogram=True)
    assert stats["elements"] == 0
    assert np.isnan(stats["min"])
    assert len(stats["histogram"]) == 0
