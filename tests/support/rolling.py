"""Federations whose versions differ in quality, for tests of rollouts; and processes to kill."""

from __future__ import annotations

import logging
from pathlib import Path

# What a run would import late, once for all processes.
import alembic.command  # noqa: F401
import numpy as np
import torch._dynamo  # noqa: F401
from crashing import Killer
from tiny import TINY, TINY_SECURE, make_tiny

from tacit import Task, simulate
from tacit.privacy.gates import Gate
from tacit.server.gates import Gates
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store
from tacit.simulations.rollout import rollout

CLIENTS = 40
# Six versions, from 85% right to 99%.
MORE = [
    f"clients={CLIENTS}",
    f"cohort={CLIENTS}",
    "rounds=6",
    "seed=3",
    "privacy.record=none",
    "privacy.client.noise_multiplier=0.5",
    "privacy.client.clip=0.5",
    "local.learning_rate=0.5",
    "evaluation.cap=6",
    "evaluation.noise_multiplier=0.3",
]
SETTINGS = {
    "central": [*TINY, *MORE],
    "secure": [*TINY_SECURE, *MORE, "minimum_survivors=30", "secure.dropout=0.1"],
}
GATE = {"margin": 0.05, "windows": 5, "fallback_rounds": 3}


def task(decayed: bool = False) -> Task:
    """The task; decayed, two thirds of the labels have changed sides."""
    made = make_tiny(clients=CLIENTS)
    if not decayed:
        return made

    def data(client: int) -> tuple[np.ndarray, np.ndarray]:
        inputs, labels = made.data(client)
        return inputs, np.where(np.arange(len(labels)) % 3 > 0, 1 - labels, labels)

    return Task(
        name=made.name,
        model=made.model,
        data=data,
        examples_per_client=made.examples_per_client,
        test=made.test,
    )


def trained(home: Path, kind: str, champion: int = 1) -> None:
    """A home with six versions, one of them champion."""
    simulate(SETTINGS[kind], task=task(), home=home)
    store = Store(Home(home))
    try:
        life = Lifecycle(store)
        life.move("tiny", "champion", champion, expected=None, actor="me", reason="the first")
    finally:
        store.close()


def guarded(store: Store, **terms: object) -> int:
    """Guards the champion."""
    gate = Gate(model="tiny", alias="champion", **{**GATE, **terms})  # type: ignore[arg-type]
    return Gates(store).set(gate, actor="me", reason="as agreed")


def dying(home: str, line: str, resume: str | None, mode: str, decayed: bool) -> None:
    """Starts or resumes a rollout of four rounds, to be killed when ``line`` is logged."""
    logger = logging.getLogger("tacit.round")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Killer(line, 1))
    found = {"home": home, "task": task(decayed)}
    if resume is not None:
        rollout(resume=resume, **found)  # type: ignore[arg-type]
        return
    challenger = None if mode == "watch" else 6
    overrides = [] if mode == "watch" else ["minimum_survivors=5"]
    terms = {"mode": mode, "challenger": challenger, "overrides": overrides}
    rollout("tiny", rounds=4, **terms, **found)  # type: ignore[arg-type]
