"""A tensor is recorded as it was when seen; one that comes again unchanged is stored once."""

import pytest
import torch

from llmdbg import capture_torch
from tests.capture.native_dump import NativeDump


class AddsInPlace(torch.nn.Module):
    def forward(self, x):
        x.add_(1)
        return x


class WritesBehindTorch(torch.nn.Module):
    def forward(self, x):
        x.numpy()[...] = 7
        return x


def place(record):
    return record["file"], record["key"]


def test_an_output_is_stored_once_for_all_who_see_it(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Identity(), torch.nn.ReLU())
    with torch.no_grad(), capture_torch(model, tmp_path / "d"):
        model(torch.ones(1, 2))
    dump = NativeDump(tmp_path / "d")
    linear = place(dump.find("0", "output", "0"))
    assert place(dump.find("1", "input", "0")) == linear
    assert place(dump.find("1", "output", "0")) == linear
    assert place(dump.find("2", "input", "0")) == linear
    assert place(dump.find("2", "output", "0")) == place(dump.find("", "output", "0")) != linear


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_in_place_change_inside_a_module(tmp_path, mode):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), AddsInPlace(), torch.nn.ReLU(inplace=True))
    with mode():
        x = torch.ones(3, 2)
        linear = model[0](x).clone()
        with capture_torch(model, tmp_path / "d"):
            model(x)
    dump = NativeDump(tmp_path / "d")
    with torch.inference_mode(mode is torch.inference_mode):
        assert torch.equal(dump.tensor("0", "output", "0"), linear)
        assert torch.equal(dump.tensor("1", "input", "0"), linear)
        assert torch.equal(dump.tensor("1", "output", "0"), linear + 1)
        assert torch.equal(dump.tensor("2", "input", "0"), linear + 1)
        assert torch.equal(dump.tensor("2", "output", "0"), (linear + 1).relu())


@pytest.mark.parametrize("layout", ["native", "ait"])
def test_change_after_the_hook_does_not_reach_the_dump(tmp_path, layout):
    model = torch.nn.Identity()
    x = torch.arange(1000.0)
    before = x.clone()
    with capture_torch(model, tmp_path / "d", layout=layout):
        model(x)
        x.zero_()
    if layout == "native":
        found = NativeDump(tmp_path / "d").tensor("", "input", "0")
    else:
        (path,) = (tmp_path / "d").rglob("input_0.pth")
        found = torch.load(path, weights_only=True)
    assert torch.equal(found, before)


def test_a_change_through_a_view_is_seen(tmp_path):
    model = torch.nn.Identity()
    x = torch.zeros(4)
    with capture_torch(model, tmp_path / "d"):
        model(x)
        x[1:].fill_(3)
        model(x)
    dump = NativeDump(tmp_path / "d")
    assert dump.tensor("", "input", "0", step=0).tolist() == [0, 0, 0, 0]
    assert dump.tensor("", "input", "0", step=1).tolist() == [0, 3, 3, 3]


def test_memory_that_is_used_again_is_not_mistaken(tmp_path):
    model = torch.nn.Identity()
    with capture_torch(model, tmp_path / "d"):
        addresses = set()
        for step in range(50):
            x = torch.full((256,), float(step))
            addresses.add(x.data_ptr())
            model(x)
            del x
    assert len(addresses) < 50, "the allocator gave every tensor new memory; nothing was tested"
    dump = NativeDump(tmp_path / "d")
    for step in range(50):
        assert dump.tensor("", "input", "0", step=step).tolist() == [float(step)] * 256


def test_views_of_one_memory_that_differ_are_kept_apart(tmp_path):
    x = torch.arange(6.0).reshape(2, 3)
    z = torch.tensor([1 + 1j])
    views = [x, x.t(), x.reshape(6), x[:1], x.view(torch.int32), z, z.conj()]
    model = torch.nn.Identity()
    with capture_torch(model, tmp_path / "d"):
        model(views)
    dump = NativeDump(tmp_path / "d")
    for i, view in enumerate(views):
        assert torch.equal(dump.tensor("", "input", f"0.{i}"), view.resolve_conj())


def test_data_given_to_another_tensor(tmp_path):
    model = torch.nn.Identity()
    a, b = torch.zeros(64), torch.ones(64)
    with capture_torch(model, tmp_path / "d"):
        model(a)
        a.data = b
        model(a)
    dump = NativeDump(tmp_path / "d")
    assert dump.tensor("", "input", "0", step=1).tolist() == [1.0] * 64
