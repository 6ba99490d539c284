"""Retrains a model over simulated clients, within the budget, or says why it may not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from os import PathLike

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import BudgetError
from tacit.server import retrain as planning
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home
from tacit.server.lifecycle import CHAMPION
from tacit.server.retrain import Proposal
from tacit.server.store import Row, Store
from tacit.simulations.engine import Result, simulated
from tacit.tasks.task import Task


def retrain(
    model: str,
    *,
    alias: str = CHAMPION,
    overrides: Sequence[str] = (),
    if_needed: bool = False,
    task: Task | None = None,
    home: str | PathLike[str] | None = None,
    proposed: Callable[[Proposal], None] | None = None,
    started: Callable[[Row, RunSpec], None] | None = None,
    progress: Callable[[RoundResult], None] | None = None,
) -> Result | None:
    """Trains a model on from the version that an alias names.

    Args:
        model: which.
        alias: whose version it begins with.
        overrides: settings that differ from those of that version's training.
        if_needed: only if the alias fell back by itself and nothing was trained since.
        task: your own; None finds the one that the configuration names.
        home: where state is kept; None takes ``TACIT_HOME``, else ``.tacit``.
        proposed: called with what will be done, before anything is.
        started: called once, with the run's row and configuration.
        progress: called after every released round.

    Returns:
        How it ended; None if it isn't needed.

    Raises:
        BudgetError: the policies allow not even one round; nothing was charged.
        TacitError: another of its children, as `tacit.simulate`.
    """
    with contextlib.closing(Store(Home(home))) as store:
        if if_needed and planning.cause(store, model, alias) is None:
            return None
        proposal = planning.propose(store, model, alias, overrides, task)
        if proposed is not None:
            proposed(proposal)
        if proposal.allowed == 0:
            raise BudgetError(
                f"{model} may not be retrained: {proposal.refusal}",
                "raise the noise, wait for the policy's window, or ask for another policy",
            )
    return simulated(
        proposal.spec,
        task=task,
        home=home,
        cause=proposal.cause,
        started=started,
        progress=progress,
    )
