"""The cohort engine equals the serial trainer, layer by layer and for any architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from together import MODELS, Shift, furthest, jobs, trainer
from torch import Tensor, nn

from tacit.simulations.cohort.batched import BatchedEngine
from tacit.simulations.cohort.choice import recipe
from tacit.simulations.cohort.job import Job, UnsupportedError
from tacit.tasks import vector
from tacit.tasks.task import make_model

CLOSE = 1e-5
NOISY = ["privacy.record.noise_multiplier=0.7", "privacy.record.clip=0.5", "local.steps=3"]
SILENT = ["privacy.record.noise_multiplier=0", "privacy.record.clip=0.5", "local.steps=3"]
# Unequal clients: none, one, all of the records, and steps without any.
SIZES = [(3, 0, 5), (12, 12, 12), (0, 0, 0), (1, 7, 2), (5, 5, 4)]


def engine(make: object, *overrides: str) -> tuple[BatchedEngine, object]:
    serial = trainer(make, *overrides)  # type: ignore[arg-type]
    task, how = serial.task, recipe(serial.spec, serial.plan)
    return BatchedEngine(task, make_model(task, serial.spec.seed), how), serial


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_equals_opacus(name: str) -> None:
    make, shape, letters = MODELS[name]
    made, serial = engine(make, *NOISY)
    assert furthest(made, serial, lambda: jobs(shape, letters, SIZES)) < CLOSE  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["linear", "conv2d", "lstm", "unknown"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["privacy/record=none", "local.steps=3"],
        [*NOISY, "local.proximal=0.3"],
        ["privacy/record=none", "local.steps=3", "local.proximal=0.3"],
        [*NOISY, "local.physical_batch=3"],
        ["mechanism=skellam", "privacy.record.clip=0.5", "privacy.client=none"],
    ],
    ids=["without-dp", "proximal", "both", "in-parts", "summed"],
)
def test_every_way_to_train_equals_the_serial_one(name: str, overrides: list[str]) -> None:
    make, shape, letters = MODELS[name]
    made, serial = engine(make, *overrides)
    sizes = [each[: made.recipe.steps] for each in SIZES]
    assert furthest(made, serial, lambda: jobs(shape, letters, sizes)) < CLOSE  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["linear", "conv2d", "norms", "unknown", "positions"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_client_whose_gradient_is_not_finite_is_left_alone(name: str, bad: float) -> None:
    make, shape, letters = MODELS[name]
    made, serial = engine(make, *NOISY)

    def poisoned() -> list[Job]:
        clients = jobs(shape, letters, [(12, 5, 12), (4, 4, 4)])
        clients[0].inputs[3] = bad
        return clients

    assert furthest(made, serial, poisoned) < CLOSE  # type: ignore[arg-type]
    start = vector.read(serial.model)  # type: ignore[attr-defined]
    first, second = made.updates(start, poisoned())
    assert second is not None
    if np.isnan(bad):
        assert first is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_take_any_layout(layout: torch.memory_format) -> None:
    """Where Opacus 1.6.0 is silently wrong: its sampler takes strides for those of NCHW."""
    make, shape, _ = MODELS["conv2d"]
    made, serial = engine(make, *SILENT)
    start = vector.read(serial.model)  # type: ignore[attr-defined]
    plain = made.updates(start, jobs(shape, False, SIZES))
    laid = jobs(shape, False, SIZES)
    laid = [Job(j.inputs.to(memory_format=layout), j.targets, j.rows, j.noise) for j in laid]
    for a, b in zip(plain, made.updates(start, laid), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_client_depends_on_no_other() -> None:
    make, shape, letters = MODELS["conv2d"]
    made, serial = engine(make, *NOISY)
    start = vector.read(serial.model)  # type: ignore[attr-defined]
    together = made.updates(start, jobs(shape, letters, SIZES))
    for k, update in enumerate(together):
        assert update is not None
        (alone,) = made.updates(start, [jobs(shape, letters, SIZES)[k]])
        assert alone is not None
        assert np.linalg.norm(alone - update) <= CLOSE * np.linalg.norm(update)


def test_no_clients_and_empty_clients() -> None:
    make, shape, letters = MODELS["linear"]
    made, serial = engine(make, *NOISY)
    assert made.updates(vector.read(serial.model), []) == []  # type: ignore[attr-defined]
    empty = [(0, 0, 0)]
    assert furthest(made, serial, lambda: jobs(shape, letters, empty, count=0)) < CLOSE  # type: ignore[arg-type]


def test_layers_that_take_the_slower_way_are_named() -> None:
    for name, kinds in [("unknown", ["Shift"]), ("grouped", ["Conv2d"]), ("conv2d", [])]:
        assert engine(MODELS[name][0], *NOISY)[0].generic == kinds


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))[:, :3]


class Reads(nn.Module):
    """Uses its layer's weight itself, where no twin can see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.layer.weight.t()


class Mixes(nn.Module):
    """Puts the records into another dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 2, 6)).reshape(-1, 3)


@pytest.mark.parametrize("make", [Tied, Reads, Mixes])
def test_what_it_can_not_do_is_refused(make: type[nn.Module]) -> None:
    def trained() -> object:
        made, _ = engine(make, "privacy/record=none")
        return made.updates(vector.read(make()), jobs((6,), False, [(4,), (6,)]))

    with pytest.raises(UnsupportedError):
        trained()


layers = st.sampled_from(["linear", "tanh", "norm", "shift", "relu"])


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(layers, min_size=1, max_size=5),
    st.integers(2, 6),
    st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=6),
    st.booleans(),
)
def test_random_architectures(
    chosen: list[str], width: int, sizes: list[tuple[int, int, int]], noise: bool
) -> None:
    def make() -> nn.Module:
        kinds = {
            "linear": lambda: nn.Linear(width, width, bias=width % 2 == 0),
            "tanh": nn.Tanh,
            "norm": lambda: nn.GroupNorm(1, width),
            "shift": lambda: Shift(width),
            "relu": nn.ReLU,
        }
        middle = [kinds[kind]() for kind in chosen]
        return nn.Sequential(nn.Linear(6, width), *middle, nn.Linear(width, 3))

    made, serial = engine(make, *(NOISY if noise else SILENT))
    assert furthest(made, serial, lambda: jobs((6,), False, sizes)) < CLOSE  # type: ignore[arg-type]
