"""The cohort engine in torch: any model, many clients in one pass, each with its own weights.

Guarantees: each update is, up to rounding, what `tacit.client.trainer.Trainer` computes for
that client alone, DP-SGD as in `tacit.client.dpsgd` with the same batches and the same noise.
A client's update depends on no other client, but for rounding: which sums torch forms in which
order depends on who shares a pass, and that on nothing but the jobs.

In the first step, while all clients have the round's weights, these aren't copied.

On a GPU the arithmetic is full single precision too (no TF32), and sums are formed in the same
order each time, but for operations of the model's own that CUDA has in no fixed order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.messages import Vector
from tacit.simulations.cohort.buckets import ROWS, Pack, packs
from tacit.simulations.cohort.job import Job, Recipe
from tacit.simulations.cohort.tape import CPU, add_rows
from tacit.simulations.cohort.twins import Twins
from tacit.tasks.task import Task


class BatchedEngine:
    """See `tacit.simulations.cohort.job.Engine`.

    Args:
        task: whose loss.
        model: as the task makes it; moved to the device, and not modified.
        recipe: how every client trains.
        device: that trains; records and noise are moved there, updates back.

    Attributes:
        name: "cohort".
        device: that trains.
        recipe: how every client trains.
        generic: kinds of the layers that take the slower way.

    Raises:
        UnsupportedError: the model can't be trained so.
    """

    name = "cohort"

    def __init__(
        self, task: Task, model: nn.Module, recipe: Recipe, device: torch.device = CPU
    ) -> None:
        self._task, self.recipe, self.device = task, recipe, device
        self._twins = Twins(model.to(device), device)
        self.generic = self._twins.generic

    def updates(self, parameters: Vector, jobs: Sequence[Job]) -> list[NDArray[Any] | None]:
        """Each job's update, in the jobs' order; None where a norm isn't finite."""
        with exact(self.device):
            made = self._updates(parameters, jobs)
        return [update if np.isfinite(update).all() else None for update in made]

    def _updates(self, parameters: Vector, jobs: Sequence[Job]) -> list[NDArray[Any]]:
        recipe = self.recipe
        start = torch.from_numpy(np.array(parameters, dtype=np.float32)).to(self.device)
        weights = start.expand(1, -1)
        summed = start.new_zeros(len(jobs), len(start))
        for step in range(recipe.steps):
            summed = self._step(weights, jobs, step)
            if recipe.summed:
                break
            if step == 0:
                weights = start.repeat(len(jobs), 1)
            self._move(weights, start, summed, jobs)
        if recipe.summed:
            scale = -recipe.learning_rate / recipe.denominator
            return list(summed.cpu().double().numpy() * scale)
        return list((weights - start).cpu().numpy())

    def _move(self, weights: Tensor, start: Tensor, summed: Tensor, jobs: Sequence[Job]) -> None:
        """One step of SGD for every client, in place."""
        recipe = self.recipe
        if recipe.clip is not None:
            if recipe.noise > 0:
                for total, job in zip(summed, jobs, strict=True):
                    assert job.noise is not None
                    draw = torch.from_numpy(job.noise.normal32(len(start)))
                    total += draw.to(self.device) * recipe.noise
            summed /= recipe.denominator
        if recipe.proximal > 0:
            summed += recipe.proximal * (weights - start)
        weights.sub_(summed, alpha=recipe.learning_rate)

    def _step(self, weights: Tensor, jobs: Sequence[Job], step: int) -> Tensor:
        """Each client's sum of clipped gradients, or mean gradient, shape [jobs, d]."""
        total = weights.new_zeros(len(jobs), weights.shape[1])
        batches = [job.rows[step] for job in jobs]
        most = self.recipe.physical_batch
        for pack in packs(batches, min(most, ROWS) if self.device.type == "cpu" else most):
            sums = self._pass(weights, pack, jobs, batches)
            add_rows(total, torch.from_numpy(pack.clients).to(self.device), sums)
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
        whose = torch.from_numpy(pack.clients).to(self.device)
        bucket.parameters = weights if len(weights) == 1 else weights[whose]
        for core in twins.cores:
            core.forget()
        picked = [torch.from_numpy(rows) for rows in pack.rows]
        jobs = [jobs[k] for k in pack.clients]
        x = torch.cat([job.inputs[rows] for job, rows in zip(jobs, picked, strict=True)])
        y = torch.cat([job.targets[rows] for job, rows in zip(jobs, picked, strict=True)])
        loss = self._task.loss(twins.model(x.to(self.device)), y.to(self.device))
        # The loss is a mean over the rows; a record's gradient isn't divided by anything.
        torch.autograd.backward(loss, torch.full_like(loss, len(x)))
        real = torch.from_numpy(pack.real).flatten().to(self.device)
        if self.recipe.clip is None:
            sizes = torch.tensor([1.0 / len(batches[k]) for k in pack.clients])
            factors = real * sizes.to(self.device).repeat_interleave(bucket.rows)
        else:
            factors = real * self._factors(self.recipe.clip)
        summed = weights.new_empty(bucket.clients, weights.shape[1])
        for core in twins.cores:
            core.sums(factors, summed)
            core.forget()
        return summed

    def _factors(self, clip: float) -> Tensor:
        """What clips each record, shape [N]."""
        squares = torch.stack([core.squares() for core in self._twins.cores]).sum(0)
        norms = squares.sqrt()
        # What isn't finite is made NaN, and so is its client's update.
        norms.masked_fill_(~torch.isfinite(norms), torch.nan)
        return (MARGIN * clip / (norms + 1e-12)).clamp(max=1.0)


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Full single precision and ordered sums of a GPU; the caller's settings again afterwards."""
    if device.type == "cpu":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # Torch's annotations don't know all of it.
    wanted = [
        (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
        (cudnn.conv, "fp32_precision", "ieee"),
        (cudnn.rnn, "fp32_precision", "ieee"),
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
    ]
    before = [getattr(where, name) for where, name, _ in wanted]
    try:
        for where, name, value in wanted:
            setattr(where, name, value)
        yield
    finally:
        for (where, name, _), value in zip(wanted, before, strict=True):
            setattr(where, name, value)
