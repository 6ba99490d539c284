"""Planning, starting and resuming rollouts: which versions, on whom, and their row and lock.

Guarantees: what a rollout evaluates is settled when it is made, in its PLAN leaf, so that an alias
that moves later changes nothing; artifacts are verified as they are loaded. A rollout whose arms
would often be too small for a release is refused before there is a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats
from sqlalchemy.engine import Connection

from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, ConflictError, MissingError, StorageError
from tacit.privacy.noise import Floats, Singles
from tacit.privacy.plan import LAWS, PrivacyPlan
from tacit.privacy.rollouts import COMPARING, Arm, RolloutPlan, shares
from tacit.privacy.secagg.directory import Directory
from tacit.server import gates, initial, runs
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.lifecycle import CHAMPION, Lifecycle
from tacit.server.model import GlobalModel
from tacit.server.registry import ModelRegistry
from tacit.server.rollout import Rollout, planned
from tacit.server.store import Row, Store
from tacit.tasks.ablation import ablating
from tacit.tasks.task import Task
from tacit.tasks.task import plan as privacy_plan

log = logging.getLogger("tacit.round")
# As many rounds may fall short as of a training (`tacit.configs.planning`).
_TOO_OFTEN = 0.02
_USUAL = 4


def plan(
    store: Store,
    model: str,
    mode: str,
    *,
    challenger: int | None = None,
    alias: str = CHAMPION,
    share: float | None = None,
) -> RolloutPlan:
    """What a rollout evaluates.

    Args:
        store: with the versions.
        model: whose.
        mode: "shadow", "ab", "canary" or "watch".
        challenger: number of the version that is compared with the alias's; with "watch" the one
            that is watched instead of the alias's.
        alias: whose version is the champion.
        share: of the cohort for the challenger; None takes the mode's.

    Raises:
        ConfigError: the mode needs what isn't given.
        StorageError: there is no such version, or it is retired.
    """
    life = Lifecycle(store)
    current = life.current(model, alias)
    champion = current.number if current else None
    if mode not in COMPARING:
        number = challenger if challenger is not None else champion
        if number is None:
            raise MissingError(f"{model}@{alias} names no version", "say which: --challenger N")
        named = alias if number == champion else None
        return RolloutPlan(model, mode, named, (of_version(store, model, number, 1.0),))
    if champion is None:
        raise MissingError(
            f"{model}@{alias} names no version to compare with",
            f"tacit models promote {model}@N, or --mode watch --challenger N",
        )
    if challenger is None:
        raise ConfigError(f"mode={mode} needs a challenger", "--challenger N")
    parts = shares(mode, share)
    arms = zip((champion, challenger), parts, strict=True)
    return RolloutPlan(
        model, mode, alias, tuple(of_version(store, model, n, part) for n, part in arms)
    )


def spec(store: Store, rollout: RolloutPlan, rounds: int, overrides: Sequence[str] = ()) -> RunSpec:
    """The configuration of a rollout: that of the newest arm's training, evaluating each round.

    Args:
        store: with the versions.
        rollout: what is evaluated.
        rounds: evaluations.
        overrides: settings that differ, as ``cohort=200``.

    Raises:
        ConfigError: a setting that there isn't, or that makes no plan.
    """
    newest = max(rollout.arms, key=lambda arm: arm.number)
    row = ModelRegistry(store.home, store).find(f"{rollout.model}@{newest.number}")
    begun = runs.spec_of(store.run(row["run"]))
    evaluation = dataclasses.replace(begun.evaluation, kind="federated", every=1)
    made = dataclasses.replace(
        begun, name=rollout.model, initial=None, rounds=rounds, evaluation=evaluation
    )
    made = build.changed(made, overrides)
    if (made.evaluation.kind, made.evaluation.every) != ("federated", 1):
        raise ConfigError("a rollout evaluates on clients, each round", "leave evaluation as it is")
    if made.minimum_survivors is None and not rollout.turns:
        made = dataclasses.replace(made, minimum_survivors=_fewest(made, rollout))
    return made


def create(spec: RunSpec, rollout: RolloutPlan, task: Task, store: Store) -> Row:
    """A new rollout's row, committed.

    Raises:
        ConfigError: its arms are too small, or its versions aren't of the task's model.
        StorageError: a version's file isn't what was released.
        ConflictError: the alias was moved since the rollout was planned.
    """
    made = privacy_plan(task, spec)
    check_sizes(made, rollout)
    _advised(spec, task)
    versions = Versions(task, spec, store, rollout.model)
    for one in rollout.arms:
        versions.parameters(one)
    return runs.add(
        rollout.model,
        spec,
        made,
        task,
        store,
        rollout=rollout.to_json(),
        guard=lambda c, at: _check_champion(c, rollout),
    )


@contextlib.contextmanager
def opened(
    run: Row,
    task: Task,
    store: Store,
    home: Home,
    legs: Legs,
    directory: Directory | None = None,
) -> Iterator[Rollout]:
    """A rollout with the run to itself, new or resumed.

    Args:
        run: its row.
        task: what is learned.
        store: of the home.
        home: of the run.
        legs: to the clients.
        directory: the clients' public keys.

    Raises:
        StorageError: another process holds the run, or it is over.
        ConfigError: the task isn't the one the run was started with, or it isn't a rollout.
    """
    model = planned(store, run["id"]).model
    with runs.held(run, task, store, home) as (fresh, spec, plan):
        yield Rollout(fresh, spec, plan, Versions(task, spec, store, model), store, legs, directory)


def check_sizes(plan: PrivacyPlan, rollout: RolloutPlan) -> None:
    """Refuses arms that many a draw leaves with fewer clients than a release needs.

    Raises:
        ConfigError: more than one round in fifty would be abandoned for that.
    """
    fewest, short = plan.minimum_survivors, 0.0
    for arm in rollout.due(1):
        rate = plan.sampling_rate * arm.share
        short += float(stats.binom.cdf(fewest - 1, plan.population, rate))
    if short > _TOO_OFTEN:
        least = min(arm.share for arm in rollout.arms)
        raise ConfigError(
            f"an arm of share={least:g} of cohort={plan.sampling_rate * plan.population:g} has "
            f"fewer than minimum_survivors={fewest} in up to {min(1.0, short):.0%} of the rounds",
            "raise cohort or share, lower minimum_survivors, or use mode=shadow",
        )


class Versions:
    """The released versions that a rollout's arms evaluate, verified as they are loaded.

    Args:
        task: whose model they are of.
        spec: of the rollout.
        store: with the versions.
        model: their name.
    """

    def __init__(self, task: Task, spec: RunSpec, store: Store, model: str) -> None:
        self.frozen = GlobalModel(task, spec).frozen
        self._task, self._spec, self._store, self._name = task, spec, store, model
        self._ablate = ablating(task, spec)
        self._loaded: dict[int, Floats] = {}

    def parameters(self, arm: Arm) -> Singles:
        """What an arm's clients evaluate, shape [d].

        Raises:
            StorageError: the version's file isn't what was released.
            ConfigError: it isn't of the task's model.
        """
        if arm.number not in self._loaded:
            registry = ModelRegistry(self._store.home, self._store)
            row = registry.find(f"{self._name}@{arm.number}")
            found = initial.parameters(row, self._task, self._spec, self._store)
            if (row["release"], row["artifact"]) != (arm.release, arm.artifact):
                raise StorageError(f"{self._name}@{arm.number} isn't the version of the rollout")
            self._loaded[arm.number] = found
        found = self._loaded[arm.number]
        if arm.ablation is not None:
            found = self._ablate(found, arm.ablation)
        return found.astype(np.float32)


def _advised(spec: RunSpec, task: Task) -> None:
    """Says so where most of the signal is given away: counts are over a cap that few reach."""
    cap, examples = spec.evaluation.cap, task.examples_per_client
    if examples is not None and cap >= 2 * examples:
        log.warning(
            "evaluation.cap=%d, and clients have about %d records: evaluation.cap=%d shows %.0f "
            "times as much through the same noise",
            *(cap, examples, examples, cap / examples),
        )


def _check_champion(c: Connection, rollout: RolloutPlan) -> None:
    """Asked as the PLAN leaf is written, which says whose version the first arm is."""
    if rollout.alias is None:
        return
    named = gates.named(c, rollout.model, rollout.alias)
    if named != rollout.arms[0].number:
        raise ConflictError(
            f"{rollout.model}@{rollout.alias} names {named} by now, not {rollout.arms[0].number}",
            "plan the rollout anew",
        )


def of_version(store: Store, model: str, number: int, share: float) -> Arm:
    """An arm of a version.

    Raises:
        StorageError: there is no such version, or it is retired.
    """
    row = ModelRegistry(store.home, store).find(f"{model}@{number}")
    if Lifecycle(store).stages(model).get(number) == "retired":
        raise StorageError(f"{model}@{number} is retired", "tacit models list shows what isn't")
    return Arm(number, row["release"], row["artifact"], share)


def _fewest(spec: RunSpec, rollout: RolloutPlan) -> int:
    """Unless it is said: as a training does, of the smallest arm."""
    if spec.mechanism not in LAWS:
        return 0
    least = min(arm.share for arm in rollout.arms) * spec.cohort
    return max(_USUAL, 3 * spec.secure.collusion + 1, math.ceil(least / 3))
