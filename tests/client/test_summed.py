"""A record moves the encoded vector by at most what is charged, whatever the model it is sent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tacit import Task
from tacit.client.trainer import Trainer
from tacit.client.update import prepare
from tacit.configs import build
from tacit.privacy.discrete import encoder
from tacit.privacy.noise import Randomness
from tacit.tasks.task import plan as privacy_plan

SETTINGS = [
    "experiment=none",
    "clients=20",
    "cohort=20",
    "privacy.client=none",
    "privacy.record.sampling_rate=1.0",
    "evaluation=none",
]


def encoded(x: torch.Tensor, y: torch.Tensor, at: float, *settings: str) -> tuple[Any, float]:
    """A client's integers without noise, and the charged sensitivity to a record."""
    task = Task(
        name="wide",
        model=lambda: torch.nn.Linear(512, 2, bias=False),
        data=lambda _: (x, y),
        examples_per_client=100,
    )
    spec = build.compose([*SETTINGS, *settings])
    plan = privacy_plan(task, spec)
    assert plan.updates is not None
    assert plan.projection is not None
    trainer = Trainer(task, spec, plan)
    model = np.full(1024, at, dtype=np.float32)
    update = trainer.train(model, x, y, Randomness(0), "train", 1, 0)
    values, _ = prepare(update, len(x), plan.projection, plan)
    whole = encoder.encode(values, plan.projection, plan.updates, bytes(32), bytes(32))
    return whole, plan.updates.record_l2


@pytest.mark.parametrize("at", [0.0, 1.0, 24576.0, 1e30])
@pytest.mark.parametrize("rate", ["0.001", "0.1", "10"])
def test_a_record_moves_the_integers_by_what_is_charged(at: float, rate: str) -> None:
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.normal(size=(100, 512)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, 2, 100))
    settings = (f"local.learning_rate={rate}", "privacy.record.noise_multiplier=0.3")
    with_it, charged = encoded(x, y, at, *settings)
    without, _ = encoded(x[:-1], y[:-1], at, *settings)
    moved = math.sqrt(float(np.sum((with_it - without).astype(np.float64) ** 2)))
    assert moved <= charged


def test_the_update_is_the_step_that_was_taken() -> None:
    # Without a bound on updates it would be the difference of two models.
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.normal(size=(100, 512)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, 2, 100))
    task = Task(
        name="wide",
        model=lambda: torch.nn.Linear(512, 2, bias=False),
        data=lambda _: (x, y),
        examples_per_client=100,
    )
    model = np.zeros(1024, dtype=np.float32)
    quiet = ["privacy.record.noise_multiplier=0", "local.learning_rate=0.5"]
    found = []
    for mechanism in ([], ["mechanism=central", "aggregation=plain"]):
        spec = build.compose([*SETTINGS, *quiet, *mechanism])
        trainer = Trainer(task, spec, privacy_plan(task, spec))
        found.append(trainer.train(model, x, y, Randomness(0), "train", 1, 0))
    assert np.linalg.norm(found[1]) > 0.01
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_record_that_crosses_the_whole_ball_is_charged_for_it() -> None:
    x = torch.zeros(2, 512)
    x[:, 0] = 100.0
    y = torch.tensor([0, 1])
    settings = ("privacy.record.denominator=1", "secure.projection=0.5", "local.learning_rate=1")
    one, charged = encoded(x[:1], y[:1], 0.0, *settings)
    other, _ = encoded(x[1:], y[1:], 0.0, *settings)
    moved = math.sqrt(float(np.sum((one - other).astype(np.float64) ** 2)))
    assert 0 < moved <= charged


def test_whether_a_check_fails_does_not_depend_on_records() -> None:
    # Near the largest number a record of 1.3 would overflow where one of 1.0 doesn't.
    for value in (1.0, 1.3):
        x = torch.full((2, 512), value)
        whole, _ = encoded(x, torch.tensor([0, 1]), 3e38, "local.learning_rate=0.1")
        assert whole.shape == (1024,)


def test_a_client_without_records_needs_no_shape() -> None:
    whole, _ = encoded(torch.zeros(0), torch.zeros(0), 0.0, "local.learning_rate=1")
    assert not whole.any()
