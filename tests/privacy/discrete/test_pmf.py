"""Weights against sums that share no formula with them, and the errors the module claims."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy import special, stats

from tacit.privacy.discrete.pmf import (
    FRACTION_BITS,
    MAXIMUM_VARIANCE,
    DiscreteGaussian,
    Law,
    Skellam,
    exp_negative,
    probabilities,
    reach,
    survival,
)
from tacit.privacy.errors import ConfigError

LAWS = [Skellam, DiscreteGaussian]
CLAIMED = Fraction(1, 2**135)
TAIL = Fraction(1, 2**175)
SCALE = 320
# The last digits of weights, as the first machine had them.
PINNED = {
    "skellam": [643201572873, 320345299263, 986925333463, 941264765723],
    "gaussian": [962086936576, 345388993699, 110986230333, 227039531434],
}


def poisson(mean: Fraction) -> list[int]:
    """Probabilities of 0, 1, ... in steps of 2^-320, from the mode outwards, exact to 2^-300."""
    mode = math.floor(mean)
    up, down, k = [1 << SCALE], [1 << SCALE], mode
    while up[-1]:
        k += 1
        up.append(up[-1] * mean.numerator // (mean.denominator * k))
    for k in range(mode, 0, -1):
        down.append(down[-1] * mean.denominator * k // mean.numerator)
    made = down[:0:-1] + up
    total = sum(made)
    return [(x << SCALE) // total for x in made]


def skellam_of_poissons(variance: float, k: int) -> Fraction:
    p = poisson(Fraction(variance) / 2)
    return Fraction(sum(a * b for a, b in zip(p, p[k:], strict=False)), 1 << (2 * SCALE))


def all_of_skellam(variance: float) -> list[Fraction]:
    p = poisson(Fraction(variance) / 2)
    return [
        Fraction(sum(a * b for a, b in zip(p, p[k:], strict=False)), 1 << (2 * SCALE))
        for k in range(len(p))
    ]


def all_of_gaussian(variance: float) -> list[Fraction]:
    """By the decimal module's exponential, with 110 digits."""
    with localcontext() as context:
        context.prec = 110
        twice = 2 * Decimal(variance)
        made = [(-Decimal(k * k) / twice).exp() for k in range(2 * reach(variance))]
    exact = [Fraction(x) if x > Decimal("1e-100") else Fraction(0) for x in made]
    total = 2 * sum(exact) - exact[0]
    return [Fraction(x, total) for x in exact]


def distance(law: Law, true: list[Fraction]) -> Fraction:
    """In total variation, both sides."""
    weights = law.weights()
    total = 2 * sum(weights) - weights[0]
    size = max(len(true), len(weights))
    ours = [Fraction(w, total) for w in weights] + [Fraction(0)] * (size - len(weights))
    theirs = true + [Fraction(0)] * (size - len(true))
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    return sum(gaps) - gaps[0] / 2


@pytest.mark.parametrize("variance", [1e-3, 0.7, 16.0, 150.3])
def test_skellam_is_the_difference_of_two_poissons(variance: float) -> None:
    true = all_of_skellam(variance)
    assert distance(Skellam(variance), true) < CLAIMED
    assert 2 * sum(true[reach(variance) + 1 :]) < TAIL
    # The measure can tell: another law, or one that is a little off.
    assert distance(Skellam(variance * (1 + 1e-9)), true) > Fraction(1, 2**50)
    assert distance(DiscreteGaussian(variance), true) > Fraction(1, 2**20)


@pytest.mark.parametrize("k", [0, 1, 1500, 9000])
def test_wide_skellams_are_differences_of_poissons_too(k: int) -> None:
    variance = 1500.25**2
    weights = Skellam(variance).weights()
    ours = Fraction(weights[k], 2 * sum(weights) - weights[0])
    assert abs(ours - skellam_of_poissons(variance, k)) < CLAIMED


@pytest.mark.parametrize("variance", [1e-3, 0.05, 0.7, 16.0, 1600.1])
def test_gaussian_is_its_definition(variance: float) -> None:
    true = all_of_gaussian(variance)
    assert distance(DiscreteGaussian(variance), true) < CLAIMED
    assert 2 * sum(true[reach(variance) + 1 :]) < TAIL
    if variance > 0.01:  # Below, nearly all of it is at 0.
        assert distance(DiscreteGaussian(variance * (1 + 1e-9)), true) > Fraction(1, 2**50)
        assert distance(Skellam(variance), true) > Fraction(1, 2**20)


@pytest.mark.parametrize("variance", [1e-3, 0.3, 5.0, 1600.0, 90_000.0])
def test_doubles_agree_with_scipy(variance: float) -> None:
    k = np.arange(min(reach(variance), int(8 * math.sqrt(variance)) + 3))
    skellam = probabilities(Skellam(variance))[: k.size]
    assert skellam == pytest.approx(special.ive(k, variance), rel=1e-10)
    assert skellam == pytest.approx(stats.skellam.pmf(k, variance / 2, variance / 2), abs=1e-11)
    gaussian = probabilities(DiscreteGaussian(variance))[: k.size]
    direct = np.exp(-(k.astype(float) ** 2) / (2 * variance))
    assert gaussian == pytest.approx(direct / (2 * direct.sum() - direct[0]), rel=1e-12)


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("variance", [1e-3, 1.0, 1600.0])
def test_doubles_sum_to_one_and_have_the_right_variance(kind: type, variance: float) -> None:
    p = probabilities(kind(variance))
    k = np.arange(p.size)
    assert 2 * math.fsum(p) - p[0] == pytest.approx(1.0, abs=1e-15)
    second = 2 * math.fsum(p * k**2)
    if kind is Skellam or variance > 10:
        assert second == pytest.approx(variance, rel=1e-14)
    else:
        assert second < variance


# What the module's docstring derives its bound from


def test_tail_bound_holds_for_every_variance() -> None:
    # 122 nats are 176 bits.
    assert 176 * math.log(2) < 122
    grid = [10.0**e for e in np.linspace(-320, 9, 400)] + [1.0, 2.0, 3.0, MAXIMUM_VARIANCE]
    for variance in grid:
        n = reach(variance)
        assert n**2 >= 2 * 122 * (Fraction(variance) + Fraction(n, 3))


def test_terms_of_the_bound_at_the_largest_variance() -> None:
    n = reach(MAXIMUM_VARIANCE)
    weights = Skellam(MAXIMUM_VARIANCE).weights()
    last = Fraction(weights[-1], 2 * sum(weights) - weights[0])
    assert len(weights) == n + 1
    assert (n + 1) ** 2 * last < Fraction(1, 2**137)
    assert Fraction(n, 2**192) < Fraction(1, 2**173)
    assert 2 * (n + 3) ** 3 < 2**58
    # The tail, both of them, the recurrence and its rounding.
    assert Fraction(1, 2**175) + Fraction(1, 2**137) + Fraction(1, 2**173) < CLAIMED
    # The truncation to 256 bits, of the table's docstring.
    assert Fraction(n, 2**FRACTION_BITS) < Fraction(1, 2**237)
    assert CLAIMED + Fraction(1, 2**237) < Fraction(1, 2**134)


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [(0, 1), (1, 10**30), (1, 2 * 900_000_000), (1, 3), (1, 1), (355, 113), (200, 1), (10**9, 1)],
)
@pytest.mark.parametrize("bits", [64, 320, 512])
def test_exponential_is_within_two_steps(numerator: int, denominator: int, bits: int) -> None:
    with localcontext() as context:
        context.prec = 250
        true = (-Decimal(numerator) / Decimal(denominator)).exp() * Decimal(2) ** bits
    assert abs(exp_negative(numerator, denominator, bits) - true) <= 2


# Survival


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("variance", [1e-3, 0.3, 16.0, 1600.0])
def test_survival_is_the_sum_of_the_weights_rounded_down(kind: type, variance: float) -> None:
    weights = kind(variance).weights()
    total = 2 * sum(weights) - weights[0]
    made = survival(weights)
    for k, step in enumerate(made, start=1):
        exact = Fraction(2 * sum(weights[k:]), total) * 2**FRACTION_BITS
        assert step == math.floor(exact)
    assert all(a >= b > 0 for a, b in itertools.pairwise(made))
    rest = Fraction(2 * sum(weights[len(made) + 1 :]), total)
    assert rest < Fraction(1, 2**FRACTION_BITS)


@pytest.mark.parametrize("kind", LAWS)
def test_fewer_bits_are_the_top_ones(kind: type) -> None:
    weights = kind(77.7).weights()
    top = [x >> (FRACTION_BITS - 64) for x in survival(weights)]
    assert survival(weights, 64) == [x for x in top if x]


# Construction


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(
    "variance", [0.0, -1.0, math.nan, math.inf, -math.inf, MAXIMUM_VARIANCE * 1.001, 1e300]
)
def test_a_variance_out_of_range_is_refused(kind: type, variance: float) -> None:
    with pytest.raises(ConfigError, match=r"variance="):
        kind(variance)


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("variance", [5e-324, 1e-300, 1e-30])
def test_a_vanishing_variance_leaves_only_zero(kind: type, variance: float) -> None:
    p = probabilities(kind(variance))
    assert p[0] == pytest.approx(1.0)
    assert p[1:].max() <= variance


@pytest.mark.parametrize("kind", LAWS)
def test_whole_numbers_are_variances_too(kind: type) -> None:
    assert kind(16).weights() == kind(16.0).weights()
    assert hash(kind(16)) == hash(kind(16.0))


def test_laws_are_equal_by_kind_and_variance() -> None:
    assert Skellam(4.0) == Skellam(4.0)
    assert len({Skellam(4.0), Skellam(4.0), Skellam(5.0), DiscreteGaussian(4.0)}) == 3
    with pytest.raises(AttributeError):
        Skellam(4.0).variance = 5.0  # type: ignore[misc]


def test_weights_are_the_same_everywhere() -> None:
    assert [w % 10**12 for w in Skellam(2.5).weights()[:4]] == PINNED["skellam"]
    assert [w % 10**12 for w in DiscreteGaussian(2.5).weights()[:4]] == PINNED["gaussian"]
