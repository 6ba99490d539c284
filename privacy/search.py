"""Searches for the planner: where a figure that rises or falls crosses its target.

An `Over` says how far a plan, by one whole number, is above its target: the logarithm of the
ratio, positive if it is above, never 0, and at most `FAR`. It raises `ConfigError` where there
is no such plan.

Guarantees: a number that is returned was evaluated and isn't over. Its neighbour is over if
the figure is monotone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from scipy.optimize import brentq

from tacit.privacy.errors import ConfigError

Over = Callable[[int], float]

# Noise multipliers are searched in multiples of this part of 1.
STEPS = 10_000
LEAST_NOISE = 0.01
MOST_NOISE = 10_000.0
FAR = 50.0
# From 1, and from ever further away as long as there is no plan.
_STARTS = (STEPS, *(STEPS * 2**e // 64 for e in (7, 5, 8, 4, 9, 3, 10, 2, 11, 1)))


def otherwise(over: Over, missing: float) -> Over:
    """The same, but ``missing`` where there is no such plan."""

    @functools.cache
    def known(k: int) -> float:
        try:
            return over(k)
        except ConfigError:
            return missing

    return known


def least(over: Over, target: str) -> float:
    """The smallest noise multiplier that isn't over.

    A plan may not exist because there is too little noise or too much of it; which it is
    follows from the side on which one does exist.

    Args:
        over: by multiples of 1/`STEPS`.
        target: in words, for the error.

    Raises:
        ConfigError: there is none within the limits, or no plan at it.
    """
    exists = otherwise(over, 0.0)
    start = next((k for k in _STARTS if exists(k)), STEPS)
    up = over(start) > 0
    beyond = otherwise(over, -FAR if up else FAR)
    near = far = start
    while (beyond(far) > 0) == up:
        if not LEAST_NOISE * STEPS <= far <= MOST_NOISE * STEPS:
            limit = f"more than {MOST_NOISE:g}" if up else f"less than {LEAST_NOISE:g}"
            raise ConfigError(
                f"{target} needs a noise multiplier of {limit}",
                "such a plan is of no use; change epsilon or the number of rounds",
            )
        near, far = far, far * 2 if up else far // 2
    found = _switch(beyond, *((near, far) if up else (far, near)))
    over(found)
    return found / STEPS


def most(over: Over, limit: int, name: str, target: float) -> int:
    """The largest number that isn't over; ``limit`` if that isn't.

    Args:
        over: by the number.
        limit: above it there is nothing to look for.
        name: of the number, and
        target: epsilon, for the error.

    Raises:
        ConfigError: 1 is over.
    """
    if over(1) > 0:
        raise ConfigError(
            f"epsilon={target:g} is less than what {name}=1 spends",
            "raise --epsilon or --noise-multiplier",
        )
    low, high = 1, min(8, limit)
    while over(high) <= 0:
        if high == limit:
            return limit
        low, high = high, min(8 * high, limit)
    return _switch(over, high, low)


def _switch(over: Over, bad: int, good: int) -> int:
    """Between a number that is over and one that isn't: the last one that isn't.

    Brent's method on the logarithm; it ends with a point on either side of a step.
    """
    seen = {bad: over(bad), good: over(good)}

    def at(x: float) -> float:
        k = round(math.exp(x))
        if k not in seen:
            seen[k] = over(k)
        return seen[k]

    brentq(at, *sorted((math.log(bad), math.log(good))), xtol=1e-12, rtol=1e-14)
    fits = [k for k, value in seen.items() if value <= 0]
    return min(fits) if good > bad else max(fits)
