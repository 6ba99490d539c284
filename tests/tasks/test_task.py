"""`tacit.tasks.task`: tasks are found or refused by name; models are made alike everywhere."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, DataError, ModelError
from tacit.tasks import vector
from tacit.tasks.task import Task, check, load, make_model, score, tensors

BASE = build.compose(["experiment=none", "clients=5", "cohort=2", "evaluation=none"])


def named(task: str) -> RunSpec:
    return dataclasses.replace(BASE, task=task)


def task(model: Any = lambda: nn.Linear(4, 3), **fields: Any) -> Task:
    return Task(name="mine", model=model, data=lambda k: (np.zeros((0, 4)), np.zeros(0)), **fields)


SOURCE = """
from torch import nn
from tacit.tasks.task import Task

made = Task(name="mine", model=lambda: nn.Linear(1, 1), data=lambda k: None, clients=5)
number = 5

def factory(spec):
    return Task(name=f"of {spec.clients}", model=made.model, data=made.data)

def another(spec):
    return "a task"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module in the working directory, new for each test."""
    name = f"task_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    return name


def test_a_task_in_the_working_directory_is_found(module: str) -> None:
    assert load(named(f"{module}:made")).name == "mine"


def test_a_function_of_the_spec_makes_a_task(module: str) -> None:
    assert load(named(f"{module}:factory")).name == "of 5"


@pytest.mark.parametrize("attribute", ["another", "number"])
def test_what_isnt_a_task_is_refused_by_its_type(module: str, attribute: str) -> None:
    with pytest.raises(ConfigError, match=r"not a tacit\.Task"):
        load(named(f"{module}:{attribute}"))


def test_an_attribute_that_isnt_there_is_named(module: str) -> None:
    with pytest.raises(ConfigError, match="no attribute 'absent'"):
        load(named(f"{module}:absent"))


def test_a_module_that_isnt_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no_such_module_here") as caught:
        load(named("no_such_module_here:task"))
    assert "Python path" in caught.value.hint


@pytest.mark.parametrize("name", [":task", ".relative:task", "module_only:"])
def test_half_a_name_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError):
        load(named(name))


def test_a_misspelt_task_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="task=digts is not a task") as caught:
        load(named("digts"))
    assert caught.value.hint == "did you mean digits?"


def test_a_strange_task_lists_the_built_in_ones_and_the_way_to_ones_own() -> None:
    with pytest.raises(ConfigError) as caught:
        load(named("zzz"))
    for word in ("digits", "fashion_mnist", "module:attribute"):
        assert word in caught.value.hint


def test_more_clients_than_the_task_has_are_refused() -> None:
    assert check(task(clients=5), BASE).clients == 5
    with pytest.raises(ConfigError, match="clients=5 must be at most 4"):
        check(task(clients=4), BASE)


def test_a_public_evaluation_needs_a_test_set() -> None:
    public = build.compose(["experiment=none", "evaluation=public"])
    with pytest.raises(ConfigError, match="evaluation=public") as caught:
        check(task(), public)
    assert "evaluation=federated" in caught.value.hint
    with_test = task(test=lambda: (np.zeros((1, 4)), np.zeros(1)))
    assert check(with_test, public) is with_test


def test_models_made_twice_are_equal_and_follow_the_seed() -> None:
    def noisy() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 3))
        model.register_buffer("projection", torch.randn(4))
        return model

    torch.manual_seed(5)
    one = make_model(task(noisy), 1)
    torch.rand(7)
    same, other = make_model(task(noisy), 1), make_model(task(noisy), 2)
    np.testing.assert_array_equal(vector.read(one), vector.read(same))
    assert vector.frozen_digest(one) == vector.frozen_digest(same)
    assert not np.array_equal(vector.read(one), vector.read(other))
    assert vector.frozen_digest(one) != vector.frozen_digest(other)
    drawn = [make_model(task(noisy), None) for _ in range(2)]
    assert vector.frozen_digest(drawn[0]) == vector.frozen_digest(drawn[1])


def test_making_a_model_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_model(task(), 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    for model in (nn.Identity, lambda: nn.Linear(4, 3).requires_grad_(False)):
        with pytest.raises(ModelError, match="no trained parameters"):
            make_model(task(model), 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_trained_parameter_that_isnt_float32_is_refused_by_name(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).to(dtype))
    with pytest.raises(ModelError, match=r"1\.weight is torch\.\w+; only float32"):
        make_model(task(lambda: model), 0)


def test_records_become_tensors_with_floats_in_float32() -> None:
    inputs, targets = tensors((np.zeros((3, 2), dtype=np.float64), [1, 2, 3]), "client 0")
    assert (inputs.dtype, inputs.shape) == (torch.float32, (3, 2))
    assert targets.tolist() == [1, 2, 3]
    assert targets.dtype == torch.int64


@pytest.mark.parametrize(
    "records",
    [(np.zeros((3, 2)), np.zeros(2)), (np.zeros(3), np.float64(1)), (torch.tensor(1.0), [1])],
)
def test_inputs_and_targets_of_different_number_are_refused_by_owner(records: Any) -> None:
    with pytest.raises(DataError, match="client 17"):
        tensors(records, "client 17")


def test_score_of_classes_is_the_hand_computation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x, y = torch.randn(7, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    right, losses = score(task(), model, x, y, batch=3)
    logits = model(x).detach()
    for i in range(7):
        assert float(right[i]) == float(int(logits[i].argmax()) == int(y[i]))
        by_hand = math.log(float(logits[i].double().exp().sum())) - float(logits[i, y[i]])
        assert float(losses[i]) == pytest.approx(by_hand, abs=1e-5)


def sequence_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.transpose(1, 2), targets)


def test_score_of_a_sequence_is_the_mean_over_its_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    x, y = torch.randint(0, 9, (5, 6)), torch.randint(0, 9, (5, 6))
    right, losses = score(task(loss=sequence_loss), model, x, y, batch=2)
    log = torch.log_softmax(model(x).detach().double(), -1)
    for i in range(5):
        hits = [int(log[i, t].argmax() == y[i, t]) for t in range(6)]
        assert float(right[i]) == pytest.approx(sum(hits) / 6)
        by_hand = -sum(float(log[i, t, y[i, t]]) for t in range(6)) / 6
        assert float(losses[i]) == pytest.approx(by_hand, abs=1e-5)


def test_score_uses_the_tasks_own_measure() -> None:
    def close(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs() < 0.5

    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    own = task(correct=close, loss=nn.functional.mse_loss)
    x = torch.tensor([[0.0], [1.0], [2.0]])
    right, losses = score(own, model, x, torch.tensor([[0.1], [1.6], [2.0]]))
    assert right.tolist() == [1.0, 0.0, 1.0]
    assert losses.tolist() == pytest.approx([0.01, 0.36, 0.0], abs=1e-6)


def test_score_turns_dropout_off_and_the_models_mode_back_on() -> None:
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    x, y = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    model.train()
    one, two = score(task(), model, x, y), score(task(), model, x, y)
    assert torch.equal(one[1], two[1])
    assert model.training
    assert model[1].training
    model.eval()
    score(task(), model, x, y)
    assert not model.training


def test_score_of_no_records_is_empty() -> None:
    right, losses = score(task(), nn.Linear(4, 3), torch.zeros(0, 4), torch.zeros(0).long())
    assert right.shape == losses.shape == (0,)
