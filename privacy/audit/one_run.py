"""A lower bound on epsilon from guesses about many canaries in one run.

Steinke, Nasr and Jagielski 2023, "Privacy auditing with one (1) training run"
(arXiv:2305.08846). Each of m canaries was included or not by a fair coin of its own. The
attacker scores them by what it sees, guesses "in" for the highest and "out" for the lowest,
and abstains on the rest.

Guarantees: if the mechanism that takes the coins to what the attacker sees is (epsilon,
delta)-DP with respect to each coin, `p_value` bounds the probability of so many correct
guesses, whatever the attack, and `lower_bound` is at most epsilon with probability
``confidence``. With one pure-DP coin a guess is right with probability at most
q = 1 / (1 + exp(-epsilon)), whatever was seen and whatever the other coins are; so (Theorem
5.2, Corollary 5.4) the correct ones among r guesses are stochastically dominated by W + F, W ~
Binomial(r, q) and F >= 0 of mean at most 2 m delta. Over all such F,

    P[W + F >= v] <= P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i.

The relation is that of the coin: a record in the data or not, a client's vector or a zero
vector in its place.

The numbers of guesses must not depend on the scores. `audit` takes several and pays for the
choice with a union bound. It doesn't guarantee that the attack was a good one: 0 is always a
lower bound. With delta above about 1 / m nothing can be found out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]

# Above what the binomial's probabilities are off by.
_ROUND_UP = 1.0 + 1e-9
_STEPS = 60


@dataclass(frozen=True, slots=True)
class Guesses:
    """How many canaries are guessed, fixed before there are scores.

    Attributes:
        top: the highest scores, guessed to be in.
        bottom: the lowest, guessed to be out.
    """

    top: int
    bottom: int

    def __post_init__(self) -> None:
        validate.at_least("guesses.top", self.top, 0)
        validate.at_least("guesses.bottom", self.bottom, 0)
        validate.at_least("guesses", self.top + self.bottom, 1)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the best of several ways to guess found.

    Attributes:
        lower_bound: on epsilon, at the confidence of all ways together.
        guesses: of the best way.
        correct: how many of its guesses were.
    """

    lower_bound: float
    guesses: Guesses
    correct: int


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound on the probability of at least ``correct`` right guesses under (epsilon, delta)-DP.

    Args:
        canaries: m, all those a coin was thrown for.
        guesses: r, at most m.
        correct: v, at most r.
        epsilon: of the hypothesis, >= 0.
        delta: of the hypothesis, in [0, 1).

    Example:
        >>> round(p_value(10, 10, 10, 0.0, 0.0) * 2**10, 6)
        1.0
    """
    _check(canaries, guesses, correct)
    validate.nonnegative("epsilon", epsilon)
    validate.half_open_unit("delta", delta)
    # In terms of wrong guesses, whose probability keeps its digits when epsilon is large.
    miss = math.exp(-epsilon) / (1.0 + math.exp(-epsilon))
    wrong = guesses - correct
    value = float(stats.binom.cdf(wrong, guesses, miss))
    if delta > 0 and correct > 0:
        more = stats.binom.pmf(np.arange(wrong + 1, guesses + 1), guesses, miss)
        steepest = np.max(np.cumsum(more) / np.arange(1, correct + 1))
        value += 2.0 * canaries * delta * float(steepest)
    return min(1.0, value * _ROUND_UP)


def lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
    """Epsilon that the mechanism exceeds, but for a probability of 1 - ``confidence``.

    Bisection keeps an end whose p-value is below 1 - ``confidence`` and returns it. Whichever
    crossing it meets, the bound holds: what is (e, delta)-DP is so for every larger e.

    Returns:
        0.0 where nothing was found out; never infinite.

    Example:
        The paper's own, Appendix D.

        >>> round(lower_bound(1000, 100, 75, 1e-4, 0.95), 3)
        0.673
    """
    validate.open_unit("confidence", confidence)
    level = 1.0 - confidence

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon, delta) < level

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2.0 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def correct(scores: Floats, included: Bits, guesses: Guesses) -> int:
    """How many guesses are right.

    Args:
        scores: of the canaries, shape [m]; higher speaks for "in". Ties fall to the order of
            the canaries, which the coins didn't decide.
        included: the coins, shape [m].
        guesses: on how many.

    Raises:
        ConfigError: more guesses than canaries, or shapes differ, or a score is NaN.
    """
    if scores.ndim != 1 or scores.shape != included.shape:
        raise ConfigError(f"scores of shape {scores.shape} for coins of shape {included.shape}")
    if np.isnan(scores).any():
        raise ConfigError("a canary's score isn't a number", "did the model diverge?")
    _check(len(scores), guesses.top + guesses.bottom, 0)
    order = np.argsort(scores, kind="stable")
    top = included[order[len(order) - guesses.top :]]
    return int(top.sum() + (~included[order[: guesses.bottom]]).sum())


def choices(canaries: int) -> tuple[Guesses, ...]:
    """Ways to guess that suit strong and weak attacks: a half, and a sixth, of all canaries."""
    validate.at_least("canaries", canaries, 2)
    sides = sorted({max(1, canaries // 4), max(1, canaries // 12)})
    return tuple(Guesses(side, side) for side in sides)


def audit(
    scores: Floats,
    included: Bits,
    delta: float,
    confidence: float,
    ways: Sequence[Guesses] | None = None,
) -> Finding:
    """The best lower bound of several ways to guess, each at its part of the doubt.

    Args:
        scores: as in `correct`.
        included: the coins, shape [m].
        delta: at which epsilon is bounded.
        confidence: that the result is a lower bound.
        ways: to guess, chosen without a look at the scores; None takes `choices`.
    """
    validate.open_unit("confidence", confidence)
    tried = tuple(ways) if ways is not None else choices(len(scores))
    if not tried:
        raise ConfigError("guesses is empty", "give at least one number of guesses")
    each = 1.0 - (1.0 - confidence) / len(tried)
    found = []
    for way in tried:
        right = correct(scores, included, way)
        bound = lower_bound(len(scores), way.top + way.bottom, right, delta, each)
        found.append(Finding(bound, way, right))
    return max(found, key=lambda finding: finding.lower_bound)


def _check(canaries: int, guesses: int, right: int) -> None:
    validate.at_least("canaries", canaries, 1)
    validate.at_least("guesses", guesses, 1)
    validate.at_least("correct", right, 0)
    if not right <= guesses <= canaries:
        raise ConfigError(
            f"correct={right} of guesses={guesses} of canaries={canaries}: each must be at most "
            "the next"
        )
