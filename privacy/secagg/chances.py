"""Hypergeometric and binomial chances in logarithms, by tables of log-factorials.

Guarantees: a logarithm here is at least the real one, and above it by at most 64 units in the
last place of ln(n!), n the number of clients or draws: below 1e-9 up to 10,000 of them. So a
chance of failure is never made out to be smaller than it is. A chance of exactly zero is
-inf.

It needs nothing but numpy, so that a device computes its graph by the same code as a
coordinator.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Logs = NDArray[np.float64]

# Nine log-factorials at most go into a logarithm, each right to a few units in its last place.
_ULPS = 32.0


def hypergeometric(counts: NDArray[np.int64], size: int, marked: int, draws: int) -> Logs:
    """Log-chances of each of ``counts`` marked among ``draws`` of ``size``.

    Args:
        counts: shape [n].
        size: how many there are.
        marked: how many of them are marked, at most ``size``.
        draws: how many are drawn without replacement, at most ``size``.
    """
    possible = (counts >= max(0, draws - (size - marked))) & (counts <= min(draws, marked))
    found, table = counts[possible], _factorials(size)
    logs = np.full(len(counts), -np.inf)
    logs[possible] = (
        _choose(table, marked, found)
        + _choose(table, size - marked, draws - found)
        - _choose(table, size, draws)
        + _slack(table)
    )
    return logs


def binomial(counts: NDArray[np.int64], draws: int, rate: float) -> Logs:
    """Log-chances of each of ``counts`` successes in ``draws`` independent tries.

    Args:
        counts: shape [n].
        draws: how many tries, at least 0.
        rate: chance of one, in [0, 1).
    """
    possible = (counts >= 0) & (counts <= draws)
    if rate == 0.0:
        return np.where(counts == 0, 0.0, -np.inf)
    found, table = counts[possible], _factorials(draws)
    logs = np.full(len(counts), -np.inf)
    logs[possible] = (
        _choose(table, draws, found)
        + found * math.log(rate)
        + (draws - found) * math.log1p(-rate)
        + _slack(table)
    )
    # What is to be rounded is also as large as the powers.
    logs[possible] += np.abs(found * math.log(rate)) * _ULPS * np.finfo(float).eps
    return logs


def _choose(table: Logs, whole: int, parts: NDArray[np.int64] | int) -> Logs:
    """Logarithms of binomial coefficients."""
    chosen: Logs = table[whole] - table[parts] - table[whole - np.asarray(parts)]
    return chosen


def _slack(table: Logs) -> float:
    """What rounding may have taken away."""
    return float(table[-1]) * _ULPS * float(np.finfo(float).eps)


@functools.lru_cache(maxsize=8)
def _factorials(most: int) -> Logs:
    """ln(n!) for n up to ``most``, shape [``most`` + 1]."""
    table = np.array([math.lgamma(n + 1.0) for n in range(most + 1)])
    table.flags.writeable = False
    return table
