"""Which forwards and tensors are recorded, how much, and why nothing was."""

import types

import pytest
import torch

from llmdbg import CaptureWarning, capture_torch, open_dump
from llmdbg._core import LlmdbgError
from tests.capture.native_dump import NativeDump


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(4, 4)

    def forward(self, x, **_cache):
        return self.lin(x)


def cache(length):
    return types.SimpleNamespace(get_seq_length=lambda: length)


def serve(model, requests, tokens):
    """Calls as a generate loop makes them."""
    for request in range(requests):
        for token in range(tokens):
            model(torch.full((4,), 10.0 * request + token), past_key_values=cache(token))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"requests": 1}, {(1, 0), (1, 1), (1, 2)}),
        ({"tokens": [0, 2]}, {(r, t) for r in range(3) for t in (0, 2)}),
        ({"requests": slice(1, None), "tokens": range(1)}, {(1, 0), (2, 0)}),
        ({"steps": range(2, 4)}, {(0, 2), (1, 0)}),
    ],
)
def test_requests_tokens_and_steps(tmp_path, options, kept):
    with torch.no_grad(), capture_torch(Net(), tmp_path / "d", **options) as capture:
        serve(capture._model, requests=3, tokens=3)
    dump = NativeDump(tmp_path / "d")
    assert {(s["request"], s["token"]) for s in dump.manifest["steps"]} == kept
    steps = {s["step"]: 10 * s["request"] + s["token"] for s in dump.manifest["steps"]}
    assert {r["step"] for r in dump.records} == set(steps)
    for step, value in steps.items():
        assert dump.tensor("lin", "input", "0", step=step).tolist() == [value] * 4


def test_seconds(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("llmdbg.capture.wanted.time.monotonic", lambda: now[0])
    model = torch.nn.Identity()
    with capture_torch(model, tmp_path / "d", seconds=(2, 4)):
        for _ in range(6):
            model(torch.ones(1))
            now[0] += 1
    assert {r["step"] for r in NativeDump(tmp_path / "d").records} == {2, 3}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"ranks": [4, 5]},
            r"0 tensors recorded after 12 forwards: rank filter \[4, 5\] matches none of \[0, 1\]",
        ),
        ({"requests": 9}, r"request filter \[9\] matches none of \[0, 1, 2, 3\]"),
        ({"tokens": range(7, 9)}, r"token filter range\(7, 9\) matches none of \[0, 1, 2\]"),
        ({"seconds": (500, 600)}, "no forward began between 500 and 600 s after the start"),
        ({"inputs": False, "outputs": False}, "neither inputs nor outputs are wanted"),
        ({"max_bytes": 3}, "the first tensor was already too large"),
    ],
)
@pytest.mark.filterwarnings("ignore::llmdbg.CaptureWarning")
def test_an_empty_dump_says_which_filter_it_was(tmp_path, monkeypatch, options, why):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with (
        pytest.warns(CaptureWarning, match=why),
        torch.no_grad(),
        capture_torch(Net(), tmp_path / "d", **options) as capture,
    ):
        serve(capture._model, requests=4, tokens=3)
    problems = NativeDump(tmp_path / "d" / "rank1").manifest["problems"]
    assert len(open_dump(tmp_path / "d")) == 0
    assert any("0 tensors recorded" in p for p in problems)


def test_a_rank_that_is_asked_for(tmp_path, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        with (
            pytest.warns(CaptureWarning) if rank == "0" else torch.no_grad(),
            capture_torch(torch.nn.Identity(), tmp_path / "d", ranks=1, weights=True) as capture,
        ):
            capture._model(torch.ones(2))
    assert open_dump(tmp_path / "d").ranks == [1]


def test_slices(tmp_path):
    x = torch.arange(60.0).reshape(3, 4, 5)
    model = torch.nn.Identity()
    with capture_torch(model, tmp_path / "d", tensor_slice="...,-1,:2", outputs=False):
        model([x, x[0, 0], torch.tensor(2.0)])
    dump = NativeDump(tmp_path / "d")
    assert torch.equal(dump.tensor("", "input", "0.0"), x[..., -1, :2])
    assert dump.find("", "input", "0.0")["whole_shape"] == [3, 4, 5]
    assert torch.equal(dump.tensor("", "input", "0.1"), x[0, 0])
    assert "does not fit" in dump.find("", "input", "0.2")["note"]
    assert open_dump(tmp_path / "d").records["shape"].to_list() == [[3, 2], [5], []]


@pytest.mark.parametrize("text", ["a", "1.5", "::-1", "0,,1", "...,..."])
def test_slices_that_are_none(tmp_path, text):
    with pytest.raises(LlmdbgError, match="tensor_slice"):
        capture_torch(torch.nn.Identity(), tmp_path / "d", tensor_slice=text)


@pytest.mark.parametrize("mode", ["full", "statistics"])
def test_max_bytes_ends_the_dump_and_not_the_model(tmp_path, mode):
    model = torch.nn.Identity()
    with (
        pytest.warns(CaptureWarning, match="max_bytes=1000 is reached"),
        capture_torch(model, tmp_path / "d", max_bytes=1000, mode=mode, outputs=False) as capture,
    ):
        results = [model(torch.full((50,), float(step)))[0].item() for step in range(9)]
    assert results == list(range(9))
    dump = NativeDump(tmp_path / "d")
    assert {r["step"] for r in dump.records} == {0, 1, 2, 3, 4}
    (problem,) = dump.manifest["problems"]
    assert problem.startswith("recording ended in step 5: max_bytes=1000 is reached")
    assert capture.path == tmp_path / "d"


def test_min_free(tmp_path):
    model = torch.nn.Identity()
    with (
        pytest.warns(CaptureWarning, match="min_free=1000000000000000 is reached"),
        capture_torch(model, tmp_path / "d", min_free=10**15),
    ):
        model(torch.ones(3))
    with pytest.raises(LlmdbgError, match="min_free"):
        capture_torch(model, tmp_path / "x", min_free=-1)


def test_dummies_are_left_out_or_tagged(tmp_path):
    model = torch.nn.Embedding(9, 4)

    def _dummy_run():
        model(torch.tensor([1, 2, 3]))

    with torch.no_grad(), capture_torch(model, tmp_path / "d") as capture:
        _dummy_run()
        with capture.warmup():
            model(torch.tensor([4, 5]))
        model(torch.zeros(7, dtype=torch.int64))
        model(torch.tensor([5, 6]))
    dump = NativeDump(tmp_path / "d")
    assert [s.get("dummy") for s in dump.manifest["steps"]] == ["all 7 input ids are 0", None]
    assert dump.tensor("", "input", "0", step=1).tolist() == [5, 6]
    assert any("2 dummy forwards were left out" in p for p in dump.manifest["problems"])
    with torch.no_grad(), capture_torch(model, tmp_path / "s", dummies="skip"):
        model(torch.zeros(7, dtype=torch.int64))
        model(torch.tensor([5, 6]))
    assert NativeDump(tmp_path / "s").tensor("", "input", "0").tolist() == [5, 6]


def test_last_logits_of_every_step(llama, ids, tmp_path):
    with torch.no_grad(), capture_torch(llama, tmp_path / "d", last_logits=True):
        out = llama.generate(
            ids, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    dump = NativeDump(tmp_path / "d")
    assert len(dump.records) == 3
    for step, logits in enumerate(out.logits):
        kept = dump.tensor("lm_head", "output", "0", step=step)
        assert torch.equal(kept[:, -1], logits)


def test_views_of_one_memory_are_stored_once(tmp_path):
    class Reshapes(torch.nn.Module):
        def forward(self, x):
            return [x.view(3, 8), x.flatten(), x.unsqueeze(0)]

    x = torch.arange(24.0).reshape(2, 12)
    model = torch.nn.Sequential(Reshapes(), torch.nn.Identity())
    with capture_torch(model, tmp_path / "d"):
        model(x)
    dump = NativeDump(tmp_path / "d")
    assert len({(r["file"], r["key"]) for r in dump.records}) == 1
    opened = open_dump(tmp_path / "d")
    shapes = {tuple(s) for s in opened.records["shape"]}
    assert shapes == {(2, 12), (3, 8), (24,), (1, 2, 12)}
    for i, shape in enumerate(opened.records["shape"]):
        assert opened.tensor(i).shape == tuple(shape)
        assert opened.tensor(i).ravel().tolist() == x.flatten().tolist()
