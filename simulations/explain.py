"""Asks over simulated clients which features a version rests on: `tacit explain`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from os import PathLike
from typing import Any

from tacit.server import explain as explaining
from tacit.server import rollouts, runs
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.simulations.engine import decided
from tacit.simulations.rollout import Progress, Started, rolled
from tacit.tasks.task import Task, check, load


def explain(
    reference: str,
    *,
    rounds: int = 10,
    overrides: Sequence[str] = (),
    task: Task | None = None,
    home: str | PathLike[str] | None = None,
    started: Started | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates a version and its copies without a feature each; each round is charged once.

    Args:
        reference: the version, NAME@NUMBER, NAME@ALIAS or NAME.
        rounds: evaluations of all of them.
        overrides: settings that differ from the training's.
        task: your own; None finds the one of the training.
        home: where state is kept; None takes ``TACIT_HOME``, else ``.tacit``.
        started: called once, with the run's row and configuration.
        progress: called after every released round.

    Returns:
        As `tacit.server.explain.attributions`.

    Raises:
        TacitError: one of its children, with a hint of what to do.
    """
    place = Home(home)
    with contextlib.closing(Store(place)) as store:
        row = ModelRegistry(place, store).find(reference)
        begun = runs.spec_of(store.run(row["run"]))
        found = check(task, begun) if task is not None else load(begun)
        plan = explaining.plan(store, f"{row['name']}@{row['number']}", found)
        spec = decided(rollouts.spec(store, plan, rounds, overrides))
        run = rollouts.create(spec, plan, found, store)
        rolled(run, spec, found, store, place, started, progress)
        return explaining.attributions(store, run["id"])
