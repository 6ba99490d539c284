"""The bound on participations: exact, a union bound, and known before any draw."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.participation import FAILURE, bound


def exceeds(draws: int, rate: float, b: int) -> Fraction:
    """P[Binomial(draws, rate) > b], exactly."""
    p = Fraction(rate)
    return sum(
        (math.comb(draws, k) * p**k * (1 - p) ** (draws - k) for k in range(b + 1, draws + 1)),
        Fraction(0),
    )


@pytest.mark.parametrize("draws", [1, 2, 5, 20, 60])
@pytest.mark.parametrize("rate", [1e-9, 1e-4, 0.01, 0.2, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("population", [1, 10, 300, 10**6])
def test_the_smallest_bound_whose_union_over_clients_holds(
    draws: int, rate: float, population: int
) -> None:
    b = bound(draws, rate, population)
    assert population * exceeds(draws, rate, b) <= Fraction(FAILURE)
    if b > 0:
        assert population * exceeds(draws, rate, b - 1) > Fraction(FAILURE)


@given(st.integers(1, 10_000), st.integers(1, 10**6))
def test_without_sampling_every_client_takes_part_in_every_draw(n: int, population: int) -> None:
    assert bound(n, 1.0, population) == n


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 50), st.floats(1e-6, 1.0), st.integers(1, 10**5))
def test_more_draws_rate_or_clients_never_lower_the_bound(
    draws: int, more: int, rate: float, population: int
) -> None:
    here = bound(draws, rate, population)
    assert 0 <= here <= draws
    assert here <= bound(draws + more, rate, population) <= here + more
    assert here <= bound(draws, min(1.0, rate * 1.5), population)
    assert here <= bound(draws, rate, population * 10)


def test_the_bound_is_above_what_simulated_clients_reach() -> None:
    draws, rate, population = 60, 0.2, 300
    rng = np.random.default_rng(0)
    worst = rng.binomial(draws, rate, size=(1000, population)).max(axis=1)
    b = bound(draws, rate, population)
    assert worst.max() <= b
    # And not by so much that it says nothing.
    assert b <= worst.max() + 6 < draws
