"""``experiment=digits``: scikit-learn's 1,797 bundled 8x8 images; runs offline."""

from __future__ import annotations

import functools

import numpy as np
import torch

from tacit.configs.spec import RunSpec
from tacit.privacy.noise import Randomness
from tacit.tasks import features, models, partition
from tacit.tasks.task import Records, Task

TEST_SHARE = 0.2
Split = tuple[torch.Tensor, torch.Tensor]
MODELS: dict[str, models.Choice] = {
    "linear": (lambda: models.linear(128, 10), features.gradients),
    "pixels": (lambda: models.linear(64, 10), models.as_it_is),
}


def digits(spec: RunSpec) -> Task:
    """Digits over ``spec.clients`` clients; a fifth of the images is the public test set.

    The split into training and test images is fixed, so that seeds are comparable. Models:
    "linear" on histograms of gradients, or "pixels", linear on the images themselves.
    """
    model, prepare = models.choose(MODELS, spec.model)
    (inputs, targets), (test_inputs, test_targets) = _load()
    inputs, test_inputs = prepare(inputs), prepare(test_inputs)
    seed = Randomness(spec.seed or 0).number("partition")
    parts = partition.split({"label": targets.numpy()}, spec.clients, spec.partition, seed)

    def data(client: int) -> Records:
        rows = torch.from_numpy(parts[client])
        return inputs[rows], targets[rows]

    return Task(
        name="digits",
        model=model,
        data=data,
        clients=spec.clients,
        examples_per_client=max(1, len(targets) // spec.clients),
        test=lambda: (test_inputs, test_targets),
    )


@functools.lru_cache(maxsize=1)
def _load() -> tuple[Split, Split]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundled = load_digits()
    train, test = train_test_split(
        np.arange(len(bundled.target)),
        test_size=TEST_SHARE,
        stratify=bundled.target,
        random_state=0,
    )
    inputs = torch.from_numpy((bundled.data / 16.0).astype(np.float32))
    targets = torch.from_numpy(bundled.target.astype(np.int64))
    return (inputs[train], targets[train]), (inputs[test], targets[test])
