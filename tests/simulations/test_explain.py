"""What a version's features are worth, told by evaluations of it without each of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rolling import CLIENTS, SETTINGS
from torch import nn

from tacit import Task, simulate
from tacit.privacy.errors import ConfigError, ModelError
from tacit.server import check
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.simulations.explain import explain
from tacit.tasks import ablation, vector
from tacit.tasks.task import tensors

pytestmark = pytest.mark.usefixtures("remembered")
COLUMNS = {"told": [0, 1], "idle": [2], "noise": [3, 4]}


def table() -> Task:
    """The first two columns tell the class, the others nothing."""
    rng = np.random.default_rng(11)
    y = rng.integers(0, 2, CLIENTS * 6 + 200)
    x = rng.normal(size=(len(y), 5)).astype(np.float32)
    x[:, :2] += (2.0 * y[:, None] - 1.0).astype(np.float32)

    def data(client: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(client * 6, client * 6 + 6)
        return x[part], y[part]

    return Task(
        name="table",
        model=lambda: nn.Linear(5, 2),
        data=data,
        examples_per_client=6,
        test=lambda: (x[-200:], y[-200:]),
        features=COLUMNS,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain") / "home"
    simulate(SETTINGS["central"], task=table(), home=folder)
    return folder


def test_the_feature_that_tells_is_found_and_the_others_show_nothing(home: Path) -> None:
    settings = ["minimum_survivors=3", "evaluation.noise_multiplier=0.2"]
    found = explain("table", rounds=30, overrides=settings, task=table(), home=home)
    first, *others = found["features"]
    assert first["feature"] == "told"
    assert first["shown"]
    assert first["accuracy"]["low"] > 0
    assert {row["feature"] for row in others} == {"idle", "noise"}
    assert not any(row["shown"] for row in others)
    store = Store(Home(home))
    report = check.verify(store)
    assert report.holds, report.findings
    # One charge a round, though four models were evaluated.
    kinds = [leaf["kind"] for leaf in store.spending(found["run"])]
    assert kinds == ["CHARGE", "RELEASE"] * 30
    assert first["leaves"] == [x["index"] for x in store.leaves(found["run"], ("RELEASE",))]
    # What it measures is what happens on real records with the columns zeroed.
    truth = without(store, found, [0, 1])
    assert first["accuracy"]["low"] <= truth <= first["accuracy"]["high"]
    store.close()


def without(store: Store, found: dict[str, Any], columns: list[int]) -> float:
    """Accuracy lost on all clients' records when columns are zeroed."""
    from tacit.server.registry import ModelRegistry

    registry = ModelRegistry(store.home, store)
    row = registry.find(f"table@{found['number']}")
    model = nn.Linear(5, 2)
    model.load_state_dict(
        {k: torch.from_numpy(v) for k, v in registry.get(row["artifact"]).items()}
    )
    records = [tensors(table().data(k), "") for k in range(CLIENTS)]
    x, y = (torch.cat(parts) for parts in zip(*records, strict=True))
    whole = (model(x).argmax(1) == y).float().mean()
    x[:, columns] = 0
    return float(whole - (model(x).argmax(1) == y).float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_an_ablated_model_answers_as_if_the_columns_were_zero(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    parameters = vector.read(model).astype(np.float64)
    x = torch.randn(10, 5)
    zeroed = x.clone()
    zeroed[:, [1, 3]] = 0
    due = model(zeroed).detach()
    made = ablation.without(model, parameters, [1, 3], "it")
    vector.write(model, made.astype(np.float32))
    torch.testing.assert_close(model(x), due)
    assert (made != parameters).sum() == 8


class Twice(nn.Module):
    """Reads its input in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Twice(), "more than the first linear layer"),
        (nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 2)), "more than the first linear layer"),
        (nn.Conv1d(1, 1, 1), "no linear layer"),
        (nn.Linear(2, 2), "no linear layer reads columns"),
    ],
)
def test_a_model_that_reads_its_table_otherwise_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ablation.without(model, vector.read(model).astype(np.float64), [3], "it")


def test_a_task_without_features_is_refused_before_there_is_a_run(home: Path) -> None:
    store = Store(Home(home))
    before = len(store.runs())
    plain = dataclasses.replace(table(), features=None)
    with pytest.raises(ConfigError, match="names no features"):
        explain("table", task=plain, home=home)
    odd = dataclasses.replace(table(), features={"far": [9]})
    with pytest.raises(ModelError, match="no linear layer reads columns"):
        explain("table", task=odd, home=home, overrides=["minimum_survivors=3"])
    assert len(store.runs()) == before
    store.close()
