"""Bytes of a device and round, both ways, beside Flower's SecAgg+; part of `gateway.py`.

Ours are a real round's over mTLS, as the kernel counts them on the devices' connections: model,
run document and graph, all five exchanges, acknowledgements, TLS. A device's first round has the
graph and its peers' identities in it, a later one only new peers.

Flower's are counted in its own functions, called as installed (`flower.py`): the values that each
stage asks and answers with, integers as 8 bytes, and 4 bytes a parameter for the model. What its
messages, HTTP, polls and TLS add isn't counted, so its real bytes are more. Its masked words are
64-bit integers (`secaggplus_mod`), ours have 16 bits after padding to a power of two.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from devices import GATEWAY, Crowds, coordinating, moved
from flower import Peer, _size

from tacit import Task
from tacit.configs import build
from tacit.server.gateway.grid import opened
from tacit.server.home import Home
from tacit.tasks.task import load

_DIGITS = ("experiment=digits", "seed=null", "attempts=1", "secure.protocol=full")
# SecAgg+'s shares take minutes from 50 clients on. Bytes that are no vector are about linear in
# the cohort, on both sides.
_COHORT = 20
_LARGE = (
    "experiment=none",
    "seed=null",
    "attempts=1",
    "secure.protocol=full",
    "mechanism=skellam",
    "aggregation=secure",
    "evaluation=none",
    "privacy.client.noise_multiplier=1.0",
    "privacy.record.noise_multiplier=0.0",
)


def large() -> Task:
    """A model of 1,001,000 parameters, and records of its shape."""
    x, y = np.zeros((5, 1000), dtype=np.float32), np.zeros(5, dtype=np.int64)
    return Task(
        name="large",
        model=lambda: torch.nn.Linear(1000, 1000),
        data=lambda client: (x, y),
        examples_per_client=5,
        test=lambda: (x, y),
    )


class Both(Peer):
    """Counts what SecAgg+ asks clients with, too."""

    def __init__(self, updates: np.ndarray) -> None:
        super().__init__(updates)
        self.asked: dict[str, list[int]] = defaultdict(list)

    def _answer(self, stage: str, node: int, configs: dict[str, Any]) -> dict[str, Any]:
        self.asked[stage].append(sum(map(_size, configs.values())))
        return super()._answer(stage, node, configs)


def secaggplus(clients: int, parameters: int) -> dict[str, float]:
    """Bytes of a client and round, by part."""
    rng = np.random.default_rng(0)
    updates = rng.normal(scale=0.01, size=(clients, parameters)).astype(np.float32)
    peer = Both(updates)
    peer.serve(set())
    vector = statistics.median(peer.sent["collect_masked_vectors"])
    parts = [
        statistics.median(size) for counts in (peer.sent, peer.asked) for size in counts.values()
    ]
    return {"all": sum(parts) + 4 * parameters, "vector": vector, "model": 4 * parameters}


def ours(task: Task, overrides: tuple[str, ...], cohort: int, rounds: int) -> list[float]:
    """Bytes of a device in each round, everybody being in each cohort."""
    settings = [
        *overrides,
        f"clients={cohort}",
        f"cohort={cohort}",
        f"rounds={rounds}",
        f"minimum_survivors={cohort * 3 // 5}",
        "secure.bits=16",
    ]
    with tempfile.TemporaryDirectory() as folder, opened(Home(folder), GATEWAY) as grid:
        crowds = Crowds(grid, 0.0)
        try:
            crowds.grow(cohort)
            found, before = [], moved(grid.port)
            with coordinating(grid, task, settings, Home(folder)) as (coordinator, _):
                for result in coordinator.rounds():
                    assert result.accepted == cohort
                    now = moved(grid.port)
                    found.append((now - before) / cohort)
                    before = now
        finally:
            crowds.close()
    return found


def compared(quick: bool) -> list[dict[str, Any]]:
    """The digits' model, and one of a million parameters."""
    made = []
    digits = load(build.compose(list(_DIGITS)))
    cases = [("digits", digits, _DIGITS, _COHORT)]
    if not quick:
        cases.append(("1M", large(), _LARGE, _COHORT))
    for name, task, overrides, cohort in cases:
        parameters = sum(p.numel() for p in task.model().parameters() if p.requires_grad)
        rounds = ours(task, overrides, cohort, 2)
        theirs = secaggplus(cohort, parameters)
        made.append(
            {
                "model": name,
                "parameters": parameters,
                "cohort": cohort,
                "first_round": rounds[0],
                "tacit": rounds[-1],
                "secaggplus": theirs["all"],
                "secaggplus_vector": theirs["vector"],
                "bytes_per_parameter": rounds[-1] / parameters,
                "secaggplus_bytes_per_parameter": theirs["all"] / parameters,
            }
        )
    return made
