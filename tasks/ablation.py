"""A model without one feature of a table, made from its parameters alone.

A feature is taken away by what reads it: the weights of the first linear layer for its columns are
set to zero, so the model answers as if every record had 0 there. That needs nothing new of a
client, who evaluates it like any other model.

Guarantees: what is made is held against the whole model on random records whose columns are zeroed;
a model for which the two differ, because something else reads the columns too, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, ModelError
from tacit.privacy.noise import Floats
from tacit.tasks import vector
from tacit.tasks.task import Task, make_model

_TOLERANCE = 1e-5
_RECORDS = 64


def features(task: Task) -> dict[str, list[int]]:
    """The task's features with their columns.

    Raises:
        ConfigError: it names none.
    """
    if not task.features:
        raise ConfigError(
            f"task {task.name} names no features to take away",
            "give tacit.Task features={'age': [0], 'region': range(1, 52)}",
        )
    return {name: list(columns) for name, columns in task.features.items()}


def ablating(task: Task, spec: RunSpec) -> Callable[[Floats, Any], Floats]:
    """What takes a feature away from parameters: called with them and ``{"feature": name}``.

    Args:
        task: whose model.
        spec: of the run.
    """

    def ablate(parameters: Floats, ablation: Any) -> Floats:
        known = features(task)
        name = ablation.get("feature") if isinstance(ablation, dict) else None
        if name not in known:
            raise ConfigError(f"feature={name!r} must be one of {', '.join(known)}")
        model = make_model(task, spec.seed)
        return without(model, parameters, known[name], f"task {task.name}, feature {name}")

    return ablate


def without(model: nn.Module, parameters: Floats, columns: Sequence[int], what: str) -> Floats:
    """Parameters of the model as it answers where some columns are 0.

    Args:
        model: its network; left with the parameters that are returned.
        parameters: shape [d].
        columns: of its input.
        what: it is, for an error.

    Returns:
        Shape [d], float64.

    Raises:
        ModelError: no linear layer reads the columns, or not that alone.
    """
    vector.write(model, parameters.astype("float32"))
    model.eval()
    layer = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    if layer is None or not 0 <= min(columns) <= max(columns) < layer.in_features:
        raise ModelError(f"{what}: no linear layer reads columns {list(columns)}")
    records = torch.randn(_RECORDS, layer.in_features, generator=torch.Generator().manual_seed(0))
    zeroed = records.clone()
    zeroed[:, list(columns)] = 0.0
    due = _answers(model, zeroed, what)
    with torch.no_grad():
        layer.weight[:, list(columns)] = 0.0
    found = _answers(model, records, what)
    scale = max(1.0, float(due.abs().max()))
    if due.shape != found.shape or float((due - found).abs().max()) > _TOLERANCE * scale:
        raise ModelError(
            f"{what}: more than the first linear layer reads the columns",
            "features can be taken away from models that begin with a linear layer",
        )
    return vector.read(model).astype("float64")


@torch.no_grad()
def _answers(model: nn.Module, records: Tensor, what: str) -> Tensor:
    try:
        answers: Tensor = model(records)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{what}: the model doesn't take rows of a table: {error}") from error
    return answers
