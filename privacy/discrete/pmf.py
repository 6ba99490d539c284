"""Symmetric laws on the integers, as exact integer weights.

Guarantees: everything here is integer arithmetic on the rational number that the double
``variance`` is, so every machine computes the same figures. `weights` are proportional to the
probabilities of 0, 1, ..., N, where N is `reach`, with P(|X| > N) < 2^-175. The law they make,
mirrored and normalised, is within 2^-135 of the named one in statistical distance for every
variance up to `MAXIMUM_VARIANCE`:

- Tail: exp(-N^2 / (2 (variance + N/3))) <= 2^-176 on either side. That is Bernstein's bound,
  which holds for the Skellam law since cosh(t) - 1 <= (t^2/2) / (1 - t/3), and for the discrete
  Gaussian since E exp(tX) <= exp(t^2 variance / 2): among all shifts of the lattice the sum of
  exp(-(k - c)^2 / (2 variance)) is largest at c = 0.
- Skellam: Miller's backward recurrence I_{k-1} = I_{k+1} + (2k/mu) I_k from f_{N+1} = f_N = 2^192.
  The ratios r_k = I_k / I_{k-1} and those of f obey r_k = 1 / (2k/mu + r_{k+1}), so they differ
  by (I_N / I_{k-1}) (f_N / f_{k-1}) at most; f falls with steps of two and is smallest at N, so
  f_k/f_0 is within k I_N/I_0 of I_k/I_0, and the law within (N+1)^2 P(X = N) < 2^-137. All
  terms are positive, so rounding costs a relative N 2^-192 < 2^-173.
- Discrete Gaussian: in steps of 2^-320, the k-th ratio of neighbours is off by 3(k+1) steps at
  most, a weight by 2(k+2)^2 and their sum by 2(N+3)^3 < 2^58: a distance below 2^-260.

It doesn't guarantee speed at large variances: the weights take about 15.6 steps for each unit
of standard deviation, a third of a microsecond each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

MAXIMUM_VARIANCE = 2.0**30
FRACTION_BITS = 256
# At least 176 ln 2.
_TAIL_NATS = 122
_MILLER_BITS = 192
_GAUSSIAN_BITS = 320
_GUARD_BITS = 64


class Law(Protocol):
    """A symmetric law on the integers; hashable, equal to another by kind and variance."""

    @property
    def variance(self) -> float:
        """Its variance parameter."""

    def __hash__(self) -> int: ...

    def weights(self) -> list[int]:
        """Integers proportional to the probabilities of 0, 1, ..., `reach`."""


def _validate(variance: float) -> None:
    validate.positive("variance", variance)
    if variance > MAXIMUM_VARIANCE:
        raise ConfigError(f"variance={variance} must be at most {MAXIMUM_VARIANCE:.0f}")


def reach(variance: float) -> int:
    """The largest magnitude N with a weight: P(X > N) <= 2^-176."""
    return (
        _TAIL_NATS // 3
        + math.isqrt(_TAIL_NATS**2 // 9 + 1 + 2 * _TAIL_NATS * math.ceil(variance))
        + 2
    )


@dataclass(frozen=True, slots=True)
class Skellam:
    """The difference of two Poissons of mean variance/2: P(X = k) = exp(-variance) I_k(variance).

    Sums of independent Skellams are Skellams, variances added.

    Attributes:
        variance: above 0, at most `MAXIMUM_VARIANCE`.
    """

    variance: float

    def __post_init__(self) -> None:
        _validate(self.variance)

    def weights(self) -> list[int]:
        """Integers proportional to the probabilities of 0, 1, ..., `reach`."""
        return list(self._backward())[::-1]

    def _backward(self) -> Iterator[int]:
        numerator, denominator = self.variance.as_integer_ratio()
        last = reach(self.variance)
        above = here = 1 << _MILLER_BITS
        for factor in range(2 * last * denominator, 0, -2 * denominator):
            yield here
            above, here = here, above + factor * here // numerator
        yield here


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """P(X = k) proportional to exp(-k^2 / (2 variance)).

    Of Canonne, Kamath and Steinke 2020 (arXiv:2004.00010). Its actual variance is below the
    parameter, noticeably so where that is below about 1.

    Attributes:
        variance: the parameter sigma^2, above 0, at most `MAXIMUM_VARIANCE`.
    """

    variance: float

    def __post_init__(self) -> None:
        _validate(self.variance)

    def weights(self) -> list[int]:
        """Integers proportional to the probabilities of 0, 1, ..., `reach`."""
        numerator, denominator = self.variance.as_integer_ratio()
        ratio = exp_negative(denominator, 2 * numerator, _GAUSSIAN_BITS)
        square = exp_negative(denominator, numerator, _GAUSSIAN_BITS)
        weight = 1 << _GAUSSIAN_BITS
        made = [weight]
        for _ in range(reach(self.variance)):
            weight = weight * ratio >> _GAUSSIAN_BITS
            ratio = ratio * square >> _GAUSSIAN_BITS
            made.append(weight)
        return made


def exp_negative(numerator: int, denominator: int, bits: int) -> int:
    """exp(-numerator/denominator) in steps of 2^-bits, to within 2 steps.

    Args:
        numerator: at least 0.
        denominator: at least 1.
        bits: at most 512.
    """
    if numerator >= bits * denominator:
        return 0
    # Taylor at the argument over 2^halvings, at most 2^-8, then squared back: every squaring
    # doubles the error, which the guard bits absorb.
    halvings = 8 + (numerator // denominator + 1).bit_length()
    scale = bits + _GUARD_BITS
    x = (numerator << scale) // (denominator << halvings)
    term = total = 1 << scale
    order = 0
    while term:
        order += 1
        term = term * x // (order << scale)
        total += -term if order % 2 else term
    for _ in range(halvings):
        total = total * total >> scale
    return total >> _GUARD_BITS


def survival(weights: list[int], bits: int = FRACTION_BITS) -> list[int]:
    """P(|X| >= k) for k = 1, 2, ..., N in steps of 2^-bits, rounded down.

    Args:
        weights: of a law; N + 1 of them.
        bits: of the fraction. Those of fewer bits are the top bits of those of more.

    Returns:
        At most N numbers, falling; zeros at the end are left out.
    """
    tails = list(accumulate(reversed(weights[1:])))
    total = weights[0] + 2 * tails[-1]
    shift = bits + 1
    made = []
    for tail in reversed(tails):
        step = (tail << shift) // total
        if not step:
            break
        made.append(step)
    return made


def probabilities(law: Law) -> NDArray[np.float64]:
    """P(X = k) for k = 0, 1, ..., N as doubles, the same on every machine.

    Each is within a relative 2^-52 where it is above 2^-80 and within 2^-132 elsewhere: the
    division of Python's integers is correctly rounded, and the weights have the errors of the
    module's docstring.
    """
    weights = law.weights()
    total = 2 * sum(weights) - weights[0]
    return np.array([weight / total for weight in weights])
