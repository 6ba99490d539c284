"""A scoring graph gives what torch gives, with any version's parameters, or it isn't made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY
from together import MODELS, records
from torch import Tensor, nn

from tacit import Task
from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ModelError
from tacit.tasks import scoring, vector
from tacit.tasks.task import make_model


def made(make: Any, shape: tuple[int, ...] = (6,), letters: bool = False) -> tuple[Task, RunSpec]:
    task = Task(
        name="t",
        model=make,
        data=lambda k: records(shape, letters, 4, k),
        examples_per_client=4,
        test=lambda: records(shape, letters, 4, 0),
    )
    return task, build.compose(TINY)


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: vector.array(name, tensor) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["conv2d", "norms", "half_frozen", "lstm", "attention"])
def test_one_template_serves_every_version(name: str) -> None:
    make, shape, letters = MODELS[name]
    task, spec = made(make, shape, letters)
    template = scoring.template(task, spec)
    assert (template.shape, template.dtype) == (shape, "int64" if letters else "float32")
    for move in (False, True):
        model = make_model(task, spec.seed).eval()
        if move:
            vector.write(model, vector.moved(model))
        graph = scoring.graph(task, spec, arrays(model), template)
        x = records(shape, letters, 7, 9)[0]
        with torch.no_grad():
            want = model(x).numpy()
        assert np.allclose(graph.run(x.numpy()), want, rtol=1e-4, atol=1e-5)


def test_graphs_are_reproducible() -> None:
    task, spec = made(*MODELS["linear"][:2])
    state = arrays(make_model(task, spec.seed))
    first, second = (scoring.graph(task, spec, state, scoring.template(task, spec)) for _ in "12")
    assert first.digest == second.digest
    assert first.rows is None


def test_a_version_of_another_model_is_refused() -> None:
    task, spec = made(*MODELS["linear"][:2])
    template = scoring.template(task, spec)
    with pytest.raises(ModelError, match="isn't of task t's model"):
        scoring.graph(task, spec, {"weight": np.zeros((3, 5), np.float32)}, template)


class Beside(nn.Module):
    """What a record gets depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


class Sorted(nn.Module):
    """An operator that isn't on the list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sort(-1).values


class Pair(Beside):
    def forward(self, x: Tensor) -> Any:
        return self.layer(x), self.layer(x)


class Drawn(Beside):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.rand(3)


@pytest.mark.parametrize(
    ("make", "said"),
    [(Beside, "depends on the records"), (Sorted, "TopK"), (Pair, "one tensor"), (Drawn, "Random")],
)
def test_what_cant_be_served_is_refused_by_name(make: Any, said: str) -> None:
    task, spec = made(make)
    with pytest.raises(ModelError, match=said):
        scoring.graph(task, spec, arrays(make_model(task, spec.seed)), scoring.template(task, spec))


def test_a_graph_that_differs_from_torch_is_refused() -> None:
    _, spec = made(*MODELS["linear"][:2])
    other, _ = made(lambda: nn.Sequential(nn.Linear(6, 3), nn.Tanh()))
    state = arrays(make_model(other, spec.seed))
    template = scoring.template(other, spec)
    squashed, _ = made(lambda: nn.Sequential(nn.Linear(6, 3), nn.Sigmoid()))
    with pytest.raises(ModelError, match="differ from torch"):
        scoring.graph(squashed, spec, state, template)


def test_a_run_can_be_ended_and_bad_records_are_an_error() -> None:
    make, shape, letters = MODELS["lstm"]
    task, spec = made(make, shape, letters)
    graph = scoring.graph(
        task, spec, arrays(make_model(task, spec.seed)), scoring.template(task, spec)
    )
    with pytest.raises(ModelError, match="can't score"):
        graph.run(np.full((1, *shape), 99))
