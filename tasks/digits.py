"""``experiment=digits``: scikit-learn's 1,797 bundled 8x8 images; runs offline."""

from __future__ import annotations

import functools

import numpy as np
import torch

from tacit.configs.spec import RunSpec
from tacit.privacy.noise import Randomness
from tacit.tasks import models, partition
from tacit.tasks.task import Records, Task

TRAIN = 1437


def digits(spec: RunSpec) -> Task:
    """Digits over ``spec.clients`` clients; 360 images are the public test set.

    The split into training and test images is fixed, so that seeds are comparable.
    """
    inputs, targets = _load()
    seed = Randomness(spec.seed or 0).number("partition")
    parts = partition.split({"label": targets[:TRAIN].numpy()}, spec.clients, spec.partition, seed)

    def data(client: int) -> Records:
        rows = torch.from_numpy(parts[client])
        return inputs[rows], targets[rows]

    return Task(
        name="digits",
        model=lambda: models.linear(64, 10),
        data=data,
        clients=spec.clients,
        examples_per_client=max(1, TRAIN // spec.clients),
        test=lambda: (inputs[TRAIN:], targets[TRAIN:]),
    )


@functools.lru_cache(maxsize=1)
def _load() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    bundled = load_digits()
    order = np.random.default_rng(0).permutation(len(bundled.target))
    inputs = torch.from_numpy((bundled.data[order] / 16.0).astype(np.float32))
    return inputs, torch.from_numpy(bundled.target[order].astype(np.int64))
