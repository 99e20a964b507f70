"""Rotary tables: their error grows with the position, and one module may hold two of them."""

import numpy as np
import pytest
import torch

import llmdbg

POSITIONS = torch.arange(512)[None]


class TwoRotaryEmbedding(torch.nn.Module):
    """Tables of two bases from one module, by what is asked for: as Gemma 3 has them."""

    def __init__(self, bases=(1e4, 1e6), *, rounds=False):
        super().__init__()
        exponents = torch.arange(0, 64, 2, dtype=torch.float32) / 64
        self.tables = {b: (1.0 / bases[b] ** exponents) for b in (0, 1)}
        if rounds:
            self.tables = {b: t.bfloat16().float() for b, t in self.tables.items()}

    def forward(self, x, position_ids, which):
        angle = position_ids[..., None].float() * self.tables[which]
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


class Model(torch.nn.Module):
    """Both tables, and something that uses them."""

    def __init__(self, **options):
        super().__init__()
        self.rotary = TwoRotaryEmbedding(**options)
        self.use = torch.nn.Identity()

    def forward(self, x, position_ids):
        for which in (0, 1):
            cos, sin = self.rotary(x, position_ids, which)
            x = self.use(x * cos + x * sin)
        return x


def capture(path, dtype, **options):
    torch.manual_seed(0)
    model, x = Model(**options), torch.randn(1, 512, 64)
    with torch.no_grad(), llmdbg.capture_torch(model, path):
        model(x.to(dtype), POSITIONS)
    return path


@pytest.mark.parametrize("shadow", ["off", "on"])
def test_two_tables_of_one_module_are_each_judged_by_their_own(tmp_path, shadow):
    golden = capture(tmp_path / "golden", torch.float32)
    clean = capture(tmp_path / "clean", torch.bfloat16)
    result = llmdbg.compare(golden, clean, kl=False, shadow=shadow)
    assert result.culprit is None, result
    hurt = capture(tmp_path / "hurt", torch.bfloat16, bases=(1e4, 8e5))
    result = llmdbg.compare(golden, hurt, kl=False, shadow=shadow)
    assert result.culprit is not None
    assert result.culprit.golden == "rotary"
    assert result.frame.filter(state="FAIL")["call"].unique().to_list() == [1]


def test_frequencies_rounded_to_sixteen_bits_turn_as_far_as_the_floor_says(tmp_path):
    """Without a check only a base that differs is accused, not a table that was rounded."""
    golden = capture(tmp_path / "golden", torch.float32)
    rounded = capture(tmp_path / "rounded", torch.bfloat16, rounds=True)
    result = llmdbg.compare(golden, rounded, kl=False, shadow="off")
    assert result.culprit is None, result
    row = result.frame.filter(golden_node="rotary", role="output", call=0).row(0, named=True)
    # The same by hand: 26 roundings of its dtype, which would be accused at 10.
    frequencies = 1e4 ** -(np.arange(0, 64, 2) / 64)
    near = torch.tensor(frequencies).bfloat16().double().numpy()
    exact, turned = (np.cos(np.arange(512)[:, None] * f) for f in (frequencies, near))
    error = np.linalg.norm(turned - exact) / np.linalg.norm(exact)
    assert row["relative_euclidean_distance"] == pytest.approx(error, rel=0.02)
    assert error > 10 * 0.425 * 2**-8
    assert row["ratio"] < 3
