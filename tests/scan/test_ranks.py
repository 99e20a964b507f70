"""Ranks held against each other."""

import subprocess
import sys

import numpy as np

from llmdbg.scan import Level, scan
from tests.scan.files import Run

RNG = np.random.default_rng(0)
LAYERS, WORLD = 5, 2


def single(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def write(tmp_path, change=lambda _what, _layer, _rank, array: array, gather=False):
    """Write two tensor-parallel ranks; `change` may spoil a tensor of one."""
    runs = [Run() for _ in range(WORLD)]
    x = single(8, 16)
    hidden = [x] * WORLD
    for layer in range(LAYERS):
        partial = []
        for rank, run in enumerate(runs):
            normed = change("norm", layer, rank, hidden[rank] * 2)
            run.call(f"layers.{layer}.norm", [hidden[rank]], [normed])
            part = change("proj", layer, rank, normed @ single(16, 16))
            run.call(f"layers.{layer}.proj", [normed], [part])
            partial.append(part)
        whole = np.concatenate(partial, -1) if gather else sum(partial)
        for rank, run in enumerate(runs):
            result = change("reduce", layer, rank, whole)
            name = "all_gather" if gather else "all_reduce"
            run.call(f"layers.{layer}.{name}", [partial[rank]], [result])
            hidden[rank] = result[:, :16] / 8
    for rank, run in enumerate(runs):
        run.write(tmp_path / f"rank{rank}", rank=rank, world_size=WORLD)
    return tmp_path


def errors(path):
    return [f for f in scan(path).findings if f.level is Level.ERROR]


def spoil(what, layer, rank, how):
    def change(w, la, r, array):
        if (w, la, r) != (what, layer, rank):
            return array
        array = array.copy()
        array[2, 3] = how(array[2, 3])
        return array

    return change


def test_clean_ranks(tmp_path):
    assert errors(write(tmp_path / "sum")) == []
    assert errors(write(tmp_path / "gather", gather=True)) == []


def test_nan_is_told_on_the_rank_and_operator_where_it_enters(tmp_path):
    (error,) = errors(write(tmp_path, spoil("proj", 2, 1, lambda _: np.nan)))
    assert (error.node, error.rank, error.kind) == ("layers.2.proj", 1, "nan")
    assert error.details["through"] == "layers.2.all_reduce"
    assert any("rank 0 gets it from rank 1" in line for line in error.evidence)


def test_a_collective_that_does_not_sum(tmp_path):
    (error,) = errors(write(tmp_path, spoil("reduce", 3, 1, lambda v: v + 10)))[:1]
    assert (error.kind, error.node, error.rank) == ("collective", "layers.3.all_reduce", 1)


def test_a_gather_that_loses_something(tmp_path):
    (error,) = errors(write(tmp_path, spoil("reduce", 3, 0, lambda v: v + 1), gather=True))[:1]
    assert (error.kind, error.node, error.rank) == ("collective", "layers.3.all_gather", 0)


def test_a_replicated_tensor_that_differs(tmp_path):
    (error,) = errors(write(tmp_path, spoil("norm", 4, 1, lambda v: v + 1)))
    assert (error.kind, error.node, error.rank) == ("replicated", "layers.4.norm", 1)


SCRIPT = """
import sys, torch
import torch.distributed as dist

class AllReduce(torch.nn.Module):
    def forward(self, x):
        y = x.clone()
        dist.all_reduce(y)
        return y

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(16, 8), torch.nn.Linear(8, 16, bias=False)
        self.allreduce = AllReduce()

    def forward(self, x):
        return x + self.allreduce(self.down(torch.relu(self.up(x))))

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(*[Block() for _ in range(3)])
with torch.no_grad():
    if dist.get_rank() == 1:
        model[1].up.bias[3] = float("nan")
    model(torch.randn(4, 16))
dist.destroy_process_group()
"""


def test_a_recorded_torchrun_names_the_rank_and_the_way(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script]
    dump = [sys.executable, "-m", "llmdbg", "dump", "--type", "torch", "-o", tmp_path / "d", "--"]
    subprocess.run([*dump, *command], check=True, capture_output=True)
    first, *others = scan(tmp_path / "d").findings
    assert (first.kind, first.node, first.rank) == ("nan", "1.up", 1)
    assert "rank 0 gets it from rank 1 through 1.allreduce (AllReduce)" in first.evidence
    # What follows from it is no news, but for the ranks being unlike.
    assert {finding.kind for finding in others} == {"replicated"}
