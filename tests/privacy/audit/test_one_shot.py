"""Epsilon between normals is exact; the estimate recovers a mechanism, the bound covers it."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from scipy import integrate, stats

from tacit.privacy.audit.one_shot import (
    Normal,
    between,
    cosines,
    delta_between,
    estimate_known,
    estimate_measured,
)
from tacit.privacy.errors import ConfigError

DELTA = 1e-5


@pytest.mark.parametrize("z", [0.05, 0.3, 1.0, 4.0, 50.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.1])
def test_equal_deviations_are_the_gaussian_mechanism(z: float, delta: float) -> None:
    want = dp_accounting.get_epsilon_gaussian(z, delta)
    got = between(Normal(3.0, 2.0 * z), Normal(1.0, 2.0 * z), delta)
    assert got == pytest.approx(want, rel=1e-6, abs=1e-9)


PAIRS = [
    (Normal(1.0, 2.0), Normal(0.0, 1.0)),
    (Normal(1.0, 0.5), Normal(0.0, 1.0)),
    (Normal(-3.0, 1.001), Normal(0.5, 1.0)),
    (Normal(0.0, 0.7), Normal(0.0, 1.0)),
    (Normal(0.0, 1.4), Normal(0.0, 1.0)),
    (Normal(0.03, 0.02), Normal(0.01, 0.03)),
]


def by_quadrature(epsilon: float, p: Normal, q: Normal) -> float:
    """The integral of (p - exp(epsilon) q)+, which knows nothing of roots."""
    one, two = stats.norm(p.mean, p.deviation), stats.norm(q.mean, q.deviation)
    reach = 12 * max(p.deviation, q.deviation) + abs(p.mean) + abs(q.mean)
    grid = np.linspace(-reach, reach, 400_001)
    values = np.maximum(one.pdf(grid) - math.exp(epsilon) * two.pdf(grid), 0.0)
    return float(integrate.simpson(values, x=grid))


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.7, 4.0])
def test_deltas_are_the_integrals(p: Normal, q: Normal, epsilon: float) -> None:
    for one, two in ((p, q), (q, p)):
        want = by_quadrature(epsilon, one, two)
        assert delta_between(epsilon, one, two) == pytest.approx(want, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_epsilon_meets_delta_both_ways(p: Normal, q: Normal) -> None:
    for delta in (1e-8, 1e-4, 1e-2):
        found = between(p, q, delta)
        assert found == between(q, p, delta)
        worst = max(delta_between(found, p, q), delta_between(found, q, p))
        assert worst == pytest.approx(delta, rel=1e-5) if found > 0 else worst <= delta


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_epsilon_knows_no_units(p: Normal, q: Normal) -> None:
    moved = (Normal(9 - 7 * n.mean, 7 * n.deviation) for n in (p, q))
    assert between(*moved, DELTA) == pytest.approx(between(p, q, DELTA), rel=1e-9)


def test_the_same_normal_tells_nothing() -> None:
    assert between(Normal(2.0, 3.0), Normal(2.0, 3.0), 1e-9) == 0.0


@pytest.mark.parametrize("deviation", [0.4, 0.95, 1.0, 1.3])
def test_what_the_search_of_the_bound_relies_on(deviation: float) -> None:
    # More distance tells more; one more noise on both tells less.
    at = [between(Normal(gap, deviation), Normal(0.0, 1.0), DELTA) for gap in np.arange(0, 6, 0.4)]
    assert np.all(np.diff(at) > 0)
    noised = [
        between(
            Normal(1.5, math.sqrt(deviation**2 + more)), Normal(0.0, math.sqrt(1 + more)), DELTA
        )
        for more in np.arange(0, 6, 0.4)
    ]
    assert np.all(np.diff(noised) < 0)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("truth", [(2.0, 1.0), (1.0, 1.2), (0.5, 0.8), (0.0, 1.0)])
def test_the_bound_covers_normal_statistics(known: bool, truth: tuple[float, float]) -> None:
    # 40 seen statistics over N(0, 1/d) with d = 1, at 90%. Of 100 samples more than 30 miss with
    # a probability below 1e-8 even if 10 were expected.
    rng = np.random.default_rng(5)
    epsilon = between(Normal(*truth), Normal(0.0, 1.0), DELTA)
    missed = 0
    for _ in range(100):
        seen = rng.normal(*truth, 40)
        if known:
            found = estimate_known(seen, 1, DELTA, 0.9)
        else:
            found = estimate_measured(seen, rng.normal(size=60), DELTA, 0.9)
        missed += found.lower_bound > epsilon
    assert missed <= 30


def test_the_bound_is_the_smallest_over_what_is_possible() -> None:
    rng = np.random.default_rng(6)
    seen, unseen = rng.normal(2.0, 1.1, 50), rng.normal(0.0, 1.0, 70)
    found = estimate_measured(seen, unseen, DELTA, 0.9)
    # The region of `estimate_measured`, written out again.
    doubt, corners = 0.1 / 4, []
    for values in (seen, unseen):
        n, mean, spread = len(values), values.mean(), values.var(ddof=1)
        reach = stats.t.isf(doubt, n - 1) * math.sqrt(spread / n)
        ends = [(n - 1) * spread / stats.chi2.isf(p, n - 1) for p in (doubt / 2, 1 - doubt / 2)]
        corners.append((mean - reach, mean + reach, *ends))
    (low, _, *one), (_, high, *two) = corners
    smallest = math.inf
    for v1, v2 in rng.random((1500, 2)):
        p = Normal(low, math.sqrt(one[0] + v1 * (one[1] - one[0])))
        q = Normal(high, math.sqrt(two[0] + v2 * (two[1] - two[0])))
        smallest = min(smallest, between(p, q, DELTA))
    assert found.lower_bound <= smallest < 1.02 * found.lower_bound


def mechanism(z: float, d: int, m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian mechanism on m random unit vectors: the vectors, and the noised sum."""
    drawn = rng.normal(size=(m, d))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn, (drawn.sum(axis=0) + z * rng.normal(size=d))[None]


@pytest.mark.parametrize("z", [1.0, 3.0])
def test_the_gaussian_mechanism_is_recovered_and_covered(z: float) -> None:
    rng = np.random.default_rng(8)
    epsilon = dp_accounting.get_epsilon_gaussian(z, DELTA)
    estimates, bounds = [], []
    for _ in range(20):
        directions, update = mechanism(z, 4000, 200, rng)
        found = estimate_known(cosines(directions, update)[0], 4000, DELTA, 0.95)
        estimates.append(found.epsilon)
        bounds.append(found.lower_bound)
    # Fitted deviations are off by 5% each time, which tails at 1e-5 magnify, mostly upwards.
    assert epsilon * 0.9 < np.mean(estimates) < epsilon * 1.2 + 0.7
    assert np.count_nonzero(np.array(bounds) > epsilon) <= 3
    assert np.mean(bounds) > 0.4 * epsilon


def test_more_canaries_come_closer() -> None:
    rng = np.random.default_rng(9)
    directions, update = mechanism(1.0, 20_000, 1000, rng)
    found = estimate_known(cosines(directions, update)[0], 20_000, DELTA, 0.95)
    want = dp_accounting.get_epsilon_gaussian(1.0, DELTA)
    assert found.epsilon == pytest.approx(want, rel=0.15)
    assert 0.7 * want < found.lower_bound < want


def test_cosines_are_of_each_update() -> None:
    directions = np.eye(3)[:2]
    got = cosines(directions, np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    assert got == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))


def test_canaries_below_the_unseen_count_as_no_signal() -> None:
    rng = np.random.default_rng(10)
    found = estimate_known(rng.normal(-3.0, 1.0, 400), 1, DELTA, 0.95)
    assert found.epsilon < 2
    assert found.lower_bound == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: Normal(0.0, 0.0),
        lambda: Normal(math.nan, 1.0),
        lambda: between(Normal(0.0, 1.0), Normal(1.0, 1.0), 0.0),
        lambda: delta_between(-1.0, Normal(0.0, 1.0), Normal(1.0, 1.0)),
        lambda: estimate_known(np.zeros(1), 4, DELTA, 0.95),
        lambda: estimate_known(np.array([0.0, np.nan]), 4, DELTA, 0.95),
        lambda: estimate_known(np.arange(3.0), 4, DELTA, 1.0),
        lambda: estimate_measured(np.arange(3.0), np.zeros((2, 2)), DELTA, 0.95),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]
