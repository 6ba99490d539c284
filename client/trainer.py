"""Local training: one client's steps from the global model, with DP-SGD or without."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor

from tacit.client import dpsgd, guard
from tacit.configs.planning import local_steps
from tacit.configs.spec import RunSpec
from tacit.privacy.messages import Vector
from tacit.privacy.noise import Randomness, Source, coins
from tacit.privacy.plan import PrivacyPlan
from tacit.tasks import vector
from tacit.tasks.task import Task, make_model, score

# Opacus hooks modules whose inputs need no gradients; torch warns of it at every step.
warnings.filterwarnings("ignore", message="Full backward hook is firing")


class Trainer:
    """Trains and scores one task's model; kept between clients, holds no client's data.

    Args:
        task: what is trained.
        spec: of the run.
        plan: its privacy plan.

    Raises:
        ModelError: the model can't be trained with the guarantee the plan promises.
    """

    def __init__(self, task: Task, spec: RunSpec, plan: PrivacyPlan) -> None:
        self.task, self.spec, self.plan = task, spec, plan
        self._checked = False
        self._begin()
        self.frozen = vector.frozen_digest(self.model)

    def _begin(self) -> None:
        """Makes the model, hooked and with its optimizer."""
        plan, local = self.plan, self.spec.local
        self.model = make_model(self.task, self.spec.seed)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._sgd = torch.optim.SGD(self._parameters, lr=local.learning_rate)
        self._module: GradSampleModule | None = None
        self.model.train()
        self._buffers = {n: b.clone() for n, b in self.model.named_buffers()}
        guard.check_statistics(self.model)
        if plan.record is not None:
            self._module = guard.per_example(self.model)
            unit = plan.record
            if plan.noised_by_shares():
                # The noise that protects records is added to the encoded vector.
                unit = replace(unit, noise_multiplier=0.0)
            self._noisy = dpsgd.NoisyOptimizer(self._sgd, unit)
            if local.proximal > 0:
                self._noisy.attach_step_hook(lambda _: self._pull())

    def train(
        self,
        parameters: Vector,
        inputs: Tensor,
        targets: Tensor,
        randomness: Randomness,
        *labels: str | int,
    ) -> Vector | NDArray[np.float64]:
        """A client's update.

        Args:
            parameters: the global model, shape [d].
            inputs: the client's records, records in dimension 0; may be empty.
            targets: theirs.
            randomness: of this client; batches and noise are drawn from it.
            labels: name the participation, in a simulation.

        Returns:
            Local minus global, shape [d], float32; in doubles where records are protected by
            shares of noise. Not clipped.
        """
        if not self._checked and len(inputs) > 0:
            # Before anything of the coordinator's or a client's is there to decide how it ends;
            # no records may come without the shape that records have.
            self._check(inputs, targets)
        rows = self.draws(len(inputs), randomness, *labels)
        # For layers that draw in training, such as dropout.
        torch.default_generator.manual_seed(randomness.number("layers", *labels))
        noise = None if self._module is None else randomness.source("noise", *labels)
        return self.steps(parameters, inputs, targets, rows, noise)

    def draws(
        self, records: int, randomness: Randomness, *labels: str | int
    ) -> list[NDArray[np.int64]]:
        """The rows of each step's batch: each record independently (Poisson sampling)."""
        source, rate = randomness.source("batch", *labels), self.spec.privacy.record.sampling_rate
        steps = range(local_steps(self.spec))
        return [np.flatnonzero(coins(source, records, rate)) for _ in steps]

    def steps(
        self,
        parameters: Vector,
        inputs: Tensor,
        targets: Tensor,
        rows: Sequence[NDArray[np.int64]],
        noise: Source | None,
    ) -> Vector | NDArray[np.float64]:
        """`train` with its batches drawn.

        Args:
            parameters: as in `train`.
            inputs: as in `train`.
            targets: as in `train`.
            rows: of each step's batch.
            noise: of DP-SGD.
        """
        vector.write(self.model, parameters)
        self._start = [p.detach().clone() for p in self._parameters]
        if self._module is not None:
            self._noisy.source = noise
        self.model.train()
        try:
            for batch in map(torch.from_numpy, rows):
                if self._module is None:
                    self._step(inputs[batch], targets[batch])
                else:
                    self._private_step(self._module, inputs[batch], targets[batch])
            guard.check_buffers(self.model, self._buffers)
        except Exception:
            # Opacus keeps what a failed pass left in its layers: the next client would meet it.
            self._begin()
            raise
        if self.plan.noised_by_shares():
            return self._summed_step()
        return vector.read(self.model) - np.asarray(parameters)

    def _summed_step(self) -> NDArray[np.float64]:
        """The one step's update from its sum of gradients, in doubles.

        The difference of two models in single precision would round to the parameters' grid
        before the noise is there: a record could move it by more than its clip.
        """
        assert self.plan.record is not None
        scale = -self.spec.local.learning_rate / self.plan.record.denominator
        return torch.cat(self._noisy.summed).double().numpy() * scale

    def _check(self, inputs: Tensor, targets: Tensor) -> None:
        """Tries loss and gradients on two made-up records, where the model begins and near it.

        Of the client's records only shape and type are used: whether a check fails leaves the
        client as an error, which nobody charges.
        """
        x, y = guard.made_up(inputs, 0.0), guard.made_up(targets, 0.5)
        guard.check_loss(self.task, self.model, self._module, x, y)
        if self._module is not None:
            guard.check_gradients(self.task, self._module, x, y)
            vector.write(self.model, vector.moved(self.model))
            if guard.is_finite(self.task, self._module, x, y):
                guard.check_gradients(self.task, self._module, x, y)
        self._checked = True

    def counts(self, parameters: Vector, inputs: Tensor, targets: Tensor, source: Source) -> Vector:
        """What a client submits to a federated evaluation (`tacit.privacy.units.Evaluation`).

        Returns:
            Shape [3]: (score, records, clipped loss), each over ``cap``; with record-level
            DP plus the client's own noise.
        """
        how = self.plan.evaluation
        if how is None:
            raise RuntimeError("the plan has no federated evaluation")
        vector.write(self.model, parameters)
        x, y = inputs[: how.cap], targets[: how.cap]
        with guard.unhooked(self._module):
            right, loss = score(self.task, self.model, x, y)
        right = torch.nan_to_num(right).clamp(0, 1)
        bounded = torch.nan_to_num(loss, nan=how.loss_cap).clamp(0, how.loss_cap) / how.loss_cap
        sums = np.array([float(right.double().sum()), float(len(x)), float(bounded.double().sum())])
        if self.plan.record is not None and not self.plan.noised_by_shares():
            z = self.plan.record.noise_multiplier
            sums += z * how.SENSITIVITY * source.normal(3)
        return (sums / how.cap).astype(np.float32)

    def _private_step(self, module: GradSampleModule, x: Tensor, y: Tensor) -> None:
        chunks = range(0, max(1, len(x)), self.spec.local.physical_batch)
        for start in chunks:
            part = slice(start, start + self.spec.local.physical_batch)
            self._noisy.zero_grad(set_to_none=True)
            if len(x) == 0:
                dpsgd.empty_batch(module)
            else:
                torch.autograd.backward(self.task.loss(module(x[part]), y[part]))
            self._noisy.signal_skip_step(do_skip=start != chunks[-1])
            self._noisy.step()
        self._noisy.zero_grad(set_to_none=True)

    def _step(self, x: Tensor, y: Tensor) -> None:
        self._sgd.zero_grad(set_to_none=True)
        size = self.spec.local.physical_batch
        chunks = zip(torch.split(x, size), torch.split(y, size), strict=True)
        for part, targets in chunks:
            if len(part) > 0:
                loss = self.task.loss(self.model(part), targets)
                torch.autograd.backward(loss * (len(part) / len(x)))
        for p in self._parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.spec.local.proximal > 0:
            self._pull()
        self._sgd.step()

    def _pull(self) -> None:
        """FedProx: adds mu * (w - w_global), which no record influences beyond w."""
        for p, start in zip(self._parameters, self._start, strict=True):
            if p.grad is not None:
                p.grad = p.grad + self.spec.local.proximal * (p.detach() - start)
