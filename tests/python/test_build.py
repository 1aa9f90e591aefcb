"""Float networks become integers by the documented formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quasar_rt import QuasarError, oracle, random_subnet
from quasar_rt.build import Affine, activation_table, gelu, requantizer
from quasar_rt.rows.bits import choose_bits, row_scores


def test_requantizer_is_the_nearest_representable_multiplier() -> None:
    wanted = np.concatenate([np.geomspace(1e-7, 7.999, 2000), [2.0**-k for k in range(-2, 20)]])
    mult, shift = requantizer(wanted)
    assert ((mult >= 2**14) & (mult < 2**15)).all()
    assert ((shift >= 1) & (shift <= 30)).all()
    found = mult.astype(np.float64) * 2.0 ** (-shift.astype(np.float64) - 11)
    np.testing.assert_allclose(found, wanted, rtol=2.0**-14)


def test_requantizer_makes_negligible_rows_dead() -> None:
    mult, shift = requantizer([0.0, 1e-12])
    assert mult.tolist() == [0, 0]
    assert shift.tolist() == [30, 30]


@pytest.mark.parametrize("multiplier", [8.0, np.inf, np.nan, -0.1])
def test_requantizer_refuses_what_no_shift_reaches(multiplier: float) -> None:
    with pytest.raises(ValueError, match="coarser"):
        requantizer([multiplier])


@pytest.mark.parametrize(("embed", "spread"), [(192, 3000), (64, 20), (7, 30000), (1024, 100)])
def test_integer_layer_norm_is_within_one_code_of_float(embed: int, spread: float) -> None:
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(500, spread, (50, embed)), -32767, 32767).astype(np.int64)
    gamma, beta, scale = rng.normal(1, 0.2, embed), rng.normal(0, 0.2, embed), 4 / 127
    frac = 3
    gain = np.round(gamma / scale * 2 ** (frac + 6)).astype(np.int64)
    bias = np.round(beta / scale * 2**frac + 2 ** (frac - 1)).astype(np.int64)
    found = oracle.layer_norm(x, gain, bias, frac, 1)
    normal = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    exact = np.clip((normal * gamma + beta) / scale, -128, 127)
    assert np.abs(found - exact).max() < 1.0


def test_integer_attention_follows_softmax() -> None:
    rng = np.random.default_rng(1)
    q, k, v = rng.integers(-100, 101, (3, 60, 16))
    step = 1 / 2000
    mult = round(2**20 * 64 * step * np.log2(np.e))
    found = oracle.attention(q, k, v, mult, 2**14, 13)  # s_v / s_o = 2
    logits = step * (q @ k.T)
    p = np.exp(logits - logits.max(1, keepdims=True))
    exact = np.clip(2 * (p / p.sum(1, keepdims=True)) @ v, -128, 127)
    assert np.abs(found - exact).max() < 1.6


def test_lost_mass_is_given_back() -> None:
    # One key 7 above 1000 others: their probabilities are below half of 1/255 of the largest and round to 0 in 8 bits.
    q = np.array([[1]])
    k = np.zeros((1001, 1), np.int64)
    k[0] = 100
    v = np.full((1001, 1), 50)
    v[0] = -50
    mult = round(2**20 * 64 * 0.07 * np.log2(np.e))
    exact = (-50 + 1000 * 50 * np.exp(-7)) / (1 + 1000 * np.exp(-7))
    assert abs(exact - -50) > 20
    assert abs(oracle.attention(q, k, v, mult, 2**14, 14)[0, 0] - exact) < 1.5


def test_activation_table_is_exact() -> None:
    source, out = Affine(3 / 128, -60), Affine(0.02, -119)
    real = gelu(source.scale * (np.arange(-128, 128) - source.zero_point))
    expected = np.clip(np.round(real / out.scale) + out.zero_point, -128, 127)
    found = activation_table(gelu, source, out)
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize(("low", "high"), [(-3, 5), (0, 1), (-1, 0), (2, 3), (0, 0)])
def test_an_affine_range_covers_what_it_was_given(low: float, high: float) -> None:
    affine = Affine.from_range(low, high)
    assert -128 <= affine.zero_point <= 127
    for value in (low, high, 0.0):
        code = np.clip(np.round(value / affine.scale) + affine.zero_point, -128, 127)
        assert abs(affine.scale * (code - affine.zero_point) - value) <= affine.scale


def test_row_sets_are_nested() -> None:
    scores = np.random.default_rng(2).random(37)
    previous: set[int] = set()
    for fraction in np.linspace(0, 1, 9):
        chosen = {int(row) for row in np.flatnonzero(choose_bits(scores, fraction) == 8)}
        assert previous <= chosen
        assert abs(len(chosen) - fraction * 37) <= 1
        # No slot of the array (two 4-bit rows or one 8-bit row) is half empty.
        assert (37 - len(chosen)) % 2 == 0
        previous = chosen


def test_row_scores_find_the_row_that_four_bits_hurt() -> None:
    rng = np.random.default_rng(3)
    weight = rng.integers(-7, 8, (8, 64)) / 7.0
    weight[:, 0] = 1.0
    weight[5] = rng.standard_normal(64)
    assert row_scores(weight, np.ones(64), np.ones(8)).argmax() == 5


SMALL: dict[str, Any] = {"embed": 16, "depth": 1, "heads": 2, "image_size": 16, "kernel": 8, "classes": 3}


def test_random_subnets_are_reproducible_and_seeded() -> None:
    assert random_subnet(**SMALL, seed=1).to_bytes() == random_subnet(**SMALL, seed=1).to_bytes()
    assert random_subnet(**SMALL, seed=1).to_bytes() != random_subnet(**SMALL, seed=2).to_bytes()


def test_random_subnet_uses_its_range() -> None:
    """Checks that a random network neither saturates nor dies, so that it benchmarks like a real one."""
    subnet = random_subnet(depth=3, image_size=96)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    trace: oracle.Trace = {}
    oracle.run(subnet.config, subnet.tensors(), image, trace)
    for name, value in trace.items():
        if value.dtype == np.int8:
            assert (np.abs(value.astype(int)) >= 127).mean() < 0.1 or name.endswith("act"), name
            assert value.std() > 5, name


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"eight_bit_fraction": 1.5}, ValueError),
        ({"heads": [1, 1]}, ValueError),
        ({"kernel": 99}, ValueError),
        ({"embed": 2000}, QuasarError),
        ({"pool": "median"}, QuasarError),
    ],
    ids=str,
)
def test_random_subnet_refuses_impossible_shapes(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        random_subnet(**{**SMALL, **change})
