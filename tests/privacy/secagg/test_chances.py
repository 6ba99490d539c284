"""Chances are scipy's, rounded up."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from tacit.privacy.secagg import chances

SIZES = [1, 2, 7, 100, 299, 1000, 5000, 10_000]


def same(found: chances.Logs, theirs: chances.Logs) -> bool:
    """scipy's own rounding is as large as ours."""
    both = np.isfinite(theirs) & np.isfinite(found)
    return bool(
        np.array_equal(np.isneginf(found), np.isneginf(theirs))
        and np.allclose(found[both], theirs[both], rtol=0, atol=1e-9)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", [0.0, 0.05, 1 / 3, 0.9, 1.0])
@pytest.mark.parametrize("draw", [0.0, 0.1, 0.5, 1.0])
def test_hypergeometric(size: int, part: float, draw: float) -> None:
    marked, draws = int(part * size), int(draw * size)
    counts = np.arange(draws + 2)
    found = chances.hypergeometric(counts, size, marked, draws)
    assert same(found, stats.hypergeom.logpmf(counts, size, marked, draws))


@pytest.mark.parametrize("draws", [0, *SIZES])
@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.05, 0.3, 0.999])
def test_binomial(draws: int, rate: float) -> None:
    counts = np.arange(draws + 2)
    found = chances.binomial(counts, draws, rate)
    theirs = stats.binom.logpmf(counts, draws, rate)
    # What rare successes in 10,000 tries add up to is beyond nine digits after the point.
    assert np.array_equal(np.isneginf(found), np.isneginf(theirs))
    finite = np.isfinite(theirs)
    assert np.allclose(found[finite], theirs[finite], rtol=1e-13, atol=1e-9)


@pytest.mark.parametrize(("size", "marked", "draws"), [(20, 7, 9), (300, 100, 68), (999, 50, 200)])
def test_never_below_the_exact_chance(size: int, marked: int, draws: int) -> None:
    counts = np.arange(min(marked, draws) + 1)
    found = chances.hypergeometric(counts, size, marked, draws)
    for count, log in zip(counts.tolist(), found.tolist(), strict=True):
        ways = math.comb(marked, count) * math.comb(size - marked, draws - count)
        exact = Fraction(ways, math.comb(size, draws))
        assert log_of(exact) <= log <= log_of(exact) + 1e-9


@pytest.mark.parametrize(("draws", "percent"), [(10, 5), (228, 10), (999, 33)])
def test_a_binomial_is_never_below_the_exact_chance(draws: int, percent: int) -> None:
    rate = Fraction(percent, 100)
    found = chances.binomial(np.arange(draws + 1), draws, percent / 100)
    for count, log in enumerate(found.tolist()):
        exact = math.comb(draws, count) * rate**count * (1 - rate) ** (draws - count)
        assert log_of(exact) <= log <= log_of(exact) + 1e-9


def log_of(exact: Fraction) -> float:
    """Of a fraction whose parts are beyond a double's range."""
    return math.log(exact.numerator) - math.log(exact.denominator)
