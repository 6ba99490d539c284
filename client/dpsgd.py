"""DP-SGD through Opacus: per-example clipping, and noise from a source of ours.

Guarantees, with the client running this code: one step releases the sum of the gradients of
a Poisson-sampled batch, each of L2 norm at most ``clip``, plus N(0, (z * clip)^2 I): the
subsampled Gaussian mechanism (Abadi et al. 2016, Algorithm 1; accounted after Mironov,
Talwar and Zhang 2019). Unit: one record. Relation: add or remove one. The denominator is a
constant of the plan and doesn't depend on the client's data. A record whose gradient isn't
finite counts as zero, so that one record can't blank a client's whole update.
"""

from __future__ import annotations

import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import nn

from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.noise import Source
from tacit.privacy.units import RecordUnit


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus is untyped
    """Opacus's `DPOptimizer` with sanitised gradients and its noise drawn from `source`.

    Args:
        optimizer: applies the noised gradient.
        unit: clip, noise multiplier and denominator.

    Attributes:
        summed: the last step's sum of clipped gradients, without noise, tensor by tensor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, unit: RecordUnit) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=unit.noise_multiplier,
            max_grad_norm=unit.clip,
            expected_batch_size=unit.denominator,
        )
        self.source: Source | None = None
        self.summed: list[torch.Tensor] = []

    def clip_and_accumulate(self) -> None:
        """Clips each record's gradient and adds it up; a non-finite one counts as zero."""
        for p in self.params:
            _check_processed_flag(p.grad_sample)
        grads = self.grad_samples
        norms = _norms(grads)
        if not bool(torch.isfinite(norms).all()):
            for g in grads:
                g[~torch.isfinite(norms)] = 0.0
            norms = torch.nan_to_num(norms, nan=0.0, posinf=0.0)
        factor = (MARGIN * self.max_grad_norm / (norms + 1e-12)).clamp(max=1.0)
        for p, g in zip(self.params, grads, strict=True):
            summed = torch.tensordot(factor, g, dims=([0], [0]))
            p.summed_grad = summed if p.summed_grad is None else p.summed_grad + summed
            _mark_as_processed(p.grad_sample)

    def add_noise(self) -> None:
        """Adds N(0, (noise multiplier * clip)^2) to the sum, from one draw for all tensors."""
        std = self.noise_multiplier * self.max_grad_norm
        size = sum(p.numel() for p in self.params)
        if std > 0 and self.source is None:
            raise RuntimeError("DP-SGD has no noise source")
        noise = None
        if std > 0 and self.source is not None:
            noise = torch.from_numpy(self.source.normal32(size)) * std
        offset = 0
        # A copy: what isn't noised is divided in place afterwards.
        self.summed = [p.summed_grad.detach().reshape(-1).clone() for p in self.params]
        for p in self.params:
            _check_processed_flag(p.summed_grad)
            p.grad = p.summed_grad.view_as(p)
            if noise is not None:
                p.grad = p.grad + noise[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
            _mark_as_processed(p.summed_grad)


def _norms(grads: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm of each record's whole gradient, shape [B]."""
    squares = torch.zeros(len(grads[0]))
    for g in grads:
        squares = squares + g.reshape(len(g), g[:1].numel()).pow(2).sum(1)
    return squares.sqrt()


def empty_batch(module: nn.Module) -> None:
    """Gives every trained parameter the per-example gradients of no records."""
    for p in module.parameters():
        if p.requires_grad:
            p.grad_sample = torch.zeros((0, *p.shape))  # type: ignore[attr-defined]
