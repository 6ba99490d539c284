"""Who takes part: Poisson draws over the population, kept secret, committed to.

Guarantees: each client joins a draw independently with the plan's rate; in a deployment
the coin flips are the operating system's. That is the sampling scheme whose amplification
the plan claims, and the only one this class runs.
"""

from __future__ import annotations

import secrets

import numpy as np

from tacit.privacy import participation
from tacit.privacy.log import leaves
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan


class Sampler:
    """Draws cohorts and counts participations.

    Args:
        plan: population and sampling rate.
        randomness: of the run.
    """

    def __init__(self, plan: PrivacyPlan, randomness: Randomness) -> None:
        self._plan, self._randomness = plan, randomness
        self._counts: dict[str, np.ndarray] = {}
        self._draws: dict[str, int] = {}

    def draw(self, purpose: str, round: int, aborts: int) -> list[int]:
        """Members of a cohort, in ascending order; may be empty.

        Args:
            purpose: "train" or "evaluate".
            round: the round.
            aborts: rounds of this number that failed; a failed cohort isn't drawn again. A
                *killed* round's is, in a simulation, so that resuming gives the same model.
        """
        source = self._randomness.source("cohort", purpose, round, aborts)
        drawn = source.uniform(self._plan.population) < self._plan.sampling_rate
        return [int(k) for k in np.flatnonzero(drawn)]

    def note(self, purpose: str, members: list[int]) -> int:
        """Counts a drawn cohort; returns the participations to charge.

        That is a bound known before the draw, or the real maximum in the unlikely case that
        it is larger (`tacit.privacy.participation`).
        """
        counts = self._counts.setdefault(purpose, np.zeros(self._plan.population, np.int64))
        counts[members] += 1
        self._draws[purpose] = self._draws.get(purpose, 0) + 1
        known = participation.bound(
            self._draws[purpose], self._plan.sampling_rate, self._plan.population
        )
        return max(known, int(counts.max()))

    def upcoming(self, purpose: str) -> int:
        """The participations that the next draw will be charged as, but for the unlikely."""
        known = participation.bound(
            self._draws.get(purpose, 0) + 1, self._plan.sampling_rate, self._plan.population
        )
        counts = self._counts.get(purpose)
        return max(known, 0 if counts is None else int(counts.max()))

    @staticmethod
    def commit(members: list[int]) -> tuple[str, bytes]:
        """A commitment to a cohort and the salt that opens it."""
        salt = secrets.token_bytes(32)
        return leaves.commit(salt, members), salt
