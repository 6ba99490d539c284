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
from tacit.privacy import accountant, mechanisms
from tacit.privacy.errors import ConfigError, RoundError, ShortfallError
from tacit.privacy.ledger import STATED
from tacit.privacy.messages import EvaluateRequest, TrainRequest
from tacit.privacy.noise import Floats, Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.directory import Directory
from tacit.privacy.units import Evaluation
from tacit.server import optimizer, telemetry
from tacit.server import state as states
from tacit.server.aggregate import Aggregate
from tacit.server.aggregations import aggregation
from tacit.server.attempts import Attempts
from tacit.server.charges import Charge, Charges
from tacit.server.legs import Legs
from tacit.server.metrics import federated_metrics
from tacit.server.model import GlobalModel
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row, Store

log = logging.getLogger("tacit.round")


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A released round.

    Attributes:
        round: its number, from 1.
        artifact: digest of the released version.
        metrics: what may be shown: public or charged.
        epsilon: client, client_unamplified, record and record_local; None if not claimed.
        asked: clients in the cohort (the operator's to know).
        accepted: updates in the sum (the operator's to know).
        rejected: why others were left out (the operator's to know).
        seconds: wall time of the round.
    """

    round: int
    artifact: str
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
        directory: the clients' public keys, which secure aggregation needs.

    Raises:
        ConfigError: the run is a rollout, whose rounds only evaluate.
    """

    def __init__(
        self,
        run: Row,
        spec: RunSpec,
        plan: PrivacyPlan,
        model: GlobalModel,
        store: Store,
        legs: Legs,
        directory: Directory | None = None,
    ) -> None:
        if any("rollout" in leaf["body"] for leaf in store.leaves(run["id"], ("PLAN",))):
            hint = f"tacit rollout --resume {run['id']} goes on"
            raise ConfigError(f"run={run['id']} is a rollout; it doesn't train", hint)
        self.run, self.spec, self.plan, self.model = run, spec, plan, model
        self._store, self._legs = store, legs
        self._registry = ModelRegistry(store.home, store)
        self._folder = store.home.run(run["id"])
        self._randomness = Randomness(spec.seed)
        self._aggregation = aggregation(plan, directory)
        self._charges = Charges(run["id"], spec, plan, store)
        if run["state"] is None:
            clip = plan.client.clip if plan.client else plan.projection or 0.0
            self.state = states.State(0, model.initial, clip)
        else:
            self.state = states.State.load(self._folder, run["state"])

    def rounds(self) -> Iterator[RoundResult]:
        """Steps until the planned rounds are done or the budget refuses the next one.

        A round that falls short of clients is attempted again, drawn and charged anew, up to
        ``attempts`` times.

        Raises:
            BudgetError: not even the first round fits.
            RoundError: a round ended without a release; its charges stand, and the run can
                be resumed.
        """
        attempts = Attempts(self.run, self.spec, self._store, self._charges)
        yield from attempts.rounds(lambda: self.state.round, self._project, self.step)

    def _project(self, number: int) -> None:
        self._charges.project(number, self._evaluates(number, "federated"))

    def step(self) -> RoundResult:
        """One round."""
        began = time.perf_counter()
        number = self.state.round + 1

        # 1. Draw the cohort; charge before anybody is asked.
        charge = self._charges.charge("train", number, self._evaluates(number, "federated"))

        # 2. Clients train; their bounded updates are summed.
        log.debug("round %d: train", number)
        summed = self._aggregation.train(self._request(charge), charge.cohort, self._legs)
        self._check_survivors(summed, len(charge.cohort))

        # 3. Noise, then the average over the *expected* cohort, a constant.
        log.debug("round %d: noise", number)
        average, clip = self._noised(summed, number)

        # 4. The server's optimizer makes the next model.
        log.debug("round %d: optimize", number)
        after = self._moved(average, clip, number)

        # 5. Evaluate: on public data, or on clients through a charged mechanism.
        log.debug("round %d: evaluate", number)
        metrics, leaves = self._evaluate(after, summed)

        # 6. Release: leaves, version and state in one transaction.
        log.debug("round %d: write", number)
        artifact = self._registry.put(self.model.arrays(after.parameters))
        saved = after.save(self._folder)
        leaf = self._charges.release(charge, metrics, self.spec.evaluation.kind)
        result = RoundResult(
            round=number,
            artifact=artifact,
            metrics=metrics,
            epsilon=self._charges.epsilon(),
            asked=len(charge.cohort),
            accepted=summed.accepted,
            rejected=dict(summed.rejected),
            seconds=time.perf_counter() - began,
        )
        log.debug("round %d: release", number)
        released = self._store.release(
            [*leaves, {**leaf, **_stated(result)}],
            self._version(result, charge),
            self._row(result),
            saved,
            self._charges.check_release,
        )
        log.debug("round %d: released", number)
        self.state = after
        states.forget(self._folder, saved)
        self._told(result, released["release"])
        return result

    def _told(self, result: RoundResult, leaf: int) -> None:
        """Counts a released round for the operator."""
        telemetry.round(result.seconds, result.accepted, "released")
        telemetry.leaves(leaf + 1)
        for name, row in STATED.items():
            telemetry.epsilon(row.unit, row.adversary, result.epsilon[name], row.amplified)
        caps = self.spec.budget
        unit = "record" if self.plan.client is None else "client"
        for of, cap in ((unit, caps.epsilon), ("record", caps.record_epsilon)):
            spent = result.epsilon[of]
            if cap is not None and spent is not None:
                telemetry.budget(of, cap - spent)

    # The steps

    def _evaluates(self, number: int, kind: str) -> bool:
        how = self.spec.evaluation
        return how.kind == kind and (number % how.every == 0 or number == self.spec.rounds)

    def _request(self, charge: Charge) -> TrainRequest:
        return TrainRequest(
            self.run["id"],
            charge.round,
            charge.attempt,
            self.plan.digest(),
            self.model.frozen,
            self.state.clip,
            0,
            b"",
            self.state.parameters.astype(np.float32),
        )

    def _check_survivors(self, summed: Aggregate, asked: int) -> None:
        if summed.rejected:
            log.warning("clients that were left out, or fell silent: %s", dict(summed.rejected))
        if asked > 0 and summed.rejected["error"] == asked:
            raise ShortfallError(f"all {asked} clients of the cohort failed: {summed.detail}")
        if summed.noised and summed.accepted == 0:
            raise ShortfallError(
                f"nothing was released: {summed.detail or 'too few clients answered'} "
                f"({dict(summed.rejected)})",
                "resume the run for another attempt, or plan for more dropouts",
            )
        if summed.accepted < self.plan.minimum_survivors:
            raise ShortfallError(
                f"{summed.accepted} updates are fewer than "
                f"minimum_survivors={self.plan.minimum_survivors}; nothing was released "
                f"({dict(summed.rejected)})",
                "resume the run for another attempt, or plan for fewer survivors",
            )

    def _noised(self, summed: Aggregate, number: int) -> tuple[Floats, float]:
        """The noised average, and the next clip."""
        clip, unit, total = self.state.clip, self.plan.client, summed.total
        if unit is not None and summed.noised:
            # The votes carry the same noise as every coordinate: the plan's.
            if unit.adaptive is not None:
                clip = mechanisms.adapt(clip, summed.votes, self.spec.cohort, unit.adaptive)
        elif unit is not None:
            source = self._randomness.source("central", number, self._charges.aborts(number))
            z = unit.update_noise_multiplier()
            total = mechanisms.noisy_sum(total, clip, z, source)
            if unit.adaptive is not None:
                std = unit.adaptive.count_noise if z > 0 else 0.0
                bits = summed.votes + std * float(source.normal(1)[0])
                clip = mechanisms.adapt(clip, bits, self.spec.cohort, unit.adaptive)
        weight = 1.0
        if self.plan.weight_cap is not None:
            nominal = self.model.examples or self.plan.weight_cap
            weight = min(1.0, nominal / self.plan.weight_cap)
        return total / (self.spec.cohort * weight), clip

    def _moved(self, average: Floats, clip: float, number: int) -> states.State:
        """The state after the server's optimizer took its step."""
        moments = dict(self.state.moments)
        moved = optimizer.step(self.spec.optimizer, self.state.parameters, average, moments)
        if not np.isfinite(moved.astype(np.float32)).all():
            raise RoundError(
                f"round {number}: the model diverged to values that aren't finite",
                "lower optimizer.learning_rate or local.learning_rate",
            )
        return states.State(number, moved, clip, moments)

    def _evaluate(
        self, after: states.State, trained: Aggregate
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Metrics that may be shown, and the RELEASE leaves they need.

        Who was left out is added to what is noted of the training.
        """
        number, how = after.round, self.plan.evaluation
        if self._evaluates(number, "public"):
            return self.model.public_metrics(after.parameters), []
        if how is None or not self._evaluates(number, "federated"):
            return {}, []
        charge = self._charges.charge("evaluate", number)
        request = EvaluateRequest(
            self.run["id"],
            number,
            charge.attempt,
            self.plan.digest(),
            self.model.frozen,
            0.0,
            0,
            b"",
            after.parameters.astype(np.float32),
        )
        summed = self._aggregation.evaluate(request, charge.cohort, self._legs)
        counts = summed.total
        trained.rejected += summed.rejected
        if summed.noised:
            self._check_survivors(summed, len(charge.cohort))
        else:
            source = self._randomness.source("counts", number, self._charges.aborts(number))
            z = how.noise_multiplier
            counts = mechanisms.noisy_sum(counts, Evaluation.SENSITIVITY, z, source)
        metrics = federated_metrics(counts, how)
        return metrics, [self._charges.release(charge, metrics, "federated")]

    def _version(self, result: RoundResult, charge: Charge) -> Row:
        same = ("name", "plan_digest", "spec_digest", "code")
        return {
            "run": self.run["id"],
            "round": result.round,
            "artifact": result.artifact,
            "charge": charge.index,
            "metrics": json.dumps(result.metrics),
            **{key: self.run[key] for key in same},
        }

    def _row(self, result: RoundResult) -> Row:
        return {
            "run": self.run["id"],
            "round": result.round,
            "metrics": json.dumps(result.metrics),
            "epsilon": json.dumps(result.epsilon),
            "asked": result.asked,
            "accepted": result.accepted,
            "rejected": json.dumps(result.rejected),
            "seconds": result.seconds,
        }


def _stated(result: RoundResult) -> dict[str, Any]:
    """What a RELEASE leaf says of a version, and of the epsilon so far."""
    return {
        "artifact": result.artifact,
        "epsilon": result.epsilon,
        "accountant": accountant.version(),
    }
