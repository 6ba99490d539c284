"""What a client refuses: plans it didn't agree to, and models DP-SGD can't serve."""

from __future__ import annotations

import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from tacit.privacy.errors import ModelError, RoundError
from tacit.privacy.plan import PrivacyPlan
from tacit.tasks.task import Task

_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)
# The nearest word first; subclasses of the same name come before their base.
_INSTEAD: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.LSTM, "opacus.layers.DPLSTM"),
    (nn.GRU, "opacus.layers.DPGRU"),
    (nn.RNNBase, "opacus.layers.DPRNN"),
    (nn.RNNCellBase, "opacus.layers.DPLSTM, DPGRU or DPRNN"),
    (nn.MultiheadAttention, "opacus.layers.DPMultiheadAttention"),
)


def check_plan(plan: PrivacyPlan, digest: str) -> None:
    """Refuses a round under another plan than the client's own.

    Raises:
        RoundError: the digests differ.
    """
    if digest != plan.digest():
        raise RoundError(
            f"the coordinator's plan digest={digest[:12]} isn't this client's {plan.digest()[:12]}",
            "both sides must run the same tacit with the same configuration",
        )


def check_statistics(model: nn.Module) -> None:
    """Refuses layers that update statistics in training: those never leave the client.

    Raises:
        ModelError: naming the layer and what to use instead.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, _STATISTICS):
            raise ModelError(
                f"layer {name!r} ({kind}) can't be federated: its statistics mix records and "
                "never leave the client",
                "use GroupNorm or LayerNorm",
            )
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            raise ModelError(
                f"layer {name!r} ({kind}) can't be federated with running statistics",
                "set track_running_stats=False, or use GroupNorm",
            )


def check_modules(model: nn.Module) -> None:
    """Refuses layers that mix records or that Opacus can't take per-example gradients of.

    Raises:
        ModelError: naming the layer and what to use instead.
    """
    for name, module in model.named_modules():
        for layer, instead in _INSTEAD:
            if isinstance(module, layer):
                kind = type(module).__name__
                raise ModelError(
                    f"layer {name!r} ({kind}) can't be trained with DP-SGD", f"use {instead}"
                )
    found = ModuleValidator.validate(model, strict=False)
    if found:
        raise ModelError(f"the model can't be trained with DP-SGD: {found[0]}")


def check_gradients(task: Task, module: GradSampleModule, inputs: Tensor, targets: Tensor) -> None:
    """Compares Opacus's per-example gradients with autograd's on up to two records.

    Opacus is silently wrong for some layouts (1.6.0: convolutions over channels_last
    activations); a model is trained only if every trained tensor agrees.

    Raises:
        ModelError: naming the parameter, or a loss that isn't the mean over records.
    """
    x, y = inputs[:2], targets[:2]
    model = module._module
    model.train()  # Opacus records nothing in evaluation mode.
    for layer in model.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.eval()
    module.disable_hooks()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    expected = [
        _autograd(task, model, [p for _, p in trained], x[i:], y[i:]) for i in range(len(x))
    ]
    _check_mean(task, model, x, y)
    module.enable_hooks()
    module.zero_grad(set_to_none=True)
    torch.autograd.backward(task.loss(module(x), y))
    for i, (name, p) in enumerate(trained):
        got = getattr(p, "grad_sample", None)
        if not isinstance(got, Tensor) or got.shape != (len(x), *p.shape):
            raise ModelError(
                f"parameter {name} gets no per-example gradients",
                "use it in every forward pass, or freeze it with requires_grad_(False)",
            )
        want = torch.stack([grads[i] for grads in expected])
        scale = want.norm() + 1e-6
        if torch.isfinite(want).all() and (got - want).norm() > 1e-3 * scale:
            raise ModelError(
                f"per-example gradients of {name} are wrong: relative error "
                f"{float((got - want).norm() / scale):.1g} against autograd",
                "is the model in channels_last, or does a record's output depend on others?",
            )
    for _, p in trained:
        p.grad_sample = None
        p.grad = None
    model.train()


def _autograd(
    task: Task, model: nn.Module, parameters: list[nn.Parameter], x: Tensor, y: Tensor
) -> list[Tensor]:
    loss = task.loss(model(x[:1]), y[:1])
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


@torch.no_grad()
def _check_mean(task: Task, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """A sum in place of the mean would scale every gradient by the batch."""
    one, two = x[:1], torch.cat([x[:1], x[:1]])
    single = task.loss(model(one), y[:1])
    double = task.loss(model(two), torch.cat([y[:1], y[:1]]))
    if single.dim() != 0:
        raise ModelError(
            f"task {task.name}: the loss has shape {tuple(single.shape)}, not a scalar",
            "return the mean over the records of the batch",
        )
    if torch.isfinite(single) and abs(double - single) > 1e-3 * (abs(single) + 1e-6):
        raise ModelError(
            f"task {task.name}: the loss isn't a mean over records: {float(single):.4g} for "
            f"one record and {float(double):.4g} for the same record twice",
            "return the mean over the records of the batch",
        )
