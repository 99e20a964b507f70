"""Noise floors, against rounding done by numpy and ml_dtypes."""

import ml_dtypes
import numpy as np
import pytest

from llmdbg.verdict.floor import grown, pair_floor, storage_floor


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bfloat16", ml_dtypes.bfloat16),
        ("float16", np.float16),
        ("float8_e4m3fn", ml_dtypes.float8_e4m3fn),
    ],
)
def test_the_floor_is_the_error_of_rounding_normal_values(name, dtype):
    values = np.random.default_rng(0).standard_normal(100_000)
    rounded = values.astype(dtype).astype(np.float64)
    measured = np.linalg.norm(rounded - values) / np.linalg.norm(values)
    assert storage_floor(name) == pytest.approx(measured, rel=0.1)


def test_torch_names_and_types_that_do_not_round():
    assert storage_floor("torch.bfloat16") == storage_floor("bfloat16")
    assert storage_floor("torch.int8") is None
    assert storage_floor("no such type") is None


def test_a_pair_has_the_floor_of_its_coarser_side():
    assert pair_floor("torch.float32", "torch.bfloat16") == storage_floor("bfloat16")
    assert pair_floor("torch.int64", None) is None


def test_the_floor_grows_with_the_root_of_the_roundings():
    assert grown(1e-3, 16) == pytest.approx(4e-3)
    assert grown(1e-3, 0) == 1e-3
