"""The two workloads of `engine.py`: one data set, one network, for every side alike.

Imports nothing of tacit: the peers read it from environments that don't have it. Fashion-MNIST's
60,000 training images, shuffled once with seed 0, are cut into clients of equal size and laid
down as a float32 file, which every side maps, so that nobody's start decodes images and pages
that several processes read count once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

CLIP, NOISE, LEARNING_RATE, SEED = 1.0, 1.0, 0.1, 0
PARAMETERS = 26_010


@dataclass(frozen=True, slots=True)
class Workload:
    """A federation in which each client trains for one local epoch.

    Attributes:
        name: "W1" or "W2".
        clients: population.
        examples: of a client.
        cohort: expected clients in a round.
        steps: of one local epoch.
    """

    name: str
    clients: int
    examples: int
    cohort: int
    steps: int

    @property
    def batch(self) -> int:
        """Expected examples in a step."""
        return self.examples // self.steps


WORKLOADS = {
    "W1": Workload("W1", clients=1_000, examples=60, cohort=50, steps=3),
    "W2": Workload("W2", clients=10_000, examples=6, cohort=500, steps=1),
}


def model() -> torch.nn.Sequential:
    """The convolutional network of Opacus's tutorial on MNIST, 26,010 parameters."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def write(folder: Path) -> None:
    """Lays the training images down for `Clients`; only this needs tacit."""
    from tacit.tasks.fashion import DEBIAN, read_idx

    parts = ("images-idx3", "labels-idx1")
    images, labels = (read_idx(next(DEBIAN.glob(f"train-{part}-ubyte*"))) for part in parts)
    order = np.random.default_rng(SEED).permutation(len(labels))
    np.save(folder / "inputs.npy", images[order].astype(np.float32)[:, None] / np.float32(255))
    np.save(folder / "targets.npy", labels[order].astype(np.int64))


@functools.cache
def read(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All inputs and targets, mapped: float32 [60000, 1, 28, 28] and int64 [60000]."""
    import torch

    # Copy on write: torch wants pages it may write to, and never does.
    inputs = np.load(Path(folder) / "inputs.npy", mmap_mode="c")
    targets = np.load(Path(folder) / "targets.npy", mmap_mode="c")
    return torch.from_numpy(inputs), torch.from_numpy(targets)


@dataclass(frozen=True, slots=True)
class Clients:
    """Each client's examples, found by its number when they are asked for.

    A population with more clients than there are images for begins again at the first image.
    """

    folder: str
    examples: int

    def __call__(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of one client, views of what is mapped."""
        inputs, targets = read(self.folder)
        first = client * self.examples % len(targets)
        rows = slice(first, first + self.examples)
        return inputs[rows], targets[rows]
