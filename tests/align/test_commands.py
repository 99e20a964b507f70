"""`llmdbg compare` on runs of two stacks: whole network, levels, tokens, mappings, bad input."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from llmdbg.cli.app import app
from tests.align.decoder import Config
from tests.align.sides import Atb, Torch
from tests.align.variations import Case, write

CASE = Case(
    "commands",
    1,
    config=Config(layers=3),
    golden=Torch(weights=True),
    candidate=Atb(era="C'"),
    passes=3,
)


def compare(*args):
    return CliRunner().invoke(app, ["compare", *map(str, args), "--no-html"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A clean candidate, one with a fault, and one on two ranks, each with its golden run."""
    root = tmp_path_factory.mktemp("stacks")
    cases = {
        "clean": CASE,
        "fault": replace(CASE, fault=("L1.gate", "scaled")),
        "ranks": replace(CASE, candidate=replace(CASE.candidate, ranks=2)),
        "bare": replace(CASE, golden=Torch(weights=False), checkpoint=True),
    }
    return {name: write(case, root / name) for name, case in cases.items()}


def answer(written, tmp_path, *more):
    done = compare(written.golden, written.candidate, "-o", tmp_path / "report", "--json", *more)
    return done.exit_code, json.loads(done.stdout), tmp_path / "report"


def test_equal_networks_of_two_stacks_are_clean(runs, tmp_path):
    code, data, report = answer(runs["clean"], tmp_path)
    assert (code, data["verdict"]) == (0, "clean")
    frame = pl.read_parquet(report / "compare.parquet").filter(pl.col("confidence") >= 0.6)
    # float16 rounds each value by 2^-11 at most; the error grows over three layers.
    assert frame["relative_l2"].max() < 5e-3
    part = frame.filter(golden_node="model.layers.1.mlp.gate_proj", role="output", step=0)
    assert part["transform"].to_list()[0] == "candidate: slice axis 1 0:48"


def test_the_faulty_operator_of_a_fused_stack_is_named(runs, tmp_path):
    code, data, _ = answer(runs["fault"], tmp_path)
    assert code == 1
    assert data["culprit"]["golden"] == "model.layers.1.mlp.gate_proj"


def test_blocks_first_then_the_operators_of_the_one_to_blame(runs, tmp_path):
    code, data, report = answer(runs["fault"], tmp_path, "--level", "layer")
    assert (code, data["culprit"]["golden"]) == (1, "model.layers.1.mlp.gate_proj")
    nodes = set(pl.read_parquet(report / "compare.parquet")["golden_node"])
    assert {"model.layers.0", "model.layers.2", "model.layers.1.self_attn.q_proj"} <= nodes
    assert not any(n.startswith(("model.layers.0.", "model.layers.2.")) for n in nodes)
    code, _, report = answer(runs["clean"], tmp_path / "clean", "--level", "layer")
    nodes = set(pl.read_parquet(report / "compare.parquet")["golden_node"])
    assert code == 0
    assert not any(n.startswith("model.layers.1.") for n in nodes)


@pytest.mark.parametrize("level", ["token", "logits"])
def test_tokens_are_compared_by_their_logits(runs, tmp_path, level):
    code, data, _ = answer(runs["clean"], tmp_path, "-cl", level)
    tokens = data["tokens"]
    assert (code, tokens["count"], tokens["top1_agreement"]) == (0, 3, 1.0)
    assert tokens["first_that_differs"] is None
    assert 0 <= tokens["mean_kl"] < 1e-4


def test_the_first_token_that_differs_is_found(tmp_path):
    golden, mine = tmp_path / "golden", tmp_path / "mine"
    rows = np.array([[3.0, 1, 0, 0, 0, 0], [0, 2.0, 1.9999, 0, 0, 0], [0, 0, 0, 5.0, 1, 0]], "f4")
    other = rows.copy()
    other[1, 2] = 2.0001  # a tie that rounding decides
    other[2, 4] = 6.0
    for folder, values in ((golden, rows), (mine, other)):
        folder.mkdir()
        np.save(folder / "logits_output.npy", values)
    done = compare(golden, mine, "-o", tmp_path / "report", "--level", "token", "--json")
    tokens = json.loads(done.stdout)["tokens"]
    assert (tokens["count"], tokens["top1_agreement"]) == (3, pytest.approx(1 / 3))
    assert tokens["first_other_choice"]["row"] == 1
    first = tokens["first_that_differs"]
    assert (first["row"], first["golden_token"], first["candidate_token"]) == (2, 3, 4)
    assert first["margin"] == pytest.approx(4.0)
    a, b = rows[2].astype("f8"), other[2].astype("f8")
    p, q = (np.exp(x) / np.exp(x).sum() for x in (a, b))
    assert first["kl"] == pytest.approx((p * np.log(p / q)).sum())
    assert json.loads(done.stdout)["sentence"].startswith(
        "first token that differs: position 2: golden 3, candidate 4 (margin 4"
    )
    assert done.exit_code == 1


def test_shards_of_two_ranks_are_joined(runs, tmp_path):
    code, data, report = answer(runs["ranks"], tmp_path)
    assert (code, data["verdict"]) == (0, "clean")
    frame = pl.read_parquet(report / "compare.parquet").filter(pl.col("confidence") >= 0.6)
    used = set(frame["transform"].drop_nulls())
    assert any("ranks concat" in t for t in used)
    assert any("ranks sum" in t for t in used)
    assert frame["relative_l2"].max() < 5e-3


def test_a_checkpoint_tells_operators_apart(runs, tmp_path):
    _, _, report = answer(runs["bare"], tmp_path, "--weights", runs["bare"].checkpoint)
    frame = pl.read_parquet(report / "compare.parquet")
    own = frame.filter(golden_node="model.layers.0.self_attn.o_proj", role="output", step=0)
    assert own["evidence"].str.contains("weight").all()
    done = compare(*_sides(runs["bare"]), "-o", tmp_path / "no", "--weights", tmp_path / "none")
    assert done.exit_code == 2
    assert "No such file" in done.stderr


def _sides(written):
    return written.golden, written.candidate


def test_an_edited_alignment_is_taken_back(runs, tmp_path):
    _, _, report = answer(runs["clean"], tmp_path)
    data = json.loads((report / "alignment.json").read_text())
    (kept,) = [
        p
        for p in data["pairs"]
        if p["golden"]["node"] == "model.norm"
        and p["golden"]["role"] == "output"
        and p["golden"]["step"] == 0
        and p["candidate"]["role"] == "output"
    ][:1]
    data["pairs"] = [kept]
    mapping = tmp_path / "alignment.json"
    mapping.write_text(json.dumps(data))
    done = compare(*_sides(runs["clean"]), "-o", tmp_path / "again", "--mapping", mapping, "--json")
    assert json.loads(done.stdout)["counts"]["pairs"] == 1
    kept["candidate"]["node"] = "4_RmsNormOperatoin"
    mapping.write_text(json.dumps(data))
    done = compare(*_sides(runs["clean"]), "-o", tmp_path / "bad", "--mapping", mapping)
    assert done.exit_code == 2
    assert "4_RmsNormOperatoin" in done.stderr
    assert "nearest name there is" in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        {"DecoderLayer_outtensor0": ["LlamaDecoderLayer_output_0"]},
        {"DecoderLayer": "LlamaDecoderLayer"},
    ],
)
def test_mappings_of_the_reference_tool_are_taken(runs, tmp_path, content):
    folder = tmp_path / "mapping"
    folder.mkdir()
    (folder / "op_mapping_file.json").write_text(json.dumps(content))
    for given in (folder, folder / "op_mapping_file.json"):
        done = compare(
            *_sides(runs["clean"]), "-o", tmp_path / "r", "--force", "-mf", given, "--json"
        )
        assert done.exit_code == 0, done.output
        frame = pl.read_parquet(tmp_path / "r" / "compare.parquet")
        mapped = frame.filter(pl.col("evidence") == "the user's mapping")
        # Three layers at each of three passes.
        assert mapped.height == 9
        assert set(mapped["golden_node"]) == {f"model.layers.{i}" for i in range(3)}


def test_a_mapping_of_what_is_not_there_says_what_is(runs, tmp_path):
    mapping = tmp_path / "op_mapping_file.json"
    mapping.write_text(json.dumps({"ParallelLinear": "Linear"}))
    done = compare(*_sides(runs["clean"]), "-o", tmp_path / "report", "-mf", mapping)
    assert done.exit_code == 2
    assert "'ParallelLinear'" in done.stderr.replace('"', "'")
    assert "LinearOperation" in done.stderr
    done = compare(*_sides(runs["clean"]), "-o", tmp_path / "report", "-mf", tmp_path)
    assert done.exit_code == 2


def test_a_side_that_is_missing_or_has_nothing_in_common_is_an_error(runs, tmp_path):
    written = runs["clean"]
    done = compare(written.golden, tmp_path / "nowhere", "-o", tmp_path / "report")
    assert done.exit_code == 2
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "x_output.npy", np.arange(7.0))
    done = compare(written.golden, other, "-o", tmp_path / "report")
    assert done.exit_code == 2
    assert "nothing to compare" in done.stderr


def copy_of(written, tmp_path, change):
    """A candidate whose topology files were changed."""
    copy = tmp_path / "candidate"
    shutil.copytree(written.candidate, copy)
    files = sorted(copy.rglob("model/*/*.json"))
    assert len(files) == 2
    for path in files:
        change(path)
    return copy


def other_model(path):
    text = path.read_text().replace("DecoderLayer", "OtherLayer").replace("LmHead", "Head")
    path.write_text(text.replace("WordEmbedding", "Start").replace("RmsNorm", "Nrm"))


def huge(path):
    with path.open("wb") as file:
        file.truncate(2 << 30)


def numbers_of_another_run(path):
    data = json.loads(path.read_text())
    for k, op in enumerate(data["nodes"]):
        op["opName"] = f"{op['opType']}_{5000 + k}"
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_model, "fits none of its directories"),
        (numbers_of_another_run, "fits none of its directories"),
        (lambda path: path.write_text("[" * 100_000), "JSON: expected a complete document"),
        (lambda path: path.write_text("[]"), "expected an object, found a list"),
        (huge, "at most 1073741824 bytes, found 2147483648 bytes"),
    ],
)
def test_a_topology_that_is_not_the_dumps_ends_the_comparison(runs, tmp_path, change, why):
    written = runs["clean"]
    copy = copy_of(written, tmp_path, change)
    done = compare(written.golden, copy, "-o", tmp_path / "report")
    assert done.exit_code == 2
    assert why in done.stderr
    assert "the candidate dump's topology cannot be used" in done.stderr
    assert not (tmp_path / "report").exists()
    # By names and tensors alone, if that is asked for; the report says what was left out.
    done = compare(written.golden, copy, "-o", tmp_path / "report", "--json", "--ignore-topology")
    assert done.exit_code in (0, 1), done.stderr
    data = json.loads(done.stdout)
    assert data["counts"]["measured"] > 100
    assert data["candidate"]["problems"]


def test_a_topology_that_fits_in_most_is_used(runs, tmp_path):
    def one_op_renamed(path):
        path.write_text(path.read_text().replace("RmsNormOperation", "OtherNorm"))

    written = runs["clean"]
    copy = copy_of(written, tmp_path, one_op_renamed)
    done = compare(written.golden, copy, "-o", tmp_path / "report", "--json")
    data = json.loads(done.stdout)
    assert (done.exit_code, data["verdict"]) == (0, "clean")
    assert any("named otherwise in the topology" in p for p in data["candidate"]["problems"])


def test_modules_in_a_circle_end_the_comparison(runs, tmp_path):
    written = runs["clean"]
    golden = tmp_path / "golden"
    shutil.copytree(written.golden, golden)
    manifest = golden / "manifest.json"
    data = json.loads(manifest.read_text())
    for module in data["modules"]:
        if module["name"] == "model":
            module["parent"] = "model.layers.0"
    manifest.write_text(json.dumps(data))
    done = compare(golden, written.candidate, "-o", tmp_path / "report")
    assert done.exit_code == 2
    assert "the golden dump's topology cannot be used" in done.stderr
    assert "goes in a circle at" in done.stderr
    done = compare(golden, written.candidate, "-o", tmp_path / "report", "--ignore-topology")
    assert done.exit_code == 0


def test_nothing_compared_is_never_clean(tmp_path):
    # Equal names, and not one tensor that can be read.
    for side in ("golden", "mine"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            (tmp_path / side / f"{name}_output.npy").write_bytes(b"\x93NUMPY broken")
    done = compare(tmp_path / "golden", tmp_path / "mine", "-o", tmp_path / "report")
    assert done.exit_code == 2


def test_the_answer_about_tokens_comes_first(runs, tmp_path):
    written = runs["fault"]
    code, data, _ = answer(written, tmp_path, "--level", "token")
    first = data["tokens"]["first_that_differs"]
    if first is None:
        assert data["sentence"].startswith("no token differs")
    else:
        start = f"first token that differs: step {first['step']} position {first['row']}"
        assert (code, data["verdict"]) == (1, "diverged")
        assert data["sentence"].startswith(start)
    assert any(note.startswith("by the distance of logits") for note in data["notes"])
