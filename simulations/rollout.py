"""Rolls versions out over simulated clients on this machine: `tacit rollout`.

The round is `tacit.server.rollout`'s, as in a deployment. Clients' data is the task's own, so what
has changed in it since the training shows.

A simulation draws from its configuration's seed, which is the training's unless ``seed`` is given:
two rollouts of one seed have the same cohorts and the same noise.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import torch

from tacit.client.app import MakeTrainer
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.secagg.directory import LocalDirectory
from tacit.server import gates, rollouts, runs
from tacit.server.home import Home
from tacit.server.lifecycle import CHAMPION, Move
from tacit.server.rollout import RolloutResult
from tacit.server.store import Row, Store
from tacit.server.views import rollouts as views
from tacit.simulations.engine import bounded_threads, decided, simulated_grid, simulated_legs
from tacit.tasks.task import Task, check, load

Started = Callable[[Row, RunSpec], None]
Progress = Callable[[RolloutResult], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rollout ended.

    Attributes:
        run: its identifier.
        status: "finished", or "stopped" by its budget or a fallback.
        message: why it stopped.
        rollout: mode, arms with counts and intervals (`tacit.server.views.rollouts`).
        verdict: what the alias's gate says of the challenger; None where none does.
        evidence: RELEASE leaves that the verdict rests on, for ``tacit models promote``.
        why: of the verdict, in words.
        fallback: the alias's move away from the version that was watched; None for none.
        epsilon: what the rollout was charged, as beside every release.
        claims: every row of unit x adversary x amplified.
        wall_seconds: of this session.
    """

    run: str
    status: str
    message: str
    rollout: dict[str, Any]
    verdict: str | None
    evidence: list[int]
    why: str
    fallback: Move | None
    epsilon: dict[str, float | None]
    claims: list[dict[str, Any]]
    wall_seconds: float

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return asdict(self)


def rollout(
    model: str | None = None,
    *,
    challenger: int | None = None,
    mode: str = "shadow",
    rounds: int = 10,
    alias: str = CHAMPION,
    share: float | None = None,
    overrides: Sequence[str] = (),
    task: Task | None = None,
    home: str | PathLike[str] | None = None,
    resume: str | None = None,
    started: Started | None = None,
    progress: Progress | None = None,
    trainer: MakeTrainer | None = None,
) -> Outcome:
    """Evaluates versions beside each other over simulated clients, each round charged once.

    Args:
        model: whose versions.
        challenger: number of the version that is compared with the alias's.
        mode: "shadow", "ab", "canary" or "watch".
        rounds: evaluations; in shadow mode champion and challenger take turns.
        alias: whose version is the champion.
        share: of the cohort for the challenger; None takes the mode's.
        overrides: settings that differ from the training's.
        task: your own; None finds the one of the training.
        home: where state is kept; None takes ``TACIT_HOME``, else ``.tacit``.
        resume: a rollout to go on with, its id or a prefix or "last", in place of the rest.
        started: called once, with the run's row and configuration.
        progress: called after every released round.
        trainer: of the clients; None takes tacit's own.

    Raises:
        TacitError: one of its children, with a hint of what to do.
    """
    began = time.perf_counter()
    place = Home(home)
    store = Store(place)
    with contextlib.closing(store):
        if resume is not None:
            run = store.run(resume)
            spec = runs.spec_of(run)
            found = check(task, spec) if task is not None else load(spec)
        else:
            if model is None:
                raise ConfigError("a rollout needs a model", "tacit models list shows what is")
            plan = rollouts.plan(
                store, model, mode, challenger=challenger, alias=alias, share=share
            )
            spec = decided(rollouts.spec(store, plan, rounds, overrides))
            found = check(task, spec) if task is not None else load(spec)
            run = rollouts.create(spec, plan, found, store)
        fallback = rolled(run, spec, found, store, place, started, progress, trainer)
        return outcome(store, run["id"], fallback, began)


def rolled(
    run: Row,
    spec: RunSpec,
    task: Task,
    store: Store,
    home: Home,
    started: Started | None = None,
    progress: Progress | None = None,
    trainer: MakeTrainer | None = None,
) -> Move | None:
    """Runs a rollout that was made to its end; returns the fallback that it came to."""
    if started is not None:
        started(run, spec)
    with torch.random.fork_rng(devices=[]), bounded_threads(spec.threads):
        return _run(run, spec, task, store, home, progress, trainer)


def _run(
    run: Row,
    spec: RunSpec,
    task: Task,
    store: Store,
    home: Home,
    progress: Progress | None,
    trainer: MakeTrainer | None,
) -> Move | None:
    directory = LocalDirectory()
    with contextlib.closing(simulated_grid(task, spec, directory, trainer, None)) as grid:
        legs = simulated_legs(grid, spec)
        with rollouts.opened(run, task, store, home, legs, directory) as opened:
            for result in opened.rounds():
                if progress is not None:
                    progress(result)
            return opened.fallback


def outcome(store: Store, identifier: str, fallback: Move | None, began: float) -> Outcome:
    """A rollout's end, read back from the database."""
    run, shown = store.run(identifier), views.rollout(store, identifier)
    verdict, evidence, why = None, list[int](), ""
    if shown["alias"] is not None and len(shown["arms"]) > 1:
        number = shown["arms"][-1]["number"]
        found = gates.Gates(store).verdict(shown["model"], shown["alias"], number)
        if found is not None:
            verdict, evidence = found.decision.verdict, found.evidence
            why = gates.explained(found.decision)
    released = store.rounds(identifier)
    return Outcome(
        run=identifier,
        status=run["status"],
        message=run["message"],
        rollout=shown,
        verdict=verdict,
        evidence=evidence,
        why=why,
        fallback=fallback,
        epsilon=released[-1]["epsilon"] if released else {},
        claims=store.claims(identifier),
        wall_seconds=time.perf_counter() - began,
    )
