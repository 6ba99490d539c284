"""The bound from guesses: the paper's figures, exact binomials, and coverage without luck."""

from __future__ import annotations

import math
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from tacit.privacy.audit import one_run
from tacit.privacy.audit.one_run import Guesses, audit, choices, correct, lower_bound, p_value
from tacit.privacy.errors import ConfigError


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "delta", "printed"),
    # Appendix D and section 7; the second is printed truncated.
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_the_papers_own_figures(
    canaries: int, guesses: int, right: int, delta: float, printed: float
) -> None:
    assert abs(lower_bound(canaries, guesses, right, delta, 0.95) - printed) < 1e-3


def exactly(m: int, r: int, v: int, odds: Fraction, delta: Fraction) -> Fraction:
    """Theorem 5.2's bound in rationals, term by term; ``odds`` is exp(epsilon)."""
    q = odds / (1 + odds)
    mass = [math.comb(r, w) * q**w * (1 - q) ** (r - w) for w in range(r + 1)]
    beta = sum(mass[v:], Fraction(0))
    alpha = max(
        (sum(mass[max(0, v - i) : v], Fraction(0)) / i for i in range(1, m + 1)),
        default=Fraction(0),
    )
    return min(Fraction(1), beta + 2 * m * delta * alpha)


@pytest.mark.parametrize("odds", [Fraction(1), Fraction(3, 2), Fraction(7), Fraction(400)])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 10**5), Fraction(1, 500)])
@pytest.mark.parametrize(("m", "r"), [(1, 1), (12, 12), (40, 16)])
def test_p_values_are_the_theorems(odds: Fraction, delta: Fraction, m: int, r: int) -> None:
    for v in range(r + 1):
        want = float(exactly(m, r, v, odds, delta))
        got = p_value(m, r, v, math.log(odds), float(delta))
        assert want <= got <= want * (1 + 1e-8)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("r", [1, 20, 500])
def test_all_right_without_delta_has_a_closed_form(r: int, confidence: float) -> None:
    q = (1 - confidence) ** (1 / r)
    want = max(0.0, math.log(q / (1 - q)))
    assert lower_bound(r, r, r, 0.0, confidence) == pytest.approx(want, abs=1e-7)


def test_p_values_and_bounds_are_monotone() -> None:
    by_epsilon = [p_value(200, 100, 80, e, 1e-5) for e in np.linspace(0, 6, 200)]
    assert np.all(np.diff(by_epsilon) >= 0)
    by_right = [lower_bound(200, 100, v, 1e-5, 0.95) for v in range(101)]
    assert np.all(np.diff(by_right) >= 0)
    assert by_right[50] == 0.0 < by_right[70] < by_right[100]
    by_delta = [lower_bound(200, 100, 95, d, 0.95) for d in (0.0, 1e-6, 1e-4, 1e-3, 1e-1)]
    assert np.all(np.diff(by_delta) <= 0)
    assert by_delta[-1] == 0.0
    by_doubt = [lower_bound(200, 100, 95, 1e-5, c) for c in (0.5, 0.9, 0.99, 0.9999)]
    assert np.all(np.diff(by_doubt) < 0)


def test_the_bound_is_where_the_p_value_crosses_the_level() -> None:
    found = lower_bound(300, 60, 57, 1e-5, 0.95)
    assert p_value(300, 60, 57, found, 1e-5) < 0.05 <= p_value(300, 60, 57, found + 1e-6, 1e-5)


def missed(m: int, epsilon: float, delta: float, accuracy: float) -> float:
    """Exact probability that the bound is above epsilon when guesses are right independently."""
    right = stats.binom(m, accuracy)
    bounds = [lower_bound(m, m, v, delta, 0.95) for v in range(m + 1)]
    return float(sum(right.pmf(v) for v in range(m + 1) if bounds[v] > epsilon))


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 2.5, 5.0])
@pytest.mark.parametrize("m", [5, 60])
def test_randomised_response_is_covered_exactly(epsilon: float, m: int) -> None:
    # It is the mechanism on which the theorem is tight.
    q = 1 / (1 + math.exp(-epsilon))
    level = missed(m, epsilon, 0.0, q)
    assert level <= 0.05
    # And no bound is far too careful: a slightly better attack is noticed.
    assert missed(m, epsilon, 0.0, q) >= 0.05 - stats.binom(m, q).pmf(np.arange(m + 1)).max()


@pytest.mark.parametrize("delta", [1e-4, 1e-3])
def test_leaks_within_delta_are_covered_exactly(delta: float) -> None:
    # Each answer of its own is the truth with probability delta; or all of them at once.
    m, epsilon = 60, 1.0
    q = 1 / (1 + math.exp(-epsilon))
    assert missed(m, epsilon, delta, delta + (1 - delta) * q) <= 0.05
    assert delta + (1 - delta) * missed(m, epsilon, delta, q) <= 0.05
    # Not charged for, the leak of all coins would break a bound at a level this strict.
    strict = lower_bound(m, m, m, 0.0, 1 - delta / 2)
    assert strict > epsilon > lower_bound(m, m, m, delta, 1 - delta / 2)


def test_guesses_are_the_ends_of_the_order() -> None:
    scores = np.array([0.5, -1.0, 3.0, 2.0, 0.0])
    included = np.array([True, False, True, False, True])
    assert correct(scores, included, Guesses(1, 1)) == 2
    assert correct(scores, included, Guesses(2, 1)) == 2
    assert correct(scores, included, Guesses(0, 2)) == 1
    assert correct(scores, included, Guesses(3, 2)) == 3


def test_choices_are_fixed_by_the_number_of_canaries() -> None:
    assert choices(1000) == (Guesses(83, 83), Guesses(250, 250))
    assert choices(2) == (Guesses(1, 1),)


def test_several_ways_pay_for_the_choice() -> None:
    rng = np.random.default_rng(3)
    included = rng.random(200) < 0.5
    scores = 3.0 * included + rng.normal(size=200)
    ways = [Guesses(50, 50), Guesses(20, 20)]
    best = audit(scores, included, 1e-5, 0.95, ways)
    each = [
        lower_bound(200, 2 * way.top, correct(scores, included, way), 1e-5, 0.975) for way in ways
    ]
    assert best.lower_bound == max(each)
    assert best.guesses == ways[int(np.argmax(each))]


def gaussian(m: int, z: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dirac canaries in the Gaussian mechanism: a coordinate each."""
    included = rng.random(m) < 0.5
    return included + z * rng.normal(size=m), included


@pytest.mark.parametrize("z", [0.5, 1.0, 4.0])
def test_the_gaussian_mechanism_is_covered(z: float) -> None:
    epsilon = dp_accounting.get_epsilon_gaussian(z, 1e-5)
    rng = np.random.default_rng(11)
    bounds = [audit(*gaussian(200, z, rng), 1e-5, 0.95).lower_bound for _ in range(200)]
    # 0.05 is allowed. At these epsilons the theorem leaves far more room than that.
    assert max(bounds) < epsilon


def test_half_the_noise_is_noticed() -> None:
    rng = np.random.default_rng(12)
    claimed = dp_accounting.get_epsilon_gaussian(1.0, 1e-5)
    found = audit(*gaussian(1000, 0.2, rng), 1e-5, 0.95).lower_bound
    assert found > 4.8 > claimed


def test_without_a_signal_nothing_is_found() -> None:
    rng = np.random.default_rng(13)
    found = [
        audit(rng.normal(size=100), rng.random(100) < 0.5, 1e-5, 0.95).lower_bound
        for _ in range(200)
    ]
    # Expected are fewer than 10; more than 30 have a probability below 1e-7.
    assert np.count_nonzero(found) <= 30


@pytest.mark.parametrize(
    "call",
    [
        lambda: p_value(10, 11, 5, 1.0, 0.0),
        lambda: p_value(10, 5, 6, 1.0, 0.0),
        lambda: p_value(10, 5, -1, 1.0, 0.0),
        lambda: p_value(10, 5, 5, -1.0, 0.0),
        lambda: p_value(10, 5, 5, 1.0, 1.0),
        lambda: lower_bound(10, 5, 5, 0.0, 1.0),
        lambda: Guesses(0, 0),
        lambda: Guesses(-1, 3),
        lambda: correct(np.zeros(3), np.zeros(4, bool), Guesses(1, 1)),
        lambda: correct(np.array([0.0, np.nan]), np.zeros(2, bool), Guesses(1, 1)),
        lambda: correct(np.zeros(3), np.zeros(3, bool), Guesses(2, 2)),
        lambda: audit(np.zeros(3), np.zeros(3, bool), 1e-5, 0.95, []),
        lambda: one_run.choices(1),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]
