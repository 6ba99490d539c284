"""Budget policies: asked before a charge is made, they pass or raise.

Guarantees: a policy sees the spend as it would be *after* the next release; raising means
that nothing is charged and nothing is sent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tacit.privacy import participation, validate
from tacit.privacy.claims import Claim
from tacit.privacy.errors import BudgetError, ConfigError
from tacit.privacy.ledger import Spending
from tacit.privacy.log import leaves
from tacit.privacy.log.leaves import Purpose
from tacit.privacy.plan import PrivacyPlan


class BudgetPolicy(Protocol):
    """Anything that can refuse a spend."""

    def check(self, projected: Spending) -> None:
        """Raises `BudgetError` if ``projected`` is more than the policy allows."""


@dataclass(frozen=True, slots=True)
class EpsilonCap:
    """A cap on one unit's epsilon against the public, amplified as the plan claims it.

    Attributes:
        name: the setting the cap came from, for messages.
        unit: "client" or "record".
        limit: largest epsilon allowed, > 0.
    """

    name: str
    unit: str
    limit: float

    def __post_init__(self) -> None:
        validate.positive(self.name, self.limit)

    def check(self, projected: Spending) -> None:
        """Raises `BudgetError` if the epsilon would pass the cap or isn't claimed at all."""
        spent = projected.epsilon(self.unit, "public", True)
        if spent is None:
            raise BudgetError(
                f"{self.name}={self.limit:g} can't be kept: no epsilon is claimed for the "
                f"{self.unit}",
                "give the mechanism noise, or drop the budget",
            )
        if spent > self.limit:
            raise BudgetError(
                f"{self.name}={self.limit:g} would be exceeded: the next release brings the "
                f"{self.unit}'s epsilon to {spent:.4f}",
                "raise the noise multiplier or the budget, or plan fewer rounds",
            )


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every policy must pass."""

    policies: Sequence[BudgetPolicy]

    def check(self, projected: Spending) -> None:
        """Raises what the first refusing policy raises."""
        for policy in self.policies:
            policy.check(projected)


def caps(plan: PrivacyPlan, epsilon: float | None, record_epsilon: float | None) -> AllOf:
    """The caps of ``budget.epsilon`` and ``budget.record_epsilon``.

    ``budget.epsilon`` caps the client unit; where a run has no client-level DP it caps the
    record unit.

    Raises:
        ConfigError: a cap on a unit that the plan doesn't protect.
    """
    policies: list[BudgetPolicy] = []
    if epsilon is not None:
        if plan.client is None and plan.record is None:
            raise ConfigError(
                f"budget.epsilon={epsilon:g} needs client-level or record-level DP",
                "both privacy.client and privacy.record are none",
            )
        unit = "client" if plan.client is not None else "record"
        policies.append(EpsilonCap("budget.epsilon", unit, epsilon))
    if record_epsilon is not None:
        if plan.record is None:
            raise ConfigError(f"budget.record_epsilon={record_epsilon:g} needs privacy.record")
        policies.append(EpsilonCap("budget.record_epsilon", "record", record_epsilon))
    return AllOf(policies)


@functools.lru_cache(maxsize=64)
def planned(plan: PrivacyPlan, trains: bool = True) -> Spending:
    """What a run will have spent when all its planned rounds are released at first attempt.

    Args:
        plan: of the run.
        trains: whether its rounds train; those of a rollout only evaluate.
    """
    spending = Spending({"client": plan.client_delta, "record": plan.record_delta})
    evaluations = 0
    if plan.evaluation is not None:
        every = plan.evaluation.every
        evaluations = plan.rounds // every + (plan.rounds % every > 0)
    parts: list[tuple[Purpose, list[Claim], int]] = [
        ("train", plan.training(), plan.rounds if trains else 0),
        ("evaluate", plan.evaluating(), evaluations),
    ]
    for purpose, claims, count in parts:
        if count:
            spending.add(_many(plan, purpose, claims, count))
    return spending


def _many(plan: PrivacyPlan, purpose: Purpose, claims: list[Claim], count: int) -> leaves.Body:
    """One leaf that adds what ``count`` charges do."""

    def times(claim: Claim) -> Claim:
        if claim.event is None or claim.per == "participation":
            return claim
        return replace(claim, event=claim.event.times(count))

    return leaves.charge(
        run="",
        round=count,
        attempt=0,
        purpose=purpose,
        plan_digest=plan.digest(),
        cohort="",
        claims=[times(claim) for claim in claims],
        participations=participation.bound(count, plan.sampling_rate, plan.population),
        noise_source=plan.noise_source,
    )
