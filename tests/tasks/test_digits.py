"""`tacit.tasks.digits`: the bundled images, each with one client or in the public test set."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tacit.configs import build
from tacit.privacy.errors import ConfigError, DataError
from tacit.tasks.task import Task, load


def digits(*overrides: str) -> Task:
    """The task on pixels, unless another model is named."""
    spec = ["experiment=none", "task=digits", "clients=30", "cohort=3", "partition=iid"]
    spec += ["model=pixels"]
    return load(build.compose([*spec, "evaluation=public", *overrides]))


def rows(inputs: torch.Tensor, targets: torch.Tensor) -> list[bytes]:
    return [x.numpy().tobytes() + bytes([int(y)]) for x, y in zip(inputs, targets, strict=True)]


def test_clients_and_test_set_together_are_scikit_learns_images() -> None:
    task = digits()
    assert task.test is not None
    clients = [row for k in range(30) for row in rows(*task.data(k))]
    test = rows(*task.test())
    bundled = load_digits()
    images = torch.from_numpy((bundled.data / 16.0).astype(np.float32))
    assert len(clients) + len(test) == 1797
    assert Counter(clients + test) == Counter(rows(images, torch.from_numpy(bundled.target)))
    assert min(len(clients), len(test)) > 300


def test_the_test_set_is_the_same_for_every_seed_and_the_clients_arent() -> None:
    one, other = digits("seed=1"), digits("seed=2")
    assert one.test is not None
    assert other.test is not None
    assert rows(*one.test()) == rows(*other.test())
    assert rows(*one.data(0)) != rows(*other.data(0))


@pytest.mark.parametrize("clients", [1, 30, 1437])
def test_examples_per_client_is_the_whole_mean(clients: int) -> None:
    assert digits(f"clients={clients}", "cohort=1").examples_per_client == 1437 // clients


@pytest.mark.parametrize("model", ["linear", "pixels"])
def test_each_model_takes_what_the_clients_have(model: str) -> None:
    task = digits(f"model={model}")
    inputs, targets = task.data(3)
    assert task.model()(inputs).shape == (len(targets), 10)
    assert task.test is not None
    assert task.test()[0].shape[1:] == inputs.shape[1:]


def test_a_model_it_doesnt_have_lists_those_it_has() -> None:
    with pytest.raises(ConfigError, match="model=resnet must be one of linear, pixels"):
        digits("model=resnet")


def test_more_clients_than_images_is_refused() -> None:
    with pytest.raises(DataError, match="clients=1438"):
        digits("clients=1438", "cohort=3")


def test_what_a_client_does_to_its_records_reaches_nobody_else() -> None:
    task = digits()
    before = rows(*task.data(1))
    inputs, targets = task.data(0)
    inputs.zero_()
    targets.zero_()
    assert rows(*task.data(1)) == before
    assert any(any(row) for row in rows(*task.data(0)))
