"""Functions that a model calls, heard through torch's modes."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from llmdbg import CaptureWarning, capture_torch, open_dump
from tests.capture.native_dump import NativeDump


class Inner(torch.nn.Module):
    def forward(self, x):
        y = torch.matmul(x, x.t())
        y = F.softmax(y, dim=-1)
        return y @ x + x.mean()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(self.inner(x)) + self.inner(x)


def record(tmp_path, model, *args, calls=1, **options):
    options = {"level": "api", **options}
    with torch.no_grad(), capture_torch(model, tmp_path / "d", **options):
        for _ in range(calls):
            result = model(*args)
    return NativeDump(tmp_path / "d"), result


def test_functions_have_their_module_number_inputs_and_outputs(tmp_path):
    torch.manual_seed(0)
    model, x = Net(), torch.randn(4, 3)
    with torch.no_grad():
        expected = model(x)
    dump, result = record(tmp_path, model, x)
    assert torch.equal(result, expected)
    assert {r["node"] for r in dump.records} == {
        "inner/torch.matmul",
        "inner/torch.Tensor.t",
        "inner/torch.nn.functional.softmax",
        "inner/torch.Tensor.matmul",
        "inner/torch.Tensor.mean",
        "inner/torch.Tensor.add",
        "linear/torch.nn.functional.linear",
        "/torch.Tensor.add",
    }
    for call in (0, 1):
        assert torch.equal(dump.tensor("inner/torch.matmul", "input", "0", call=call), x)
        scores = dump.tensor("inner/torch.matmul", "output", "0", call=call)
        assert torch.equal(scores, x @ x.t())
        softmax = "inner/torch.nn.functional.softmax"
        assert torch.equal(dump.tensor(softmax, "output", "0", call=call), scores.softmax(-1))
        assert dump.find(softmax, "input", "kwargs.dim", call=call)["value"] == -1
    weight = dump.tensor("linear/torch.nn.functional.linear", "input", "1")
    assert torch.equal(weight, model.linear.weight)
    assert torch.equal(dump.tensor("/torch.Tensor.add", "output", "0"), expected)
    orders = [r["order"] for r in dump.records]
    assert orders == sorted(orders)


def test_both_levels_and_the_kernels_below(tmp_path):
    torch.manual_seed(0)
    model, x = Net(), torch.randn(4, 3)
    with torch.no_grad():
        expected = model(x)
    dump, result = record(tmp_path, model, x, level=["module", "api", "dispatch"])
    assert torch.equal(result, expected)
    nodes = {r["node"] for r in dump.records}
    assert {"inner", "linear", ""} <= nodes
    assert {"inner/torch.matmul", "inner/aten.mm.default", "inner/aten._softmax.default"} <= nodes
    assert torch.equal(
        dump.tensor("inner/aten.mm.default", "output", "0"),
        dump.tensor("inner/torch.matmul", "output", "0"),
    )
    opened = open_dump(tmp_path / "d")
    assert opened.problems == []
    graph = opened.graph["nodes"]
    by_name = {n["name"]: n for n in graph}
    assert graph[by_name["inner/torch.matmul"]["parent"]]["name"] == "inner"
    assert by_name["inner/torch.matmul"]["type"] == "torch.matmul"
    types_ = dict(opened.records.select("node", "op_type").unique().iter_rows())
    assert types_["inner"] == "Inner"
    assert types_["inner/aten.mm.default"] == "aten.mm.default"


class InPlace(torch.nn.Module):
    def forward(self, x):
        y = x + 1
        y.mul_(3)
        y[0] = 7
        torch.add(y, 1, out=y)
        y.size(), y.is_contiguous(), y.dim()
        return y


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_changes_in_place_is_kept_before_and_after(tmp_path, mode):
    with mode(), capture_torch(InPlace(), tmp_path / "d", level="api") as capture:
        capture._model(torch.zeros(3))
    dump = NativeDump(tmp_path / "d")
    mul, put, add = (f"/torch.{n}" for n in ("Tensor.mul_", "Tensor.__setitem__", "add"))
    assert dump.tensor(mul, "input", "0").tolist() == [1, 1, 1]
    assert dump.tensor(mul, "output", "0").tolist() == [3, 3, 3]
    assert dump.tensor(put, "input", "0").tolist() == [3, 3, 3]
    assert dump.tensor(put, "output", "args.0").tolist() == [7, 3, 3]
    assert dump.tensor(add, "input", "kwargs.out").tolist() == [7, 3, 3]
    assert dump.tensor(add, "output", "0").tolist() == [8, 4, 4]
    # Questions compute no tensor.
    assert not {r["node"] for r in dump.records} & {
        "/torch.Tensor.size",
        "/torch.Tensor.is_contiguous",
        "/torch.Tensor.dim",
    }


def test_apis_and_modules_select(tmp_path):
    dump, _ = record(tmp_path, Net(), torch.randn(4, 3), apis="torch.nn.functional.*")
    assert {r["node"] for r in dump.records} == {
        "inner/torch.nn.functional.softmax",
        "linear/torch.nn.functional.linear",
    }
    dump, _ = record(tmp_path / "m", Net(), torch.randn(4, 3), modules="linear", level="dispatch")
    assert {r["node"].split("/")[0] for r in dump.records} == {"linear"}


def test_no_function_that_matches(tmp_path):
    with pytest.warns(CaptureWarning, match=r"no function matches \['torch\.conv\*'\]; called"):
        record(tmp_path, Net(), torch.randn(4, 3), apis="torch.conv*")


def test_the_callers_stack(tmp_path):
    dump, _ = record(tmp_path, Net(), torch.randn(4, 3), level=["module", "api"], stack=True)
    stack = dump.find("inner/torch.matmul", "output", "0")["stack"]
    assert stack[0].startswith(f"{__file__}:")
    assert stack[0].endswith(" Inner.forward")
    assert stack[1].endswith(" Net.forward")
    assert not any("/torch/" in frame for frame in stack)
    assert dump.find("inner", "input", "0")["stack"][0].endswith(" Net.forward")
    nodes = {n["name"]: n for n in open_dump(tmp_path / "d").graph["nodes"]}
    assert nodes["inner/torch.matmul"]["params"]["stack"] == stack


def test_a_function_that_raises(tmp_path):
    class Bad(torch.nn.Module):
        def forward(self, x):
            try:
                torch.matmul(x, torch.ones(5, 5))
            except RuntimeError:
                return x + 1

    dump, result = record(tmp_path, Bad(), torch.zeros(2, 2))
    assert dump.find("/torch.matmul", "output", "0")["skipped"] == "the function raised"
    assert torch.equal(dump.tensor("/torch.Tensor.add", "output", "0"), result)


@pytest.mark.parametrize("level", ["api", "dispatch"])
def test_generate_is_the_same_and_nothing_stays(llama, ids, tmp_path, level):
    def generate():
        return llama.generate(
            ids, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, output_logits=True
        )

    with torch.no_grad():
        plain = generate()
        with capture_torch(llama, tmp_path / "d", level=level):
            captured = generate()
        again = generate()
    for other in (captured, again):
        assert torch.equal(plain.sequences, other.sequences)
        for a, b in zip(plain.logits, other.logits, strict=True):
            assert torch.equal(a, b)
    assert torch.overrides._get_current_function_mode() is None
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    for module in llama.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    dump = NativeDump(tmp_path / "d")
    assert {r["step"] for r in dump.records} == set(range(8))
    # The token is chosen between two forwards.
    name = "torch.argmax" if level == "api" else "aten.argmax.default"
    for step in range(8):
        token = dump.tensor(name, "output", "0", step=step)
        assert token.item() == plain.sequences[0, ids.shape[1] + step].item()


def test_start_and_stop_hear_what_happens_inside_the_forward(tmp_path):
    model, x = Net(), torch.randn(4, 3)
    capture = capture_torch(model, tmp_path / "d", level="api").start()
    torch.ones(3) + 1
    with torch.no_grad():
        model(x)
    capture.stop()
    assert torch.overrides._get_current_function_mode() is None
    nodes = {r["node"] for r in NativeDump(tmp_path / "d").records}
    assert "inner/torch.matmul" in nodes
    assert not any(node.startswith("torch.") for node in nodes)


def test_a_forward_that_was_interrupted_leaves_no_mode(tmp_path):
    class Interrupts(torch.nn.Module):
        stop = True

        def forward(self, x):
            if self.stop:
                raise KeyboardInterrupt
            return x + 1

    model = Interrupts()
    capture = capture_torch(model, tmp_path / "d", level="api").start()
    with pytest.raises(KeyboardInterrupt):
        model(torch.ones(1))
    capture.stop()
    assert torch.overrides._get_current_function_mode() is None


@pytest.fixture
def group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_torch_distributed_however_it_was_imported(tmp_path, monkeypatch):
    from torch.distributed import all_reduce

    home = types.ModuleType("imports_all_reduce")
    home.all_reduce = all_reduce
    monkeypatch.setitem(sys.modules, "imports_all_reduce", home)

    class Parallel(torch.nn.Module):
        def forward(self, x):
            y = x * 2
            home.all_reduce(y)
            parts = [torch.empty_like(y)]
            torch.distributed.all_gather(parts, y)
            work = torch.distributed.broadcast(y, 0, async_op=True)
            assert isinstance(work, torch.distributed.Work)
            assert work.wait() and work.wait()
            assert work.is_completed() and work.is_success()
            torch.distributed.all_reduce(x, async_op=True)
            return parts[0]

    dump, _ = record(tmp_path, Parallel(), torch.ones(3))
    reduce, gather = (f"/torch.distributed.{n}" for n in ("all_reduce", "all_gather"))
    assert dump.tensor(reduce, "input", "0").tolist() == [2, 2, 2]
    assert dump.tensor(reduce, "output", "args.0").tolist() == [2, 2, 2]
    assert dump.tensor(gather, "output", "args.0.0").tolist() == [2, 2, 2]
    broadcast = "/torch.distributed.broadcast"
    assert dump.tensor(broadcast, "input", "0").tolist() == [2, 2, 2]
    assert dump.tensor(broadcast, "output", "args.0").tolist() == [2, 2, 2]
    assert {r["call"] for r in dump.records if r["node"] == broadcast} == {0}
    forgotten = dump.find(reduce, "output", "0", call=1)
    assert "nobody waited" in forgotten["skipped"]
    assert home.all_reduce is all_reduce
    assert torch.distributed.all_reduce is all_reduce


def test_operators_of_torch_npu(tmp_path):
    # torch_npu registers its operators in torch's library under `npu`, and calls them there.
    library = torch.library.Library("npu", "FRAGMENT")
    library.define("npu_rms_norm(Tensor x, Tensor gamma) -> (Tensor, Tensor)")
    library.impl("npu_rms_norm", lambda x, gamma: (x * gamma, x.mean()), "CPU")

    class Norm(torch.nn.Module):
        def forward(self, x):
            return torch.ops.npu.npu_rms_norm(x, torch.full((3,), 2.0))[0]

    try:
        dump, _ = record(tmp_path, Norm(), torch.ones(3))
    finally:
        library._destroy()
    assert dump.tensor("/npu.npu_rms_norm", "output", "0").tolist() == [2, 2, 2]
    assert dump.tensor("/npu.npu_rms_norm", "output", "1").item() == 1
