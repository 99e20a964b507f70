"""What is usual for an operator, on gains made by hand."""

import pytest

from llmdbg.verdict import judge
from llmdbg.verdict.check import Check
from tests.synthetic import Run


def norms(gains: list[float], **cells) -> Run:
    """One norm a layer, each given an error of 1e-2, six floors of bf16: only kin can accuse."""
    run = Run()
    for layer, gain in enumerate(gains):
        run.call(f"layers.{layer}.norm", [1e-2], [1e-2 * gain], **cells)
    return run


@pytest.mark.parametrize(("largest", "accused"), [(4.0, True), (32.0, False)])
def test_few_values_scatter_more(largest, accused):
    """1024 values of mean square 1: at most 4 they are 64 at least, s = 1 + 3/√64; at 32 it is one.

    The gain of 5 is beyond 2.2 · 1.375 = 3.0 and not beyond 2.2 · 4 = 8.8.
    """
    cells = {"golden_min": -largest, "golden_max": largest, "golden_rms": 1.0}
    culprit = judge(norms([1.0] * 7 + [5.0], **cells).frame()).culprit
    assert (culprit is not None) is accused
    assert culprit is None or culprit.golden == "layers.7.norm"


class FirstFew:
    """A checker that has found the first works right."""

    def __init__(self, count):
        self.count = count

    def checks(self, _rows, _flow, _floors, _unlike):
        return {i: Check("norm", 1.0, 0.0, None, 0.0, 1e-3, 1e-3) for i in range(self.count)}

    def evidence(self, _work):
        return None


def test_kin_that_were_checked_are_kin_still():
    """Half of all norms amplify by 2.6: without four of these the other two would stand out."""
    gains = [2.6] * 6 + [1.0] * 6
    assert judge(norms(gains).frame()).culprit is None
    assert judge(norms(gains).frame(), checker=FirstFew(4)).culprit is None
    # With two among twelve, they do.
    culprit = judge(norms([2.6] * 2 + [1.0] * 10).frame()).culprit
    assert culprit is not None
    assert culprit.golden == "layers.0.norm"
