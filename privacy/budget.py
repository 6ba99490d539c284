"""Budget policies: asked before a charge is made, they pass or raise.

Guarantees: a policy sees the spend as it would be *after* the next release; raising means
that nothing is charged and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tacit.privacy import validate
from tacit.privacy.errors import BudgetError, ConfigError
from tacit.privacy.ledger import Spending
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
