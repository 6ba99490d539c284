"""How the cohort's vectors become one sum. Memory is O(model), whatever the cohort.

`PlainAggregation` shows each vector to the coordinator, which is trusted with it: it
enforces the clip itself, so the sensitivity of the sum holds whatever a client sends.
Where clients add the noise it is `tacit.server.distributed`, and with secure aggregation
`tacit.server.secure`: other classes with the same two methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.configs import wire
from tacit.privacy import mechanisms
from tacit.privacy.errors import MessageError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest, Message, TrainReply, TrainRequest
from tacit.privacy.noise import Floats
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import Evaluation
from tacit.server.legs import Legs

M = TypeVar("M", bound=Message)


@dataclass
class Aggregate:
    """A cohort's sum.

    Attributes:
        total: sum of accepted updates (or counts), shape [d], float64.
        votes: sum of the accepted bits of adaptive clipping.
        accepted: vectors in the sum.
        rejected: for the operator, how many were left out and why; they count as zero.
        detail: of the first error, for the operator.
        noised: whether the clients have added the noise; else the coordinator has to.
    """

    total: Floats
    votes: float = 0.0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    detail: str = ""
    noised: bool = False


class Aggregation(Protocol):
    """Runs the legs that turn a request into a sum."""

    def train(self, request: TrainRequest, cohort: Sequence[int], legs: Legs) -> Aggregate:
        """The sum of the cohort's updates."""

    def evaluate(self, request: EvaluateRequest, cohort: Sequence[int], legs: Legs) -> Aggregate:
        """The sum of the cohort's counts."""


class PlainAggregation:
    """One leg; the coordinator sees each vector, checks it, clips it and adds it up.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        self._plan = plan

    def train(self, request: TrainRequest, cohort: Sequence[int], legs: Legs) -> Aggregate:
        """The sum of the cohort's updates, each clipped to ``request.clip`` here too."""
        votes = int(self._plan.client is not None and self._plan.client.adaptive is not None)
        made = Aggregate(np.zeros(request.parameters.size))
        for answer in answers("train", TrainReply, request, cohort, legs, made):
            sizes = (answer.update.size, answer.vote.size)
            if sizes != (request.parameters.size, votes):
                made.rejected["wrong round or shape"] += 1
                continue
            vector = self._bounded(answer.update, request.clip)
            vote = float(answer.vote.sum())
            if vector is None or (votes and vote not in (0.5, -0.5)):
                made.rejected["not finite"] += 1
                continue
            made.total += vector
            made.votes += vote
            made.accepted += 1
        return made

    def evaluate(self, request: EvaluateRequest, cohort: Sequence[int], legs: Legs) -> Aggregate:
        """The sum of the cohort's counts, each bounded here too."""
        made = Aggregate(np.zeros(3))
        for answer in answers("evaluate", EvaluateReply, request, cohort, legs, made):
            if answer.counts.size != 3:
                made.rejected["wrong round or shape"] += 1
                continue
            counts = mechanisms.clip(answer.counts, Evaluation.SENSITIVITY)
            if counts is None:
                made.rejected["not finite"] += 1
                continue
            made.total += counts
            made.accepted += 1
        return made

    def _bounded(self, update: NDArray[np.float32], bound: float) -> Floats | None:
        if self._plan.client is not None:
            return mechanisms.clip(update, bound)
        wide = update.astype(np.float64)
        return wide if np.isfinite(wide).all() else None


def answers(
    leg: Literal["train", "evaluate"],
    kind: type[M],
    request: Message,
    cohort: Sequence[int],
    legs: Legs,
    made: Aggregate,
) -> Iterator[M]:
    """The replies that are of this kind and to this request; notes the others in ``made``."""
    asked = (request.run, request.round, request.attempt)
    for reply in legs.exchange(leg, dict.fromkeys(cohort, request)):
        if reply.message is None:
            made.rejected[reply.problem] += 1
            made.detail = made.detail or reply.detail
            continue
        try:
            answer = wire.unpack(kind, reply.message)
        except MessageError:
            made.rejected["malformed"] += 1
            continue
        if (answer.run, answer.round, answer.attempt) != asked:
            made.rejected["wrong round or shape"] += 1
            continue
        yield answer
