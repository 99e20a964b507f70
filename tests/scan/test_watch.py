"""Watching torch while it runs: by hand, and in a command that knows nothing of it."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import llmdbg
from llmdbg.scan.watch import NonFiniteError


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.proj = torch.nn.Linear(width, width)
        self.scale = 1.0

    def forward(self, x):
        return x + self.proj(self.norm(x)) * self.scale


class Model(torch.nn.Module):
    def __init__(self, layers=4, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(Block(width) for _ in range(layers))
        self.mask = None

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x if self.mask is None else x + self.mask


def test_a_clean_model_is_left_alone(capsys):
    model, x = Model(), torch.randn(3, 8)
    expected = model(x)
    with llmdbg.watch(model) as w:
        assert torch.equal(model(x), expected)
    assert w.finding is None and w.forwards == 1 and capsys.readouterr().err == ""
    assert not any(m._forward_hooks for m in model.modules())


def test_the_first_bad_module_with_call_stack_and_frames(capsys):
    model = Model()
    with torch.no_grad():
        model.layers[2].proj.bias[3] = float("nan")
    with llmdbg.watch(model) as w:
        model(torch.randn(3, 8))
        model(torch.randn(3, 8))
    assert (w.finding.node, w.finding.kind, w.finding.step) == ("layers.2.proj", "nan", 0)
    frames = w.finding.details["frames"]
    assert [f["module"] for f in frames][-2:] == ["layers.2.norm", "layers.2.proj"]
    stack = w.finding.details["stack"]
    assert [place.rsplit(" ", 1)[-1] for place in stack][:2] == ["Block.forward", "Model.forward"]
    assert all(Path(__file__).name in place for place in stack)
    text = capsys.readouterr().err
    assert text.startswith("llmdbg: layers.2.proj (Linear) gives NaN in step 0")
    assert "✗ layers.2.proj output float32 [3, 8]" in text


def test_code_between_modules_is_told():
    model = Model()
    model.layers[1].scale = float("inf")
    with llmdbg.watch(model, report=False) as w:
        model(torch.randn(3, 8))
    assert w.finding.node == "layers.1"


def test_the_last_32_frames_only():
    model = Model(layers=40)
    with torch.no_grad():
        model.layers[39].proj.bias[0] = float("inf")
    with llmdbg.watch(model, report=False) as w:
        model(torch.randn(3, 8))
    assert len(w.frames) == 32 and w.frames[-1].module == "layers.39.proj"


def test_masks_are_no_fault():
    model = Model()
    model.mask = torch.zeros(3, 8)
    model.mask[:, 5:] = float("-inf")
    with llmdbg.watch(model) as w:
        model(torch.randn(3, 8))
    assert w.finding is None


def test_stop_raises_where_it_happened():
    model = Model()
    model.layers[1].scale = float("nan")
    with (
        pytest.raises(NonFiniteError, match=r"layers\.1"),
        llmdbg.watch(model, stop=True, report=False),
    ):
        model(torch.randn(3, 8))


SCRIPT = """
import sys, torch
sys.path.insert(0, {folder!r})
from test_watch import Model
model = Model()
if "bad" in sys.argv:
    with torch.no_grad():
        model.layers[2].proj.bias[3] = float("nan")
for _ in range(3):
    model(torch.randn(3, 8))
print("ran on")
"""


@pytest.mark.parametrize("how", ["good", "bad", "exit"])
def test_a_command_is_watched(tmp_path, how):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    words = ["--json", *(["--exit"] if how == "exit" else [])]
    command = f"{sys.executable} {script} {'good' if how == 'good' else 'bad'}"
    done = subprocess.run(
        [sys.executable, "-m", "llmdbg", "scan-anomaly", *words, "--exec", command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    answer = done.stdout[done.stdout.index("{") :]
    data = json.loads(answer)
    if how == "good":
        assert done.returncode == 0 and data["verdict"] == "clean"
        assert data["notes"] == ["3 forwards in 1 processes were watched"]
        return
    assert done.returncode == 1 and data["origin"]["node"] == "layers.2.proj"
    # Where the user's code calls it: no frame of ours or of torch.
    called = [line for line in data["origin"]["evidence"] if line.startswith("called at ")]
    *inner, outermost = [line.split()[2].split(":")[0] for line in called]
    assert set(inner) == {str(Path(__file__))} and outermost == str(script)
    assert "the last 32 frames" in done.stderr or "frames:" in done.stderr
    assert ("ran on" in done.stdout) == (how == "bad")


def test_a_command_without_a_model_is_no_clean_one():
    done = subprocess.run(
        [sys.executable, "-m", "llmdbg", "scan-anomaly", "--", sys.executable, "-c", "print(1)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "nothing was watched" in done.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(3)", "the command ended with exit code 3; no process of it called"),
        ("import torch; torch.nn.ReLU()(torch.ones(1)); raise ValueError", "exit code 1"),
        ("import no_such_module", "the command ended with exit code 1; no process of it called"),
    ],
)
def test_a_command_that_fails_is_an_error(code, said):
    done = subprocess.run(
        [sys.executable, "-m", "llmdbg", "scan-anomaly", "--", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
    assert "clean" not in done.stdout


def test_the_flag_of_an_npu_is_told(monkeypatch):
    # Not above: a script in here imports this file without the tests beside it.
    from tests.standins.torch_npu import Npu

    module = types.ModuleType("torch_npu")
    module.npu = Npu(overflowed=True)
    monkeypatch.setitem(sys.modules, "torch_npu", module)
    model = Model()
    model.layers[1].scale = float("inf")
    with llmdbg.watch(model, report=False) as watch:
        model(torch.randn(3, 8))
    assert "NPU overflow flag: set" in watch.finding.evidence
