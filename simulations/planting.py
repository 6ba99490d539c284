"""Canaries in a simulated federation: how they get in, and how much of them is in a release.

A canary *client* takes the place of one of the population. Only its local training is replaced:
by a vector far longer than the clip or, where its coin left it out, by zero; clip, weight,
encoding, noise and masks are the ones of every client. A canary *record* joins a client's
data, or doesn't. Both score what the public sees, released models, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.client.app import MakeTrainer
from tacit.client.trainer import Trainer
from tacit.configs.spec import RunSpec
from tacit.privacy.audit.canaries import Canaries
from tacit.privacy.errors import ConfigError, DataError
from tacit.privacy.messages import Vector
from tacit.privacy.noise import Floats, Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.tasks import vector
from tacit.tasks.task import Records, Task, make_model, plan, tensors

# How many times the clip a canary client's update is long.
LENGTH = 100.0
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Released:
    """What the public has seen of a run.

    Attributes:
        models: the first, which everybody can make, and every released one, shape
            [rounds + 1, d].
        updates: what moved them, the server's learning rate undone, shape [rounds, d].
    """

    models: Floats
    updates: Floats


class Plant(Protocol):
    """Canaries in a run.

    Attributes:
        task: to be run, with the canary records in it.
        trainer: of its clients, or None for the usual one.
    """

    task: Task
    trainer: MakeTrainer | None

    def scores(self, released: Released) -> Floats:
        """Of each canary, shape [m]; higher speaks for its being in."""


class PlantedTrainer(Trainer):
    """Trains as usual, but for the clients that are canaries.

    Args:
        task: as for `Trainer`.
        spec: as for `Trainer`.
        plan: as for `Trainer`.
        planted: the vector of each canary, shape [d].
    """

    def __init__(
        self, task: Task, spec: RunSpec, plan: PrivacyPlan, planted: Mapping[int, Vector]
    ) -> None:
        super().__init__(task, spec, plan)
        self._planted = planted

    def train(
        self,
        parameters: Vector,
        inputs: Tensor,
        targets: Tensor,
        randomness: Randomness,
        *labels: str | int,
    ) -> Vector | NDArray[np.float64]:
        """A client's update; the last of ``labels`` is the client's number."""
        own = self._planted.get(int(labels[-1]))
        if own is not None:
            return own.copy()
        return super().train(parameters, inputs, targets, randomness, *labels)


class PlantedClients:
    """Canaries that are clients.

    Args:
        task: of the run.
        spec: its configuration.
        canaries: unit "client".

    Attributes:
        directions: of the canaries, shape [m, d], unit vectors.
    """

    def __init__(self, task: Task, spec: RunSpec, canaries: Canaries) -> None:
        made = plan(task, spec)
        if made.client is None:
            raise ConfigError(
                "unit=client needs client-level DP, and privacy.client=none",
                "use privacy.client=flat, or audit unit=record",
            )
        if made.client.adaptive is not None:
            # The vote of a zero vector differs from that of a canary by more than an absence.
            raise ConfigError(
                "unit=client can't be audited with privacy.client=adaptive",
                "use privacy.client=flat",
            )
        size = len(vector.read(make_model(task, spec.seed)))
        if canaries.method == "one-run":
            self.directions = canaries.separate(size)
        else:
            self.directions = canaries.directions(size)
        longer = LENGTH * made.client.clip * self.directions * canaries.included()[:, None]
        places = canaries.places(spec.clients)
        planted = dict(zip(places.tolist(), longer.astype(np.float32), strict=True))
        self.task = task
        self.trainer: MakeTrainer | None = lambda task, spec: PlantedTrainer(
            task, spec, plan(task, spec), planted
        )

    def scores(self, released: Released) -> Floats:
        """Inner products of the directions with the sum of all updates."""
        return np.asarray(self.directions @ released.updates.sum(axis=0))


class PlantedRecords:
    """Canaries that are records of clients.

    Args:
        task: of the run.
        spec: its configuration.
        canaries: unit "record".
        records: the m canaries; None makes noise of the data's size with targets that
            clients have.
    """

    def __init__(
        self, task: Task, spec: RunSpec, canaries: Canaries, records: Records | None = None
    ) -> None:
        made = plan(task, spec)
        if made.record is None:
            raise ConfigError(
                "unit=record needs record-level DP, and privacy.record=none",
                "use privacy.record=dpsgd, or audit unit=client",
            )
        self._clip = made.record.clip
        self._spec, self._original = spec, task
        places = canaries.places(spec.clients)
        self._x, self._y = (
            _records(task, places, canaries)
            if records is None
            else tensors(records, "the canaries")
        )
        if len(self._x) != canaries.count:
            raise ConfigError(f"{len(self._x)} records aren't canaries={canaries.count}")
        self._rows = {
            int(k): torch.from_numpy(np.flatnonzero(canaries.included() & (places == k)))
            for k in np.unique(places)
        }
        self.task = dataclasses.replace(task, data=self._data)
        self.trainer: MakeTrainer | None = None

    def _data(self, client: int) -> Records:
        own = tensors(self._original.data(client), f"client {client}")
        rows = self._rows.get(client)
        if rows is None or len(rows) == 0:
            return own
        extra = self._x[rows], self._y[rows]
        if len(own[0]) == 0:
            return extra
        return torch.cat([own[0], extra[0]]), torch.cat([own[1], extra[1]])

    def scores(self, released: Released) -> Floats:
        """How far the updates went down each canary's clipped gradient, summed over rounds."""
        model = make_model(self._original, self._spec.seed).eval()
        gradients = _per_record(self._original, model)
        total = np.zeros(len(self._x))
        for before, update in zip(released.models[:-1], released.updates, strict=True):
            vector.write(model, before.astype(np.float32))
            for start in range(0, len(self._x), _CHUNK):
                part = slice(start, start + _CHUNK)
                found = gradients(self._x[part], self._y[part]).double().numpy()
                norms = np.linalg.norm(found, axis=1)
                shrunk = np.minimum(1.0, self._clip / np.maximum(norms, 1e-12))
                total[part] -= shrunk * (found @ update)
        return total


def _per_record(task: Task, model: torch.nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Gradients of single records at the model's present parameters, shape [B, d]."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, parameters, (x[None],))
        return task.loss(outputs, y[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        found = each({n: p.detach() for n, p in trained.items()}, x, y)
        return torch.cat([found[n].reshape(len(x), -1) for n in trained], dim=1)

    return gradients


def _records(task: Task, places: NDArray[np.int64], canaries: Canaries) -> tuple[Tensor, Tensor]:
    """Inputs of normal noise as large as the data's, each with a target of its client's."""
    hosts = {int(k): tensors(task.data(int(k)), f"client {k}") for k in np.unique(places)}
    filled = [data for data in hosts.values() if len(data[0]) > 0]
    if not filled:
        raise DataError("no client that would take a canary has records", "plant more canaries")
    like = filled[0][0]
    if not like.is_floating_point():
        raise ConfigError(
            f"canary records can't be made up for inputs of {like.dtype}", "pass records of yours"
        )
    source = canaries.generator("records")
    size = float(torch.cat([x.reshape(-1) for x, _ in filled]).square().mean().sqrt()) or 1.0
    drawn = size * source.standard_normal((len(places), *like.shape[1:]))
    targets = []
    for place in places:
        x, y = hosts[int(place)]
        pool = y if len(x) > 0 else filled[0][1]
        targets.append(pool[int(source.integers(len(pool)))])
    return torch.from_numpy(drawn).float(), torch.stack(targets)
