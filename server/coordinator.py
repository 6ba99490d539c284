"""The round, from the draw of a cohort to a released version, in one page.

The order is the guarantee: nothing is sent before it is charged durably, nothing is
released but in one transaction with its leaf, its version and the state to go on from. A
crash anywhere can over-count epsilon and never under-count it.

Each step is logged on ``tacit.round`` before it is taken; tests kill the process there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tacit.configs.spec import RunSpec
from tacit.privacy import ledger, mechanisms
from tacit.privacy.budget import AllOf, caps
from tacit.privacy.errors import BudgetError, RoundError
from tacit.privacy.ledger import Purpose, Spending
from tacit.privacy.messages import EvaluateRequest, TrainRequest
from tacit.privacy.noise import Floats, Randomness
from tacit.privacy.plan import Claim, Evaluation, PrivacyPlan
from tacit.server import optimizer
from tacit.server import state as states
from tacit.server.aggregate import Aggregate, Aggregation, PlainAggregation
from tacit.server.cohort import Sampler
from tacit.server.legs import Legs
from tacit.server.model import GlobalModel
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row, Store

log = logging.getLogger("tacit.round")


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A released round.

    Attributes:
        round: its number, from 1.
        version: the model version's row.
        metrics: what may be shown: public or charged.
        epsilon: client, client_unamplified, record and record_local; None if not claimed.
        asked: clients in the cohort (the operator's to know).
        accepted: updates in the sum (the operator's to know).
        rejected: why others were left out (the operator's to know).
        seconds: wall time of the round.
    """

    round: int
    version: Row
    metrics: dict[str, float]
    epsilon: dict[str, float | None]
    asked: int
    accepted: int
    rejected: dict[str, int]
    seconds: float


class Coordinator:
    """Runs one run's rounds, from wherever its database says it is.

    Args:
        run: its row in the store.
        spec: its configuration.
        plan: its privacy plan.
        model: the task's model on the coordinator's side.
        store: ledger, versions, state.
        legs: to the clients.
    """

    def __init__(
        self,
        run: Row,
        spec: RunSpec,
        plan: PrivacyPlan,
        model: GlobalModel,
        store: Store,
        legs: Legs,
    ) -> None:
        self.run, self.spec, self.plan, self.model = run, spec, plan, model
        self._store, self._legs = store, legs
        self._registry = ModelRegistry(store.home, store)
        self._folder = store.home.run(run["id"])
        self._randomness = Randomness(spec.seed)
        self._aggregation: Aggregation = PlainAggregation(plan)
        self._budget: AllOf = caps(plan, spec.budget.epsilon, spec.budget.record_epsilon)
        self._recover()

    def _recover(self) -> None:
        """Takes up the run where the database says it is; closes charges left open."""
        identifier = self.run["id"]
        self._store.abandon_open_charges(identifier, "crash")
        bodies = [row["body"] for row in self._store.leaves(identifier)]
        self._charges = [b for b in bodies if b["kind"] == "CHARGE"]
        self._aborts = [
            b["round"] for b in bodies if b["kind"] == "ABANDON" and b["reason"] == "abort"
        ]
        deltas = {"client": self.plan.client_delta, "record": self.plan.record_delta}
        self.spending: Spending = ledger.replay(bodies, deltas)
        self._sampler = Sampler(self.plan, self._randomness)
        for purpose, members in self._store.cohorts(identifier):
            self._sampler.note(purpose, members)
        if self.run["state"] is None:
            clip = self.plan.client.clip if self.plan.client else 0.0
            self.state = states.State(0, self.model.initial, clip)
        else:
            self.state = states.State.load(self._folder, self.run["state"])

    def rounds(self) -> Iterator[RoundResult]:
        """Steps until the planned rounds are done or the budget refuses the next one.

        Raises:
            BudgetError: not even the first round fits.
            RoundError: a round ended without a release; its charge stands, and the run can
                be resumed.
        """
        identifier = self.run["id"]
        self._store.set_status(identifier, "running")
        while self.state.round < self.spec.rounds:
            try:
                self._project()
            except BudgetError as refusal:
                first = self.state.round == 0
                self._store.set_status(
                    identifier, "refused" if first else "stopped", refusal.message
                )
                if first:
                    raise
                log.warning("stopped after round %d: %s", self.state.round, refusal.message)
                return
            try:
                yield self.step()
            except RoundError as error:
                self._store.abandon_open_charges(identifier, "abort")
                self._store.set_status(identifier, "failed", error.message)
                raise
        self._store.set_status(identifier, "finished")

    def step(self) -> RoundResult:
        """One round: draw, charge, train, noise, average, evaluate, release."""
        began = time.perf_counter()
        number = self.state.round + 1

        # 1. Draw the cohort; charge before anybody is asked.
        cohort = self._draw("train", number)
        attempt, charge = self._charge("train", number, cohort, self.plan.training())

        # 2. Clients train; their bounded updates are summed.
        log.debug("round %d: train", number)
        request = TrainRequest(
            self.run["id"],
            number,
            attempt,
            self.plan.digest(),
            self.model.frozen,
            self.state.clip,
            self.state.parameters.astype(np.float32),
        )
        summed = self._aggregation.train(request, cohort, self._legs)
        self._check_survivors(summed, len(cohort))

        # 3. Noise, then the average over the *expected* cohort, a constant.
        log.debug("round %d: noise", number)
        average, clip = self._noised(summed, number)

        # 4. The server's optimizer makes the next model.
        log.debug("round %d: optimize", number)
        moments = dict(self.state.moments)
        moved = optimizer.step(self.spec.optimizer, self.state.parameters, average, moments)
        if not np.isfinite(moved.astype(np.float32)).all():
            raise RoundError(
                f"round {number}: the model diverged to values that aren't finite",
                "lower optimizer.learning_rate or local.learning_rate",
            )
        after = states.State(number, moved, clip, moments)

        # 5. Evaluate: on public data, or on clients through a charged mechanism.
        log.debug("round %d: evaluate", number)
        metrics, releases = self._evaluate(after)

        # 6. Release: leaf, version and state in one transaction.
        log.debug("round %d: write", number)
        artifact = self._registry.put(self.model.arrays(moved))
        saved = after.save(self._folder)
        body = {
            "kind": "RELEASE",
            "run": self.run["id"],
            "round": number,
            "attempt": attempt,
            "purpose": "train",
            "charge": charge,
            "plan": self.plan.digest(),
            "artifact": artifact,
            "metrics": metrics,
        }
        epsilon = self.epsilon()
        result = self._result(number, metrics, epsilon, summed, len(cohort), began)
        log.debug("round %d: release", number)
        version = self._store.release(
            [*releases, body], self._version(number, artifact, charge, metrics), result, saved
        )
        log.debug("round %d: released", number)
        self.state = after
        states.forget(self._folder, saved)
        return RoundResult(
            round=number,
            version=version,
            metrics=metrics,
            epsilon=epsilon,
            asked=len(cohort),
            accepted=summed.accepted,
            rejected=dict(summed.rejected),
            seconds=time.perf_counter() - began,
        )

    def epsilon(self) -> dict[str, float | None]:
        """What has been charged so far, against the public and against everybody."""
        of = self.spending.epsilon
        return {
            "client": of("client", "public", True),
            "client_unamplified": of("client", "public", False),
            "record": of("record", "public", True),
            "record_unamplified": of("record", "public", False),
            "record_local": of("record", "local", True),
        }

    # The steps

    def _evaluates(self, number: int) -> bool:
        every = self.spec.evaluation.every
        return number % every == 0 or number == self.spec.rounds

    def _project(self) -> None:
        """Asks the budget about the next round, with all that it will charge."""
        number = self.state.round + 1
        projected = self.spending.copy()
        purposes: list[tuple[Purpose, list[Claim]]] = [("train", self.plan.training())]
        if self.plan.evaluation is not None and self._evaluates(number):
            purposes.append(("evaluate", self.plan.evaluating()))
        for purpose, claims in purposes:
            bound = self._sampler.upcoming(purpose)
            projected.add(self._leaf(purpose, number, 0, "", claims, bound))
        self._budget.check(projected)

    def _draw(self, purpose: Purpose, number: int) -> list[int]:
        log.debug("round %d: draw for %s", number, purpose)
        return self._sampler.draw(purpose, number, self._aborts.count(number))

    def _charge(
        self, purpose: Purpose, number: int, cohort: list[int], claims: list[Claim]
    ) -> tuple[int, int]:
        """Commits a CHARGE leaf; returns the attempt it is for and its index."""
        log.debug("round %d: charge for %s", number, purpose)
        attempt = sum(1 for b in self._charges if (b["round"], b["purpose"]) == (number, purpose))
        commitment, salt = self._sampler.commit(cohort)
        participations = self._sampler.note(purpose, cohort)
        body = self._leaf(purpose, number, attempt, commitment, claims, participations)
        index = self._store.append(body, (salt, cohort))
        self._charges.append(body)
        self.spending.add(body)
        log.debug("round %d: charged for %s", number, purpose)
        return attempt, index

    def _leaf(
        self,
        purpose: Purpose,
        number: int,
        attempt: int,
        commitment: str,
        claims: list[Claim],
        participations: int,
    ) -> dict[str, Any]:
        return ledger.charge(
            run=self.run["id"],
            round=number,
            attempt=attempt,
            purpose=purpose,
            plan_digest=self.plan.digest(),
            cohort=commitment,
            claims=claims,
            participations=participations,
            noise_source=self._randomness.name,
        )

    def _check_survivors(self, summed: Aggregate, asked: int) -> None:
        if summed.rejected:
            log.warning("updates counted as zero: %s", dict(summed.rejected))
        if asked > 0 and summed.accepted == 0 and summed.rejected["error"] == asked:
            raise RoundError(f"all {asked} clients of the cohort failed: {summed.detail}")
        if summed.accepted < self.plan.minimum_survivors:
            raise RoundError(
                f"{summed.accepted} updates are fewer than "
                f"minimum_survivors={self.plan.minimum_survivors}; nothing was released "
                f"({dict(summed.rejected)})",
                "resume the run for another attempt, or plan for fewer survivors",
            )

    def _noised(self, summed: Aggregate, number: int) -> tuple[Floats, float]:
        """The noised average, and the next clip."""
        expected = self.spec.cohort
        clip, unit = self.state.clip, self.plan.client
        total = summed.total
        if unit is not None:
            source = self._randomness.source("central", number, self._aborts.count(number))
            z = unit.update_noise_multiplier()
            total = mechanisms.noisy_sum(total, clip, z, source)
            if unit.adaptive is not None:
                std = unit.adaptive.count_noise if z > 0 else 0.0
                bits = summed.votes + std * float(source.normal(1)[0])
                clip = mechanisms.adapt(clip, bits, expected, unit.adaptive)
        weight = 1.0
        if self.plan.weight_cap is not None:
            nominal = self.model.examples or self.plan.weight_cap
            weight = min(1.0, nominal / self.plan.weight_cap)
        return total / (expected * weight), clip

    def _evaluate(self, after: states.State) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Metrics that may be shown, and the RELEASE leaves they need."""
        kind, number = self.spec.evaluation.kind, after.round
        if kind == "none" or not self._evaluates(number):
            return {}, []
        if kind == "public":
            return self.model.public_metrics(after.parameters), []
        cohort = self._draw("evaluate", number)
        attempt, charge = self._charge("evaluate", number, cohort, self.plan.evaluating())
        request = EvaluateRequest(
            self.run["id"],
            number,
            attempt,
            self.plan.digest(),
            self.model.frozen,
            after.parameters.astype(np.float32),
        )
        summed = self._aggregation.evaluate(request, cohort, self._legs)
        how = self.plan.evaluation
        assert how is not None
        source = self._randomness.source("counts", number, self._aborts.count(number))
        counts = mechanisms.noisy_sum(
            summed.total, Evaluation.SENSITIVITY, how.noise_multiplier, source
        )
        metrics = federated_metrics(counts, how)
        body = {
            "kind": "RELEASE",
            "run": self.run["id"],
            "round": number,
            "attempt": attempt,
            "purpose": "evaluate",
            "charge": charge,
            "plan": self.plan.digest(),
            "metrics": metrics,
        }
        return metrics, [body]

    def _version(self, number: int, artifact: str, charge: int, metrics: dict[str, float]) -> Row:
        same = ("name", "plan_digest", "spec_digest", "code")
        return {
            "run": self.run["id"],
            "round": number,
            "artifact": artifact,
            "charge": charge,
            "metrics": json.dumps(metrics),
            **{key: self.run[key] for key in same},
        }

    def _result(
        self,
        number: int,
        metrics: dict[str, float],
        epsilon: dict[str, float | None],
        summed: Aggregate,
        asked: int,
        began: float,
    ) -> Row:
        return {
            "run": self.run["id"],
            "round": number,
            "metrics": json.dumps(metrics),
            "epsilon": json.dumps(epsilon),
            "asked": asked,
            "accepted": summed.accepted,
            "rejected": json.dumps(dict(summed.rejected)),
            "seconds": time.perf_counter() - began,
        }


def federated_metrics(counts: Floats, how: Evaluation) -> dict[str, float]:
    """Accuracy and loss from noised counts, with the noise's share of their error.

    Args:
        counts: (score, examples, loss) over the cap, summed over the cohort and noised.
        how: the evaluation's plan.

    Returns:
        ``accuracy`` and ``loss``, clamped to their ranges; ``accuracy_noise`` is the
        standard deviation that the noise alone gives the ratio (delta method).
    """
    std = how.noise_multiplier * Evaluation.SENSITIVITY
    examples = max(float(counts[1]), 1.0 / how.cap)
    accuracy = min(1.0, max(0.0, float(counts[0]) / examples))
    loss = min(1.0, max(0.0, float(counts[2]) / examples)) * how.loss_cap
    spread = std * float(np.sqrt(1.0 + accuracy**2)) / examples
    return {"accuracy": accuracy, "loss": loss, "accuracy_noise": min(1.0, spread)}
