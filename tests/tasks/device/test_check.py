"""`tacit.tasks.device.check`: what isn't Opacus's sum is refused."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import torch
from torch import Tensor, nn

from tacit.privacy.errors import ModelError
from tacit.protocol.manifest import DeviceGraph
from tacit.tasks.device import check, graph
from tacit.tasks.task import Task

LIKE = (torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))


def task(scale: float = 1.0) -> Task:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return scale * nn.functional.cross_entropy(outputs, targets)

    return Task(name="made-up", model=model, data=lambda _: LIKE, loss=loss)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


@pytest.fixture(scope="module")
def step() -> DeviceGraph:
    return graph.export_device_step(task(), model(), LIKE, 4)


def test_the_right_step_passes(step: DeviceGraph) -> None:
    assert check.verify(step, task(), model(), LIKE) <= 1e-6


def test_a_step_of_another_loss_is_refused(step: DeviceGraph) -> None:
    with pytest.raises(ModelError, match="differ from Opacus"):
        check.verify(step, task(1.001), model(), LIKE)


def test_a_loss_that_is_a_sum_is_refused() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")

    summed = dataclasses.replace(task(), loss=loss)
    with pytest.raises(ModelError, match="mean over records"):
        graph.export_device_step(summed, model(), LIKE, 4)


def test_what_is_no_graph_is_refused(step: DeviceGraph) -> None:
    graphless = hashlib.sha256(b"none").hexdigest()
    manifest = dataclasses.replace(step.manifest, graph=graphless, graph_bytes=4)
    with pytest.raises(ModelError, match="can't load"):
        check.session(DeviceGraph(graph=b"none", manifest=manifest))


def test_records_are_made_up_the_same_each_time() -> None:
    like = torch.zeros(1, 3)
    assert torch.equal(check.made_up(like, 5, 1), check.made_up(like, 5, 1))
    words = check.made_up(torch.full((1, 3), 9), 50, 1)
    assert words.shape == (50, 3)
    assert set(words.flatten().tolist()) == {0, 1}
