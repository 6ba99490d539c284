"""Beginning a run with a released version: which, its parameters, and what was spent on it.

Guarantees: the version is settled when the run is made, in its configuration and its PLAN leaf, so
that an alias that moves later changes nothing; its artifact is verified as it is loaded; the run's
figures count what was spent on it (`tacit.privacy.ancestry`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.noise import Floats
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row, Store
from tacit.tasks import vector
from tacit.tasks.task import Task, make_model

Leaf = Mapping[str, Any]


def settled(spec: RunSpec, task: Task, store: Store) -> tuple[RunSpec, Leaf | None]:
    """The configuration with ``initial`` as NAME@NUMBER, and what the PLAN leaf says of it.

    Raises:
        StorageError: there is no such version, or its file isn't what was released.
        ConfigError: it isn't of this task's model.
    """
    if spec.initial is None:
        return spec, None
    row = ModelRegistry(store.home, store).find(spec.initial)
    parameters(row, task, spec, store)
    name = f"{row['name']}@{row['number']}"
    said = {"model": row["name"], **{k: row[k] for k in ("number", "release", "artifact")}}
    return dataclasses.replace(spec, initial=name), said


def begun(run: Row, task: Task, spec: RunSpec, store: Store) -> Floats | None:
    """The parameters that a run begins with; None if they are the task's own."""
    if spec.initial is None:
        return None
    return parameters(ModelRegistry(store.home, store).find(spec.initial), task, spec, store)


def parameters(row: Row, task: Task, spec: RunSpec, store: Store) -> Floats:
    """A version's trained parameters as the task's model has them, shape [d], float64.

    Raises:
        StorageError: its file isn't what was released.
        ConfigError: the model is another, or differs in what isn't trained.
    """
    arrays = ModelRegistry(store.home, store).load(row)
    model = make_model(task, spec.seed)
    what = f"initial={row['name']}@{row['number']}"
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        odd = sorted(set(found.items()) ^ set(shapes.items()))[0]
        raise ConfigError(f"{what} isn't of task {task.name}'s model: {odd[0]} {odd[1]}")
    for name, array in vector.frozen_state(model).items():
        if not np.array_equal(array, arrays[name], equal_nan=True):
            raise ConfigError(
                f"{what} differs from task {task.name} in {name}, which isn't trained"
            )
    trained = [arrays[n].reshape(-1) for n, p in model.named_parameters() if p.requires_grad]
    return np.concatenate(trained).astype(np.float64)
