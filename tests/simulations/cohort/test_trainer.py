"""Trained together or alone, in one process or in several: the same run."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY, make_tiny
from together import MODELS, records, trainer
from torch import Tensor, nn

from tacit import Task, simulate
from tacit.privacy.errors import ConfigError, EngineError
from tacit.privacy.messages import TrainRequest
from tacit.privacy.noise import Randomness
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.simulations.cohort import layers
from tacit.simulations.cohort.batched import BatchedEngine
from tacit.simulations.cohort.choice import choose, verify
from tacit.simulations.cohort.job import UnsupportedError
from tacit.simulations.cohort.trainer import CohortTrainer
from tacit.tasks import vector

RUN = [*TINY, "local.steps=2", "privacy.record.sampling_rate=0.6", "evaluation=none"]


def released(home: Path, artifact: str) -> np.ndarray:
    arrays = ModelRegistry(Home(home), Store(Home(home))).get(artifact)
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


def unequal(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Between none and nine records."""
    rng = np.random.default_rng(k)
    size = k % 10
    return rng.normal(size=(size, 4)).astype(np.float32), rng.integers(0, 2, size)


@pytest.mark.parametrize("overrides", [[], ["privacy/record=none"], ["seed=5", "local.proximal=1"]])
def test_every_engine_makes_the_serial_model(tmp_path: Path, overrides: list[str]) -> None:
    task = dataclasses.replace(make_tiny(), data=unequal)
    made = {}
    for engine in ("serial", "cohort", "fused", "auto"):
        home = tmp_path / engine
        result = simulate([*RUN, *overrides, f"engine={engine}"], task=task, home=home, workers=1)
        made[engine] = released(home, result.artifact_sha256)
    for engine in ("cohort", "fused", "auto"):
        off = np.linalg.norm(made[engine] - made["serial"])
        assert np.linalg.norm(made["serial"]) > 0
        assert off <= 1e-5 * np.linalg.norm(made["serial"])


@pytest.mark.parametrize("engine", ["serial", "cohort", "fused"])
@pytest.mark.parametrize("mechanism", ["central", "skellam"])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, engine: str, mechanism: str) -> None:
    settings = [*TINY, "cohort=20", f"engine={engine}", f"mechanism={mechanism}", "rounds=2"]
    settings += ["evaluation=federated", "minimum_survivors=10"]
    made = set()
    for workers in (1, 2, 3, None):
        task, home = make_tiny(clients=40), tmp_path / str(workers)
        result = simulate([*settings, "clients=40"], task=task, home=home, workers=workers)
        made.add((result.artifact_sha256, str(result.metrics)))
    assert len(made) == 1


def broken(kind: str) -> Task:
    """Client 3 has no data that can be used."""
    task = make_tiny()

    def data(k: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = task.data(k)
        if k == 3 and kind == "raises":
            raise OSError("the disk is gone")
        if k == 3 and kind == "label":
            return x, y + 7
        if k == 3 and kind == "shape":
            return x[:, :3], y
        return x, y

    return dataclasses.replace(task, data=data)


@pytest.mark.parametrize("kind", ["raises", "label", "shape"])
@pytest.mark.parametrize("engine", ["cohort", "fused"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_whose_data_fails_costs_itself(
    tmp_path: Path, kind: str, engine: str, workers: int
) -> None:
    settings = [*RUN, "cohort=20", "minimum_survivors=5", "rounds=1"]
    made = []
    for how, count in ((engine, workers), ("serial", 1)):
        home = tmp_path / how
        task = broken(kind)
        result = simulate([*settings, f"engine={how}"], task=task, home=home, workers=count)
        (row,) = Store(Home(home)).rounds(result.run)
        made.append((row["accepted"], row["rejected"]))
        assert row["accepted"] == row["asked"] - 1 == 19
    assert made[0] == made[1]


def test_what_was_not_expected_is_trained_alone(tmp_path: Path) -> None:
    serial = trainer(MODELS["linear"][0], "privacy.record.noise_multiplier=1", "engine=cohort")
    x, y = records((6,), False, 8, 1)
    data = {4: (x, y), 5: (x, y)}
    task = dataclasses.replace(serial.task, data=lambda k: data[k])
    own = CohortTrainer(task, serial.spec, serial.plan)
    start = vector.read(own.model)
    request = TrainRequest("r", 2, 0, "", "", 1.0, 0, b"", start)
    randomness = Randomness(serial.spec.seed)
    alone = [
        serial.train(start + shift, x, y, randomness, "train", number, client)
        for shift, number, client in [(0, 2, 4), (1, 2, 5), (0, 3, 4)]
    ]
    own.expect(request, [4, 5])
    assert own.engine == "cohort"
    for due, (shift, number, client) in zip(alone, [(0, 2, 4), (1, 2, 5), (0, 3, 4)], strict=True):
        inputs, targets = own.task.data(client)
        got = own.train(start + shift, inputs, targets, randomness, "train", number, client)
        assert np.linalg.norm(got - due) <= 1e-5 * np.linalg.norm(due)
    # Other records than the ones it was trained on.
    own.expect(request, [4])
    other = own.train(start, x[:2].clone(), y[:2], randomness, "train", 2, 4)
    due = serial.train(start, x[:2].clone(), y[:2], randomness, "train", 2, 4)
    np.testing.assert_array_equal(other, due)


class Drops(nn.Module):
    """Draws in training, by a layer of Torch's or by itself."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.linear, self.drop, self.layer = nn.Linear(6, 3), nn.Dropout(0.5), layer

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.drop(x) if self.layer else x + torch.randn_like(x))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Drops(True), "draws random"),
        (lambda: Drops(False), "draws random"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.PReLU(3)), "size of tensor"),
    ],
)
def test_auto_says_why_it_trains_one_by_one(make: Callable[[], nn.Module], why: str) -> None:
    serial = trainer(make, "local.steps=2")
    engine, reason = choose(serial, serial.task, records((6,), False, 4, 0))
    assert engine is None
    assert why in reason
    assert "fused: " in reason
    asked = trainer(make, "engine=cohort", "local.steps=2")
    with pytest.raises(ConfigError, match=r"engine=cohort can't train this model \(cohort: "):
        choose(asked, asked.task, records((6,), False, 4, 0))


def test_an_engine_that_is_a_little_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = BatchedEngine._step

    def wrong(self: BatchedEngine, *arguments: object) -> Tensor:
        total = right(self, *arguments)  # type: ignore[arg-type]
        total[:, 0] *= 1.01
        return total

    serial = trainer(MODELS["linear"][0], "engine=cohort")
    like = records((6,), False, 4, 0)
    engine, _ = choose(serial, serial.task, like)
    assert engine is not None
    verify(engine, serial, like)
    monkeypatch.setattr(BatchedEngine, "_step", wrong)
    with pytest.raises(UnsupportedError, match="differ"):
        verify(engine, serial, like)


def zero_head() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    model[3].requires_grad_(True)
    with torch.no_grad():
        for p in model[3].parameters():
            p.zero_()
    return model


@pytest.mark.parametrize("factor", [-5.0, 1.01])
def test_a_layer_behind_zeros_is_checked_too(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Where the model begins, no gradient reaches the convolution."""
    right = layers.Convolution.shaped
    monkeypatch.setattr(layers.Convolution, "shaped", lambda *a: factor * right(*a))
    serial = trainer(zero_head, "privacy.record.noise_multiplier=5", "engine=cohort")
    with pytest.raises(ConfigError, match="differ from Opacus's"):
        choose(serial, serial.task, records((2, 6, 6), False, 4, 0))


@pytest.mark.parametrize(
    ("name", "said"), [("linear", "engine: fused"), ("unknown", "Shift by the slower way")]
)
def test_the_engine_and_the_slower_way_are_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, name: str, said: str
) -> None:
    make, shape, _ = MODELS[name]
    task = Task(
        name="t",
        model=make,
        data=lambda k: records(shape, False, 4, k),
        examples_per_client=4,
        clients=20,
    )
    for workers in (1, 2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "tacit.engine"):
            simulate([*RUN, "rounds=1"], task=task, home=tmp_path, workers=workers)
        assert caplog.text.count(said) == 1


def test_a_worker_that_is_killed_ends_the_run_and_says_so(tmp_path: Path) -> None:
    task, parent = make_tiny(clients=40), os.getpid()

    def data(k: int) -> tuple[np.ndarray, np.ndarray]:
        if os.getpid() != parent and k % 7 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return task.data(k)  # type: ignore[return-value]

    settings = [*TINY, "clients=40", "cohort=40", "rounds=1"]
    fatal = dataclasses.replace(task, data=data)
    with pytest.raises(EngineError, match="SIGKILL"):
        simulate(settings, task=fatal, home=tmp_path, workers=2)
    # The charge stands, and the run can go on.
    store = Store(Home(tmp_path))
    assert [leaf["kind"] for leaf in store.spending()] == ["CHARGE"]
    store.close()
    result = simulate(task=task, home=tmp_path, resume="last", workers=2)
    assert result.rounds == 1
