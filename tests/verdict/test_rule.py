"""The first verdict rule, on runs whose truth is known because they are made by hand."""

import pytest

from llmdbg.verdict import Finding, State, answer, judge
from tests.synthetic import Run, network


def states(run: Run) -> dict[str, State]:
    verdict = judge(run.frame())
    return {
        f"{row['node']} {row['role']} {row['slot']}": state
        for row, state in zip(run.rows, verdict.states, strict=True)
    }


def test_a_run_with_rounding_only_is_clean():
    verdict = judge(network().frame())
    assert (verdict.outcome, verdict.culprit, verdict.suspects) == ("clean", None, ())
    assert set(verdict.states) == {State.PASS}


@pytest.mark.parametrize(
    "culprit",
    [
        "layers.0.self_attn.q_proj",
        "layers.4.mlp.down_proj",
        "layers.6.self_attn.o_proj",
        "layers.7.mlp.up_proj",
    ],
)
def test_the_faulty_operator_is_named_not_the_modules_around_it(culprit):
    verdict = judge(network(wrong=(culprit, 0.05)).frame())
    assert verdict.outcome == "diverged"
    assert verdict.culprit is not None
    assert verdict.culprit.golden == f"model.{culprit}"
    assert verdict.culprit.kind == "operator"
    assert verdict.suspects == ()


def test_what_follows_the_fault_is_inherited():
    by_name = states(network(wrong=("layers.4.mlp.down_proj", 0.5)))
    assert by_name["model.layers.4.mlp.down_proj output 0"] is State.FAIL
    assert by_name["model.layers.4.mlp output 0"] is State.INHERITED
    assert by_name["model.layers.5.self_attn.q_proj output 0"] is State.INHERITED
    assert by_name["model.layers.5.self_attn.q_proj input 0"] is State.INHERITED
    assert by_name["model.layers.3.mlp.down_proj output 0"] is State.PASS


def test_an_operator_that_always_amplifies_is_innocent():
    """Every norm multiplies the error by 8: a property of norms, not a fault."""
    run = Run()
    for layer in range(12):
        run.call(f"layers.{layer}.norm", [1.7e-3], [1.4e-2])
        run.call(f"layers.{layer}.mlp", [1.7e-3], [1.7e-3])
    assert judge(run.frame()).culprit is None


def test_alone_without_kin_ten_floors_accuse_and_five_only_raise_suspicion():
    for factor, outcome, state in ((12, "diverged", State.FAIL), (5, "clean", State.SUSPECT)):
        run = Run()
        run.call("embed", [0.0], [0.425 * 2**-8 * factor])
        verdict = judge(run.frame())
        assert verdict.outcome == outcome
        assert verdict.states[1] is state


def test_the_ratio_is_error_over_floor():
    run = Run()
    run.call("embed", [0.0], [0.034])
    verdict = judge(run.frame())
    assert verdict.floors[1] == pytest.approx(0.00166015625)
    assert verdict.ratios[1] == pytest.approx(0.034 / 0.00166015625)


def test_the_first_operator_with_a_nan_of_its_own_is_its_origin():
    run = Run()
    run.call("a", [0.0], [1e-3])
    run.call("b", [1e-3], [1e-3], finiteness_mismatch=0)
    run.row("c", "input", "0", 1e-3)
    run.row("c", "output", "0", 1e-3, finiteness_mismatch=7)
    run.calls += 1
    run.row("d", "input", "0", 1e-3, finiteness_mismatch=7)
    run.row("d", "output", "0", 1e-3, finiteness_mismatch=900)
    verdict = judge(run.frame())
    assert verdict.culprit is not None
    assert (verdict.culprit.golden, verdict.culprit.kind) == ("c", "nonfinite")
    assert verdict.suspects == ()


def test_a_shape_that_differs_is_a_finding_of_its_own():
    run = Run()
    run.call("a", [0.0], [1e-3])
    run.row("b", "input", "0", 1e-3)
    run.row(
        "b",
        "output",
        "0",
        None,
        candidate_shape=[64, 16],
        cmp_fail_reason="shapes differ",
    )
    verdict = judge(run.frame())
    assert verdict.culprit is not None
    assert (verdict.culprit.golden, verdict.culprit.kind) == ("b", "shape")
    assert verdict.culprit.ratio is None


def test_different_token_ids_accuse_the_input_not_the_embedding():
    run = Run()
    ids = {"golden_dtype": "int64", "candidate_dtype": "int64", "golden_shape": [1, 16]}
    ids["candidate_shape"] = [1, 16]
    run.row("model.embed", "input", "0", 0.4, **ids)
    run.row("model.embed", "output", "0", 0.9)
    run.calls += 1
    run.call("model.layers.0", [0.9], [0.9])
    run.row("model", "input", "0", 0.4, **ids)
    run.row("model", "output", "0", 0.9)
    verdict = judge(run.frame())
    assert verdict.culprit is not None
    assert verdict.culprit.kind == "input"


def test_a_weight_that_differs_is_the_culprit_where_weights_were_dumped():
    run = network(wrong=("layers.4.mlp.down_proj", 0.05))
    run.row("model.layers.4.mlp.down_proj", "param", "weight", 0.05, step=None)
    run.row("model.layers.5.mlp.down_proj", "param", "weight", 1.7e-3, step=None)
    verdict = judge(run.frame())
    assert verdict.culprit is not None
    assert verdict.culprit.golden == "model.layers.4.mlp.down_proj"
    assert verdict.culprit.kind == "weight"
    assert verdict.culprit.step == 0
    assert verdict.states[-1] is State.PASS


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"confidence": 0.5}, "confidence 0.50"),
        ({"golden_shape": [4, 4], "candidate_shape": [4, 4]}, "16 elements"),
        ({"cmp_fail_reason": "file too short"}, "too short"),
    ],
)
def test_without_enough_to_judge_by_a_row_is_undecided(cells, words):
    run = Run()
    run.call("a", [0.0], [1e-3])
    run.row("b", "output", "0", None if "cmp_fail_reason" in cells else 0.3, **cells)
    verdict = judge(run.frame())
    assert verdict.states[-1] is State.UNDECIDED
    assert words in verdict.reasons[-1]
    assert verdict.culprit is None


def test_a_tensor_that_could_not_be_read_is_never_clean():
    run = Run()
    run.call("a", [0.0], [1e-3])
    run.row("b", "output", "0", None, cmp_fail_reason="file too short")
    assert judge(run.frame()).outcome == "undecided"


def test_nothing_judged_is_undecided():
    run = Run()
    run.row("a", "output", "0", None, cmp_fail_reason="no data")
    assert judge(run.frame()).outcome == "undecided"


def test_equal_integers_pass_and_unequal_ones_fail():
    for error, outcome in ((0.0, "clean"), (1e-9, "diverged")):
        run = Run(golden_dtype="int8", candidate_dtype="int8")
        run.row("argmax", "tensor", "", error)
        assert judge(run.frame()).outcome == outcome


def test_a_wrong_weight_is_told_once_whatever_the_number_of_steps():
    def finding(kind: str, step: int | None, *evidence: str) -> Finding:
        return Finding("lm_head", "lm_head", step, None, kind, 9.0, 1.0, evidence, 0)

    found = answer.merged(
        [finding("weight", None, "weight differs")]
        + [finding("operator", step, f"wrong in step {step}") for step in range(4)]
        + [finding("weight", None, "bias differs")]
    )
    assert [(f.kind, f.step, f.evidence) for f in found] == [
        ("weight", 0, ("weight differs", "wrong in step 0", "bias differs"))
    ]


def _statistics(run: Run, node: str, role: str, slot: str, least: float, **cells) -> None:
    reason = f"only statistics are known: relative L2 is at least {least}"
    cells = {"relative_l2_at_least": least, "cmp_fail_reason": reason} | cells
    run.row(node, role, slot, None, finiteness_mismatch=None, **cells)


def test_statistics_prove_what_they_can_and_the_rest_is_undecided():
    """The floor of bf16 is 0.425 · 2⁻⁸ = 1.66e-3: 0.05 is 30 times it, at depth 2 21 times."""
    run = Run()
    _statistics(run, "a", "input", "0", 0.0)
    _statistics(run, "a", "output", "0", 0.0)
    run.calls += 1
    _statistics(run, "b", "input", "0", 0.0)
    _statistics(run, "b", "output", "0", 0.05)
    run.calls += 1
    _statistics(run, "c", "input", "0", 0.05)
    _statistics(run, "c", "output", "0", 0.05)
    _statistics(run, "c", "output", "1", 0.0)
    verdict = judge(run.frame())
    assert [str(s) for s in verdict.states] == [
        *["UNDECIDED"] * 3,
        "SUSPECT",
        *["INHERITED"] * 2,
        "UNDECIDED",
    ]
    assert verdict.reasons[3] == "at least 21.3× the bf16 floor, by its statistics alone"
    assert verdict.outcome == "undecided"
    assert verdict.culprit is None
    assert "b output 0 is off for certain: at least 21.3×" in verdict.sentence


@pytest.mark.parametrize(("least", "state"), [(0.004, State.UNDECIDED), (0.05, State.FAIL)])
def test_statistics_accuse_where_the_inputs_are_known_to_be_equal(least, state):
    run = Run()
    _statistics(run, "a", "input", "0", 0.0, bitwise_equal=True)
    _statistics(run, "a", "output", "0", least)
    verdict = judge(run.frame())
    assert verdict.states == [State.PASS, state]
    if state is State.FAIL:
        assert verdict.culprit is not None
        assert "error introduced here is at least 30.1× the bf16 floor" in verdict.reasons[1]


def test_statistics_of_different_token_ids_accuse_the_input():
    run = Run(golden_dtype="int64", candidate_dtype="int64")
    _statistics(run, "embed", "input", "0", 1e-3)
    _statistics(run, "embed", "output", "0", 0.0, golden_dtype="float32")
    verdict = judge(run.frame())
    assert verdict.culprit is not None
    assert verdict.culprit.kind == "input"


def test_few_values_far_off_leave_the_run_undecided():
    """48 elements are too few to accuse by, and 0.5, 300 floors, is too much to call it clean."""
    run = Run()
    run.call("a", [0.0], [1e-3])
    run.call("b", [1e-3], [0.5], golden_shape=[1, 48], candidate_shape=[1, 48])
    verdict = judge(run.frame())
    assert verdict.states[-1] is State.UNDECIDED
    assert verdict.outcome == "undecided"
    assert "48 elements are too few" in verdict.sentence
