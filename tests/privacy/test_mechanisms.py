"""The central mechanisms: no vector passes its bound, and the noise is the declared one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.special import log_ndtr, ndtr

from tacit.privacy.errors import ConfigError
from tacit.privacy.mechanisms import MARGIN, adapt, clip, noisy_sum, unclipped_bit
from tacit.privacy.noise import SimulationSource, SystemSource
from tacit.privacy.units import AdaptiveClip

ALARM = 1e-7

bounds = st.floats(1e-9, 1e9)
doubles = hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(width=64))
singles = hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32))
ordinary = hnp.arrays(np.float32, 6, elements=st.floats(-1e6, 1e6, width=32))


def length(vector: np.ndarray) -> float:
    """L2 norm without overflow or underflow."""
    return math.hypot(*(float(x) for x in vector))


@settings(max_examples=500)
@given(doubles | singles, bounds)
def test_nothing_comes_out_of_clip_longer_than_the_bound(vector: np.ndarray, bound: float) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        clipped = clip(vector, bound)
    if clipped is None:
        # Refused: only what isn't finite, or whose squares aren't.
        assert not length(vector) < 1e150
        return
    assert np.isfinite(vector).all()
    assert clipped.dtype == np.float64
    assert clipped.shape == vector.shape
    assert length(clipped) < bound


@settings(max_examples=300)
@given(singles.filter(lambda v: np.isfinite(v).all()), bounds)
def test_a_finite_float32_vector_is_never_refused(vector: np.ndarray, bound: float) -> None:
    # Its norm may be infinite in float32 and is finite in float64.
    assert clip(vector, bound) is not None


def test_a_norm_that_overflows_float32_is_clipped_and_not_dropped() -> None:
    vector = np.full(100, 3e38, dtype=np.float32)
    with np.errstate(over="ignore"):
        assert np.isinf(np.linalg.norm(vector))
    clipped = clip(vector, 1.0)
    assert clipped is not None
    assert length(clipped) == pytest.approx(MARGIN, rel=1e-12)
    assert clipped == pytest.approx(np.full(100, 0.1), rel=1e-5)


@given(ordinary, st.floats(1e-3, 1e3))
def test_clip_keeps_the_direction_and_as_much_of_the_length_as_it_may(
    vector: np.ndarray, bound: float
) -> None:
    clipped, norm = clip(vector, bound), length(vector)
    assert clipped is not None
    expected = vector.astype(np.float64) * min(1.0, bound * MARGIN / norm if norm else 1.0)
    np.testing.assert_allclose(clipped, expected, rtol=1e-12)


@given(ordinary)
def test_a_vector_within_the_bound_is_left_exactly_alone(vector: np.ndarray) -> None:
    clipped = clip(vector, max(1e-6, 1.001 * length(vector)))
    assert clipped is not None
    assert (clipped == vector).all()


@given(ordinary, st.floats(1e-3, 1e3))
def test_clipping_twice_is_clipping_once(vector: np.ndarray, bound: float) -> None:
    once = clip(vector, bound)
    assert once is not None
    twice = clip(once, bound)
    assert twice is not None
    np.testing.assert_allclose(twice, once, rtol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("where", [0, 7])
def test_one_coordinate_that_is_not_finite_drops_the_vector(
    bad: float, dtype: type, where: int
) -> None:
    vector = np.zeros(8, dtype)
    vector[where] = bad
    assert clip(vector, 1.0) is None


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_zeros_stay_zeros(size: int) -> None:
    clipped = clip(np.zeros(size, np.float32), 0.5)
    assert clipped is not None
    assert clipped.shape == (size,)
    assert not clipped.any()


@pytest.mark.parametrize("bound", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("vector", [[3.0, 4.0], [0.0], [], [math.nan]], ids=str)
def test_a_bound_that_bounds_nothing_is_refused_for_any_vector(
    bound: float, vector: list[float]
) -> None:
    # NaN would compare as no excess and let the vector through as it is.
    with pytest.raises(ConfigError, match=f"clip={bound} must be finite and greater than 0"):
        clip(np.array(vector), bound)


def test_clip_does_not_write_to_what_it_was_given() -> None:
    vector = np.array([3.0, 4.0])
    clip(vector, 1.0)
    assert vector.tolist() == [3.0, 4.0]
    # Decoded messages are read-only.
    vector.flags.writeable = False
    assert clip(vector, 1.0) is not None


@settings(deadline=None)
@given(st.lists(ordinary, min_size=1, max_size=30), st.data(), st.floats(1e-3, 1e3))
def test_adding_or_removing_one_unit_moves_the_sum_by_at_most_the_clip(
    vectors: list[np.ndarray], data: st.DataObject, bound: float
) -> None:
    def total(units: list[np.ndarray]) -> np.ndarray:
        made = np.zeros(6)
        for unit in units:
            clipped = clip(unit, bound)
            assert clipped is not None
            made += clipped
        return made

    one = data.draw(st.integers(0, len(vectors) - 1))
    without = vectors[:one] + vectors[one + 1 :]
    assert length(total(vectors) - total(without)) <= bound


def test_the_margin_absorbs_the_rounding_of_a_large_cohort() -> None:
    rng = np.random.default_rng(0)
    units = rng.normal(size=(2000, 500)).astype(np.float32) * 1e3
    total, without = np.zeros(500), np.zeros(500)
    for k, unit in enumerate(units):
        clipped = clip(unit, 1.0)
        assert clipped is not None
        total += clipped
        if k:
            without += clipped
    assert MARGIN - 1e-9 < length(total - without) < 1.0


# Noise


@pytest.mark.parametrize(("z", "bound"), [(1.0, 1.0), (0.3, 7.0), (12.0, 0.01)])
def test_the_noise_is_gaussian_with_the_declared_deviation(z: float, bound: float) -> None:
    total = np.linspace(-5, 5, 50_000)
    residual = (noisy_sum(total, bound, z, SystemSource()) - total) / (z * bound)
    squares = float(np.square(residual).sum())
    assert stats.chi2.ppf(ALARM, total.size) < squares < stats.chi2.isf(ALARM, total.size)
    assert stats.kstest(residual, "norm").pvalue > ALARM
    # Teeth: a deviation 4% off would be seen.
    assert not stats.chi2.ppf(ALARM, total.size) < squares * 0.96**2


def test_the_noise_is_fresh_at_each_call_and_for_each_coordinate() -> None:
    source = SystemSource()
    first, second = (noisy_sum(np.zeros(1000), 1.0, 1.0, source) for _ in range(2))
    assert np.unique(np.concatenate([first, second])).size == 2000


def test_what_is_released_can_be_told_apart_no_better_than_accounted() -> None:
    # Empirical hockey-stick at one epsilon, with the threshold that is optimal for it.
    z, bound, eps, n = 1.5, 2.0, 0.5, 400_000
    unit = clip(np.full(1, 1e9), bound)
    assert unit is not None
    source = SystemSource()
    with_unit = noisy_sum(np.full(n, unit[0]), bound, z, source)
    without = noisy_sum(np.zeros(n), bound, z, source)
    cut = bound * (z * z * eps + 0.5)
    measured = (with_unit > cut).mean() - math.exp(eps) * (without > cut).mean()
    exact = ndtr(0.5 / z - eps * z) - math.exp(eps + log_ndtr(-0.5 / z - eps * z))
    # Hoeffding for the two means.
    slack = (1 + math.exp(eps)) * math.sqrt(math.log(4 / ALARM) / (2 * n))
    assert abs(measured - exact) < slack
    weaker = ndtr(0.5 / 1.2 - eps * 1.2) - math.exp(eps + log_ndtr(-0.5 / 1.2 - eps * 1.2))
    assert weaker - exact > 2 * slack, "the test could not see a noise of 1.2 for 1.5"


def test_no_noise_is_added_for_a_multiplier_of_zero() -> None:
    total = np.arange(5.0)
    assert (noisy_sum(total, 1.0, 0.0, SimulationSource(0)) == total).all()


def test_noising_does_not_write_to_the_sum() -> None:
    total = np.zeros(5)
    noisy_sum(total, 1.0, 1.0, SimulationSource(0))
    assert not total.any()


# Adaptive clipping


@pytest.mark.parametrize(
    ("norm", "bit"), [(0.0, 0.5), (1.0, 0.5), (1.0000001, -0.5), (math.inf, -0.5), (math.nan, -0.5)]
)
def test_a_vote_is_half_either_way(norm: float, bit: float) -> None:
    assert unclipped_bit(norm, 1.0) == bit


@given(st.floats(1e-3, 1e3), st.integers(1, 500), st.floats(0.01, 0.99), st.floats(0.01, 1.0))
def test_the_update_is_the_papers(bound: float, n: int, quantile: float, rate: float) -> None:
    rule = AdaptiveClip(quantile, rate, 1.0)
    norms = np.random.default_rng(n).lognormal(math.log(bound), 1.0, n)
    bits = sum(unclipped_bit(x, bound) for x in norms)
    # Andrew et al. 2021: C <- C exp(-eta (b - gamma)), b the fraction at or below C.
    fraction = float((norms <= bound).mean())
    expected = bound * math.exp(-rate * (fraction - quantile))
    assert adapt(bound, bits, n, rule) == pytest.approx(expected, rel=1e-9)


@given(st.floats(-1e12, 1e12), st.floats(0.01, 0.99), st.floats(0.01, 1.0))
def test_noise_moves_the_clip_no_further_than_a_unanimous_vote(
    bits: float, quantile: float, rate: float
) -> None:
    rule = AdaptiveClip(quantile, rate, 1.0)
    low, high = math.exp(-rate * (1 - quantile)), math.exp(rate * quantile)
    assert low * (1 - 1e-12) <= adapt(1.0, bits, 50.0, rule) <= high * (1 + 1e-12)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_clip_converges_to_the_target_quantile(quantile: float, start: float) -> None:
    rule, cohort = AdaptiveClip(quantile, 0.2, 5.0), 100
    rng, source = np.random.default_rng(1), SimulationSource(1, "bits")
    bound, fractions = start, []
    for step in range(300):
        norms = rng.lognormal(0.0, 1.0, rng.poisson(cohort))
        bits = sum(unclipped_bit(x, bound) for x in norms)
        bound = adapt(bound, bits + rule.count_noise * source.normal(1)[0], cohort, rule)
        if step >= 150:
            fractions.append(stats.norm.cdf(math.log(bound)))
    assert np.mean(fractions) == pytest.approx(quantile, abs=0.03)
