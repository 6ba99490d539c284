"""Who takes part: Poisson draws over the population, kept secret, committed to.

Guarantees: each client joins a draw independently with the plan's rate; in a deployment
the coin flips are the operating system's. That is the sampling scheme whose amplification
the plan claims, and the only one this class runs. No client's probability is above the rate;
by how little a draw may differ from the ideal is said at `flipped` and `skipped`.

A draw, and what is remembered of it, cost time that follows the cohort and not the population.
"""

from __future__ import annotations

import decimal
import functools
import math
import secrets
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import participation
from tacit.privacy.log import leaves
from tacit.privacy.noise import Randomness, Source, coins
from tacit.privacy.plan import PrivacyPlan

# Up to so many clients, or so many a member, one number each is as fast as what spares them.
_FEW, _EACH = 2**14, 64
# Expected members of a block of `skipped`, at most: few, so that its table is short.
_TOGETHER = 64
_BITS = 106


class Sampler:
    """Draws cohorts and counts participations.

    Args:
        plan: population and sampling rate.
        randomness: of the run.
    """

    def __init__(self, plan: PrivacyPlan, randomness: Randomness) -> None:
        self._plan, self._randomness = plan, randomness
        self._counts: dict[str, NDArray[np.int32]] = {}
        self._most: dict[str, int] = {}
        self._draws: dict[str, int] = {}
        self._charged: dict[str, int] = {}

    def draw(self, purpose: str, round: int, aborts: int) -> list[int]:
        """Members of a cohort, in ascending order; may be empty.

        Args:
            purpose: "train" or "evaluate".
            round: the round.
            aborts: rounds of this number that failed; a failed cohort isn't drawn again. A
                *killed* round's is, in a simulation, so that resuming gives the same model.
        """
        source = self._randomness.source("cohort", purpose, round, aborts)
        population, rate = self._plan.population, self._plan.sampling_rate
        few = population <= _FEW or rate >= 1 / _EACH
        return (flipped if few else skipped)(source, population, rate)

    def note(self, purpose: str, members: list[int]) -> int:
        """Counts a drawn cohort; returns the participations to charge.

        That is a bound known before the draw, or the real maximum in the unlikely case that
        it is larger (`tacit.privacy.participation`).
        """
        if purpose not in self._counts:
            # Of zeros, only the pages that are written to take memory.
            self._counts[purpose] = np.zeros(self._plan.population, np.int32)
        counts = self._counts[purpose]
        counts[members] += 1
        most = int(counts[members].max(initial=0))
        self._most[purpose] = max(most, self._most.get(purpose, 0))
        charged = self.upcoming(purpose)
        self._draws[purpose] = self._draws.get(purpose, 0) + 1
        return charged

    def upcoming(self, purpose: str) -> int:
        """The participations that the next draw will be charged as, but for the unlikely."""
        known = participation.bound(
            self._draws.get(purpose, 0) + 1, self._plan.sampling_rate, self._plan.population
        )
        return max(known, self._most.get(purpose, 0), self._charged.get(purpose, 0))

    def charged(self, purpose: str, participations: int) -> None:
        """Notes what was charged: no later charge is for fewer, whoever was erased since."""
        self._charged[purpose] = max(participations, self._charged.get(purpose, 0))

    @staticmethod
    def commit(members: Sequence[int] | Sequence[str]) -> tuple[str, bytes]:
        """A commitment to a cohort and the salt that opens it."""
        salt = secrets.token_bytes(32)
        return leaves.commit(salt, members), salt


def flipped(source: Source, population: int, rate: float) -> list[int]:
    """A Poisson draw with a coin for each client.

    Clients are independent, and each joins with probability in (rate - 2^-53, rate].

    Args:
        source: of the coins.
        population: clients.
        rate: in [0, 1].

    Returns:
        Who joins, ascending.
    """
    joined: list[int] = np.flatnonzero(coins(source, population, rate)).tolist()
    return joined


def skipped(source: Source, population: int, rate: float) -> list[int]:
    """A Poisson draw in time that follows the cohort: how many of a block, then which.

    Of B independent coins the number of heads is Binomial(B, rate), and given their number
    every subset of that size is as likely as another. So for a block of B clients a size is
    drawn by inversion of its distribution, then clients of the block until so many are
    distinct. B is a power of two, so a client is exactly uniform; whom the last block has
    beyond the population is left out, which changes nothing for the others.

    Only the sizes are rounded. They are inverted from 106 random bits, every P[size >= j] rounded
    down by less than 2^-105 (`_at_least`), for fewer than 2^8 values of j. So a block's size is
    the ideal one's or, with probability below 2^-97, smaller; the members that it then lacks are
    any alike. Hence each client joins with probability in (rate - 2^-97, rate], and the draw as a
    whole is within a total variation of 2^-97 (1 + rate * population / 32), the number of
    blocks, of a Poisson draw. (That of `flipped` is within population * 2^-53 of one.)

    Args:
        source: of the numbers.
        population: clients, at least 1.
        rate: in (0, 1).

    Returns:
        Who joins, ascending.
    """
    size = 1
    while size < population and 2 * size * rate <= _TOGETHER:
        size *= 2
    blocks = -(-population // size)
    tails = _at_least(size, rate)
    words = (source.uniform(2 * blocks) * 2.0**53).astype(np.uint64).tolist()
    joined: list[int] = []
    for block in range(blocks):
        bits = words[2 * block] << 53 | words[2 * block + 1]
        wanted = len(tails) - bisect_right(tails, bits)
        drawn: set[int] = set()
        # Never more numbers than are missing: so the order they come in doesn't matter.
        while len(drawn) < wanted:
            drawn.update((source.uniform(wanted - len(drawn)) * size).astype(np.int64).tolist())
        first = block * size
        joined += [first + k for k in sorted(drawn) if first + k < population]
    return joined


@functools.lru_cache(maxsize=64)
def _at_least(size: int, rate: float) -> list[int]:
    """P[Binomial(size, rate) >= j] for j = ..., 2, 1 in units of 2^-106, rounded down.

    Those below one unit are left out. Computed to 100 digits, whose errors a margin of 10^-60
    covers.
    """
    found: list[int] = []
    with decimal.localcontext(prec=100):
        heads, margin = decimal.Decimal(rate), decimal.Decimal(10) ** -60
        mass, tail = (1 - heads) ** size, decimal.Decimal(1)
        for j in range(size):
            tail -= mass
            units = math.floor((tail - margin) * 2**_BITS)
            if units <= 0:
                break
            found.append(units)
            mass *= heads / (1 - heads) * (size - j) / (j + 1)
    return found[::-1]
