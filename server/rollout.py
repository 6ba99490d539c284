"""A rollout's round, from the draw of a cohort to released counts of each arm, in one page.

The order is the guarantee, as in `tacit.server.coordinator`: nothing is sent before it is charged
durably, and what a round releases is one transaction. One charge covers a round's arms, since each
client of the cohort is in one of them and the coin that says which is secret
(`tacit.privacy.rollouts`). Arms are summed one after the other, each in a session of its own; if
one of them falls short of clients, the whole round is abandoned and its charge stands.

Nobody sees who was in which arm, nor is it kept: the charge's commitment is to the whole cohort.

Each step is logged on ``tacit.round`` before it is taken; tests kill the process there.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from tacit.configs.spec import RunSpec
from tacit.privacy import accountant, mechanisms
from tacit.privacy.errors import ConfigError, ShortfallError
from tacit.privacy.intervals import Counts, metrics
from tacit.privacy.messages import EvaluateRequest
from tacit.privacy.noise import Randomness, Singles, Source
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.rollouts import Arm, RolloutPlan
from tacit.privacy.secagg.directory import Directory
from tacit.privacy.units import Evaluation
from tacit.server import telemetry, watch
from tacit.server.aggregations import aggregation
from tacit.server.attempts import Attempts
from tacit.server.charges import Charge, Charges
from tacit.server.legs import Legs
from tacit.server.lifecycle import Move
from tacit.server.store import Row, Store

log = logging.getLogger("tacit.round")


class ArmModels(Protocol):
    """The versions of a rollout as the coordinator needs them (`tacit.server.rollouts`)."""

    frozen: str

    def parameters(self, arm: Arm) -> Singles:
        """What an arm's clients evaluate, shape [d]."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What one arm released.

    Attributes:
        arm: which.
        counts: noised sums.
        metrics: of these counts, for whoever looks at one round.
    """

    arm: Arm
    counts: Counts
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As the RELEASE leaf has it."""
        return {**self.arm.named(), "counts": self.counts.to_json(), "metrics": self.metrics}


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """A released round of a rollout.

    Attributes:
        round: its number, from 1.
        leaf: its RELEASE.
        arms: what each released.
        epsilon: as beside every release.
        asked: clients in the cohort (the operator's to know).
        accepted: vectors in the sums (the operator's to know).
        rejected: why others were left out (the operator's to know).
        seconds: wall time of the round.
    """

    round: int
    leaf: int
    arms: tuple[ArmResult, ...]
    epsilon: dict[str, float | None]
    asked: int
    accepted: int
    rejected: dict[str, int]
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Of each arm what this one round shows, named by its version."""
        return {
            f"@{arm.arm.number}.{name}": value
            for arm in self.arms
            for name, value in arm.metrics.items()
        }


@dataclass
class _Tally:
    """Who answered in a round, over its arms."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


class Rollout:
    """Runs one rollout's rounds, from wherever its database says it is.

    Args:
        run: its row in the store.
        spec: its configuration.
        plan: its privacy plan.
        model: the versions.
        store: ledger and versions.
        legs: to the clients.
        directory: the clients' public keys, which secure aggregation needs.

    Attributes:
        rollout: what its rounds evaluate.
        round: the last one released.
        fallback: the alias's move away from the version that was watched, if it came to that.

    Raises:
        ConfigError: the run isn't a rollout.
    """

    def __init__(
        self,
        run: Row,
        spec: RunSpec,
        plan: PrivacyPlan,
        model: ArmModels,
        store: Store,
        legs: Legs,
        directory: Directory | None = None,
    ) -> None:
        if plan.evaluation is None:
            raise ConfigError("a rollout needs evaluation=federated")
        self.run, self.spec, self.plan, self.model = run, spec, plan, model
        self.rollout = planned(store, run["id"])
        self.round: int = run["round"]
        self.fallback: Move | None = None
        self._how: Evaluation = plan.evaluation
        self._store, self._legs = store, legs
        self._randomness = Randomness(spec.seed)
        self._aggregation = aggregation(plan, directory)
        self._charges = Charges(run["id"], spec, plan, store)

    def rounds(self) -> Iterator[RolloutResult]:
        """Steps until the planned rounds are done, the budget refuses, or the alias fell back.

        A round that falls short of clients is attempted again, drawn and charged anew, up to
        ``attempts`` times.

        Raises:
            BudgetError: not even the first round fits.
            RoundError: a round ended without a release; its charges stand, and the run can
                be resumed.
        """
        attempts = Attempts(self.run, self.spec, self._store, self._charges)
        yield from attempts.rounds(lambda: self.round, self._project, self.step, self._fell_back)

    def _project(self, number: int) -> None:
        self._charges.project(number, evaluates=True, trains=False)

    def step(self) -> RolloutResult:
        """One round."""
        began = time.perf_counter()
        number = self.round + 1

        # 1. Draw the cohort; charge before anybody is asked, once for all arms.
        charge = self._charges.charge("evaluate", number)

        # 2. Who is in which arm: a secret coin for each client.
        log.debug("round %d: split", number)
        arms = self.rollout.due(number)
        cohorts = split(charge.cohort, arms, self._source("arms", number))
        self._check_cohorts(cohorts)

        # 3. Each arm's clients evaluate its version; their bounded counts are summed and noised.
        tally, found = _Tally(), list[ArmResult]()
        for place, (arm, cohort) in enumerate(zip(arms, cohorts, strict=True)):
            log.debug("round %d: evaluate arm %d", number, place)
            counts = self._evaluated(arm, cohort, charge, place, tally)
            found.append(ArmResult(arm, counts, metrics(counts, self._how)))

        # 4. Release: the leaf and the round in one transaction.
        result = RolloutResult(
            round=number,
            leaf=-1,
            arms=tuple(found),
            epsilon=self._charges.epsilon(),
            asked=len(charge.cohort),
            accepted=tally.accepted,
            rejected=dict(tally.rejected),
            seconds=time.perf_counter() - began,
        )
        log.debug("round %d: release", number)
        leaf = self._store.release_evaluation(
            self._leaf(charge, result), self._row(result), self._charges.check_release
        )
        log.debug("round %d: released", number)
        self.round = number
        telemetry.round(result.seconds, result.accepted, "released")
        telemetry.leaves(leaf + 1)

        return replace(result, leaf=leaf)

    # The steps

    def _source(self, *labels: str | int) -> Source:
        """Randomness of a round; in a simulation other than that of its failed attempts."""
        number = int(labels[1])
        return self._randomness.source("rollout", *labels, self._charges.aborts(number))

    def _check_cohorts(self, cohorts: list[list[int]]) -> None:
        """Asks nobody if an arm is too small already."""
        smallest = min(map(len, cohorts))
        if smallest < self.plan.minimum_survivors:
            raise ShortfallError(
                f"an arm of {smallest} clients is smaller than "
                f"minimum_survivors={self.plan.minimum_survivors}; nobody was asked",
                "resume the rollout for another attempt, or raise cohort",
            )

    def _evaluated(
        self, arm: Arm, cohort: list[int], charge: Charge, place: int, tally: _Tally
    ) -> Counts:
        """The noised counts of one arm."""
        request = EvaluateRequest(
            self.run["id"],
            charge.round,
            charge.attempt,
            self.plan.digest(),
            self.model.frozen,
            0.0,
            0,
            b"",
            self.model.parameters(arm),
        )
        summed = self._aggregation.evaluate(request, cohort, self._legs)
        tally.accepted += summed.accepted
        tally.rejected += summed.rejected
        short = summed.accepted < self.plan.minimum_survivors
        failed = 0 < len(cohort) == summed.rejected["error"]
        if short or failed or (summed.noised and summed.accepted == 0):
            raise ShortfallError(
                f"{summed.accepted} of {len(cohort)} clients of an arm are fewer than planned; "
                f"nothing was released: {summed.detail or dict(summed.rejected)}",
                "resume the rollout for another attempt, or plan for more dropouts",
            )
        total = summed.total
        if not summed.noised:
            source = self._source("counts", charge.round, place)
            z = self._how.noise_multiplier
            total = mechanisms.noisy_sum(total, Evaluation.SENSITIVITY, z, source)
        return Counts(*(float(x) for x in np.asarray(total, dtype=np.float64)))

    def _leaf(self, charge: Charge, result: RolloutResult) -> dict[str, Any]:
        return {
            **self._charges.release(charge, {}, "federated"),
            "arms": [arm.to_json() for arm in result.arms],
            "epsilon": result.epsilon,
            "accountant": accountant.version(),
        }

    def _row(self, result: RolloutResult) -> Row:
        return {
            "run": self.run["id"],
            "round": result.round,
            "metrics": "{}",
            "epsilon": json.dumps(result.epsilon),
            "asked": result.asked,
            "accepted": result.accepted,
            "rejected": json.dumps(result.rejected),
            "seconds": result.seconds,
        }

    def _fell_back(self) -> bool:
        """Whether the version that is watched was beyond its gate once too often.

        Asked after each release, and of a rollout that was killed before it could be.
        """
        self.fallback = watch.considered(self._store, self.rollout)
        if self.fallback is None:
            return False
        said = f"{self.rollout.alias} fell back, by leaf {self.fallback.leaf}"
        self._store.set_status(self.run["id"], "stopped", said)
        return True


def split(cohort: list[int], arms: tuple[Arm, ...], source: Source) -> list[list[int]]:
    """Gives every client of a cohort one arm, each independently.

    Args:
        cohort: who was drawn.
        arms: with their shares, which add up to 1.
        source: of one coin for each client.

    Returns:
        For each arm its clients, in order: they are disjoint, and together the cohort.
    """
    edges = np.cumsum([arm.share for arm in arms])[:-1]
    places = np.searchsorted(edges, source.uniform(len(cohort)), side="right")
    found: list[list[int]] = [[] for _ in arms]
    for client, place in zip(cohort, places.tolist(), strict=True):
        found[place].append(client)
    return found


def planned(store: Store, run: str) -> RolloutPlan:
    """What a rollout's rounds evaluate, as its PLAN leaf says.

    Raises:
        ConfigError: the run isn't a rollout.
    """
    for leaf in store.leaves(run, ("PLAN",)):
        if "rollout" in leaf["body"]:
            return RolloutPlan.from_json(leaf["body"]["rollout"])
    raise ConfigError(f"run={run} trains; it isn't a rollout", "tacit simulate --resume goes on")
