"""Gates: what they read, what they refuse."""

import pytest

from llmdbg.errors import UserError
from llmdbg.verdict import Gate
from tests.synthetic import Run


@pytest.fixture
def frame():
    run = Run()
    run.call("a", [0.0], [1e-3])
    run.call("b", [1e-3], [4e-2])
    return run.report().frame


@pytest.mark.parametrize(
    ("gate", "holds", "measured", "where"),
    [
        ("relative_l2<=0.05", True, 4e-2, "b output 0"),
        ("relative_l2 < 0.04", False, 4e-2, "b output 0"),
        ("max_relative_l2<=1e-2", False, 4e-2, "b output 0"),
        ("min_relative_l2>=0", True, 0.0, "a input 0"),
        ("relative_l2>0", False, 0.0, "a input 0"),
        ("mean_relative_l2<=.0105", True, 0.0105, ""),
        ("fail<=0", False, 1.0, ""),
        ("fail<=1", True, 1.0, ""),
        ("unmatched<=0", True, 0.0, ""),
        ("max_absolute_error<=0.04", True, 4e-2, "b output 0"),
    ],
)
def test_a_gate_reads_one_number(frame, gate, holds, measured, where):
    result = Gate.parse(gate).check(frame)
    assert (result.holds, result.where) == (holds, where)
    assert result.measured == pytest.approx(measured)


def test_what_no_row_has_does_not_hold(frame):
    result = Gate.parse("shadow_ratio<=3").check(frame)
    assert (result.holds, result.measured) == (False, None)
    assert str(result) == "gate shadow_ratio<=3 does not hold: no row has it"


@pytest.mark.parametrize(
    "text", ["", "max_ratio", "<=3", "max_ratio<=x", "a<=1 or 1", "__import__('os')<1"]
)
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(UserError, match="not a gate"):
        Gate.parse(text)


def test_an_unknown_measure_names_the_known_ones(frame):
    with pytest.raises(UserError, match=r"no measure 'max_speed'.*relative_l2.*unmatched"):
        Gate.parse("max_speed<=3").check(frame)
