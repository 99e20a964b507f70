"""Modules that raise, disks that fill, processes that are killed."""

import json
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from llmdbg import CaptureWarning, capture_torch
from llmdbg._core import LlmdbgError
from tests.capture.native_dump import NativeDump


class Raises(torch.nn.Module):
    def forward(self, _x):
        raise ValueError("broken on purpose")


class Catches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bad = Raises()
        self.good = torch.nn.Identity()

    def forward(self, x):
        try:
            self.bad(x)
        except ValueError:
            return self.good(x)


def test_a_module_that_raises(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity(), Raises(), torch.nn.Identity())
    capture = capture_torch(model, tmp_path / "d")
    with pytest.raises(ValueError, match="broken on purpose") as caught, capture:
        model(torch.ones(3))
    assert not hasattr(caught.value, "__notes__")
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    dump = NativeDump(tmp_path / "d")
    assert dump.tensor("1", "input", "0").tolist() == [1, 1, 1]
    assert dump.find("1", "output", "0")["skipped"] == "the module raised"
    assert dump.find("", "output", "0")["skipped"] == "the module raised"
    assert "2" not in {r["node"] for r in dump.records}
    assert any("broken on purpose" in p for p in dump.manifest["problems"])


def test_an_exception_that_the_model_handles(tmp_path):
    model = Catches()
    with capture_torch(model, tmp_path / "d"):
        for _ in range(2):
            try:
                raise KeyError("outer")
            except KeyError:
                model(torch.ones(3))
    dump = NativeDump(tmp_path / "d")
    for step in (0, 1):
        assert dump.find("bad", "output", "0", step=step)["skipped"] == "the module raised"
        assert dump.tensor("good", "output", "0", step=step).tolist() == [1, 1, 1]
        assert dump.tensor("", "output", "0", step=step).tolist() == [1, 1, 1]
    assert dump.manifest["problems"] == []


def test_steps_go_on_after_an_exception(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with capture_torch(model, tmp_path / "d"):
        with pytest.raises(RuntimeError):
            model(torch.ones(1, 3))
        model(torch.ones(1, 2))
    dump = NativeDump(tmp_path / "d")
    assert dump.find("0", "output", "0", step=0)["skipped"] == "the module raised"
    assert "file" in dump.find("0", "output", "0", step=1)


class Interrupted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.interrupt = True

    def forward(self, x):
        if self.interrupt:
            raise KeyboardInterrupt
        return x


def test_a_run_interrupted_and_begun_again(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity(), Interrupted())
    with capture_torch(model, tmp_path / "d"):
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(1))
        model[1].interrupt = False
        model(torch.zeros(1))
    dump = NativeDump(tmp_path / "d")
    assert dump.tensor("0", "output", "0", step=0).tolist() == [1]
    assert dump.tensor("", "output", "0", step=1).tolist() == [0]


def test_a_module_called_twice_and_one_that_calls_itself(tmp_path):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.add = torch.nn.Hardtanh(-9, 9)

        def forward(self, x, depth=2):
            return self.add(x) + 1 if depth == 0 else self(self.add(x) + 1, depth - 1)

    model = Twice()
    with capture_torch(model, tmp_path / "d"):
        model(torch.zeros(1))
        model(torch.zeros(1))
    dump = NativeDump(tmp_path / "d")
    for step in (0, 1):
        for call in range(3):
            assert dump.tensor("add", "input", "0", step=step, call=call).item() == call
            assert dump.tensor("", "input", "0", step=step, call=call).item() == call
            assert dump.tensor("", "output", "0", step=step, call=call).item() == 3


def test_submodules_called_without_the_root(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    with capture_torch(model, tmp_path / "d"):
        model[1](torch.zeros(1))
        model(torch.ones(1))
    dump = NativeDump(tmp_path / "d")
    assert dump.tensor("1", "input", "0", step=0, call=0).item() == 0
    assert dump.tensor("1", "input", "0", step=0, call=1).item() == 1


def test_threads_that_run_one_model(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    with capture_torch(model, tmp_path / "d"):
        threads = [
            threading.Thread(target=lambda i=i: model(torch.full((9,), float(i)))) for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    dump = NativeDump(tmp_path / "d")
    for record in dump.records:
        assert len(set(dump.bytes_of(record).tolist())) == 1
    assert len([r for r in dump.records if (r["node"], r["role"]) == ("0", "output")]) == 8


class HasUnused(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = torch.nn.Identity(), torch.nn.Identity()

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("options", "calls", "why"),
    [
        ({}, 0, "never called"),
        ({"steps": [7]}, 2, "step filter matches none of the 2 forwards"),
        ({"modules": "unused"}, 1, "no selected module ran"),
    ],
)
def test_an_empty_dump_is_explained(tmp_path, options, calls, why):
    model = HasUnused()
    with pytest.warns(CaptureWarning, match=why), capture_torch(model, tmp_path / "d", **options):
        for _ in range(calls):
            model(torch.ones(1))
    assert why in NativeDump(tmp_path / "d").manifest["problems"][0]


def run(code, *args):
    """Run a script of its own process; it may kill itself."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


KILLED = """
    import os, signal, sys, time, torch
    from llmdbg import capture_torch

    class Dies(torch.nn.Module):
        def forward(self, x):
            if x[0] == 2:
                # Long enough for the writer to have finished what it was given.
                deadline = time.time() + 30
                journal = sys.argv[1] + "/journal.jsonl"
                while open(journal).read().count(chr(10)) < 9 and time.time() < deadline:
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGKILL)
            return x + 1

    model = torch.nn.Sequential(torch.nn.Identity(), Dies())
    with capture_torch(model, sys.argv[1]):
        for step in range(5):
            model(torch.full((300_000,), float(step)))
"""


def test_killed_in_the_middle_of_a_step(tmp_path):
    done = run(KILLED, tmp_path / "d")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "d" / "manifest.json").exists()
    dump = NativeDump(tmp_path / "d")
    for step in (0, 1):
        for node, role, expected in (
            ("0", "output", step),
            ("1", "input", step),
            ("1", "output", step + 1),
            ("", "output", step + 1),
        ):
            tensor = dump.tensor(node, role, "0", step=step)
            assert torch.equal(tensor, torch.full((300_000,), float(expected)))
    assert dump.manifest["modules"][0]["type"] == "Sequential"


FULL_DISK = """
    import resource, sys, torch
    from llmdbg import capture_torch
    from llmdbg._core import LlmdbgError

    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
    model = torch.nn.Sequential(torch.nn.Identity())
    results = []
    try:
        with capture_torch(model, sys.argv[1], layout=sys.argv[2]):
            for step in range(4):
                n = 100_000 if step < 2 else 2_000_000
                results.append(model(torch.full((n,), float(step)))[0].item())
                if step == 1:
                    import time; time.sleep(0.5)
    except LlmdbgError as error:
        print(results, error)
"""


@pytest.mark.parametrize("layout", ["native", "ait"])
def test_a_file_that_cannot_grow_stops_the_dump_and_not_the_model(tmp_path, layout):
    done = run(FULL_DISK, tmp_path / "d", layout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[0.0, 1.0, 2.0, 3.0] recording stopped in step ")
    assert "File too large" in done.stdout
    assert done.stderr == ""
    if layout == "native":
        dump = NativeDump(tmp_path / "d")
        for step in (0, 1):
            assert dump.tensor("0", "output", "0", step=step)[0].item() == step
        assert {r["step"] for r in dump.records} == {0, 1}
        assert "File too large" in dump.manifest["problems"][-1]
        for record in dump.records:
            assert (tmp_path / "d" / record["file"]).stat().st_size > 0
    else:
        for path in (tmp_path / "d").rglob("*.pth"):
            assert torch.load(path, weights_only=True).numel() == 100_000


def test_the_models_own_error_wins_over_the_disks(tmp_path):
    code = FULL_DISK.replace("except LlmdbgError as error", "except ZeroDivisionError as error")
    code = code.replace("results.append(", "step == 3 and 1 / 0; results.append(")
    code = code.replace("print(results, error)", "print(type(error).__name__, error.__notes__)")
    done = run(code, tmp_path / "d", "native")
    assert done.stdout.startswith("ZeroDivisionError ['llmdbg: recording stopped in step 2")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = torch.nn.Identity()
    with pytest.raises(OSError, match="file"):
        capture_torch(model, tmp_path / "file" / "d").start()
    assert not model._forward_hooks
    assert (tmp_path / "file").read_text() == "in the way"


FORGOTTEN = """
    import sys, torch
    from llmdbg import capture_torch

    model = torch.nn.Identity()
    capture_torch(model, sys.argv[1]).start()
    model(torch.ones(3))
"""


def test_a_capture_never_stopped_is_finished_when_python_exits(tmp_path):
    done = run(FORGOTTEN, tmp_path / "d")
    assert (done.returncode, done.stderr) == (0, "")
    assert NativeDump(tmp_path / "d").tensor("", "output", "0").tolist() == [1, 1, 1]


def test_a_forked_child_does_not_touch_the_dump(tmp_path):
    code = FORGOTTEN + textwrap.indent(
        "import os\nchild = os.fork()\nmodel(torch.zeros(3))\n"
        "if child: print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n",
        "    ",
    )
    done = run(code, tmp_path / "d")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    assert {r["step"] for r in NativeDump(tmp_path / "d").records} == {0, 1}


def test_a_copied_model_is_not_recorded(tmp_path):
    import copy

    model = torch.nn.Sequential(torch.nn.Identity())
    with capture_torch(model, tmp_path / "d"):
        copy.deepcopy(model)(torch.ones(1))
        model(torch.zeros(1))
    dump = NativeDump(tmp_path / "d")
    assert {r["step"] for r in dump.records} == {0}
    assert dump.tensor("0", "output", "0").item() == 0


def test_memory_stays_bounded_while_the_disk_is_slow(tmp_path, monkeypatch):
    from llmdbg.capture import background

    waiting = []
    reserve = background.Background.reserve

    def watched(self, nbytes):
        reserve(self, nbytes)
        waiting.append(self._waiting)

    monkeypatch.setattr(background.Background, "reserve", watched)
    model = torch.nn.Identity()
    with capture_torch(model, tmp_path / "d", max_queue_bytes=1 << 20):
        for step in range(40):
            model(torch.full((50_000,), float(step)))
    assert max(waiting) <= 1 << 20
    dump = NativeDump(tmp_path / "d")
    assert [dump.tensor("", "input", "0", step=s)[-1].item() for s in range(40)] == list(range(40))


def test_json_is_strict(tmp_path):
    model = torch.nn.Identity()
    model.eps = float("nan")
    with capture_torch(model, tmp_path / "d"):
        model(torch.ones(1))
    text = (tmp_path / "d" / "manifest.json").read_text()
    modules = json.loads(text, parse_constant=pytest.fail)["modules"]
    assert modules[0]["params"] == {"eps": "nan"}
    assert not (tmp_path / "d" / "journal.jsonl").exists()


def test_unknown_layout(tmp_path):
    with pytest.raises(LlmdbgError, match="'native' or 'ait'"):
        capture_torch(torch.nn.Identity(), tmp_path / "d", layout="npz")
