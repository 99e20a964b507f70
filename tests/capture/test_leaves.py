"""What a module may be given or give back, and what becomes of each kind of thing."""

import dataclasses
import enum

import numpy as np
import pytest
import torch

from llmdbg import capture_torch
from tests.capture.native_dump import NativeDump


class Gives(torch.nn.Module):
    """Gives back what it was made with, whatever it is given."""

    def __init__(self, result):
        super().__init__()
        self.result = (result,)

    def forward(self, *_args, **_kwargs):
        return self.result[0]


# Values alone leave a dump without tensors, which capture warns about.
pytestmark = pytest.mark.filterwarnings("ignore::llmdbg.CaptureWarning")


def record(tmp_path, result, *args, **kwargs):
    model = Gives(result)
    with capture_torch(model, tmp_path / "d"):
        model(*args, **kwargs)
    return NativeDump(tmp_path / "d")


@dataclasses.dataclass
class State:
    hidden: torch.Tensor
    length: int
    extra: object = None


class Cache:
    def __init__(self, tensor):
        self.key = tensor
        self.layers = [{"value": tensor + 1}]
        self.size = 3
        self._private = tensor


class Colour(enum.Enum):
    RED = "red"


A, B = torch.arange(3.0), torch.arange(4) * 2


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (A, {"0": A}),
        ((A, B), {"0": A, "1": B}),
        ([A, (B, A)], {"0": A, "1.0": B, "1.1": A}),
        ({"logits": A, "more": {"x": B}}, {"logits": A, "more.x": B}),
        (State(A, 3), {"hidden": A}),
        ({"state": State(A, 3, extra=[B])}, {"state.hidden": A, "state.extra.0": B}),
        (Cache(A), {"key": A, "layers.0.value": A + 1}),
        (torch.return_types.max((A, B)), {"0": A, "1": B}),
        ({"a.b": A, "a": {"b": B}}, {'"a.b"': A, "a.b": B}),
        (np.arange(3.0), {"0": torch.arange(3.0, dtype=torch.float64)}),
        ({0: A, ("x", 1): B}, {"0": A, "('x', 1)": B}),
    ],
)
def test_tensors_of_a_result(tmp_path, result, expected):
    dump = record(tmp_path, result)
    found = {r["slot"]: dump.bytes_of(r) for r in dump.records if "file" in r}
    assert set(found) == set(expected)
    for slot, tensor in expected.items():
        assert torch.equal(found[slot], tensor)


def test_arguments_by_position_and_keyword(tmp_path):
    dump = record(tmp_path, None, A, [B, None], mask=A, state=State(B, 5), flag=True)
    assert torch.equal(dump.tensor("", "input", "0"), A)
    assert torch.equal(dump.tensor("", "input", "1.0"), B)
    assert torch.equal(dump.tensor("", "input", "kwargs.mask"), A)
    assert torch.equal(dump.tensor("", "input", "kwargs.state.hidden"), B)
    values = {r["slot"]: r["value"] for r in dump.records if "value" in r}
    assert values["1.1"] is None
    assert values["kwargs.flag"] is True
    assert values["kwargs.state.length"] == 5


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (None, None),
        (False, False),
        (7, 7),
        (0.5, 0.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("text ✓", "text ✓"),
        (torch.float16, "torch.float16"),
        (torch.device("cpu"), "cpu"),
        (Colour.RED, "red"),
        (np.float32(0.25), 0.25),
        ((1, 2, 3), [1, 2, 3]),
        (torch.Size([2, 3]), [2, 3]),
        (len, "<builtin_function_or_method>"),
        (torch.nn.ReLU(), "<ReLU>"),
        (iter([1]), "<list_iterator>"),
    ],
)
def test_values(tmp_path, given, value):
    dump = record(tmp_path, None, x=given)
    assert dump.find("", "input", "kwargs.x")["value"] == value


def test_an_iterator_is_not_consumed(tmp_path):
    given = iter([A, B])
    record(tmp_path, None, given)
    assert [id(t) for t in given] == [id(A), id(B)]


def circular():
    loop = [A]
    loop.append(loop)
    return loop


def deep():
    value = A
    for _ in range(40):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "slot", "reason"),
    [
        ({3, 4}, "kwargs.x", "a set"),
        ("x" * 5000, "kwargs.x", "5000 characters"),
        (circular(), "kwargs.x.1", "contains itself"),
        (np.array(["a"]), "kwargs.x", "numpy array of dtype <U1"),
        (1j, "kwargs.x", None),
        (torch.empty(3, device="meta"), "kwargs.x", "meta"),
        (A.to_sparse(), "kwargs.x", "sparse_coo"),
        (torch.eye(3).to_sparse_csr(), "kwargs.x", "sparse_csr"),
        (torch.quantize_per_tensor(A, 0.1, 0, torch.qint8), "kwargs.x", "quantised"),
        (torch.nested.nested_tensor([A, A[:2]]), "kwargs.x", "nested"),
    ],
)
def test_what_cannot_be_kept_is_listed_with_its_reason(tmp_path, given, slot, reason):
    dump = record(tmp_path, A, x=given)
    found = dump.find("", "input", slot)
    if reason is None:
        assert found["value"] == "<complex>"
    else:
        assert reason in found["skipped"]
        assert "file" not in found
    assert torch.equal(dump.tensor("", "output", "0"), A)


def test_depth_has_an_end(tmp_path):
    dump = record(tmp_path, A, deep())
    assert ["deep" in r["skipped"] for r in dump.records if "skipped" in r] == [True]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.empty(0),
        torch.empty(2, 0, 3, dtype=torch.int16),
        torch.tensor([[True], [False]]),
        torch.arange(5, dtype=torch.uint8),
        torch.arange(-3, 4, dtype=torch.int8),
        torch.arange(7).to(torch.float8_e4m3fn),
        torch.arange(7).to(torch.float8_e5m2),
        torch.tensor([1 + 2j, 3 - 4j]),
        torch.tensor([[1 + 2j], [3 - 4j]], dtype=torch.complex128),
        torch.tensor([1.0, float("nan"), float("inf"), -0.0], dtype=torch.bfloat16),
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(12.0)[::3],
        torch.tensor([2.0]).expand(4, 3),
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.arange(9, dtype=torch.float16)[1:],
        torch.tensor([1, 65535, 3], dtype=torch.uint16),
        torch.nn.Parameter(torch.ones(3)),
        torch.ones(2, requires_grad=True) * 2,
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}-{t.stride()}",
)
def test_bytes_of_a_tensor(tmp_path, tensor):
    dump = record(tmp_path, tensor)
    found = dump.tensor("", "output", "0")
    expected = tensor.detach().resolve_conj().contiguous()
    assert found.shape == tensor.shape
    as_bytes = [t.reshape(-1).view(torch.uint8) for t in (found, expected)]
    assert torch.equal(*as_bytes)


def test_odd_lengths_beside_each_other(tmp_path):
    tensors = [torch.full((n,), n, dtype=torch.uint8) for n in (1, 16, 3, 32, 7, 0, 5)]
    dump = record(tmp_path, tensors)
    for i, tensor in enumerate(tensors):
        assert torch.equal(dump.tensor("", "output", str(i)), tensor)


def test_tensors_larger_than_a_buffer(tmp_path):
    tensors = [torch.arange(3.0), torch.arange(200_000.0), torch.arange(70_001).to(torch.int8)]
    tensors.append(torch.arange(60_000.0).reshape(200, 300).t())
    model = Gives(tensors)
    with capture_torch(model, tmp_path / "d", max_queue_bytes=1 << 16):
        model()
    dump = NativeDump(tmp_path / "d")
    for i, tensor in enumerate(tensors):
        assert torch.equal(dump.tensor("", "output", str(i)), tensor)


def test_a_subclass_of_tensor_is_kept_as_its_bytes(tmp_path):
    class Named(torch.Tensor):
        pass

    dump = record(tmp_path, A.as_subclass(Named))
    assert torch.equal(dump.tensor("", "output", "0"), A)
