"""Sums of vectors whose clients add the noise in shares: surplus off, decoded.

`EncodedAggregation` sees each vector; it is the researcher's fast path, equal bit for bit to
secure aggregation, which is `tacit.server.secure`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.discrete.layers import SEED_BYTES, Shares, chain
from tacit.privacy.discrete.rotation import public_seed
from tacit.privacy.errors import MessageError
from tacit.privacy.messages import EncodedReply, EvaluateRequest, Request, TrainRequest
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.words import Words
from tacit.privacy.units import Evaluation
from tacit.server.aggregate import Aggregate, answers
from tacit.server.legs import Legs

Purpose = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True)
class IntegerSum:
    """A sum on the lattice, before surplus noise is taken off.

    Attributes:
        total: shape [`Lattice.length`].
        clients: among how many the noise was shared.
        surplus: first layer that is surplus.
        seeds: of that layer, one for each vector in the sum; empty if none is.
    """

    total: NDArray[np.int64]
    clients: int
    surplus: int
    seeds: list[bytes]


@dataclass(frozen=True, slots=True)
class Gathering:
    """What a sum is gathered from.

    Attributes:
        purpose: "train" or "evaluate".
        request: what is asked.
        lattice: of the vectors.
        cohort: whom.
        legs: to them.
        made: where it is noted who was accepted.
    """

    purpose: Purpose
    request: Request
    lattice: Lattice
    cohort: Sequence[int]
    legs: Legs
    made: Aggregate


class SharedNoise(ABC):
    """Decodes integer sums under a plan; the base of the two ways to get one.

    Args:
        plan: of the run; its mechanism adds noise in shares.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        assert plan.rules is not None
        assert plan.updates is not None
        self.plan = plan
        self.rules: Rules = plan.rules
        self.updates: Lattice = plan.updates

    def train(self, request: TrainRequest, cohort: Sequence[int], legs: Legs) -> Aggregate:
        """The noised sum of the cohort's updates."""
        return self._sum("train", request, request.clip, self.updates, cohort, legs)

    def evaluate(self, request: EvaluateRequest, cohort: Sequence[int], legs: Legs) -> Aggregate:
        """The noised sum of the cohort's counts."""
        assert self.plan.counts is not None
        bound = Evaluation.SENSITIVITY
        return self._sum("evaluate", request, bound, self.plan.counts, cohort, legs)

    def _sum(
        self,
        purpose: Purpose,
        request: Request,
        bound: float,
        lattice: Lattice,
        cohort: Sequence[int],
        legs: Legs,
    ) -> Aggregate:
        made = Aggregate(np.zeros(lattice.dimension), noised=True)
        found = self._gathered(Gathering(purpose, request, lattice, cohort, legs, made))
        if found is None:
            return made
        total = self._settled(found, lattice)
        signs = public_seed(purpose, request.round)
        made.total, made.votes = encoder.decode(total, bound, lattice, signs)
        return made

    def _settled(self, found: IntegerSum, lattice: Lattice) -> NDArray[np.int64]:
        """The sum without surplus noise, representatives around zero."""
        layers = self.rules.layers(found.clients)
        shares = Shares(
            self.plan.mechanism, lattice.variance, found.clients, layers, lattice.length
        )
        words = Words(lattice.bits)
        total = found.total - shares.surplus(found.surplus, found.seeds)
        return words.centred(words.from_integers(total))

    @abstractmethod
    def _gathered(self, job: Gathering) -> IntegerSum | None:
        """Runs the legs; notes in ``job.made`` who was accepted. None if it isn't enough."""


class EncodedAggregation(SharedNoise):
    """One leg; the coordinator sees each encoded vector and adds it up."""

    def _gathered(self, job: Gathering) -> IntegerSum | None:
        lattice, cohort, made = job.lattice, job.cohort, job.made
        words = Words(lattice.bits)
        total, seeds = words.zeros(lattice.length), []
        asked = dataclasses.replace(job.request, clients=len(cohort))
        for answer in answers(job.purpose, EncodedReply, asked, cohort, job.legs, made):
            try:
                vector = words.unpack(answer.words, lattice.length)
            except MessageError:
                made.rejected["wrong round or shape"] += 1
                continue
            if len(answer.chain) != SEED_BYTES:
                made.rejected["malformed"] += 1
                continue
            words.add_into(total, vector)
            seeds.append(answer.chain)
            made.accepted += 1
        words.reduce(total)
        dropped, layers = len(cohort) - made.accepted, self.rules.layers(len(cohort))
        if made.accepted < self.rules.minimum or dropped > layers:
            made.detail = made.detail or f"{dropped} of {len(cohort)} clients dropped out"
            made.accepted = 0
            return None
        first = dropped + 1
        chains = [chain(seed, first)[-1] for seed in seeds] if dropped < layers else []
        return IntegerSum(words.centred(total), len(cohort), first, chains)
