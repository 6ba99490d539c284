"""A device's training beside the trainer's: the same batches, the same update."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import devices
import numpy as np
import pytest
from numpy.typing import NDArray
from opacus.layers import DPLSTM
from tiny import make_tiny
from torch import Tensor, nn

from tacit import Task
from tacit.client.edge import steps
from tacit.client.edge.data import Records
from tacit.client.edge.runtime import Graph
from tacit.client.trainer import Trainer
from tacit.configs.build import compose
from tacit.privacy.errors import DataError, ModelError, RoundError
from tacit.privacy.noise import SimulationSource
from tacit.protocol.document import Training
from tacit.tasks import vector
from tacit.tasks.device.bundle import DeviceBundle, build
from tacit.tasks.task import make_model, plan, tensors

NO_NOISE = ("privacy.record.noise_multiplier=0.0", "local.physical_batch=4")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(11, 6), DPLSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def task_of(kind: str) -> Task:
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 3, 9)
    if kind == "linear":
        return make_tiny(records=9)
    if kind == "images":
        images = rng.normal(size=(9, 1, 8, 8)).astype(np.float32)
        return made(kind, convolutions, images, targets)
    return made(kind, Recurrent, rng.integers(0, 11, (9, 5)), targets)


def made(name: str, model: Callable[[], nn.Module], x: Any, y: Any) -> Task:
    return Task(name=name, model=model, data=lambda _: (x, y), examples_per_client=len(x))


def overrides(*more: str) -> list[str]:
    return devices.settings(*NO_NOISE, "mechanism=central", "aggregation=plain", *more)


@functools.cache
def exported(kind: str) -> tuple[Task, DeviceBundle]:
    """Both graphs of a task, which depend on nothing that the tests vary."""
    task = task_of(kind)
    return task, build(
        task, compose(overrides("evaluation=federated", "evaluation.cap=7")), "r", "p"
    )


class Rounding(SimulationSource):
    """Seeded, and with one stream for both precisions, as a deployed client's source has."""

    def normal32(self, size: int) -> NDArray[np.float32]:
        return self.normal(size).astype(np.float32)


class Both:
    """The trainer and the device, of one run."""

    def __init__(self, kind: str, settings: list[str]) -> None:
        spec = compose(settings)
        task, self.bundle = exported(kind)
        evaluates = spec.evaluation.kind == "federated"
        self.document = dataclasses.replace(
            self.bundle.document,
            plan=plan(task, spec),
            training=Training(learning_rate=spec.local.learning_rate, proximal=spec.local.proximal),
            evaluation=self.bundle.document.evaluation if evaluates else None,
        )
        self.trainer = Trainer(task, spec, plan(task, spec))
        self.tensors = tensors(task.data(1), "client 1")
        self.records = Records(*(t.numpy() for t in self.tensors))
        manifest = self.document.step
        self.graph = Graph(self.bundle.blobs[manifest.graph], manifest)
        self.parameters = vector.read(make_model(task, None))
        assert self.document.frozen == self.trainer.frozen

    def updates(
        self, rows: list[NDArray[np.int64]], seed: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        noises = [Rounding(seed, "noise") for _ in range(2)]
        theirs = self.trainer.steps(self.parameters, *self.tensors, rows, noises[0])
        arguments = (self.document, self.graph, self.parameters, self.records, rows, noises[1])
        return np.asarray(theirs), steps.update(*arguments)


def relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("kind", ["linear", "images", "words"])
def test_an_update_without_noise_is_the_trainers(kind: str) -> None:
    both = Both(kind, overrides("local.steps=3"))
    # All records, some, and none.
    rows = [np.arange(9), np.array([1, 4]), np.zeros(0, dtype=np.int64)]
    theirs, ours = both.updates(rows)
    assert ours.dtype == theirs.dtype == np.float32
    assert relative(ours, theirs) <= 1e-5
    both = Both(kind, overrides("local.steps=3", "local.proximal=0.7"))
    theirs, ours = both.updates(rows)
    assert relative(ours, theirs) <= 1e-5


def test_noise_has_the_trainers_form() -> None:
    both = Both("linear", overrides("local.steps=2", "privacy.record.noise_multiplier=1.5"))
    theirs, ours = both.updates([np.arange(9), np.arange(3)])
    assert relative(ours, theirs) <= 1e-5
    other, _ = both.updates([np.arange(9), np.arange(3)], seed=2)
    assert relative(other, theirs) > 0.1


def test_noise_has_the_plans_deviation() -> None:
    both = Both("linear", overrides("privacy.record.noise_multiplier=2.0"))
    unit = both.document.plan.record
    assert unit is not None
    nobody = [np.zeros(0, dtype=np.int64)] * unit.steps
    rate = both.document.training.learning_rate
    arguments = (both.document, both.graph, both.parameters, both.records, nobody)
    drawn = np.concatenate([steps.update(*arguments) for _ in range(400)])
    expected = rate * math.sqrt(unit.steps) * 2.0 * unit.clip / unit.denominator
    # 4,000 draws: the deviation of their deviation is 1.1%.
    assert drawn.std() == pytest.approx(expected, rel=0.07)


def test_records_protected_by_shares_are_summed_in_doubles() -> None:
    more = ("privacy.client=none", "local.steps=1")
    dropped = [x for x in devices.settings(*more) if not x.startswith("privacy.client.")]
    both = Both("linear", dropped)
    assert both.document.plan.noised_by_shares()
    theirs, ours = both.updates([np.arange(7)])
    assert ours.dtype == theirs.dtype == np.float64
    assert relative(ours, theirs) <= 1e-5
    (again,) = (both.updates([np.arange(7)], seed=9)[1],)
    assert np.array_equal(ours, again), "no noise of DP-SGD in it"
    # One record moves the sum by its clip, and no more.
    unit, scale = both.document.plan.record, both.document.training.learning_rate
    assert unit is not None
    fewer = both.updates([np.arange(6)])[1]
    assert np.linalg.norm(ours - fewer) <= scale * unit.clip / unit.denominator


def test_a_record_that_is_not_finite_counts_as_none() -> None:
    both = Both("linear", overrides())
    bad = both.records.inputs.copy()
    bad[2, 0] = np.nan
    records = Records(bad, both.records.targets)
    rows = [np.array([0, 1, 2, 3])] * 2
    arguments = (both.document, both.graph, both.parameters)
    found = steps.update(*arguments, records, rows[:1])
    without = steps.update(*arguments, both.records, [np.array([0, 1, 3])])
    assert np.array_equal(found, without)


def test_batches_are_poisson_draws() -> None:
    both = Both("linear", overrides("privacy.record.sampling_rate=0.3", "local.steps=5"))
    sizes = [len(rows) for _ in range(200) for rows in steps.drawn(both.document, 20)]
    assert len(sizes) == 1000
    # Mean 6, variance 4.2.
    assert np.mean(sizes) == pytest.approx(6.0, abs=0.35)
    assert np.var(sizes) == pytest.approx(4.2, rel=0.3)
    source = SimulationSource(1, "batch")
    assert len(list(steps.drawn(both.document, 0, source))) == 5


@pytest.mark.parametrize("kind", ["linear", "images", "words"])
def test_counts_are_the_trainers(kind: str) -> None:
    both = Both(kind, overrides("evaluation=federated", "evaluation.cap=7"))
    manifest = both.document.evaluation
    assert manifest is not None
    graph = Graph(both.bundle.blobs[manifest.graph], manifest)
    theirs = both.trainer.counts(both.parameters, *both.tensors, SimulationSource(1, "evaluate"))
    plan_, noise = both.document.plan, SimulationSource(1, "evaluate")
    ours = steps.counts(plan_, graph, both.parameters, both.records, noise)
    assert ours.shape == theirs.shape == (3,)
    assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_counts_bear_their_noise() -> None:
    more = ("evaluation=federated", "privacy.record.noise_multiplier=3.0")
    both = Both("linear", overrides(*more))
    manifest, how = both.document.evaluation, both.document.plan.evaluation
    assert manifest is not None
    assert how is not None
    graph = Graph(both.bundle.blobs[manifest.graph], manifest)
    arguments = (both.document.plan, graph, both.parameters, both.records)
    drawn = np.stack([steps.counts(*arguments) for _ in range(500)])
    expected = 3.0 * math.sqrt(3.0) / how.cap
    assert np.allclose(drawn.std(axis=0), expected, rtol=0.15)


def test_parameters_of_another_model_are_refused() -> None:
    both = Both("linear", overrides())
    with pytest.raises(RoundError, match="parameters=9"):
        steps.update(both.document, both.graph, both.parameters[:9], both.records, [])


def test_graphs_and_records_that_do_not_fit_are_refused() -> None:
    both = Both("linear", overrides())
    manifest = both.document.step
    data = both.bundle.blobs[manifest.graph]
    with pytest.raises(ModelError, match="isn't the manifest's"):
        Graph(data[:-1], manifest)
    with pytest.raises(DataError, match="float64"):
        Records(both.records.inputs.astype(np.float64), both.records.targets).fit(manifest)
    with pytest.raises(DataError, match=r"\[3\]"):
        Records(both.records.inputs[:, :3], both.records.targets).fit(manifest)
    with pytest.raises(DataError, match="different lengths"):
        Records(both.records.inputs[:3], both.records.targets)


class Hostile(Graph):
    """The graph, but for one record, of which it makes something else or nothing."""

    def __init__(self, of: Graph, row: NDArray[Any], made: Any) -> None:
        self.manifest, self._of, self._row, self._made = of.manifest, of, row, made

    def run(self, feeds: Any) -> Any:
        assert feeds["mask"].sum() == 1, "a record is alone"
        if not np.array_equal(feeds["inputs"][0], self._row):
            return self._of.run(feeds)
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


@pytest.mark.parametrize(
    ("made", "norm"),
    [(1e6, 1.0), (1e200, 0.0), (np.nan, 0.0), (np.inf, 0.0), (1e-9, None)]
    + [(kind("no"), 0.0) for kind in (ModelError, MemoryError, RuntimeError)],
)
def test_a_record_is_bounded_whatever_the_graph_makes_of_it(made: Any, norm: float | None) -> None:
    both = Both("linear", overrides())
    rows, size, clip = np.arange(9), both.graph.manifest.size, 0.37
    given = made if isinstance(made, Exception) else {"sum": np.full(size, made)}
    hostile = Hostile(both.graph, both.records.inputs[4], given)
    arguments = (both.parameters, both.records)
    whole = steps.summed(hostile, *arguments, rows, clip)
    others = steps.summed(both.graph, *arguments, np.delete(rows, 4), clip)
    moved = float(np.linalg.norm(whole - others))
    assert moved <= clip
    expected = 1e-9 * math.sqrt(size) if norm is None else norm * clip
    assert moved == pytest.approx(expected, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize(
    ("made", "score", "loss"),
    [
        (ModelError("no"), 0.0, 1.0),
        ({"score": np.array([9.0]), "loss": np.array([-5.0])}, 1.0, 0.0),
        ({"score": np.array([np.nan]), "loss": np.array([np.nan])}, 0.0, 1.0),
        ({"score": np.array([-np.inf]), "loss": np.array([np.inf])}, 0.0, 1.0),
    ],
)
def test_a_score_is_bounded_whatever_the_graph_makes_of_it(
    made: Any, score: float, loss: float
) -> None:
    both = Both("linear", overrides("evaluation=federated", "evaluation.cap=7"))
    manifest, how = both.document.evaluation, both.document.plan.evaluation
    assert manifest is not None
    assert how is not None
    graph = Graph(both.bundle.blobs[manifest.graph], manifest)
    hostile = Hostile(graph, both.records.inputs[0], made)
    one = Records(both.records.inputs[:1], both.records.targets[:1])
    found = steps.counts(both.document.plan, hostile, both.parameters, one) * how.cap
    assert np.allclose(found, [score, 1.0, loss])
