"""tacit's side of `engine.py`: one simulation in a process of its own.

Takes a JSON object, prints one: when each round was released (the system's monotonic clock),
how many updates were in it, and memory where it was asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from typing import Any

from peers.watch import megabytes
from workloads import CLIP, LEARNING_RATE, NOISE, Clients, model

from tacit import Task, simulate
from tacit.server.coordinator import RoundResult


class EnoughError(Exception):
    """There are rounds enough."""


class Marks:
    """Notes rounds as they are released, and ends the run when it has lasted.

    Args:
        asked: "seconds" of steady rounds, "least" of them, "memory_at" some rounds.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self.marks: list[float] = []
        self.updates: list[int] = []
        self.memory: dict[int, float] = {}
        self._seconds = asked.get("seconds", float("inf"))
        self._least, self._at = asked.get("least", 4), asked.get("memory_at", [])

    def __call__(self, result: RoundResult) -> None:
        """Takes a released round."""
        self.marks.append(time.monotonic())
        self.updates.append(result.accepted)
        if result.round in self._at:
            self.memory[result.round] = megabytes(os.getpid())
        if result.round > self._least and self.marks[-1] - self.marks[0] > self._seconds:
            raise EnoughError


def tiny() -> Any:
    """A network of ten parameters, for ten thousand rounds."""
    from torch import nn

    return nn.Linear(4, 2)


def small(client: int) -> tuple[Any, Any]:
    """Two records of a client."""
    import torch

    return torch.full((2, 4), client % 100 / 100), torch.tensor([0, 1])


def main() -> None:
    """Runs what the argument describes."""
    asked = json.loads(sys.argv[1])
    work, marks = asked["workload"], Marks(asked)
    clients = Clients(asked["data"], work["examples"])
    task = Task(
        name="benchmark",
        model=tiny if asked.get("tiny") else model,
        data=small if asked.get("tiny") else clients,
        examples_per_client=work["examples"],
    )
    settings = [
        "experiment=none",
        "mechanism=central",
        "aggregation=plain",
        "privacy/client=none",
        "optimizer=fedavg",
        "evaluation=none",
        "minimum_survivors=0",
        f"clients={work['clients']}",
        f"cohort={work['cohort']}",
        f"rounds={asked['rounds']}",
        "local.steps=null",
        "local.epochs=1",
        f"local.learning_rate={LEARNING_RATE}",
        f"privacy.record.sampling_rate={1 / work['steps']!r}",
        f"privacy.record.clip={CLIP}",
        f"privacy.record.noise_multiplier={NOISE}",
        *asked["overrides"],
    ]
    with tempfile.TemporaryDirectory() as home, contextlib.suppress(EnoughError):
        simulate(settings, task=task, home=home, progress=marks, workers=asked["workers"])
    print(json.dumps({"marks": marks.marks, "updates": marks.updates, "memory": marks.memory}))


if __name__ == "__main__":
    main()
