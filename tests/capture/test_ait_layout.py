"""The layout of `ait llm`, as its users read it: by path, with torch.load."""

import csv
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from llmdbg import CaptureWarning, DumpConfig, capture_torch, open_dump, register_hook
from llmdbg._core import LlmdbgError


def load(path):
    return torch.load(path, weights_only=True)


def process_dir(base):
    (folder,) = (base / "torch_tensors").iterdir()
    return folder


def sidecar(folder):
    header, *records = [json.loads(line) for line in (folder / "llmdbg.jsonl").open()]
    return header, records


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(2, 2)
        self.eps = 1e-5

    def forward(self, x, *, mask=None, pair=None):
        return {"hidden": self.lin(x) * mask, "pair": (x, [pair[0], None])}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.head = torch.nn.Linear(2, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x, mask=torch.ones(2), pair=(x, 3))["hidden"]
        return self.head(x)


def test_files_lie_where_ait_puts_them(tmp_path):
    model, x = Model(), torch.ones(1, 2)
    with torch.no_grad(), capture_torch(model, tmp_path / "d", layout="ait", weights=True):
        result = model(x)
        model(x)
    folder = process_dir(tmp_path / "d")
    assert folder.name == f"cpu_{os.getpid()}"
    assert torch.equal(load(folder / "0/root/input_0.pth"), x)
    assert torch.equal(load(folder / "0/root/output.pth"), result)
    assert torch.equal(load(folder / "1/root.head/output.pth"), result)
    hidden = load(folder / "0/root.blocks.1/output_hidden.pth")
    assert torch.equal(hidden, load(folder / "0/root.head/input_0.pth"))
    weight = load(folder / "weights/root.blocks.0.lin.weight.pth")
    assert isinstance(weight, torch.nn.Parameter)
    assert torch.equal(weight, model.blocks[0].lin.weight)
    names = sorted(p.name for p in (folder / "0/root.blocks.0").iterdir())
    assert names == [
        "input_0.pth",
        "input_kwargs_mask.pth",
        "input_kwargs_pair_0.pth",
        "output_hidden.pth",
        "output_pair_0.pth",
        "output_pair_1_0.pth",
    ]


def test_module_tree(tmp_path):
    with capture_torch(Model(), tmp_path / "d", layout="ait") as capture:
        capture._model(torch.ones(1, 2))
    tree = json.loads((process_dir(tmp_path / "d") / "model_tree.json").read_text())

    def leaf(name, kind, *children):
        return {"name": name, "type": kind, "children": list(children)}

    blocks = [
        leaf(f"root.blocks.{i}", "Block", leaf(f"root.blocks.{i}.lin", "Linear")) for i in (0, 1)
    ]
    expected = [leaf("root.blocks", "ModuleList", *blocks), leaf("root.head", "Linear")]
    assert tree == leaf("root", "Model", *expected)


def test_the_sidecar_keeps_order_values_and_reasons(tmp_path):
    model = Model()
    with capture_torch(model, tmp_path / "d", layout="ait"):
        model(torch.ones(1, 2))
    folder = process_dir(tmp_path / "d")
    header, records = sidecar(folder)
    assert header["format"] == "llmdbg.ait/1"
    assert {m["name"]: m["params"] for m in header["modules"]}["blocks.0"] == {"eps": 1e-5}
    order = {r["node"]: r["order"] for r in records}
    nodes = ["blocks.0.lin", "blocks.0", "blocks.1.lin", "blocks.1", "head", ""]
    assert order == {name: i for i, name in enumerate(nodes)}
    block = {(r["role"], r["slot"]): r for r in records if r["node"] == "blocks.0"}
    assert block["input", "kwargs.pair.1"]["value"] == 3
    assert block["output", "pair.1.1"]["value"] is None
    assert block["output", "pair.1.0"]["file"] == "0/root.blocks.0/output_pair_1_0.pth"
    files = {r["file"] for r in records if "file" in r}
    assert files == {str(p.relative_to(folder)) for p in folder.rglob("*.pth")}


def test_a_tensor_that_comes_again_takes_no_space(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Identity())
    with torch.no_grad(), capture_torch(model, tmp_path / "d", layout="ait"):
        model(torch.ones(1, 2))
    token = process_dir(tmp_path / "d") / "0"
    inodes = {p.stat().st_ino for p in token.rglob("*.pth")}
    assert len(list(token.rglob("*.pth"))) == 6
    assert len(inodes) == 2


def test_repeated_calls_and_odd_keys_are_all_kept(tmp_path):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.same = torch.nn.Identity()

        def forward(self, x):
            return {"a/b": self.same(x), "a_b": self.same(x + 1), "../up": self.same(x + 2)}

    with capture_torch(Odd(), tmp_path / "d", layout="ait") as capture:
        capture._model(torch.zeros(1))
    folder = process_dir(tmp_path / "d")
    calls = ["root.same", "root.same/call_1", "root.same/call_2"]
    assert [load(folder / "0" / c / "output.pth").item() for c in calls] == [0, 1, 2]
    _, records = sidecar(folder)
    outputs = {
        r["slot"]: load(folder / r["file"]).item()
        for r in records
        if (r["node"], r["role"]) == ("", "output")
    }
    assert outputs == {'"a/b"': 0, "a_b": 1, '"../up"': 2}
    assert {p.parent for p in folder.rglob("output_*")} == {folder / "0" / "root"}


def test_views_are_saved_without_the_rest_of_their_memory(tmp_path):
    big = torch.zeros(1_000_000)
    with capture_torch(torch.nn.Identity(), tmp_path / "d", layout="ait") as capture:
        capture._model(big[:3])
    path = process_dir(tmp_path / "d") / "0/root/input_0.pth"
    assert path.stat().st_size < 10_000


# register_hook


def test_register_hook_with_its_defaults(tmp_path):
    model, x = Model(), torch.ones(1, 2)
    handle = register_hook(model, DumpConfig(dump_path=str(tmp_path)))
    with torch.no_grad():
        results = [model(x) for _ in range(3)]
    assert handle.remove() == tmp_path
    folder = process_dir(tmp_path / "ait_dump")
    assert sorted(p.name for p in folder.iterdir()) == ["0", "llmdbg.jsonl", "model_tree.json"]
    assert torch.equal(load(folder / "0/root/output.pth"), results[0])
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def kept(tmp_path, calls=1, **options):
    """Files below the process directory after some forwards under a config."""
    model = Model()
    handle = register_hook(model, DumpConfig(dump_path=tmp_path, **options))
    with torch.no_grad():
        for _ in range(calls):
            model(torch.ones(1, 2))
    handle.remove()
    folder = process_dir(tmp_path / "ait_dump")
    return {str(p.relative_to(folder)) for p in folder.rglob("*.pth")}


def test_token_range(tmp_path):
    files = kept(tmp_path, calls=4, token_range=[1, 3])
    assert {f.split("/")[0] for f in files} == {"1", "3"}


def test_module_list(tmp_path):
    files = kept(tmp_path, module_list=[torch.nn.Linear])
    nodes = {"root.blocks.0.lin", "root.blocks.1.lin", "root.head"}
    assert {f.split("/")[1] for f in files} == nodes


@pytest.mark.parametrize(
    ("pattern", "nodes"),
    [
        ("root.head", {"root.head"}),
        ("root.blocks.*.lin", {"root.blocks.0.lin", "root.blocks.1.lin"}),
        ("*.1*", {"root.blocks.1", "root.blocks.1.lin"}),
        ("root", {"root"}),
    ],
)
def test_layer_name(tmp_path, pattern, nodes):
    assert {f.split("/")[1] for f in kept(tmp_path, layer_name=pattern)} == nodes


def test_layer_name_knows_no_other_wildcards_and_is_anchored(tmp_path):
    for pattern in ("root.hea?", "[r]oot", "root.blocks", "lin"):
        with (
            pytest.warns(CaptureWarning)
            if pattern == "root.blocks"
            else pytest.raises(LlmdbgError, match="no module")
        ):
            kept(tmp_path, layer_name=pattern)


@pytest.mark.parametrize(("part", "kinds"), [(0, {"input"}), (1, {"output"})])
def test_tensor_part(tmp_path, part, kinds):
    files = kept(tmp_path, tensor_part=part)
    assert {f.split("/")[-1].split("_")[0].removesuffix(".pth") for f in files} == kinds


def test_dump_weight(tmp_path):
    files = {f for f in kept(tmp_path, dump_weight=True) if f.startswith("weights/")}
    assert files == {f"weights/root.{n}.pth" for n, _ in Model().named_parameters()}


def test_last_logits_of_the_asked_tokens_only(tmp_path):
    files = kept(tmp_path, calls=3, dump_last_logits=True, token_range=[0, 2])
    assert files == {"0/root.head/output.pth", "2/root.head/output.pth"}


def test_device_id_leaves_the_cpu_alone(tmp_path):
    assert "0/root/output.pth" in kept(tmp_path, device_id=3, dump_weight=True)
    assert not (tmp_path / "weights").exists()


def test_device_id_of_another_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Model().to("meta")
    monkeypatch.setattr(torch.nn.Module, "parameters", lambda _self: iter([FakeOnDevice(0)]))
    with pytest.warns(CaptureWarning, match="device_id=1"):
        handle = register_hook(model, DumpConfig(dump_path="out", device_id=1, dump_weight=True))
    handle.remove()
    assert list(tmp_path.iterdir()) == []
    assert not model._forward_hooks


class FakeOnDevice:
    def __init__(self, index):
        self.device = torch.device("cuda", index)


def test_two_models_and_two_dumps_of_one_process_are_kept_apart(tmp_path):
    first, second = Model(), torch.nn.Linear(2, 2)
    handles = [register_hook(m, DumpConfig(dump_path=tmp_path)) for m in (first, second)]
    first(torch.ones(1, 2))
    second(torch.ones(1, 2))
    for handle in handles:
        handle.remove()
    roots = sorted(p.name for p in tmp_path.iterdir())
    assert roots[0] == "ait_dump"
    assert roots[1].startswith("ait_dump_")
    trees = [json.loads(p.read_text())["type"] for p in tmp_path.rglob("model_tree.json")]
    assert sorted(trees) == ["Linear", "Model"]


def test_configs_are_objects_of_their_own():
    a, b = DumpConfig(dump_path="a", token_range=[5]), DumpConfig(dump_path="b")
    assert (a.dump_path, list(a.token_range)) == ("a", [5])
    assert (b.dump_path, list(b.token_range)) == ("b", [0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensor_part": 3}, "tensor_part is 0"),
        ({"mode": "graph"}, "mode is"),
        ({"mode": []}, "mode is"),
        ({"module_list": ["Linear"]}, "module_list holds classes"),
        ({"device_id": -1}, "device_id"),
        ({"api_list": [torch.add]}, 'mode="api"'),
        ({"dump_statistics_mode": 3}, "dump_statistics_mode is 0"),
        ({"analyze": True}, "scan-anomaly"),
    ],
)
def test_options_that_cannot_be_honoured(options, words):
    with pytest.raises(LlmdbgError, match=words):
        DumpConfig(**options)


class Functions(torch.nn.Module):
    def forward(self, x):
        y = torch.nn.functional.silu(x)
        z = torch.nn.functional.silu(y * 2)
        return torch.add(z, x)


def test_functions_lie_beside_their_module(tmp_path):
    model = torch.nn.Sequential(Functions())
    x = torch.tensor([[0.5, -1.0]])
    handle = register_hook(model, DumpConfig(dump_path=tmp_path, mode=["module", "api"]))
    result = model(x)
    handle.remove()
    folder = process_dir(tmp_path / "ait_dump")
    places = {p.name for p in (folder / "0").iterdir()}
    assert places == {
        "root",
        "root.0",
        "root.0.silu",
        "root.0.mul",
        "root.0.silu.1",
        "root.0.add",
    }
    y = x * torch.sigmoid(x)
    torch.testing.assert_close(load(folder / "0/root.0.silu/output.pth"), y)
    torch.testing.assert_close(load(folder / "0/root.0.silu.1/input_0.pth"), y * 2)
    assert torch.equal(load(folder / "0/root.0.add/output.pth"), result)
    dump = open_dump(tmp_path / "ait_dump")
    assert dump.problems == []
    assert "root.0.silu.1" in dump.records["node"].to_list()


@pytest.mark.parametrize("api", [torch.add, "add", "torch.add"])
def test_functions_of_a_list(tmp_path, api):
    config = DumpConfig(dump_path=tmp_path, mode="api", api_list=[api])
    model = torch.nn.Sequential(Functions())
    handle = register_hook(model, config)
    model(torch.ones(1, 2))
    handle.remove()
    folder = process_dir(tmp_path / "ait_dump")
    assert [p.name for p in (folder / "0").iterdir()] == ["root.0.add"]


@pytest.mark.parametrize("mode", [1, 2])
def test_statistics_of_each_module(tmp_path, mode):
    model = torch.nn.Sequential(torch.nn.ReLU())
    x = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float16)
    config = DumpConfig(dump_path=tmp_path, dump_statistics_mode=mode)
    handle = register_hook(model, config)
    model(x)
    handle.remove()
    folder = process_dir(tmp_path / "ait_dump")
    with (folder / "0/root.0/statistics.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Worked by hand: 3, -4, 0 have the mean -1/3 and the norm 5; of 3, 0, 0 it is 1 and 3.
    assert [(r["NodeName"], r["NodeType"], r["InputOutput"], r["Index"]) for r in rows] == [
        ("root.0", "ReLU", "input", "0"),
        ("root.0", "ReLU", "output", "0"),
    ]
    assert [(r["DataType"], r["Shape"]) for r in rows] == [("torch.float16", "(1, 3)")] * 2
    numbers = [[float(r[c]) for c in ("Max", "Min", "Mean", "L2Norm")] for r in rows]
    assert numbers == [[3, -4, pytest.approx(-1 / 3), 5], [3, 0, 1, 3]]
    tensors = list((folder / "0").rglob("*.pth"))
    assert bool(tensors) == (mode == 2)
    dump = open_dump(tmp_path / "ait_dump")
    assert (dump.problems, len(dump)) == ([], 4)
    norms = dump.records.filter(dump.records["node"] == "root.0")["norm"].to_list()
    assert sorted(norms) == [3, 5]


def test_a_seed(tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    config = DumpConfig(dump_path=tmp_path, seed=7)
    try:
        register_hook(torch.nn.Linear(2, 2), config).remove()
        found = torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_hook_type(tmp_path):
    with pytest.raises(LlmdbgError, match="dump_data"):
        register_hook(Model(), DumpConfig(dump_path=tmp_path), hook_type="other")


def test_a_script_that_never_removes_its_hook(tmp_path):
    code = """
        import sys, torch
        from llmdbg import DumpConfig, register_hook
        model = torch.nn.Linear(2, 2)
        register_hook(model, DumpConfig(dump_path=sys.argv[1]))
        model(torch.ones(1, 2))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder = process_dir(tmp_path / "ait_dump")
    assert load(folder / "0/root/input_0.pth").tolist() == [[1, 1]]
    assert len(sidecar(folder)[1]) == 2
