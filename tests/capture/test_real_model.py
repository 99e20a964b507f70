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
