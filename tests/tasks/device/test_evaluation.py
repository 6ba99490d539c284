"""`tacit.tasks.device.evaluation`: torch's scores and losses, and finite whatever a row holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tacit.client.trainer import Trainer
from tacit.configs.build import compose
from tacit.privacy.errors import ModelError
from tacit.privacy.noise import Randomness
from tacit.protocol.manifest import DeviceGraph
from tacit.tasks import task as tasks
from tacit.tasks import vector
from tacit.tasks.device import check, evaluation
from tacit.tasks.task import Task, score

LIKE = (torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
ROWS = 8
LARGEST = float(torch.finfo(torch.float32).max)


def model() -> nn.Module:
    torch.manual_seed(0)
    # Dropout draws nothing in evaluation mode.
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))


TASK = Task(name="made-up", model=model, data=lambda _: LIKE)


@pytest.fixture(scope="module")
def graph() -> DeviceGraph:
    return evaluation.export_device_evaluation(TASK, model(), LIKE, ROWS)


def run(graph: DeviceGraph, x: Tensor, y: Tensor, mask: list[bool]) -> list[np.ndarray]:
    feeds = (vector.read(model()), x.numpy(), y.numpy(), np.array(mask))
    return check.run(check.session(graph), graph.manifest, *feeds)


def test_scores_and_losses_are_torchs(graph: DeviceGraph) -> None:
    x, y = torch.randn(ROWS, 4), torch.randint(0, 3, (ROWS,))
    right, loss = run(graph, x, y, [True] * ROWS)
    want = score(TASK, model(), x, y)
    np.testing.assert_array_equal(right, want[0].numpy())
    np.testing.assert_allclose(loss, want[1].numpy(), rtol=1e-5)
    assert graph.manifest.kind == "evaluation"
    assert (right.dtype, loss.dtype) == (np.float32, np.float32)


def test_a_row_off_the_mask_is_zero_whatever_it_holds(graph: DeviceGraph) -> None:
    x, y = torch.randn(ROWS, 4), torch.randint(0, 3, (ROWS,))
    mask = [i % 2 == 0 for i in range(ROWS)]
    want = run(graph, x, y, mask)
    x[1], x[3], y[5] = float("nan"), float("inf"), 2**62
    for got, before in zip(run(graph, x, y, mask), want, strict=True):
        np.testing.assert_array_equal(got, before)
        assert not got[1::2].any()
    for got in run(graph, x, y, [False] * ROWS):
        assert not got.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_row_that_is_not_finite_loses_all(graph: DeviceGraph, value: float) -> None:
    x, y = torch.randn(ROWS, 4), torch.randint(0, 3, (ROWS,))
    want = run(graph, x, y, [True] * ROWS)
    x[2] = value
    right, loss = run(graph, x, y, [True] * ROWS)
    rest = [i for i in range(ROWS) if i != 2]
    np.testing.assert_array_equal(right[rest], want[0][rest])
    np.testing.assert_array_equal(loss[rest], want[1][rest])
    assert np.isfinite(loss).all()
    if not np.isfinite(value):
        assert (right[2], loss[2]) == (0.0, np.float32(LARGEST))


def test_a_capped_sum_is_the_trainers() -> None:
    """Noise apart: the coordinator can't tell a device from a silo."""
    spec = compose(["experiment=none", "clients=4", "cohort=2", "evaluation=federated"])
    task = Task(
        name="made-up",
        model=lambda: nn.Linear(4, 3),
        data=lambda _: LIKE,
        examples_per_client=8,
    )
    spec = dataclasses.replace(
        spec,
        mechanism="central",
        aggregation="plain",
        evaluation=dataclasses.replace(spec.evaluation, cap=6, loss_cap=1.1),
        privacy=dataclasses.replace(
            spec.privacy, record=dataclasses.replace(spec.privacy.record, noise_multiplier=0.0)
        ),
    )
    plan = tasks.plan(task, spec)
    trainer = Trainer(task, spec, plan)
    x, y = torch.randn(ROWS, 4), torch.randint(0, 3, (ROWS,))
    x[0], x[4] = float("nan"), 1e30
    parameters = vector.moved(trainer.model)
    want = trainer.counts(parameters, x, y, Randomness(0).source("none"))
    made = evaluation.export_device_evaluation(task, trainer.model, LIKE, ROWS)
    mask = np.arange(ROWS) < 6
    right, loss = check.run(
        check.session(made), made.manifest, parameters, x.numpy(), y.numpy(), mask
    )
    capped = np.clip(loss.astype(np.float64), 0, 1.1) / 1.1
    # Of a NaN torch's argmax says where it is; here it is no hit.
    torchs = float(score(task, trainer.model, x[:1], y[:1])[0][0])
    sums = [right.sum() + torchs, 6.0, capped.sum()]
    np.testing.assert_allclose(np.array(sums) / 6, want, rtol=1e-5)


def test_a_score_of_a_sequence_is_its_mean() -> None:
    class Letters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(x)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    words = torch.zeros(1, 5, dtype=torch.int64)
    task = dataclasses.replace(TASK, loss=loss)
    made = evaluation.export_device_evaluation(task, Letters(), (words, words), 4)
    assert [t.shape for t in made.manifest.outputs] == [(4,), (4,)]


def test_another_loss_is_refused(graph: DeviceGraph) -> None:
    other = dataclasses.replace(TASK, loss=lambda o, t: 1.01 * nn.functional.cross_entropy(o, t))
    with pytest.raises(ModelError, match="losses differ"):
        evaluation.verify(graph, other, model(), LIKE)
    wrong = dataclasses.replace(TASK, correct=lambda o, t: (o.argmin(-1) == t).float())
    with pytest.raises(ModelError, match="scores differ"):
        evaluation.verify(graph, wrong, model(), LIKE)
