"""Gemma 3 270M from PyPI, captured: every record present, every byte that of plain torch."""

import hashlib
from collections import Counter

import pytest
import torch

from llmdbg import capture_torch, open_dump
from llmdbg.demo import _gemma
from tests.capture.native_dump import NativeDump

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def gemma():
    model, _, _ = _gemma(lambda _text: None)
    return model


def digest(tensor):
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy(), digest_size=16).hexdigest()


def tensors(value, path):
    """Tensors of tuples, dicts and model outputs, with their path; caches are left aside."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from tensors(part, [*path, str(i)])
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from tensors(part, [*path, name])


def watch(model, seen):
    """Note the hash of everything that plain hooks see."""

    calls = Counter()

    def note(name, role, found):
        for path, tensor in found:
            key = name, calls[name] - 1, role, ".".join(path) or "0"
            assert key not in seen, key
            seen[key] = digest(tensor), list(tensor.shape)

    handles = []
    for name, module in model.named_modules():

        def before(_module, args, kwargs, name=name):
            calls[name] += 1
            note(name, "input", tensors(args, []))
            note(name, "input", tensors(kwargs, ["kwargs"]))

        def after(_module, _args, result, name=name):
            note(name, "output", tensors(result, []))

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    return handles


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_record_is_there_and_every_byte_is_right(gemma, tmp_path, dtype):
    model = gemma.to(dtype)
    ids = (torch.arange(512) % 1000 + 100)[None]
    seen = {}
    with torch.no_grad():
        handles = watch(model, seen)
        try:
            plain = model(ids, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        with capture_torch(model, tmp_path / "d"):
            captured = model(ids, use_cache=False).logits
    assert torch.equal(plain, captured)
    dump = NativeDump(tmp_path / "d")
    assert dump.manifest["problems"] == []
    found = {(r["node"], r["call"], r["role"], r["slot"]): r for r in dump.records if "file" in r}
    assert len(seen) > 700
    assert found.keys() == seen.keys()
    hashes = {}
    for key, record in found.items():
        place = record["file"], record["key"]
        if place not in hashes:
            hashes[place] = digest(dump.bytes_of(record))
        assert (hashes[place], record["shape"]) == seen[key], key
    opened = open_dump(tmp_path / "d")
    assert (len(opened), opened.problems) == (len(seen), [])
    # The logits are larger than a buffer and pass to their file in pieces.
    at = next(
        i
        for i, row in enumerate(opened.records.iter_rows(named=True))
        if (row["node"], row["role"], row["slot"]) == ("", "output", "logits")
    )
    again = torch.from_numpy(opened.tensor(at).astype("float32"))
    assert torch.equal(again, captured.float())


def test_generate_with_every_kernel_recorded(gemma, tmp_path):
    model = gemma.to(torch.float32)
    hooks = [(m._forward_hooks.copy(), m._forward_pre_hooks.copy()) for m in model.modules()]
    prompt = torch.tensor([[2, 818, 5279, 529, 7001, 563]])
    options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True}
    options |= {"return_dict_in_generate": True, "min_new_tokens": 8}
    with torch.no_grad():
        plain = model.generate(prompt, **options)
        before = {name: digest(p) for name, p in model.named_parameters()}
        with capture_torch(model, tmp_path / "d", level="dispatch", mode="hash"):
            captured = model.generate(prompt, **options)
        again = model.generate(prompt, **options)
    for other in (captured, again):
        assert torch.equal(plain.sequences, other.sequences)
        assert len(other.logits) == 8
        assert all(map(torch.equal, plain.logits, other.logits))
    assert {name: digest(p) for name, p in model.named_parameters()} == before
    found = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    assert found == hooks
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    dump = open_dump(tmp_path / "d")
    assert (dump.steps, dump.problems) == (list(range(8)), [])
    # 18 layers of 7 projections and the head, in every forward.
    kernels = dump.records.filter(
        dump.records["node"].str.contains(r"proj/aten\.|lm_head/aten\.")
        & (dump.records["role"] == "output")
        & dump.records["op_type"].is_in(["aten.mm.default", "aten.addmm.default"])
    )
    assert len(kernels) == 8 * (18 * 7 + 1)


def test_what_is_changed_after_it_was_given_is_recorded_as_it_was(gemma, tmp_path):
    """A layer's output is overwritten in place by the hook of a user, after it was recorded."""
    model = gemma.to(torch.float32)
    ids = torch.tensor([[2, 818, 5279, 529]])
    layer = model.get_submodule("model.layers.3.mlp")
    kept, changed = [], []

    def spoil(_module, _args, result):
        kept.append(result.clone())
        result.mul_(-3.0).add_(1.0)
        changed.append(result.clone())

    with torch.no_grad(), capture_torch(model, tmp_path / "d", modules="model.layers.3*"):
        handle = layer.register_forward_hook(spoil)
        try:
            model(ids, use_cache=False)
        finally:
            handle.remove()
    dump = NativeDump(tmp_path / "d")
    assert torch.equal(dump.tensor("model.layers.3.mlp", "output", "0"), kept[0])
    after = dump.tensor("model.layers.3.post_feedforward_layernorm", "input", "0")
    assert torch.equal(after, changed[0])
    assert not torch.equal(kept[0], changed[0])
