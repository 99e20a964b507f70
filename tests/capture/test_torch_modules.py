"""Every module of a model, against what hooks of the test's own saw."""

import json

import pytest
import torch

from llmdbg import capture_torch
from llmdbg._core import LlmdbgError
from tests.capture.native_dump import NativeDump


def watch(model):
    """Clones of each module's first tensor result, taken by plain hooks."""
    seen, handles = {}, []
    for name, module in model.named_modules():

        def hook(_module, _args, result, name=name):
            result = result[0] if isinstance(result, tuple) else result
            if isinstance(result, torch.Tensor):
                seen.setdefault(name, []).append(result.detach().clone())

        handles.append(module.register_forward_hook(hook))
    return seen, handles


def cache_name(result):
    """`past_key_values`, or `cache` in later versions of transformers."""
    return next(name for name in ("cache", "past_key_values") if name in result)


def test_every_module_of_a_llama(llama, ids, tmp_path):
    seen, handles = watch(llama)
    with torch.no_grad(), capture_torch(llama, tmp_path / "d"):
        result = llama(ids)
    for handle in handles:
        handle.remove()
    dump = NativeDump(tmp_path / "d")
    assert len(seen) > 20
    for name, (expected,) in seen.items():
        assert torch.equal(dump.tensor(name, "output", "0"), expected), name
    assert torch.equal(dump.tensor("", "output", "logits"), result.logits)
    assert torch.equal(dump.tensor("", "input", "0"), ids)
    ran = {r["node"] for r in dump.records}
    assert ran == {n for n, m in llama.named_modules() if not isinstance(m, torch.nn.ModuleList)}


def test_keyword_inputs_and_cache_tensors_have_their_path(llama, ids, tmp_path):
    with torch.no_grad(), capture_torch(llama, tmp_path / "d"):
        result = llama(ids)
    dump = NativeDump(tmp_path / "d")
    attention = "model.layers.1.self_attn"
    hidden = dump.tensor(attention, "input", "kwargs.hidden_states")
    assert torch.equal(hidden, dump.tensor("model.layers.1.input_layernorm", "output", "0"))
    cos = dump.tensor(attention, "input", "kwargs.position_embeddings.0")
    assert torch.equal(cos, dump.tensor("model.rotary_emb", "output", "0"))
    name = cache_name(result)
    keys = result[name].layers[1].keys
    assert torch.equal(dump.tensor("", "output", f"{name}.layers.1.keys"), keys)
    assert dump.find("", "output", name)["value"] == "<DynamicCache>"


def test_a_cache_is_recorded_by_its_own_layer_and_where_it_changed(llama, ids, tmp_path):
    with torch.no_grad():
        result = llama(ids)
        name = cache_name(result)
        cache = result[name]
        before = [layer.keys.clone() for layer in cache.layers]
        with capture_torch(llama, tmp_path / "d"):
            llama(ids[:, :1], **{name: cache})
    dump = NativeDump(tmp_path / "d")
    slot = f"kwargs.{name}.layers.{{}}.keys"
    for layer in (0, 1):
        node = f"model.layers.{layer}.self_attn"
        assert torch.equal(dump.tensor(node, "input", slot.format(layer)), before[layer])
    assert slot.format(1) not in dump.slots("model.layers.0.self_attn", "input")
    # Layer 0's cache grew inside layer 0, and layer 1 is the first to be given the longer one.
    grown = dump.tensor("model.layers.1", "input", slot.format(0))
    assert torch.equal(grown, cache.layers[0].keys)


def test_output_is_bit_identical_and_hooks_are_gone(llama, ids, tmp_path):
    with torch.no_grad():
        plain = llama.generate(
            ids, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        with capture_torch(llama, tmp_path / "d", weights=True):
            captured = llama.generate(
                ids,
                max_new_tokens=4,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
    assert torch.equal(plain.sequences, captured.sequences)
    for a, b in zip(plain.logits, captured.logits, strict=True):
        assert torch.equal(a, b)
    for module in llama.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_steps_are_root_forwards(llama, ids, tmp_path):
    seen, handles = watch(llama)
    with torch.no_grad(), capture_torch(llama, tmp_path / "d"):
        llama.generate(ids, max_new_tokens=3, do_sample=False)
    for handle in handles:
        handle.remove()
    dump = NativeDump(tmp_path / "d")
    steps = [{"step": i, "forwards": 1, "request": 0, "token": i} for i in range(3)]
    assert dump.manifest["steps"] == steps
    for step, expected in enumerate(seen["lm_head"]):
        assert torch.equal(dump.tensor("lm_head", "output", "0", step=step), expected)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        (None, {0, 1, 2, 3}),
        (2, {2}),
        ([0, 3], {0, 3}),
        (range(1, 3), {1, 2}),
        (slice(1, None, 2), {1, 3}),
        (slice(None, 2), {0, 1}),
    ],
)
def test_step_filter(steps, kept, tmp_path):
    model = torch.nn.Linear(2, 2)
    with capture_torch(model, tmp_path / "d", steps=steps):
        for _ in range(4):
            model(torch.ones(1, 2))
    assert {r["step"] for r in NativeDump(tmp_path / "d").records} == kept


@pytest.mark.parametrize("steps", [-1, [-2], slice(-3, None), ["one"]])
def test_step_filter_that_cannot_be_right(steps, tmp_path):
    with pytest.raises(LlmdbgError, match="from 0 upwards"):
        capture_torch(torch.nn.Linear(2, 2), tmp_path / "d", steps=steps)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("modules", "nodes"),
    [
        ("model.layers.1.mlp", {"model.layers.1.mlp"}),
        (["model.layers.*.self_attn"], {f"model.layers.{i}.self_attn" for i in (0, 1)}),
        ("LlamaMLP", {f"model.layers.{i}.mlp" for i in (0, 1)}),
        ([torch.nn.Embedding, "lm_head"], {"model.embed_tokens", "lm_head"}),
    ],
)
def test_module_filter(llama, ids, tmp_path, modules, nodes):
    with torch.no_grad(), capture_torch(llama, tmp_path / "d", modules=modules):
        llama(ids)
    assert {r["node"] for r in NativeDump(tmp_path / "d").records} == nodes


def test_module_filter_that_matches_nothing_names_near_ones(llama, tmp_path):
    with pytest.raises(LlmdbgError, match=r"model\.layers\.0\.mlp"):
        capture_torch(llama, tmp_path / "d", modules="layers.0.mlp")
    with pytest.raises(LlmdbgError, match="LSTM"):
        capture_torch(llama, tmp_path / "d", modules=torch.nn.LSTM)


def test_inputs_or_outputs_alone(tmp_path):
    for wanted, role in ((("inputs"), "input"), (("outputs"), "output")):
        model = torch.nn.Linear(2, 2)
        other = {"inputs": "outputs", "outputs": "inputs"}[wanted]
        with capture_torch(model, tmp_path / wanted, **{other: False}):
            model(torch.ones(1, 2))
        assert {r["role"] for r in NativeDump(tmp_path / wanted).records} == {role}


def test_weights_once_and_tied_ones_share_their_bytes(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("scale", torch.tensor(3.0), persistent=False)

        def forward(self, ids):
            return self.head(self.embed(ids) * self.scale)

    model = Tied()
    with capture_torch(model, tmp_path / "d", weights=True):
        model(torch.tensor([1, 2]))
        model(torch.tensor([1, 2]))
    dump = NativeDump(tmp_path / "d")
    found = {(w["node"], w["slot"]): w for w in dump.weights}
    assert set(found) == {("embed", "weight"), ("head", "weight"), ("", "scale")}
    assert {(w["step"], w["role"]) for w in dump.weights} == {(None, "param")}
    assert torch.equal(dump.bytes_of(found["embed", "weight"]), model.embed.weight)
    places = [(found[n, "weight"]["file"], found[n, "weight"]["key"]) for n in ("embed", "head")]
    assert places[0] == places[1]
    assert dump.bytes_of(found["", "scale"]).item() == 3.0


def test_order_is_completion_and_inputs_share_it(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.ReLU()))
    with capture_torch(model, tmp_path / "d"):
        model(torch.ones(1, 2))
    dump = NativeDump(tmp_path / "d")
    order = {(r["node"], r["role"]): r["order"] for r in dump.records}
    expected = {"0": 0, "1.0": 1, "1": 2, "": 3}
    assert order == {(n, role): i for n, i in expected.items() for role in ("input", "output")}


def test_manifest_says_what_ran(llama, ids, tmp_path):
    with torch.no_grad(), capture_torch(llama, tmp_path / "d", modules="lm_head"):
        llama(ids)
    manifest = NativeDump(tmp_path / "d").manifest
    assert manifest["format"] == "llmdbg.dump/1"
    about = manifest["about"]
    assert about["model"] == "LlamaForCausalLM"
    assert (about["device"], about["dtype"]) == ("cpu", "float32")
    assert about["torch"] == torch.__version__
    assert about["config"]["num_hidden_layers"] == 2
    modules = {m["name"]: m for m in manifest["modules"]}
    assert modules[""]["parent"] is None
    assert modules["model.layers.1.mlp"]["parent"] == "model.layers.1"
    assert modules["model.norm"]["params"]["variance_epsilon"] == 1e-6
    assert modules["model.layers.1.self_attn"]["params"]["layer_idx"] == 1
    assert modules["lm_head"]["params"] == {"in_features": 64, "out_features": 128}
    assert (manifest["rank"], manifest["world_size"]) == (0, 1)


def test_last_logits_alone(llama, ids, tmp_path):
    with torch.no_grad(), capture_torch(llama, tmp_path / "d", last_logits=True):
        first = llama(ids).logits
        second = llama(ids[:, :3]).logits
    dump = NativeDump(tmp_path / "d")
    assert len(dump.records) == 2
    assert torch.equal(dump.tensor("lm_head", "output", "0", step=0), first)
    assert torch.equal(dump.tensor("lm_head", "output", "0", step=1), second)


def test_two_models_at_once(tmp_path):
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    with capture_torch(a, tmp_path / "a"), capture_torch(b, tmp_path / "b"):
        for _ in range(2):
            from_a, from_b = a(torch.ones(1, 2)), b(torch.ones(1, 2))
    for name, expected in (("a", from_a), ("b", from_b)):
        dump = NativeDump(tmp_path / name)
        assert len(dump.records) == 4
        assert torch.equal(dump.tensor("", "output", "0", step=1), expected)


def test_start_and_stop_by_hand(tmp_path):
    model = torch.nn.Linear(2, 2)
    capture = capture_torch(model, tmp_path / "d")
    with pytest.raises(LlmdbgError, match="never started"):
        capture.stop()
    capture.start()
    with pytest.raises(LlmdbgError, match="running already"):
        capture.start()
    model(torch.ones(1, 2))
    assert capture.stop() == tmp_path / "d"
    assert capture.stop() == tmp_path / "d"
    with pytest.raises(LlmdbgError, match="stopped already"):
        capture.start()


def test_an_existing_dump_is_never_overwritten(tmp_path):
    model = torch.nn.Linear(2, 2)
    with capture_torch(model, tmp_path / "d"):
        model(torch.ones(1, 2))
    before = {p: p.read_bytes() for p in (tmp_path / "d").rglob("*") if p.is_file()}
    with pytest.raises(LlmdbgError, match="choose another path"):
        capture_torch(model, tmp_path / "d").start()
    assert {p: p.read_bytes() for p in (tmp_path / "d").rglob("*") if p.is_file()} == before
    assert not model._forward_hooks


def test_an_empty_folder_may_be_used(tmp_path):
    model = torch.nn.Linear(2, 2)
    with capture_torch(model, tmp_path):
        model(torch.ones(1, 2))
    assert len(NativeDump(tmp_path).records) == 2


def test_ranks_write_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = torch.nn.Linear(2, 2)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with capture_torch(model, tmp_path / "d"):
            model(torch.ones(1, 2))
        manifest = NativeDump(tmp_path / "d" / f"rank{rank}").manifest
        assert (manifest["rank"], manifest["world_size"]) == (int(rank), 2)


def test_import_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, llmdbg, llmdbg.capture; print(json.dumps('torch' in sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", "import json;" + code], capture_output=True, check=True
    )
    assert json.loads(out.stdout) is False
