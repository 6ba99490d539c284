"""The cohort engine in torch: any model, many clients in one pass, each with its own weights.

Guarantees: each update is, up to rounding, what `tacit.client.trainer.Trainer` computes for
that client alone, DP-SGD as in `tacit.client.dpsgd` with the same batches and the same noise.
A client's update depends on no other client, but for rounding: which sums torch forms in which
order depends on who shares a pass, and that on nothing but the jobs.

In the first step, while all clients have the round's weights, these aren't copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.messages import Vector
from tacit.simulations.cohort.buckets import Pack, packs
from tacit.simulations.cohort.job import Job, Recipe
from tacit.simulations.cohort.twins import Twins
from tacit.tasks.task import Task


class BatchedEngine:
    """See `tacit.simulations.cohort.job.Engine`.

    Args:
        task: whose loss.
        model: as the task makes it; not modified.
        recipe: how every client trains.

    Attributes:
        name: "cohort".
        recipe: how every client trains.
        generic: kinds of the layers that take the slower way.

    Raises:
        UnsupportedError: the model can't be trained so.
    """

    name = "cohort"

    def __init__(self, task: Task, model: nn.Module, recipe: Recipe) -> None:
        self._task, self.recipe = task, recipe
        self._twins = Twins(model)
        self.generic = self._twins.generic

    def updates(self, parameters: Vector, jobs: Sequence[Job]) -> list[NDArray[Any] | None]:
        """Each job's update, in the jobs' order; None where a norm isn't finite."""
        return [
            update if np.isfinite(update).all() else None
            for update in self._updates(parameters, jobs)
        ]

    def _updates(self, parameters: Vector, jobs: Sequence[Job]) -> list[NDArray[Any]]:
        recipe = self.recipe
        start = torch.from_numpy(np.array(parameters, dtype=np.float32))
        weights = start.expand(1, -1)
        summed = torch.zeros(len(jobs), len(start))
        for step in range(recipe.steps):
            summed = self._step(weights, jobs, step)
            if recipe.summed:
                break
            if step == 0:
                weights = start.repeat(len(jobs), 1)
            self._move(weights, start, summed, jobs)
        if recipe.summed:
            scale = -recipe.learning_rate / recipe.denominator
            return list(summed.double().numpy() * scale)
        return list((weights - start).numpy())

    def _move(self, weights: Tensor, start: Tensor, summed: Tensor, jobs: Sequence[Job]) -> None:
        """One step of SGD for every client, in place."""
        recipe = self.recipe
        if recipe.clip is not None:
            if recipe.noise > 0:
                for total, job in zip(summed, jobs, strict=True):
                    assert job.noise is not None
                    total += torch.from_numpy(job.noise.normal32(len(start))) * recipe.noise
            summed /= recipe.denominator
        if recipe.proximal > 0:
            summed += recipe.proximal * (weights - start)
        weights.sub_(summed, alpha=recipe.learning_rate)

    def _step(self, weights: Tensor, jobs: Sequence[Job], step: int) -> Tensor:
        """Each client's sum of clipped gradients, or mean gradient, shape [jobs, d]."""
        total = torch.zeros(len(jobs), weights.shape[1])
        batches = [job.rows[step] for job in jobs]
        for pack in packs(batches, self.recipe.physical_batch):
            sums = self._pass(weights, pack, jobs, batches)
            total.index_add_(0, torch.from_numpy(pack.clients), sums)
        return total

    def _pass(
        self,
        weights: Tensor,
        pack: Pack,
        jobs: Sequence[Job],
        batches: Sequence[NDArray[np.int64]],
    ) -> Tensor:
        twins, bucket = self._twins, self._twins.bucket
        bucket.clients, bucket.rows = pack.rows.shape
        whose = torch.from_numpy(pack.clients)
        bucket.parameters = weights if len(weights) == 1 else weights[whose]
        for core in twins.cores:
            core.forget()
        picked = [torch.from_numpy(rows) for rows in pack.rows]
        jobs = [jobs[k] for k in pack.clients]
        x = torch.cat([job.inputs[rows] for job, rows in zip(jobs, picked, strict=True)])
        y = torch.cat([job.targets[rows] for job, rows in zip(jobs, picked, strict=True)])
        loss = self._task.loss(twins.model(x), y)
        # The loss is a mean over the rows; a record's gradient isn't divided by anything.
        torch.autograd.backward(loss, torch.tensor(float(len(x)), dtype=loss.dtype))
        real = torch.from_numpy(pack.real).flatten()
        if self.recipe.clip is None:
            sizes = torch.tensor([1.0 / len(batches[k]) for k in pack.clients])
            factors = real * sizes.repeat_interleave(bucket.rows)
        else:
            factors = real * self._factors(self.recipe.clip)
        summed = torch.empty(bucket.clients, weights.shape[1])
        for core in twins.cores:
            core.sums(factors, summed)
            core.forget()
        return summed

    def _factors(self, clip: float) -> Tensor:
        """What clips each record, shape [N]."""
        squares = torch.stack([core.squares() for core in self._twins.cores]).sum(0)
        norms = squares.sqrt()
        # What isn't finite is made NaN, and so is its client's update.
        norms[~torch.isfinite(norms)] = torch.nan
        return (MARGIN * clip / (norms + 1e-12)).clamp(max=1.0)
