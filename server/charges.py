"""What a run may spend and has spent: draws cohorts, asks the budget, commits charges.

Guarantees: `Charges.charge` returns only when the CHARGE leaf is durable, and charges the
cohort it commits to, without whoever has withdrawn before. Everything here is rebuilt from the
database, so a resumed run knows of every charge of its past, released or abandoned.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from tacit.configs.spec import RunSpec
from tacit.privacy import ledger
from tacit.privacy.budget import AllOf, caps
from tacit.privacy.claims import Claim
from tacit.privacy.ledger import Spending
from tacit.privacy.log import leaves
from tacit.privacy.log.leaves import Purpose
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.server.cohort import Sampler
from tacit.server.erasure import withdrawals
from tacit.server.erasure.handles import Handles
from tacit.server.governance import Governance
from tacit.server.store import Store

log = logging.getLogger("tacit.round")


@dataclass(frozen=True, slots=True)
class Charge:
    """A committed charge.

    Attributes:
        round: it is for.
        attempt: counts the charges for this round and purpose, from 0.
        purpose: "train" or "evaluate".
        index: of its leaf.
        cohort: clients that may be asked under it.
    """

    round: int
    attempt: int
    purpose: Purpose
    index: int
    cohort: list[int]


class Charges:
    """A run's spending.

    Args:
        run: its id.
        spec: its configuration.
        plan: its privacy plan.
        store: where leaves go.
    """

    def __init__(self, run: str, spec: RunSpec, plan: PrivacyPlan, store: Store) -> None:
        self._run, self._plan, self._store = run, plan, store
        self._population = str(store.run(run)["population"])
        self._handles, self._out = Handles(self._population), dict[int, str | None]()
        self._randomness = Randomness(spec.seed)
        self._budget: AllOf = caps(plan, spec.budget.epsilon, spec.budget.record_epsilon)
        self._governance = Governance(store)
        store.abandon_open_charges(run, "crash")
        bodies = [row["body"] for row in store.spending(run)]
        charged = [b for b in bodies if b["kind"] == "CHARGE"]
        self._attempts = Counter((b["round"], b["purpose"]) for b in charged)
        self._aborted = Counter(
            b["round"] for b in bodies if b["kind"] == "ABANDON" and b["reason"] == "abort"
        )
        deltas = {"client": plan.delta("client"), "record": plan.delta("record")}
        self.spending: Spending = ledger.replay(bodies, deltas, store.base(run))
        self._sampler = Sampler(plan, self._randomness)
        for purpose, members in store.cohorts(run):
            self._sampler.note(purpose, members)
        for body in charged:
            self._sampler.charged(body["purpose"], body["participations"])

    def aborts(self, number: int) -> int:
        """How often this round failed; its cohort and central noise aren't drawn again."""
        return self._aborted[number]

    def aborted(self, number: int, charges: int) -> None:
        """Notes that charges of a round came to nothing; its next attempt draws anew."""
        self._aborted[number] += charges

    def project(self, number: int, evaluates: bool, trains: bool = True) -> None:
        """Asks the run's caps about a round, with all that it will charge.

        Args:
            number: the round.
            evaluates: whether it charges an evaluation.
            trains: whether it charges a training; those of a rollout don't.

        Raises:
            BudgetError: a cap refuses it.
        """
        projected = self.spending.copy()
        for body in self._ahead(number, evaluates)[0 if trains else 1 :]:
            projected.add(body)
        self._budget.check(projected)

    def awaits_review(self) -> str | None:
        """Why the run may not begin before a reviewer said yes; None if it may.

        Raises:
            BudgetError: a reviewer said no.
        """
        return self._governance.awaits_review(self._run)

    def check_release(self, c: Connection, at: str) -> None:
        """Raises `BudgetError` if an audit froze releases; asked as a release is committed."""
        self._governance.check_release(c)

    def charge(self, purpose: Purpose, number: int, evaluates: bool = False) -> Charge:
        """Draws a cohort and commits its charge, before anybody is asked.

        Who has withdrawn by the moment of the commit isn't in it, nor in what is committed to.

        Args:
            purpose: "train" or "evaluate".
            number: the round.
            evaluates: whether an evaluation will be charged after the training: the policies
                are asked for both at once.

        Raises:
            BudgetError: a policy of the population refuses it.
        """
        log.debug("round %d: draw for %s", number, purpose)
        drawn = self._sampler.draw(purpose, number, self.aborts(number))
        log.debug("round %d: charge for %s", number, purpose)
        attempt = self._attempts[number, purpose]
        with self._store.appending() as (c, book):
            cohort, members = self._staying(c, drawn)
            commitment, salt = self._sampler.commit(members)
            participations = self._sampler.note(purpose, cohort)
            body = self._leaf(purpose, number, attempt, commitment, participations)
            asked = [body, *self._ahead(number, evaluates)[1:]]
            self._governance.check(c, self._run, asked, book.at)
            index = book.append(body, (salt, members))
        self._attempts[number, purpose] += 1
        self.spending.add(body)
        log.debug("round %d: charged for %s", number, purpose)
        return Charge(number, attempt, purpose, index, cohort)

    def _staying(self, c: Connection, drawn: list[int]) -> tuple[list[int], list[str]]:
        """Those of a draw who haven't withdrawn by now, and their handles."""
        out = withdrawals.within(c, self._population)
        if out != self._out:
            self._out = out
            self._handles.forget()
        cohort = [client for client in drawn if client not in out]
        return cohort, self._handles.of(c, self._run, cohort)

    def _ahead(self, number: int, evaluates: bool) -> list[leaves.Body]:
        """What a round will charge."""
        purposes: tuple[Purpose, ...] = ("train", "evaluate") if evaluates else ("train",)
        return [
            self._leaf(purpose, number, 0, "", self._sampler.upcoming(purpose))
            for purpose in purposes
        ]

    def release(self, charge: Charge, metrics: dict[str, float], evaluation: str) -> dict[str, Any]:
        """The RELEASE leaf that closes a charge; the caller commits it."""
        return {
            "kind": "RELEASE",
            "run": self._run,
            "round": charge.round,
            "attempt": charge.attempt,
            "purpose": charge.purpose,
            "charge": charge.index,
            "plan": self._plan.digest(),
            "metrics": metrics,
            "evaluation": evaluation,
        }

    def epsilon(self) -> dict[str, float | None]:
        """What has been charged so far, against the public and against everybody."""
        return self.spending.stated()

    def _leaf(
        self, purpose: Purpose, number: int, attempt: int, commitment: str, participations: int
    ) -> dict[str, Any]:
        claims: list[Claim] = (
            self._plan.training() if purpose == "train" else self._plan.evaluating()
        )
        return leaves.charge(
            run=self._run,
            round=number,
            attempt=attempt,
            purpose=purpose,
            plan_digest=self._plan.digest(),
            cohort=commitment,
            claims=claims,
            participations=participations,
            noise_source=self._randomness.name,
        )
