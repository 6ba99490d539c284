"""The trainer of a simulation: it trains clients together before they are asked.

The client's own code is the same as in a deployment: it asks the trainer for its update and
clips, encodes, noises and sends it. Only here the trainer has been told who will ask, and has
the answers ready. What it wasn't told of, or was told otherwise, it trains alone.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tacit.client.trainer import Trainer
from tacit.configs.spec import RunSpec
from tacit.privacy.messages import TrainRequest, Vector
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.simulations.cohort.choice import choose
from tacit.simulations.cohort.job import Engine, Job
from tacit.tasks.task import Records, Task, tensors

log = logging.getLogger("tacit.engine")


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """An update, and what it was made from."""

    parameters: Vector
    inputs: Tensor
    update: NDArray[Any]


class CohortTrainer(Trainer):
    """Trains with the engine that the configuration asks for.

    Args:
        task: as for `Trainer`.
        spec: as for `Trainer`.
        plan: as for `Trainer`.
    """

    def __init__(self, task: Task, spec: RunSpec, plan: PrivacyPlan) -> None:
        # Records that were loaded for a pass are the ones that the client then finds.
        self._held: dict[int, Records] = {}
        self._whole = task
        super().__init__(dataclasses.replace(task, data=self._data), spec, plan)
        self._engine: Engine | None = None
        self._chosen = False
        self._ready: dict[tuple[str | int, ...], _Ready] = {}
        self._place = ("", 0, 0)
        self._randomness = Randomness(spec.seed)

    @property
    def engine(self) -> str:
        """The engine that trains: "fused", "cohort" or "serial"."""
        return "serial" if self._engine is None else self._engine.name

    def _data(self, client: int) -> Records:
        held = self._held.pop(client, None)
        return self._whole.data(client) if held is None else held

    def expect(self, request: TrainRequest, clients: Sequence[int]) -> None:
        """Trains clients that are about to be asked.

        Args:
            request: what they'll be asked.
            clients: their numbers.

        Raises:
            ModelError: as from `train`.
            ConfigError: the engine that was asked for can't train this model.
        """
        place = (request.run, request.round, request.attempt)
        if place != self._place:
            # What nobody came for.
            self._ready.clear()
            self._held.clear()
            self._place = place
        jobs: dict[int, Job] = {}
        for client in clients:
            try:
                x, y = tensors(self._whole.data(client), f"client {client}")
            except Exception:  # noqa: BLE001, S112
                # It fails again when this client is asked, and costs only that client.
                continue
            self._held[client] = (x, y)
            if len(x) > 0:
                self._choose(x, y)
            labels = ("train", request.round, client)
            rows = self.draws(len(x), self._randomness, *labels)
            jobs[client] = Job(x, y, rows, self._randomness.source("noise", *labels))
        if self._engine is None or not jobs:
            return
        try:
            made = self._engine.updates(request.parameters, list(jobs.values()))
        except Exception as error:  # noqa: BLE001
            # One client's records can fail a whole pass; alone, each fails for itself.
            log.warning("%s engine: %r; %d clients trained alone", self.engine, error, len(jobs))
            return
        for (client, job), update in zip(jobs.items(), made, strict=True):
            if update is None:
                continue
            ready = _Ready(request.parameters, job.inputs, update)
            self._ready["train", request.round, client] = ready

    def _choose(self, x: Tensor, y: Tensor) -> None:
        if self._chosen:
            return
        self._check(x, y)
        self._checked = True
        self._engine, why = choose(self, self._whole, (x, y))
        self._chosen = True
        log.info("engine: %s%s", self.engine, f" ({why})" if why else "")

    def train(
        self,
        parameters: Vector,
        inputs: Tensor,
        targets: Tensor,
        randomness: Randomness,
        *labels: str | int,
    ) -> Vector | NDArray[np.float64]:
        """A client's update: the one that is ready, if it is this request's."""
        ready = self._ready.pop(labels, None)
        if (
            ready is not None
            and ready.inputs is inputs
            and np.array_equal(ready.parameters, parameters)
        ):
            return ready.update
        return super().train(parameters, inputs, targets, randomness, *labels)
