"""The vLLM plugin, in workers of a stand-in with vLLM's own hooks."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmdbg
from llmdbg.errors import UserError
from llmdbg.serving import RequestRows, request_rows
from llmdbg.serving.settings import settings_from

STANDINS = Path(__file__).parent.parent / "standins" / "serving"
RUNNERS = [
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner",
    "vllm.v1.worker.gpu.model_runner.GPUModelRunner",
    "vllm_ascend.worker.model_runner_v1.NPUModelRunner",
    "vllm_ascend.worker.v2.model_runner.NPUModelRunner",
]


def start(runner, cwd, **settings):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LLMDBG_", "RANK", "WORLD"))}
    return subprocess.Popen(
        [sys.executable, str(STANDINS / "serve.py"), runner],
        env={**clean, "PYTHONPATH": str(STANDINS), "OMP_NUM_THREADS": "1", **settings},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def serve(runner, cwd, *, code=0, **settings):
    process = start(runner, cwd, **settings)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


@pytest.mark.parametrize("runner", RUNNERS)
def test_every_step_and_whose_rows_they_are(runner, tmp_path):
    plain, _ = serve(runner, tmp_path)
    out, err = serve(runner, tmp_path, LLMDBG_SERVING_DUMP="dump", LLMDBG_SERVING_STEPS="all")
    assert (out, err) == (plain, "")
    dump = llmdbg.open_dump(tmp_path / "dump")
    assert dump.steps == [0, 1, 2, 3]
    assert dump.problems == []
    rows = request_rows(tmp_path / "dump")
    assert rows == [
        RequestRows(0, 0, 0, "a", 0, 3, 0),
        RequestRows(0, 1, 1, "a", 0, 1, 3),
        RequestRows(0, 1, 1, "b", 1, 2, 0),
        RequestRows(0, 2, 2, "a", 0, 1, 4),
        RequestRows(0, 2, 2, "b", 1, 3, 2),
        RequestRows(0, 3, 3, "b", 0, 1, 5),
    ]
    # The prompt's ids as the model was given them, put together over the steps.
    ids = np.concatenate(
        [
            input_ids(dump, row.step)[row.first_row :][: row.rows]
            for row in rows
            if row.request == "b"
        ]
    )
    assert ids[:5].tolist() == [4, 5, 6, 7, 8]


def input_ids(dump, step):
    (index,) = (
        i
        for i, r in enumerate(dump.records.iter_rows(named=True))
        if (r["node"], r["role"], r["step"], r["slot"]) == ("embed", "input", step, "0")
    )
    return dump.tensor(index)


def test_without_settings_nothing_happens(tmp_path):
    serve(RUNNERS[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [0]),
        ({"STEPS": "1,2"}, [1, 2]),
        ({"REQUESTS": "b"}, [1, 2, 3]),
        ({"REQUESTS": "[b-z]*", "STEPS": "0,1"}, [1]),
    ],
)
def test_steps_and_requests(settings, steps, tmp_path):
    settings = {f"LLMDBG_SERVING_{name}": value for name, value in settings.items()}
    serve(RUNNERS[0], tmp_path, LLMDBG_SERVING_DUMP="dump", **settings)
    assert llmdbg.open_dump(tmp_path / "dump").steps == steps
    assert sorted({row.engine_step for row in request_rows(tmp_path / "dump")}) == steps


def test_modules_and_mode(tmp_path):
    serve(
        RUNNERS[0], tmp_path, LLMDBG_SERVING_DUMP="dump", LLMDBG_SERVING_MODULES="*.mlp",
        LLMDBG_SERVING_MODE="statistics",
    )  # fmt: skip
    records = llmdbg.open_dump(tmp_path / "dump").records
    assert sorted(set(records["node"])) == ["layers.0.mlp", "layers.1.mlp"]
    assert records["norm"].null_count() == 0


def ranks(tmp_path, *, die=""):
    shared = {"LLMDBG_SERVING_DUMP": "dump", "LLMDBG_SERVING_STEPS": "all", "WORLD_SIZE": "2"}
    processes = [
        start(RUNNERS[0], tmp_path, RANK=str(rank), STANDIN_DIE=die, **shared) for rank in (0, 1)
    ]
    for process in processes:
        process.communicate(timeout=120)
    return [process.returncode for process in processes]


def test_ranks_write_side_by_side(tmp_path):
    assert ranks(tmp_path) == [0, 0]
    dump = llmdbg.open_dump(tmp_path / "dump")
    assert (dump.ranks, dump.steps, dump.problems) == ([0, 1], [0, 1, 2, 3], [])
    assert {row.rank for row in request_rows(tmp_path / "dump")} == {0, 1}


def test_a_rank_that_dies_leaves_the_rest_readable(tmp_path):
    assert ranks(tmp_path, die="1") == [0, -9]
    dump = llmdbg.open_dump(tmp_path / "dump")
    steps = dump.records.group_by("rank").agg("step").sort("rank")["step"].to_list()
    assert set(steps[0]) == {0, 1, 2, 3}
    assert set(steps[1]) == {0, 1}
    (problem,) = dump.problems
    assert "the run ended before its dump was complete" in problem


def test_one_rank_of_two(tmp_path):
    environment = {"LLMDBG_SERVING_DUMP": "dump", "LLMDBG_SERVING_RANKS": "1"}
    for rank in "01":
        serve(RUNNERS[0], tmp_path, RANK=rank, WORLD_SIZE="2", **environment)
    assert llmdbg.open_dump(tmp_path / "dump").ranks == [1]


def test_engines_side_by_side_do_not_mix(tmp_path):
    for _ in range(2):
        serve(RUNNERS[0], tmp_path, LLMDBG_SERVING_DUMP="dump")
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders[0] == "dump"
    assert folders[1].startswith("dump_process")


def test_a_mistake_in_the_settings_does_not_stop_the_server(tmp_path):
    plain, _ = serve(RUNNERS[0], tmp_path)
    out, err = serve(RUNNERS[0], tmp_path, LLMDBG_SERVING_DUMP="dump", LLMDBG_SERVING_STEP="3")
    assert out == plain
    assert "nothing is recorded: unknown variable LLMDBG_SERVING_STEP; there are" in err
    (tmp_path / "taken").write_text("x")
    out, err = serve(RUNNERS[0], tmp_path, LLMDBG_SERVING_DUMP="taken/dump")
    assert out == plain
    assert "is not recorded in process" in err


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("STEPS", "1,2,3", "is all, a number, or pairs"),
        ("STEPS", "5,2", "is all, a number, or pairs"),
        ("STEPS", "x", "STEPS is a whole number"),
        ("MODE", "zip", "MODE is one of full, statistics, sketch, hash"),
        ("RANKS", "-1", "RANKS is a whole number"),
        ("MAX_BYTES", "3G", "MAX_BYTES is a whole number"),
    ],
)
def test_settings_that_cannot_be_right(name, value, reason):
    with pytest.raises(UserError, match=reason):
        settings_from({"LLMDBG_SERVING_DUMP": "d", f"LLMDBG_SERVING_{name}": value})


def test_lines_cut_off_are_left_out(tmp_path):
    (tmp_path / "requests.jsonl").write_text(
        '{"step": 0, "engine_step": 0, "requests": [{"id": "a", "position": 0, "rows": 2, '
        '"first_row": 0}]}\n{"step": 1, "eng'
    )
    assert request_rows(tmp_path) == [RequestRows(0, 0, 0, "a", 0, 2, 0)]
