"""What a federation learns: a model, a loss, and each client's data."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tacit.configs.planning import privacy_plan
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, DataError, ModelError
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan

# Inputs and targets of some records: arrays or tensors with the records in dimension 0.
Records: TypeAlias = "tuple[Any, Any]"

BUILT_IN = {
    "census": "tacit.tasks.census:census",
    "digits": "tacit.tasks.digits:digits",
    "fashion_mnist": "tacit.tasks.fashion:fashion_mnist",
    "kjv": "tacit.tasks.kjv:kjv",
}


def _argmax_equals(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A learning task over a population of clients.

    Attributes:
        name: of the model in the registry.
        model: makes the network; called under a fixed seed, the same on both sides.
        data: the records of client k, for k in range(clients), as (inputs, targets) with
            the records in dimension 0. A client may have none. A simulation may call it in
            forked processes: what it reads from, a file or a connection, it opens itself.
        loss: mean loss over the records of a batch; a record's loss may depend on no other
            record.
        examples_per_client: nominal records of a client, as everybody knows it; sets the
            fixed denominator of DP-SGD. Must not be computed from private data.
        clients: the population, or None to take it from the configuration.
        test: a public test set, nobody's private data; or None.
        correct: score of each record in [0, 1], shape [B] or [B, ...]; by default whether
            the largest output is the target.
        features: of a table, names and the columns of the input that belong to each; None where
            the inputs aren't rows of one. `tacit explain` asks what each is worth.

    Example:
        A whole task is `docs/bring_your_own.md`, in under 40 lines.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[int], Records]
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    examples_per_client: int | None = None
    clients: int | None = None
    test: Callable[[], Records] | None = None
    correct: Callable[[Tensor, Tensor], Tensor] = _argmax_equals
    features: Mapping[str, Sequence[int]] | None = None


def load(spec: RunSpec) -> Task:
    """The task that ``spec.task`` names.

    ``module:attribute`` is imported (the working directory is searched too); the attribute
    is a `Task`, or is called with the spec to make one.

    Raises:
        ConfigError: there is no such task, or it isn't one.
    """
    name = BUILT_IN.get(spec.task, spec.task)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(spec.task, BUILT_IN, n=1)
        raise ConfigError(
            f"task={spec.task} is not a task",
            f"did you mean {near[0]}?"
            if near
            else f"built in: {', '.join(BUILT_IN)}; your own: module:attribute",
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"task={spec.task} can't be loaded: {error}", "is it on the Python path?"
        ) from error
    task = found(spec) if callable(found) and not isinstance(found, Task) else found
    if not isinstance(task, Task):
        raise ConfigError(f"task={spec.task} is a {type(task).__name__}, not a tacit.Task")
    return check(task, spec)


def check(task: Task, spec: RunSpec) -> Task:
    """Refuses a task whose population isn't the configuration's."""
    if task.clients is not None and spec.clients > task.clients:
        raise ConfigError(
            f"clients={spec.clients} must be at most {task.clients}, what task {task.name} has"
        )
    if spec.evaluation.kind == "public" and task.test is None:
        raise ConfigError(
            f"evaluation=public needs a public test set, and task {task.name} has none",
            "use evaluation=federated or evaluation=none",
        )
    return task


def make_model(task: Task, seed: int | None) -> nn.Module:
    """The task's model with its initial parameters, equal wherever it is made.

    Raises:
        ModelError: nothing in it is trained, or what is trained isn't float32.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else Randomness(seed).number("model"))
        model = task.model()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ModelError(f"the model of task {task.name} has no trained parameters")
    for name, parameter in trained:
        if parameter.dtype != torch.float32:
            raise ModelError(f"parameter {name} is {parameter.dtype}; only float32 is trained")
    return model


def plan(task: Task, spec: RunSpec) -> PrivacyPlan:
    """The privacy plan that a task and a configuration make."""
    trained = [p.numel() for p in make_model(task, spec.seed).parameters() if p.requires_grad]
    return privacy_plan(spec, task.examples_per_client, sum(trained))


def tensors(records: Records, owner: str) -> tuple[Tensor, Tensor]:
    """Records as tensors, floats in float32.

    Raises:
        DataError: inputs and targets differ in number.
    """
    inputs, targets = (torch.as_tensor(part) for part in records)
    if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
        raise DataError(
            f"data of {owner}: inputs have shape {tuple(inputs.shape)} and targets "
            f"{tuple(targets.shape)}; dimension 0 must be the records of both"
        )
    return _single(inputs), _single(targets)


def _single(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


@torch.no_grad()
def score(
    task: Task, model: nn.Module, inputs: Tensor, targets: Tensor, batch: int = 1024
) -> tuple[Tensor, Tensor]:
    """Score and loss of each record.

    Returns:
        Two float32 tensors of shape [records]: score in [0, 1], and loss.
    """
    was_training = model.training
    model.eval()
    scores, losses = [torch.zeros(0)], [torch.zeros(0)]
    for x, y in zip(torch.split(inputs, batch), torch.split(targets, batch), strict=True):
        if len(x) == 0:
            continue
        outputs = model(x)
        right = task.correct(outputs, y)
        scores.append(right.float().reshape(len(x), -1).mean(1))
        losses.append(
            torch.func.vmap(lambda o, t: task.loss(o[None], t[None]).reshape(()))(outputs, y)
        )
    model.train(was_training)
    return torch.cat(scores), torch.cat(losses)
