"""Models, and jobs over made-up clients, for engines that must equal the serial trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from opacus.layers import DPGRU, DPLSTM, DPMultiheadAttention
from torch import Tensor, nn

from tacit import Task
from tacit.client.trainer import Trainer
from tacit.configs import build
from tacit.privacy.noise import SimulationSource
from tacit.simulations.cohort.job import Engine, Job
from tacit.tasks import vector
from tacit.tasks.task import plan

Make = Callable[[], nn.Module]
Shape = tuple[int, ...]


class Tokens(nn.Module):
    """A recurrent layer over letters."""

    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(7, 4), cell(4, 5, batch_first=True)
        self.norm, self.head = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.cell(self.embed(x))[0][:, -1]))


class Attention(nn.Module):
    """One block of a transformer, on Opacus's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attention = DPMultiheadAttention(4, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x)
        y = self.attention(e, e, e)[0]
        return self.head(self.norm(e + y).mean(1))


class Shift(nn.Module):
    """A layer nobody has heard of: it owns its parameters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(size)), nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x * self.gain) + self.shift.square()


def half_frozen() -> nn.Module:
    """A first layer without, and a second with half its trained parameters."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    model[3].bias.requires_grad_(False)
    return model


def image(*convolutions: nn.Module, flat: int) -> nn.Module:
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(flat, 3))


# Each model with the shape of its records; whole numbers are letters below 7.
MODELS: dict[str, tuple[Make, Shape, bool]] = {
    "linear": (lambda: nn.Linear(6, 3), (6,), False),
    "positions": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)),
        (4, 6),
        False,
    ),
    "conv2d": (
        lambda: image(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(4, 5, (2, 3), stride=(2, 1), dilation=(1, 2), bias=False),
            nn.Tanh(),
            flat=5 * 2 * 1,
        ),
        (2, 6, 6),
        False,
    ),
    "conv1d": (
        lambda: image(nn.Conv1d(2, 4, 3, stride=2, padding=1), nn.Tanh(), flat=16),
        (2, 8),
        False,
    ),
    "grouped": (
        lambda: image(nn.Conv2d(4, 4, 3, groups=2), nn.Tanh(), flat=4 * 9),
        (4, 5, 5),
        False,
    ),
    "norms": (
        lambda: image(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.LayerNorm([4, 3, 3]), flat=36
        ),
        (2, 5, 5),
        False,
    ),
    "instance": (
        lambda: image(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), flat=36),
        (2, 5, 5),
        False,
    ),
    "unknown": (lambda: nn.Sequential(Shift(6), nn.Linear(6, 3)), (6,), False),
    "half_frozen": (half_frozen, (6,), False),
    "lstm": (lambda: Tokens(DPLSTM), (9,), True),
    "gru": (lambda: Tokens(DPGRU), (9,), True),
    "attention": (Attention, (9,), True),
}


def trainer(make: Make, *overrides: str) -> Trainer:
    """A serial trainer of a model under some settings."""
    task = Task(name="t", model=make, data=lambda k: (), examples_per_client=8, clients=20)
    settings = ["experiment=none", "clients=20", "cohort=10", "mechanism=central"]
    spec = build.compose([*settings, "aggregation=plain", "evaluation=none", *overrides])
    return Trainer(task, spec, plan(task, spec))


def records(shape: Shape, letters: bool, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Made-up records with labels below 3."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=g)
    if letters:
        return torch.randint(0, 7, (count, *shape), generator=g), y
    return torch.randn(count, *shape, generator=g), y


def jobs(shape: Shape, letters: bool, sizes: Sequence[Sequence[int]], count: int = 12) -> list[Job]:
    """Clients with ``count`` records each, and batches of these sizes, drawn anew each time."""
    made = []
    for k, each in enumerate(sizes):
        x, y = records(shape, letters, count, 100 + k)
        g = np.random.default_rng(k)
        rows = [np.sort(g.choice(count, size, replace=False)) for size in each]
        made.append(Job(x, y, rows, SimulationSource(3, "noise", k)))
    return made


def furthest(engine: Engine, serial: Trainer, made: Callable[[], list[Job]]) -> float:
    """The largest relative error of an engine's updates."""
    start = vector.read(serial.model)
    got, worst = engine.updates(start, made()), 0.0
    for update, job in zip(got, made(), strict=True):
        if update is None:
            continue
        due = serial.steps(start, job.inputs, job.targets, job.rows, job.noise)  # type: ignore[arg-type]
        assert update.dtype == due.dtype
        assert update.shape == due.shape
        off, size = np.linalg.norm(update - due), np.linalg.norm(due)
        worst = max(worst, float(off / size) if size else float(off))
    return worst
