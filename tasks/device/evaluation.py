"""A task's score and loss of each record as one ONNX graph, for a federated evaluation.

Guarantees: for flat parameters [d], records x and y [m, ...] and a mask [m], the graph gives
``score`` and ``loss``, float32 [m], both as `tacit.tasks.task.score` computes them in
evaluation mode, to rounding, the score within [0, 1]. A row off the mask gives zeros, whatever
it holds. A row on the mask gives finite numbers too: where an input, a target or the loss
isn't, the score is 0 and the loss the largest float32, which a cap turns into the cap, as the
trainer's (`tacit.client.trainer.Trainer.counts`). An export is checked beside torch before it
is returned.

Doesn't guarantee privacy: capping the loss, counting records and noise are the caller's, as
are labels and indices in range in rows on the mask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from tacit.privacy import validate
from tacit.privacy.errors import ModelError
from tacit.protocol.manifest import DeviceGraph
from tacit.tasks import vector
from tacit.tasks.device.check import TOLERANCE, made_up, run, session
from tacit.tasks.device.tracing import finite, flat_parameters, kept, packed, unflattened
from tacit.tasks.task import Task, score

_LARGEST = torch.finfo(torch.float32).max
_Scores = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def export_device_evaluation(
    task: Task, model: nn.Module, like: tuple[Tensor, Tensor], microbatch: int
) -> DeviceGraph:
    """Exports score and loss, and checks them beside torch.

    Args:
        task: whose loss and score.
        model: in the state in which its frozen parts are wanted; not modified.
        like: some records (inputs, targets), in dimension 0; only shape and type are used.
        microbatch: m, the rows of a call, at least 1.

    Raises:
        ConfigError: ``microbatch`` or a shape can't be.
        ModelError: an operator, named, can't run on a device; or the graph differs from
            torch.
    """
    validate.at_least("microbatch", microbatch, 1)
    x, y = made_up(like[0], microbatch, seed=0), made_up(like[1], microbatch, seed=1)
    arguments = (flat_parameters(model), x, y, torch.ones(microbatch, dtype=torch.bool))
    made = packed("evaluation", task, model, _scores(task, copy.deepcopy(model).eval()), arguments)
    verify(made, task, model, like)
    return made


def _scores(task: Task, model: nn.Module) -> _Scores:
    """Score and loss of each row, as a function of flat parameters."""
    named = unflattened(model)

    def scores(flat: Tensor, x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        parameters = named(flat)
        fit = mask & finite(x) & finite(y)
        x, y = kept(fit, x), kept(fit, y)
        outputs = functional_call(model, parameters, (x,))
        right = task.correct(outputs, y).float().reshape(len(x), -1).mean(1)
        loss = vmap(lambda o, t: task.loss(o[None], t[None]).reshape(()))(outputs, y).float()
        fit = fit & torch.isfinite(loss) & torch.isfinite(right)
        worst = torch.where(mask, torch.full_like(loss, _LARGEST), torch.zeros_like(loss))
        return kept(fit, right).clamp(0, 1), torch.where(fit, loss, worst)

    return scores


def verify(graph: DeviceGraph, task: Task, model: nn.Module, like: tuple[Tensor, Tensor]) -> float:
    """Compares an evaluation's graph with `tacit.tasks.task.score`, row by row.

    Args:
        graph: to be checked.
        task: whose score and loss.
        model: whose parameters, and a little away from them; not modified.
        like: some records; only their shape and type are used.

    Returns:
        The largest error of a loss, relative to the largest loss.

    Raises:
        ModelError: a score or a loss differs, or rows off the mask aren't zero.
    """
    runtime, rows = session(graph), graph.manifest.microbatch
    x, y = made_up(like[0], rows, seed=2), made_up(like[1], rows, seed=3)
    twin, worst = copy.deepcopy(model), 0.0
    for start in (vector.moved(model), vector.read(model)):
        vector.write(twin, start)
        right, loss = (t.numpy().astype(np.float64) for t in score(task, twin, x, y))
        for count in {rows, rows // 2, 0}:
            mask = np.arange(rows) < count
            got = run(runtime, graph.manifest, start, x.numpy(), y.numpy(), mask)
            worst = max(worst, _compare(got, (right, loss), mask))
    return worst


def _compare(got: list[np.ndarray], want: tuple[np.ndarray, np.ndarray], mask: np.ndarray) -> float:
    fit = mask & np.isfinite(want[0]) & np.isfinite(want[1])
    scores, losses = (np.where(fit, part, 0.0) for part in want)
    losses = np.where(mask & ~fit, _LARGEST, losses)
    if np.abs(got[0] - scores).max() > TOLERANCE:
        # A tie that rounding breaks is one record's; a wrong graph would have more of them.
        raise ModelError("the graph's scores differ from torch's")
    scale = float(np.abs(losses).max())
    off = float(np.abs(got[1] - losses).max())
    if off > TOLERANCE * max(scale, 1e-3):
        raise ModelError("the graph's losses differ from torch's", "is the loss a mean?")
    if got[0][~mask].any() or got[1][~mask].any():
        raise ModelError("the graph's scores of rows off the mask aren't zero")
    return off / scale if scale else 0.0
