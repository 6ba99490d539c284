"""An estimate of epsilon from how far canary clients show in released models.

Andrew, Kairouz, Oh, Oprea, McMahan and Suriyakumar 2024, "One-shot empirical privacy
estimation for federated learning" (ICLR 2024, arXiv:2302.03098), sections 3 and 4. Each canary
client sends a random direction, as long as the clip allows. Its statistic is the cosine of
its direction with the sum of all released updates, or the largest cosine with one round's.
Directions that nobody sent have cosines of N(0, 1/d), nearly; those that were sent lie higher.
Normals are fitted to both, and epsilon is the exact one between the two normals at delta.

Guarantees: `between` is the epsilon of telling two normals apart, both ways, with the optimal
test, up to floating point. `Estimate.lower_bound` is below it with probability ``confidence``,
*if* the statistics are independent draws from two normals. For the Gaussian mechanism with
dimension far above the number of canaries over the squared noise multiplier they are nearly
that, and the estimate converges to its epsilon (Theorem 3.1 there).
It doesn't guarantee a bound without that assumption, which no sample can show to hold in the
tails that a small delta looks at; `tacit.privacy.audit.one_run` needs none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

Floats = NDArray[np.float64]

_STEPS = 64
_GRID = 33
_LARGEST = 1e9


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal distribution.

    Attributes:
        mean: finite.
        deviation: > 0.
    """

    mean: float
    deviation: float

    def __post_init__(self) -> None:
        validate.finite("mean", self.mean)
        validate.positive("deviation", self.deviation)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the statistics of canaries say of epsilon.

    Attributes:
        epsilon: between the fitted normals.
        lower_bound: smallest epsilon between normals that the statistics don't contradict.
        seen: fitted to the canaries' statistics.
        unseen: of directions that nobody sent.
    """

    epsilon: float
    lower_bound: float
    seen: Normal
    unseen: Normal


@dataclass(frozen=True, slots=True)
class _Region:
    """Means and variances that a sample leaves possible."""

    low: float
    high: float
    least: float
    most: float


def cosines(directions: Floats, updates: Floats) -> Floats:
    """The statistics of one or more released updates.

    Args:
        directions: unit vectors, shape [m, d].
        updates: shape [rounds, d].

    Returns:
        Shape [rounds, m]; zeros for an update that is zero.
    """
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    return np.asarray((updates / np.where(norms > 0, norms, 1.0)) @ directions.T)


def delta_between(epsilon: float, p: Normal, q: Normal) -> float:
    """Max over sets S of P(S) - exp(epsilon) Q(S), exactly: one way."""
    validate.nonnegative("epsilon", epsilon)
    mean, ratio = (p.mean - q.mean) / q.deviation, p.deviation / q.deviation
    return float(_delta(np.array([epsilon]), abs(mean), np.array([ratio]))[0])


def between(p: Normal, q: Normal, delta: float) -> float:
    """Smallest epsilon at which two normals are (epsilon, delta)-indistinguishable, both ways.

    Raises:
        ConfigError: delta isn't in (0, 1).

    Example:
        The Gaussian mechanism with noise multiplier 1 (Balle and Wang 2018).

        >>> round(between(Normal(1.0, 1.0), Normal(0.0, 1.0), 1e-5), 3)
        4.377
    """
    validate.open_unit("delta", delta)
    gap = abs(p.mean - q.mean)
    found = _between(gap, np.array([p.deviation]), np.array([q.deviation]), delta)
    return float(found[0])


def estimate_known(seen: Floats, dimension: int, delta: float, confidence: float) -> Estimate:
    """From the cosines with one vector, whose law for unseen directions is known.

    Args:
        seen: of the canaries, shape [m].
        dimension: d; unseen cosines are N(0, 1/d).
        delta: at which epsilon is stated.
        confidence: of the lower bound.
    """
    validate.at_least("dimension", dimension, 1)
    unseen = Normal(0.0, 1.0 / math.sqrt(dimension))
    variance = unseen.deviation**2
    reference = _Region(0.0, 0.0, variance, variance)
    doubt = (1.0 - confidence) / 2.0
    return _estimate(seen, unseen, _region(seen, doubt), reference, delta)


def estimate_measured(seen: Floats, unseen: Floats, delta: float, confidence: float) -> Estimate:
    """From statistics of canaries and of directions that nobody sent, both measured.

    Args:
        seen: shape [m].
        unseen: shape [any], independent draws.
        delta: at which epsilon is stated.
        confidence: of the lower bound.
    """
    doubt = (1.0 - confidence) / 4.0
    fitted = _fitted(unseen)
    return _estimate(seen, fitted, _region(seen, doubt), _region(unseen, doubt), delta)


def _estimate(
    seen: Floats, unseen: Normal, region: _Region, reference: _Region, delta: float
) -> Estimate:
    fitted = _fitted(seen)
    # A canary can't show itself by being further from its own direction.
    centre = Normal(max(fitted.mean, unseen.mean), fitted.deviation)
    bound = _least(region, reference, delta)
    return Estimate(between(centre, unseen, delta), bound, fitted, unseen)


def _fitted(values: Floats) -> Normal:
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ConfigError(f"statistics of shape {values.shape}: at least 2 finite ones are needed")
    return Normal(float(np.mean(values)), float(np.std(values, ddof=1)))


def _region(values: Floats, doubt: float) -> _Region:
    """Exact for a normal sample: each of mean and variance is missed with ``doubt``.

    The mean is bounded by Student's t on the one side that matters, at ``doubt``; the
    variance by chi-squared on both, at half of it each.
    """
    validate.open_unit("confidence", 1.0 - doubt)
    fitted, n = _fitted(values), len(values)
    reach = float(stats.t.isf(doubt, n - 1)) * fitted.deviation / math.sqrt(n)
    squares = (n - 1) * fitted.deviation**2
    least = squares / float(stats.chi2.isf(doubt / 2.0, n - 1))
    most = squares / float(stats.chi2.ppf(doubt / 2.0, n - 1))
    return _Region(fitted.mean - reach, fitted.mean + reach, least, most)


def _least(seen: _Region, unseen: _Region, delta: float) -> float:
    """The smallest epsilon over both regions, up to the fineness of a grid.

    Epsilon grows with the distance of the means: d delta / d gap is the difference of the
    densities at the ends of the optimal set, and the end nearer to the other normal's mean has
    the larger one. Adding one more independent normal to both is post-processing, so it falls
    when both variances grow by the same: the minimum is where one of them is at its most.
    """
    gap = max(0.0, seen.low - unseen.high)
    here, there = (_grid(r.least, r.most, seen.most, unseen.most) for r in (seen, unseen))
    smallest = math.inf
    for _ in range(2):
        first = np.concatenate([here, np.full(len(there), seen.most)])
        second = np.concatenate([np.full(len(here), unseen.most), there])
        found = _between(gap, np.sqrt(first), np.sqrt(second), delta)
        smallest = min(smallest, float(found.min()))
        here, there = _around(here, found[: len(here)]), _around(there, found[len(here) :])
    return smallest


def _grid(least: float, most: float, *kinks: float) -> Floats:
    """From ``least`` to ``most``, with the kinks between them.

    Where the variances are equal the two ways cross over, which no grid meets by itself.
    """
    inner = [k for k in kinks if least < k < most]
    return np.sort(np.concatenate([np.geomspace(least, most, _GRID), inner]))


def _around(grid: Floats, values: Floats) -> Floats:
    """A finer grid around the smallest value; what isn't finer was looked at already."""
    index = int(values.argmin())
    return np.geomspace(grid[max(0, index - 1)], grid[min(len(grid) - 1, index + 1)], _GRID)


def _between(gap: float, first: Floats, second: Floats, delta: float) -> Floats:
    """Epsilon for each pair of deviations: the larger of the two ways."""
    own, other = np.concatenate([first, second]), np.concatenate([second, first])
    found = _solved(gap / other, own / other, delta)
    return np.maximum(found[: len(first)], found[len(first) :])


def _solved(mean: Floats, ratio: Floats, delta: float) -> Floats:
    """Epsilon of N(mean, ratio^2) against N(0, 1), by bisection; the lower end."""
    low, high = np.zeros_like(ratio), np.ones_like(ratio)
    while ((over := _delta(high, mean, ratio) > delta) & (high < _LARGEST)).any():
        high = np.where(over, 2.0 * high, high)
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        over = _delta(middle, mean, ratio) > delta
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return low


def _delta(epsilon: Floats, mean: Floats | float, ratio: Floats) -> Floats:
    """Max over S of P(S) - exp(epsilon) Q(S) for P = N(mean, ratio^2), Q = N(0, 1), mean >= 0.

    The log-likelihood ratio is the quadratic a y^2 + b y + c; S is where it exceeds epsilon:
    outside its two roots (a > 0), between them (a < 0), or above the one (a = 0).
    """
    variance = ratio * ratio
    a = (1.0 - 1.0 / variance) / 2.0
    b = mean / variance
    c = -(mean * mean) / (2.0 * variance) - np.log(ratio) - epsilon
    squared = b * b - 4.0 * a * c
    # The form of the roots that doesn't cancel: b >= 0.
    pivot = -(b + np.sqrt(np.maximum(squared, 0.0))) / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(pivot == 0.0, np.inf, c / pivot)
        far = np.where(a == 0.0, -np.inf, pivot / a)
    low, high = np.minimum(near, far), np.maximum(near, far)
    outside = a >= 0.0
    p = _mass((low - mean) / ratio, (high - mean) / ratio, outside)
    q = _mass(low, high, outside)
    value = np.exp(p) - np.exp(epsilon + q)
    return np.where(squared > 0.0, np.maximum(value, 0.0), 0.0)


def _mass(low: Floats, high: Floats, outside: NDArray[np.bool_]) -> Floats:
    """Log of a standard normal's mass outside or inside [low, high]."""
    tails = np.logaddexp(special.log_ndtr(low), special.log_ndtr(-high))
    # Mirrored where both are above zero, so that the difference is of small numbers.
    flip = low > 0.0
    upper = special.log_ndtr(np.where(flip, -low, high))
    lower = special.log_ndtr(np.where(flip, -high, low))
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = upper + np.log1p(-np.exp(np.minimum(lower - upper, 0.0)))
    return np.asarray(np.where(outside, tails, inside))
