"""Trainers for small models, with every number stated that a test depends on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tacit.client.trainer import Trainer
from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.tasks.task import Task
from tacit.tasks.task import plan as privacy_plan

BASE = (
    "experiment=none",
    "mechanism=central",
    "aggregation=plain",
    "clients=20",
    "cohort=5",
    "rounds=3",
    "seed=0",
    "evaluation=none",
    "weighting=uniform",
    "privacy.client=none",
    "privacy.record=dpsgd",
    "privacy.record.noise_multiplier=0",
    "privacy.record.clip=1.0",
    "privacy.record.sampling_rate=1.0",
    "privacy.record.denominator=null",
    "local.steps=1",
    "local.epochs=null",
    "local.learning_rate=0.5",
    "local.proximal=0",
    "local.physical_batch=512",
)


@functools.cache
def compose(*overrides: str) -> RunSpec:
    return build.compose([*BASE, *overrides])


def make_trainer(model: Callable[[], nn.Module], *overrides: str, **fields: Any) -> Trainer:
    """A trainer whose task has 10 nominal examples a client, so that the denominator is 10."""
    spec = compose(*overrides)
    task = Task(
        name="mine",
        model=model,
        data=lambda k: (np.zeros((0, 1)), np.zeros(0)),
        **{"examples_per_client": 10, **fields},
    )
    return Trainer(task, spec, privacy_plan(task, spec))


@pytest.fixture(scope="session")
def trainer() -> Callable[..., Trainer]:
    return make_trainer


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., RunSpec]:
    return compose


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    """Torch's generator starts alike in every test and is given back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
