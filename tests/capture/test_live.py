"""Comparing while running, triggers, costs, and whether recording changes the run."""

import pytest
import torch

from llmdbg import capture_torch, open_dump
from llmdbg._core import LlmdbgError
from llmdbg.capture import observer_effect
from tests.capture.conftest import small_llama
from tests.capture.native_dump import NativeDump

FAULTY = "model.layers.4.mlp.down_proj"


@pytest.fixture
def eight(tmp_path):
    """A Llama of eight layers, its input, and its golden dump."""
    model, ids = small_llama(layers=8), torch.arange(48)[None] * 7 % 128
    with torch.no_grad(), capture_torch(model, tmp_path / "golden"):
        model(ids)
    return model, ids, tmp_path / "golden"


def spoil(model):
    with torch.no_grad():
        model.get_submodule(FAULTY).weight *= 1.5


def test_a_clean_run_keeps_rows_and_no_tensors(eight, tmp_path):
    model, ids, golden = eight
    with torch.no_grad(), capture_torch(model, tmp_path / "live", compare_to=golden) as capture:
        model(ids)
    result = capture.result
    assert result.verdict == "clean"
    assert set(result.frame["state"]) == {"PASS"}
    assert len(result.frame) == len(open_dump(golden))
    assert not list((tmp_path / "live" / "data").iterdir())
    assert open_dump(tmp_path / "live").problems == []


def test_the_fault_is_named_and_its_tensors_are_kept(eight, tmp_path):
    from llmdbg import compare

    model, ids, golden = eight
    spoil(model)
    with torch.no_grad():
        plain = model(ids).logits
        with capture_torch(model, tmp_path / "live", compare_to=golden) as capture:
            logits = model(ids).logits
        with capture_torch(model, tmp_path / "full"):
            model(ids)
    assert torch.equal(plain, logits)
    assert capture.result.culprit.golden == FAULTY
    dump, full = NativeDump(tmp_path / "live"), NativeDump(tmp_path / "full")
    for role in ("input", "output"):
        assert torch.equal(dump.tensor(FAULTY, role, "0"), full.tensor(FAULTY, role, "0"))
    kept = {r["node"] for r in dump.records if "file" in r}
    assert "model.layers.3.mlp" not in kept
    assert dump.find("model.layers.3.mlp", "output", "0")["stats"]["nan"] == 0
    # Row by row what comparing two whole dumps measures.
    names = ["golden_node", "role", "slot", "relative_euclidean_distance", "kl_divergence"]
    expected = compare(golden, tmp_path / "full").frame.select(names)
    assert capture.result.frame.select(names).sort(names[:3]).equals(expected.sort(names[:3]))


def test_the_run_stops_where_it_diverges(eight, tmp_path):
    model, ids, golden = eight
    spoil(model)
    finished = False
    options = {"compare_to": golden, "stop_at_divergence": True}
    with torch.no_grad(), capture_torch(model, tmp_path / "live", **options) as capture:
        for _ in range(100):
            model(ids)
        finished = True
    assert not finished
    assert any("stopped where it diverged: step 0" in p for p in capture.problems)
    assert FAULTY in capture.problems[0]
    assert capture.result.culprit.golden == FAULTY
    for module in model.modules():
        assert not module._forward_hooks


def test_a_golden_dump_of_another_model(tmp_path, eight):
    _, _, golden = eight
    other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    options = {"compare_to": golden, "modules": "0"}
    with torch.no_grad(), capture_torch(other, tmp_path / "live", **options):
        other(torch.ones(1, 2))
    problems = NativeDump(tmp_path / "live").manifest["problems"]
    assert any("no tensor has a counterpart" in p for p in problems)


class Overflows(torch.nn.Module):
    def forward(self, x):
        return x / (x != 7)


def test_a_trigger_writes_the_steps_around_it(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity(), Overflows())
    options = {"trigger": "nonfinite", "trigger_steps": 2}
    with capture_torch(model, tmp_path / "d", **options):
        for step in range(12):
            model(torch.full((5,), float(step)))
    dump = NativeDump(tmp_path / "d")
    assert {r["step"] for r in dump.records} == {5, 6, 7}
    assert [s["step"] for s in dump.manifest["steps"]] == [5, 6, 7]
    assert dump.tensor("0", "output", "0", step=6).tolist() == [6] * 5
    assert dump.tensor("1", "output", "0", step=7).isinf().all()
    assert any(
        "the trigger fired: step 7, 1, output 0: 5 of 5 values are NaN or infinite" in p
        for p in dump.manifest["problems"]
    )


def test_a_trigger_of_ones_own_and_one_that_never_fires(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity())

    def large(tensor, record):
        return f"max is {tensor.max():g}" if tensor.max() > 2 and record["node"] == "0" else None

    with capture_torch(model, tmp_path / "d", trigger=large, trigger_steps=0):
        for step in range(4):
            model(torch.tensor([float(step)]))
    assert {r["step"] for r in NativeDump(tmp_path / "d").records} == {3}
    with capture_torch(model, tmp_path / "never", trigger="nonfinite"):
        model(torch.ones(1))
    dump = NativeDump(tmp_path / "never")
    assert (dump.records, dump.manifest["problems"]) == (
        [],
        ["the trigger never fired; nothing was written"],
    )


@pytest.mark.parametrize("mode", ["full", "sketch"])
def test_a_dry_run_counts_what_a_real_one_writes(llama, ids, tmp_path, mode):
    with torch.no_grad():
        with capture_torch(llama, tmp_path / "dry", mode=mode, dry_run=True) as capture:
            llama(ids)
        with capture_torch(llama, tmp_path / "d", mode=mode):
            llama(ids)
    assert not (tmp_path / "dry").exists()
    cost, dump = capture.cost, NativeDump(tmp_path / "d")
    assert (cost.forwards, cost.records) == (1, len(dump.records))
    field = "key" if mode == "full" else "stats"
    places = {
        str(r.get("sketch", (r.get("file"), r.get("key")))) for r in dump.records if field in r
    }
    assert cost.tensors == len(places)
    size = sum(p.stat().st_size for p in (tmp_path / "d" / "data").iterdir())
    assert cost.nbytes == pytest.approx(size, rel=0.2)
    assert f"{cost.tensors} tensors" in str(cost)
    assert cost.seconds > 0


class Notices(torch.nn.Module):
    """Gives something else when it is watched."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Dropout(0.5)

    def forward(self, x):
        return {"same": self.inner(x), "differs": x + bool(self.inner._forward_hooks)}


def test_observer_effect(llama, ids, tmp_path):
    with torch.no_grad():
        effect = observer_effect(llama, lambda: llama(ids).logits, tmp_path / "a")
    assert effect.same
    assert NativeDump(tmp_path / "a").manifest["problems"] == []
    model = Notices().train()
    effect = observer_effect(model, lambda: model(torch.ones(64)), tmp_path / "b")
    assert not effect.same
    assert effect.plain["same"] == effect.captured["same"]
    (problem,) = NativeDump(tmp_path / "b").manifest["problems"]
    assert problem.startswith("observer effect: differs of the result")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dry_run": True, "trigger": "nonfinite"}, "does not go together"),
        ({"dry_run": True, "layout": "ait"}, "does not go together"),
        ({"stop_at_divergence": True}, "needs compare_to"),
        ({"trigger": "sometimes"}, "unknown trigger"),
        ({"trigger": "nonfinite", "trigger_steps": -1}, "trigger_steps"),
        ({"compare_to": "golden", "mode": "hash"}, "leave mode out"),
    ],
)
def test_what_does_not_go_together(tmp_path, options, words):
    with pytest.raises(LlmdbgError, match=words):
        capture_torch(torch.nn.Identity(), tmp_path / "d", **options)


def test_results_and_costs_of_others(tmp_path):
    capture = capture_torch(torch.nn.Identity(), tmp_path / "d")
    with pytest.raises(LlmdbgError, match="dry_run"):
        _ = capture.cost
    with pytest.raises(LlmdbgError, match="compare_to"):
        _ = capture.result
