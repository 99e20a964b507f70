"""What an error looks like: named when it is there, and silent when it is not."""

import numpy as np
import pytest

from llmdbg.golden import Precision
from llmdbg.golden.activation import gelu, silu
from llmdbg.verdict.patterns import Evidence, patterns

NOISE = 1.7e-3
RNG = np.random.default_rng(0)
G = RNG.normal(size=(32, 64))
ROUNDED = Precision("bfloat16")(G)


def told(change, expected=G, **fields):
    d = Precision("bfloat16")(expected)
    d = change(d) if change else d
    return patterns(Evidence(d, expected, NOISE, "bfloat16", **fields))


def replaced(index, values):
    def change(d):
        d = d.copy()
        d[index] = values(d)
        return d

    return change


def test_rounding_has_no_pattern():
    assert told(None) == ()


def test_noise_has_no_pattern():
    assert told(lambda d: d + 0.05 * RNG.normal(size=d.shape)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d * 1.05, "a constant factor of 1.05"),
        (replaced(np.s_[5], lambda d: d[4]), "wrong row: row 5 is what row 4 should be"),
        (replaced(np.s_[[5, 9]], lambda d: d[[9, 5]]), "permuted: row 5 is what row 9 should be"),
        (replaced(np.s_[7], lambda _: RNG.normal(size=64)), "wrong rows: 1 of 32 rows hold"),
        (
            replaced(np.s_[:, 60:], lambda _: 0),
            "zeroed: 128 values are 0 (channels 60 to 63, the tail)",
        ),
        (replaced(np.s_[3:5], lambda _: 0), "zeroed: 128 values are 0 (rows 3 to 4)"),
        (
            replaced(np.s_[:, [8, 20]], lambda d: d[:, [20, 8]]),
            "permuted: channel 8 is what channel 20 should be",
        ),
        (lambda d: np.clip(d, -1.5, 1.5), "saturated: "),
        (lambda d: d + np.linspace(-1, 1, 64), "a constant offset per channel"),
    ],
)
def test_a_pattern_is_named_with_its_number(change, words):
    found = told(change)
    assert found, words
    assert found[0].startswith(words)
    assert any(c.isdigit() for c in found[0])


def test_a_wrong_head_is_named_where_heads_are_known():
    change = replaced(np.s_[:, 16:32], lambda _: RNG.normal(size=(32, 16)))
    assert told(change, head=16)[0].startswith("wrong head: 1 of 4 hold")
    assert not any("head" in p for p in told(change))


def test_another_activation_is_named_only_when_it_fits():
    x = RNG.normal(size=(32, 64)) * 2
    d = Precision("bfloat16")(gelu(x))
    others = {"gelu": lambda: gelu(x), "relu": lambda: np.maximum(x, 0)}
    found = patterns(Evidence(d, silu(x), NOISE, alternatives=others, intended="silu"))
    assert found[0].startswith("gelu instead of silu")
    others.pop("gelu")
    found = patterns(Evidence(d, silu(x), NOISE, alternatives=others, intended="silu"))
    assert not any("instead" in p for p in found)


def test_sums_in_sixteen_bits_are_told_by_their_size():
    """bfloat16 sums of 1024 products err by 3.6e-2 (measured elsewhere): 0.3 · √1024 · 2⁻⁸."""
    x, w = RNG.normal(size=(16, 1024)), RNG.normal(size=(64, 1024)) / 32
    exact, rounds = x @ w.T, Precision("bfloat16")
    total = np.zeros_like(exact)
    for k in range(1024):
        total = rounds(total + np.outer(x[:, k], w[:, k]))
    found = patterns(Evidence(total, exact, NOISE, "bfloat16", products=1024))
    assert len(found) == 1
    assert "sums of K = 1024 in bfloat16" in found[0]
    plain = patterns(Evidence(rounds(exact), exact, NOISE, "bfloat16", products=1024))
    assert plain == ()


def test_overflow_is_told_by_the_right_value():
    g = np.full((4, 32), 1000.0)
    g[2, 3] = 1e5
    found = patterns(Evidence(Precision("float16")(g), g, 2e-4, "float16"))
    assert found[0].startswith("overflow: at 1 of 1 places the right value is beyond 65504")


def _noisy(d, size=0.1):
    return d + size * np.random.default_rng(9).normal(size=d.shape)


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        # A scale beside as much noise explains half of the error, not nine tenths.
        (lambda d: _noisy(d * 1.1), "a constant factor"),
        # Zeros that hold less of the error than the noise around them.
        (lambda d: _noisy(np.where(np.arange(64) < 1, 0, d)), "zeroed"),
        # Four values at one bound are chance; eight are not.
        (lambda d: np.clip(d, -np.sort(np.abs(d).ravel())[-5], None), "saturated"),
        # Half of the rows, half of the channels: not a few.
        (replaced(np.s_[::2], lambda d: _noisy(d)[::2]), "wrong row"),
        (replaced(np.s_[:, ::2], lambda d: _noisy(d)[:, ::2]), "wrong channel"),
        # A row of another tensor is wrong, but no other row of this one.
        (replaced(np.s_[[5, 9]], lambda _: RNG.normal(size=(2, 64))), "permuted"),
        # An offset of another sign in every row is none per channel.
        (lambda d: d + np.where(np.arange(32) % 2, 1, -1)[:, None] * 0.3, "a constant offset"),
    ],
)
def test_what_only_resembles_a_pattern_is_not_named(change, absent):
    assert not any(p.startswith(absent) for p in told(change))


def test_an_error_in_every_head_is_no_wrong_head():
    assert not any("head" in p for p in told(_noisy, head=16))


def test_noise_is_no_sum_in_sixteen_bits_when_its_size_is_another():
    """0.3 · √64 · 2⁻⁸ is 9.4e-3: an error of 0.1 is ten times that, one of 2.5e-3 a quarter."""
    for size in (0.1, 2.5e-3):
        found = told(lambda d, size=size: _noisy(d, size), products=64)
        assert not any("sums of K" in p for p in found)


def test_a_nan_among_small_values_is_no_overflow_and_among_large_ones_it_is_near():
    for largest, words in ((1.0, ()), (40000.0, ("overflow is near: finite values reach 61%",))):
        g = np.linspace(0.1, largest, 128).reshape(4, 32)
        d = g.copy()
        d[1, 1] = np.nan
        found = patterns(Evidence(d, g, 2e-4, "float16"))
        assert len(found) == len(words)
        assert all(f.startswith(w) for f, w in zip(found, words, strict=True))
