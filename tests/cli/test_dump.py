"""`llmdbg dump`: the command line, and recording torch in a command."""

import json
import os
import sys

import pytest

from llmdbg import open_dump
from llmdbg.cli.many import fill, spread
from tests.programs import run_llmdbg

SCRIPT = """
import sys
import torch

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.eye_(self.linear.weight)
    def forward(self, x):
        return self.linear(x) + 1

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
    def forward(self, x):
        return self.block(x)

torch.nn.Linear(2, 2)(torch.zeros(1, 2))  # no model: it has no parts
net = Net()
with torch.no_grad():
    for step in range(3):
        print(net(torch.full((1, 3), float(step))).tolist())
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""


@pytest.fixture
def llmdbg(tmp_path):
    def run(*args, **env):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ATB_", "LLMDBG_"))}
        return run_llmdbg(*args, env={**clean, **env}, cwd=tmp_path, timeout=300)

    return run


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "run.py"
    file.write_text(SCRIPT)
    return file


def records(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    return [(r["step"], r["node"], r["role"]) for r in manifest["records"]]


def one_dump(tmp_path):
    (folder,) = (tmp_path / "out").glob("torch_dump_*")
    return folder


@pytest.mark.usefixtures("script")
def test_torch_is_recorded_without_editing_the_script(llmdbg, tmp_path):
    done = llmdbg("dump", "-o", "out", "-er", "0,1", "--exec", f"'{sys.executable}' run.py 4")
    assert done.returncode == 4, done.stderr
    assert done.stdout.splitlines() == [
        "[[1.0, 1.0, 1.0]]",
        "[[2.0, 2.0, 2.0]]",
        "[[3.0, 3.0, 3.0]]",
    ]
    folder = one_dump(tmp_path)
    sides = [(node, role) for node in ("", "block", "block.linear") for role in ("input", "output")]
    expected = [(step, *side) for step in (0, 1) for side in sides]
    assert sorted(records(folder)) == sorted(expected)
    assert "recorded 12 tensors of torch modules" in done.stderr
    assert f"next: llmdbg compare GOLDEN out/{folder.name}" in done.stderr


def test_default_is_the_first_forward(llmdbg, script, tmp_path):
    llmdbg("dump", "-o", "out", "--", sys.executable, script)
    assert {step for step, _, _ in records(one_dump(tmp_path))} == {0}


def test_modules_and_sides(llmdbg, script, tmp_path):
    llmdbg(
        "dump", "-o", "out", "-er", "all", "-opname", "Linear", "-stp", "1", "--type", "torch",
        "--", sys.executable, script,
    )  # fmt: skip
    found = records(one_dump(tmp_path))
    assert sorted(found) == [(step, "block.linear", "output") for step in (0, 1, 2)]


def test_root_by_class(llmdbg, script, tmp_path):
    llmdbg("dump", "-o", "out", "--root", "Block", "--", sys.executable, script)
    assert {node for _, node, _ in records(one_dump(tmp_path))} == {"", "linear"}


@pytest.mark.usefixtures("script")
def test_ranks_write_side_by_side(llmdbg, tmp_path):
    launcher = tmp_path / "launch.py"
    launcher.write_text(
        "import os, subprocess, sys\n"
        "ranks = [subprocess.Popen([sys.executable, 'run.py'],\n"
        "         env={**os.environ, 'RANK': str(r), 'LOCAL_RANK': str(r), 'WORLD_SIZE': '2'})\n"
        "         for r in (0, 1)]\n"
        "sys.exit(max(rank.wait() for rank in ranks))\n"
    )
    done = llmdbg("dump", "-o", "out", "--", sys.executable, launcher)
    assert done.returncode == 0, done.stderr
    folder = one_dump(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rank0", "rank1"]
    assert records(folder / "rank0") == records(folder / "rank1")
    assert "recorded 12 tensors" in done.stderr


def test_a_rank_that_dies_leaves_the_others_readable(llmdbg, tmp_path):
    (tmp_path / "run.py").write_text(
        SCRIPT.split("net = Net()")[0] + "import os, signal, time\n"
        "net = Net()\n"
        "for step in range(3):\n"
        "    net(torch.full((1, 3), float(step)))\n"
        "    time.sleep(0.4)  # what is older than that is on disk\n"
        "    if step == 1 and os.environ['RANK'] == '1':\n"
        "        time.sleep(1)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    launcher = tmp_path / "launch.py"
    launcher.write_text(
        "import os, subprocess, sys\n"
        "ranks = [subprocess.Popen([sys.executable, 'run.py'],\n"
        "         env={**os.environ, 'RANK': str(r), 'LOCAL_RANK': str(r), 'WORLD_SIZE': '2'})\n"
        "         for r in (0, 1)]\n"
        "sys.exit(max(abs(rank.wait()) for rank in ranks))\n"
    )
    done = llmdbg("dump", "-o", "out", "-er", "all", "--", sys.executable, launcher)
    assert done.returncode == 9, done.stderr
    dump = open_dump(one_dump(tmp_path))
    steps = {rank: set() for rank in dump.ranks}
    for row in dump.records.iter_rows(named=True):
        steps[row["rank"]].add(row["step"])
    assert steps[0] == {0, 1, 2}
    assert steps[1] == {0, 1}
    assert any("the run ended before its dump was complete" in text for text in dump.problems)
    assert f"recorded {len(dump)} tensors" in done.stderr


@pytest.mark.usefixtures("script")
def test_processes_without_ranks_do_not_mix(llmdbg, tmp_path):
    code = "import subprocess, sys; [subprocess.run([sys.executable, 'run.py']) for _ in range(2)]"
    done = llmdbg("dump", "-o", "out", "--", sys.executable, "-c", code)
    folders = sorted((tmp_path / "out").glob("torch_dump_*"))
    assert len(folders) == 2
    assert records(folders[0]) == records(folders[1])
    assert done.stderr.count("recorded 6 tensors") == 2


def test_one_device(llmdbg, script, tmp_path):
    done = llmdbg("dump", "-o", "out", "-device", "3", "--", sys.executable, script)
    assert "0 tensors: --device-id 3 matches none of the devices that ran: 0" in done.stderr
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["-er", "7"], "0 tensors recorded after 3 forwards: the step filter matches none"),
        (["-opname", "Conv"], "0 tensors: no module's name or class matches 'Conv'"),
        (["--root", "Llama*"], "0 tensors: torch was imported, but no torch module of a class"),
    ],
)
def test_an_empty_dump_is_explained(flags, reason, llmdbg, script):
    done = llmdbg("dump", "-o", "out", *flags, "--", sys.executable, script)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 3
    assert reason in done.stderr


def test_a_command_without_torch_is_explained(llmdbg):
    done = llmdbg("dump", "-o", "out", "--", sys.executable, "-c", "print('hello')")
    assert done.stdout == "hello\n"
    assert "0 tensors: no Python process of the command imported torch" in done.stderr


def test_a_killed_command_leaves_what_it_had(llmdbg, tmp_path):
    script = tmp_path / "die.py"
    script.write_text(
        SCRIPT.split("sys.exit")[0] + "import os, signal\nimport time\ntime.sleep(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = llmdbg("dump", "-o", "out", "-er", "all", "--", sys.executable, script)
    assert done.returncode == 128 + 9
    assert "the command ended with exit code 137" in done.stderr
    assert "tensors of torch modules" in done.stderr


@pytest.mark.usefixtures("script")
def test_dry_run_prints_and_starts_nothing(llmdbg, tmp_path):
    done = llmdbg("dump", "-o", "out", "--dry-run", "--exec", f"A='b c' {sys.executable} run.py")
    assert done.returncode == 0
    assert "A='b c'\n" in done.stdout
    assert "LLMDBG_CAPTURE=" in done.stdout
    assert done.stdout.rstrip().endswith("run.py")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "give the command once"),
        (["--exec", "true", "--", "true"], "give the command once"),
        (["python", "run.py"], "put the command after --"),
        (["--exec", "cd x && python y.py"], "needs a shell for &"),
        (["--exec", "python 'x"], "ends inside '"),
        (["-er", "1,2,3", "--", "true"], "3 numbers do not make pairs"),
        (["-er", "none", "--", "true"], "records nothing of torch"),
        (["-child", "perhaps", "--", "true"], "expected True or False"),
        (["--type", "tensor", "--", "true"], "ATB_HOME_PATH is not set"),
    ],
)
def test_mistakes(args, reason, llmdbg):
    done = llmdbg("dump", *args)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_program(llmdbg):
    done = llmdbg("dump", "-o", "out", "--", "no-such-program")
    assert done.returncode == 127
    assert "llmdbg: no such program: no-such-program" in done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["--type", "model", "layer", "-o", "x"],
            ["--type", "model", "--type", "layer", "-o", "x"],
        ),
        (["--type", "model", "run.py"], ["--type", "model", "run.py"]),
        (["--type", "model", "x", "layer"], ["--type", "model", "x", "layer"]),
        (["--type", "model", "--type", "layer"], ["--type", "model", "--type", "layer"]),
        (["--type"], ["--type"]),
        (["layer"], ["layer"]),
    ],
)
def test_an_option_takes_several_words(args, expected):
    assert spread(args, {"--type"}, {"model", "layer"}) == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-seed"], ["-seed", "2024"]),
        (["-seed", "7"], ["-seed", "7"]),
        (["-seed", "-o", "x"], ["-seed", "2024", "-o", "x"]),
    ],
)
def test_a_bare_option_takes_its_default(args, expected):
    assert fill(args, {"-seed"}, "2024") == expected


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["-I", "run.py"], "-I"),
        (["-BES", "-m", "run"], "-E"),
        (["-X", "dev", "-W", "error", "-S", "run.py"], "-S"),
        (["-Wignore", "-I", "-c", "pass"], "-I"),
    ],
)
def test_a_python_that_cannot_be_reached_is_not_started(llmdbg, tmp_path, words, option):
    (tmp_path / "run.py").write_text("open('started', 'w')")
    done = llmdbg("dump", "-o", "out", "--type", "torch", "--", sys.executable, *words)
    assert done.returncode == 2
    assert f"python {option} ignores the environment" in done.stderr
    assert "capture_torch" in done.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("words", [["run.py", "-I"], ["-c", "pass", "-E"], ["-X", "I", "run.py"]])
def test_an_option_of_the_script_is_its_own(llmdbg, tmp_path, words):
    (tmp_path / "run.py").write_text("")
    done = llmdbg("dump", "-o", "out", "--type", "torch", "--", sys.executable, *words)
    assert done.returncode == 0, done.stderr
