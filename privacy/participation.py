"""How often one client takes part, bounded without looking at who was drawn.

A record's epsilon against those who see submitted vectors composes over its client's
participations. The most-drawn client's real count is a function of the secret draws that
amplification rests on, so what is charged and shown is a bound known beforehand.

Guarantees: after any one draw, `bound` is exceeded by any of the clients with probability at
most `FAILURE`;
the coordinator charges the larger of the bound and the real count, so an exceedance can't
under-charge. What it would do, with that probability, is reveal the count.
"""

from __future__ import annotations

import functools

from scipy import stats

FAILURE = 1e-6


@functools.lru_cache(maxsize=4096)
def bound(draws: int, rate: float, population: int) -> int:
    """Participations of any one client in ``draws`` Poisson draws.

    Args:
        draws: cohorts drawn so far, this one included.
        rate: probability of each client in each draw.
        population: clients; the union bound is over them.

    Returns:
        The smallest b with population * P[Binomial(draws, rate) > b] <= `FAILURE`.

    Example:
        >>> bound(60, 1.0, 300), bound(60, 0.2, 300)
        (60, 32)
    """
    return int(stats.binom.isf(FAILURE / population, draws, rate))
