"""Renyi divergences of integer noise: Skellam, discrete Gaussian, and either one sampled.

Everything is in lattice units. One unit more or less moves the released sum by an integer
vector v with abs(v)_2 <= l2 and abs(v)_1 <= l1; the noise N has independent coordinates.

Guarantees: every figure bounds the Renyi divergence between the outputs with and without one
unit, in both directions, for every such v, whatever the other units contribute.

- Full rate, Skellam: Agarwal, Kairouz and Liu 2021 (arXiv:2110.04995), Theorem 3.5; integer
  orders. Discrete Gaussian: alpha l2^2 / (2 variance) at every order above 1 (Canonne, Kamath
  and Steinke 2020, arXiv:2004.00010, Proposition 5, coordinate by coordinate).
- Sampled, for any mechanism: Zhu and Wang 2019 ("Poisson subsampled Renyi differential
  privacy", ICML), Theorem 5, with a factor of 3 on the third and higher moments.
- Sampled, tight: the same without the factor, which holds for the noise here. It is Mironov,
  Talwar and Zhang 2019 (arXiv:1908.10530), Theorem 5, on the lattice. Proof. Write P for the
  law of N, Q for that of v + N, r = Q/P and M = (1-q) P + q Q.

  *D(M || P)*: sum P (1-q+qr)^alpha expands binomially into sum P r^l = exp((l-1) D_l(Q || P)).

  *D(P || M) is never larger*: with h(t) = t^alpha - t^(1-alpha) the first sum less the second
  is sum_x P(x) h(1-q+q r(x)); it must not be negative. N is symmetric, so x -> v - x is an
  involution that exchanges P and Q: it takes r(x) to 1/r(x), and P(v-x) = r(x) P(x). Take the
  x of each pair with r >= 1, and a = 1-q+qr, b = 1-q+q/r, c = 1/b. As h(b) = -h(c)/c, the pair
  adds P(x) (h(a) - (r/c) h(c)). For alpha = 1 that is 0: h(a) = q(r-1) = (r/c)(c-1). And
  h(t) = 2 sqrt(t) sinh((alpha-1/2) log t), where a >= c >= 1 since ab = 1 + q(1-q)(r-1)^2/r;
  sinh(sA)/sinh(sC) doesn't fall in s for A >= C > 0, because x coth(x) doesn't fall in x >= 0.
  So h(a)/h(c) >= r/c for all alpha >= 1. If c = 1 then r = 1, and both terms are 0.

  What other units contribute and how vectors were rounded is a mixture on both sides with the
  same weights: the divergence is jointly quasi-convex (van Erven and Harremoes 2014,
  arXiv:1206.2459, Theorem 13).
- Noise within ``closeness`` kappa of the ideal, exp(-kappa) <= P'/P <= exp(kappa) pointwise:
  mixing keeps the ratio, for M'/M lies between those of P'/P and Q'/Q. So
  sum P'^alpha M'^(1-alpha) <= exp(kappa alpha + kappa (alpha-1)) sum P^alpha M^(1-alpha), and
  the same with P and M exchanged: kappa (2 alpha - 1)/(alpha - 1) is added to the divergence.
- Between integers (alpha-1) D_alpha is bounded by its chord: it is convex in alpha and 0 at 1
  (van Erven and Harremoes 2014, Corollary 2; so used by Wang, Balle and Kasiviswanathan
  2019, arXiv:1808.00087).

It doesn't guarantee anything where the law of the noise depends on whether the unit is there,
as when a participant brings a share that is missing without it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import dp_accounting
import numpy as np
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from tacit.privacy import validate
from tacit.privacy.errors import AccountingError, ConfigError
from tacit.privacy.events import Event, SampledDiscreteGaussian, SampledGaussian, SampledSkellam

Floats = NDArray[np.float64]

_COARSE = [72, 80, 88, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512, 768, 1024]
_WHOLE = np.array([*range(2, 65), *_COARSE], dtype=np.float64)
_BETWEEN = np.array([k / 10 for k in range(11, 100) if k % 10])
_MOMENTS = np.arange(2.0, _WHOLE[-1] + 1)
# Kairouz, Liu and Steinke take sigma >= 1/2; the proof of `closeness` needs as much.
_LEAST_VARIANCE = 0.25

_SORTED = np.argsort(np.concatenate([_WHOLE, _BETWEEN]))
ORDERS = np.concatenate([_WHOLE, _BETWEEN])[_SORTED]
"""Orders of every curve: integers from 2, coarser above 64, and steps of 0.1 from 1.1 to 10."""
ORDERS.setflags(write=False)


def closeness(variances: Sequence[float], dimension: int) -> float:
    """How far a sum of discrete Gaussians is from one with the sum of their parameters.

    Adding N_Z(0, t^2) to N_Z(0, s^2) gives N_Z(0, s^2 + t^2) within 10 x in the log of the
    mass, x = exp(-2 pi^2 / (1/s^2 + 1/t^2)) (Kairouz, Liu and Steinke 2021, arXiv:2102.06387).
    In short: by Poisson summation the ratio of the masses is, up to a constant,
    1 + 2 sum_k x^(k^2) cos(2 pi k u) for some u; both it and its mean are within
    1 +- 2 (x + x^4 + ...), and log((1 + 2x + ...)/(1 - 2x - ...)) < 5 x where x < 0.1.
    Convolving with further noise keeps the bound; steps and coordinates add up.

    Args:
        variances: parameters sigma^2 of the independent shares, in the order of summation,
            each at least 1/4.
        dimension: coordinates, each with a sum of its own.

    Returns:
        A bound on abs(log(real mass / ideal mass)) over all of Z^dimension; 0 for one share.

    Raises:
        ConfigError: no shares, one too small, or no dimension.

    Example:
        >>> closeness([4.0, 4.0], 1000) < 1e-12
        True
    """
    validate.at_least("dimension", dimension, 1)
    validate.at_least("shares", len(variances), 1)
    for variance in variances:
        validate.positive("variance", variance)
        if variance < _LEAST_VARIANCE:
            raise ConfigError(f"variance={variance:g} must be at least {_LEAST_VARIANCE:g}")
    total, distance = variances[0], 0.0
    for variance in variances[1:]:
        distance += 10.0 * math.exp(-2.0 * math.pi**2 / (1.0 / total + 1.0 / variance))
        total += variance
    return dimension * distance


def curve(event: Event) -> Floats:
    """Renyi divergence of one run at `ORDERS`: the tight figures. Infinity where unbounded.

    Args:
        event: its ``count`` is left out; composition multiplies the curve.

    Returns:
        Read-only array, shape of `ORDERS`, >= 0, never NaN.

    Raises:
        AccountingError: numbers so extreme that nothing can be computed.
    """
    return _curve(event.once(), False)


def general_curve(event: Event) -> Floats:
    """The curve by other means: no amplification theorem that is particular to the noise.

    Sampled integer noise is bounded by Zhu and Wang's theorem for any mechanism, or by the
    curve at full rate where that is smaller; for Gaussians the library is asked. Nowhere
    smaller than `curve`, up to the library's round-off.
    """
    return _curve(event.once(), True)


def library_event(event: SampledGaussian) -> dp_accounting.DpEvent:
    """One run as a dp-accounting event; the caller composes ``count`` of them."""
    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    if event.sampling_rate == 1.0:
        return gaussian
    return dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)


def to_epsilon(total: Floats, delta: float) -> float:
    """The epsilon at ``delta`` of a composed curve at `ORDERS`.

    Canonne, Kamath and Steinke 2020, Proposition 12, at the best order.
    """
    return float(compute_epsilon(ORDERS.tolist(), total.tolist(), delta)[0])


@functools.lru_cache(maxsize=256)
def _curve(event: Event, general: bool) -> Floats:
    # Next to no noise overflows to infinity, which is the answer.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if general and isinstance(event, SampledGaussian):
            made = _library(event)
        else:
            made = _divergences(event, general)
    if np.isnan(made).any():
        raise AccountingError(f"event={event} can't be accounted for")
    made.setflags(write=False)
    return made


def _divergences(event: Event, general: bool) -> Floats:
    if event.sampling_rate == 1.0 and not isinstance(event, SampledSkellam):
        return (_full_rate(event, ORDERS) + _slack(event, ORDERS)) / (ORDERS - 1.0)
    moments = _full_rate(event, _MOMENTS)
    ideal = moments[_WHOLE.astype(int) - 2]
    if event.sampling_rate < 1.0:
        ideal = np.minimum(ideal, _sampled(moments, event.sampling_rate, general))
    return _chords(ideal + _slack(event, _WHOLE)) / (ORDERS - 1.0)


def _full_rate(event: Event, orders: Floats) -> Floats:
    """(alpha - 1) times the divergence with ideal noise and without sampling."""
    if isinstance(event, SampledGaussian):
        ratio = 1.0 / event.noise_multiplier
        return _half_square(ratio) * orders * (orders - 1.0)
    # Divided before squared, so that neither overflows or vanishes without need.
    ratio = event.l2 / math.sqrt(event.variance)
    divergence = _half_square(ratio) * orders
    if isinstance(event, SampledSkellam):
        ones = event.l1 / event.variance
        small = 0.5 * (_half_square(ratio) * (2.0 * orders - 1.0) + 3.0 * ones) / event.variance
        divergence = divergence + np.minimum(small, 1.5 * ones)
    return divergence * (orders - 1.0)


def _half_square(ratio: float) -> float:
    return 0.5 * ratio * ratio


def _slack(event: Event, orders: Floats) -> Floats:
    """(alpha - 1) times what noise that isn't ideal may add."""
    kappa = event.closeness if isinstance(event, SampledDiscreteGaussian) else 0.0
    return kappa * (2.0 * orders - 1.0)


@functools.cache
def _log_binomials() -> Floats:
    """Logs of C(alpha, l), shape (orders in `_WHOLE`, `_MOMENTS`); -inf where l > alpha."""
    alpha = _WHOLE[:, np.newaxis]
    rest = np.maximum(alpha - _MOMENTS, 0.0)
    logs = gammaln(alpha + 1.0) - gammaln(_MOMENTS + 1.0) - gammaln(rest + 1.0)
    return np.where(alpha >= _MOMENTS, logs, -np.inf)


def _sampled(moments: Floats, rate: float, general: bool) -> Floats:
    """(alpha - 1) times the divergence of the sampled mechanism, at `_WHOLE`.

    As the binomial weights add up to 1, the sum over l is 1 + sum_l weight (exp(moment) - 1):
    written so, small divergences lose no digits.

    Args:
        moments: (l - 1) eps(l) at full rate, for l in `_MOMENTS`.
        rate: in (0, 1).
        general: whether third and higher moments count three times.
    """
    rest = np.maximum(_WHOLE[:, np.newaxis] - _MOMENTS, 0.0)
    weights = _log_binomials() + _MOMENTS * math.log(rate) + rest * math.log1p(-rate)
    excess = moments + np.log(-np.expm1(-moments))
    terms = _log_sum(weights, excess)
    if general:
        higher = _log_sum(weights[:, 1:], moments[1:]) + math.log(2.0)
        terms = np.logaddexp(terms, higher)
    return np.logaddexp(0.0, terms)


def _log_sum(weights: Floats, exponents: Floats) -> Floats:
    """By rows, log sum_l exp(weight + exponent); a weight of -inf leaves its term out."""
    terms = np.where(np.isneginf(weights), -np.inf, weights + exponents)
    summed: Floats = logsumexp(terms, axis=1)
    return summed


def _chords(whole: Floats) -> Floats:
    """(alpha - 1) times a divergence at `ORDERS`, from its values at `_WHOLE`."""
    known = np.concatenate([[0.0], whole])
    below = np.floor(_BETWEEN)
    part, left = _BETWEEN - below, below.astype(int) - 1
    between = (1.0 - part) * known[left] + part * known[left + 1]
    return np.concatenate([whole, between])[_SORTED]


def _library(event: SampledGaussian) -> Floats:
    orders = ORDERS if event.sampling_rate == 1.0 else _WHOLE
    rdp = RdpAccountant(orders.tolist(), dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    rdp.compose(library_event(event))
    made: Floats = rdp.rdp
    return made if event.sampling_rate == 1.0 else _chords(made * (_WHOLE - 1.0)) / (ORDERS - 1.0)
