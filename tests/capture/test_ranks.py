"""Ranks that write side by side, one of which dies."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from llmdbg import open_dump

SCRIPT = """
    import os, signal, sys, time
    import torch
    import torch.distributed as dist
    from llmdbg import capture_torch

    dist.init_process_group("gloo")
    rank = dist.get_rank()

    class Sums(torch.nn.Module):
        def forward(self, x):
            x = x * (rank + 1)
            dist.all_reduce(x)
            return x

    out, dies = sys.argv[1], sys.argv[2] == "dies"
    model = torch.nn.Sequential(torch.nn.Identity(), Sums())
    with capture_torch(model, out):
        for step in range(2):
            model(torch.full((100_000,), step + 1.0))
        if dies and rank == 1:
            journal = out + "/rank1/journal.jsonl"
            deadline = time.time() + 60
            # Header, and six records of each step.
            while open(journal).read().count(chr(10)) < 13 and time.time() < deadline:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        if dies:
            # torchrun ends the others once it has seen one die; this one has its own end first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(out + f".ended{rank}", "w").close()
    if not dies:
        dist.destroy_process_group()
"""


def torchrun(tmp_path, *args):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node=2", script, *args],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def states(dump):
    manifest = json.loads((dump / "manifest.json").read_text())
    return [(r["rank"], r["folder"], r["state"]) for r in manifest["ranks"]]


def last_outputs(dump, rank):
    rows = dump.records.with_row_index().iter_rows(named=True)
    return {
        row["step"]: dump.tensor(row["index"])[0]
        for row in rows
        if (row["rank"], row["role"], row["node"]) == (rank, "output", "1")
    }


@pytest.mark.parametrize("end", ["lives", "dies"])
def test_one_manifest_names_every_rank(tmp_path, end):
    done = torchrun(tmp_path, tmp_path / "d", end)
    assert (done.returncode == 0) == (end == "lives"), done.stderr
    assert (tmp_path / "d.ended0").exists(), done.stderr
    dump = open_dump(tmp_path / "d")
    assert dump.ranks == [0, 1]
    # What both ranks hold after the sum: (1 + 2) times the input, of either step.
    assert last_outputs(dump, 0) == {0: 3.0, 1: 6.0}
    assert last_outputs(dump, 1) == {0: 3.0, 1: 6.0}
    if end == "lives":
        assert states(tmp_path / "d") == [(0, "rank0", "complete"), (1, "rank1", "complete")]
        assert dump.problems == []
    else:
        assert states(tmp_path / "d") == [(0, "rank0", "complete"), (1, "rank1", "unfinished")]
        assert [p for p in dump.problems if p.startswith("rank 1: the run ended before")]
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [
        "manifest.json",
        "rank0",
        "rank1",
    ]
