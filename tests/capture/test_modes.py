"""What statistics, sketch and hash keep, against numpy and against the definition."""

import math

import numpy as np
import pytest
import torch

from llmdbg import capture_torch, open_dump
from llmdbg._core import LlmdbgError
from llmdbg.capture.reduce import _on_device, reduce
from tests.capture.native_dump import NativeDump

SPECIAL = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 3.0, -2.5, 1e-3]


def values(dtype, count=5000):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, generator=generator) * 7
    x[: len(SPECIAL)] = torch.tensor(SPECIAL)
    return x.to(dtype) if dtype.is_floating_point else x.nan_to_num(1, 5, -5).to(dtype)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool],
)
@pytest.mark.parametrize("on_device", [False, True])
def test_statistics_against_numpy(dtype, on_device):
    tensor = values(dtype).reshape(50, 100)
    reduced = _on_device(tensor, sketch=False) if on_device else reduce(tensor, "statistics")
    if reduced.fill:
        reduced.fill()
    found = reduced.fields["stats"]
    x = tensor.double().numpy()
    finite = x[np.isfinite(x)]
    expected = {
        "min": finite.min(),
        "max": finite.max(),
        "mean": finite.mean(),
        "norm": np.linalg.norm(finite),
        "nan": np.isnan(x).sum(),
        "pos_inf": np.isposinf(x).sum(),
        "neg_inf": np.isneginf(x).sum(),
        "zero": (x == 0).sum(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


def test_statistics_of_nothing_finite_and_of_nothing():
    for tensor in (torch.full((3,), math.nan), torch.empty(0, 4)):
        for reduced in (reduce(tensor, "sketch"), _on_device(tensor, sketch=True)):
            if reduced.fill:
                reduced.fill()
            stats = reduced.fields["stats"]
            assert (stats["min"], stats["max"], stats["mean"]) == (None, None, None)
            assert stats["norm"] == 0
            assert stats["nan"] == (3 if tensor.numel() else 0)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(7),
        torch.randn(1, 300, 640),
        torch.randn(3, 700, 50),
        torch.randn(300, 200).t(),
        torch.randn(2_000_001),
        torch.randn(40, 30, dtype=torch.complex64),
        torch.randn(600, 3, 5).bfloat16(),
        torch.tensor(2.5),
        torch.tensor([[1.0, math.nan], [math.inf, 2.0]]),
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}",
)
def test_the_device_and_the_engine_make_the_same_sketch(tensor):
    ours, theirs = reduce(tensor, "sketch"), _on_device(tensor, sketch=True)
    scale = torch.linalg.vector_norm(ours.sketch.nan_to_num(0, 0, 0)).item()
    assert ours.sketch.dtype == theirs.sketch.dtype == torch.float32
    torch.testing.assert_close(
        ours.sketch, theirs.sketch, rtol=1e-5, atol=1e-6 * scale, equal_nan=True
    )
    assert ours.sketch.numel() <= 513


def test_hash_is_xxh3():
    # The published value for no bytes at all.
    empty = reduce(torch.empty(0), "hash").fields["hash"]
    assert empty == "xxh3:99aa06d3014798d86001c324468d497f"
    x = torch.randn(3, 4)
    assert reduce(x.t().contiguous().t(), "hash") == reduce(x, "hash")
    assert reduce(x + 1e-6, "hash") != reduce(x, "hash")


def test_dumps_of_each_mode(llama, ids, tmp_path):
    dumps = {}
    for mode in ("full", "statistics", "sketch", "hash"):
        with torch.no_grad(), capture_torch(llama, tmp_path / mode, mode=mode, weights=True):
            llama(ids)
        dumps[mode] = open_dump(tmp_path / mode)
        assert dumps[mode].problems == []
    full = dumps["full"].records
    assert full["hash"].null_count() == full["mean"].null_count() == len(full)
    names = ["step", "node", "role", "slot", "call", "order", "dtype", "shape", "op_type"]
    for mode in ("statistics", "sketch", "hash"):
        records = dumps[mode].records
        assert records.select(names).equals(full.select(names))
        assert records["path"].null_count() == len(records)
        assert records["hash"].null_count() == (0 if mode == "hash" else len(records))
        assert records["norm"].null_count() == (len(records) if mode == "hash" else 0)
        assert records["sketch_path"].null_count() == (0 if mode == "sketch" else len(records))
        with pytest.raises(LlmdbgError, match="no data"):
            dumps[mode].tensor(0)
    for i, row in enumerate(dumps["statistics"].records.iter_rows(named=True)):
        x = dumps["full"].tensor(i).astype("f8")
        expected = (x.min(), x.max(), x.mean(), np.linalg.norm(x), (x == 0).sum())
        found = tuple(row[name] for name in ("min", "max", "mean", "norm", "zero"))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_tensor_without_numbers_is_told(tmp_path):
    x = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with capture_torch(torch.nn.Identity(), tmp_path / "d", mode="statistics") as capture:
        capture._model([torch.ones(2), x])
    record = NativeDump(tmp_path / "d").find("", "input", "0.1")
    assert "float4_e2m1fn_x2" in record["skipped"]


def test_a_dump_of_sketches_is_small(tmp_path):
    model = torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(40)))
    with capture_torch(model, tmp_path / "d", mode="sketch"):
        model(torch.randn(512, 1024))
    size = sum(p.stat().st_size for p in (tmp_path / "d").rglob("*.safetensors"))
    assert size < 41 * 2300


def test_modes_that_do_not_exist(tmp_path):
    for options in ({"mode": "md5"}, {"level": "kernel"}, {"level": []}, {"layout": "npz"}):
        with pytest.raises(LlmdbgError, match="choose"):
            capture_torch(torch.nn.Identity(), tmp_path / "d", **options)
    with pytest.raises(LlmdbgError, match="whole tensors of modules"):
        capture_torch(torch.nn.Identity(), tmp_path / "d", mode="hash", layout="ait")
