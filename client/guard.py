"""What a client refuses: plans it didn't agree to (`terms`), and models DP-SGD can't serve."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from tacit.client.terms import check_clip as check_clip
from tacit.client.terms import check_plan as check_plan
from tacit.privacy.errors import ModelError
from tacit.tasks.task import Task

_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)
# The nearest word first; subclasses of the same name come before their base.
_INSTEAD: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.LSTM, "opacus.layers.DPLSTM"),
    (nn.GRU, "opacus.layers.DPGRU"),
    (nn.RNNBase, "opacus.layers.DPRNN"),
    (nn.RNNCellBase, "opacus.layers.DPLSTM, DPGRU or DPRNN"),
    (nn.MultiheadAttention, "opacus.layers.DPMultiheadAttention"),
    (nn.TransformerEncoderLayer, "layers on opacus.layers.DPMultiheadAttention"),
    (nn.TransformerDecoderLayer, "layers on opacus.layers.DPMultiheadAttention"),
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


def check_buffers(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Refuses a model that keeps something of one client's data for the next.

    Raises:
        ModelError: naming a buffer that training changed.
    """
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(buffer, before[name]):
            raise ModelError(
                f"buffer {name!r} changes in training: it would carry one client's data to another",
                "keep it constant, or use a layer without state",
            )


def per_example(model: nn.Module) -> GradSampleModule:
    """The model hooked for per-example gradients.

    Raises:
        ModelError: it has layers that Opacus can't hook.
    """
    check_modules(model)
    try:
        return GradSampleModule(model, loss_reduction="mean")
    except NotImplementedError as error:
        text = " ".join(str(error).split())
        raise ModelError(f"the model can't be trained with DP-SGD: {text}") from error


def made_up(like: Tensor, middle: float) -> Tensor:
    """Two records of the shape and type of ``like``: of noise, or of zeros and of ones.

    Args:
        like: records in dimension 0; their values aren't looked at.
        middle: around which floats are; 0 makes them normal, else they are ``middle``.
    """
    shape = (2, *like.shape[1:])
    if not like.is_floating_point():
        ones = torch.ones(shape, dtype=like.dtype)
        ones[0] = 0
        return ones if middle == 0 else torch.zeros_like(ones)
    if middle:
        return torch.full(shape, middle, dtype=like.dtype)
    made = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=like.dtype)
    if made.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        made = made.contiguous(memory_format=torch.channels_last)
    return made


def check_gradients(task: Task, module: GradSampleModule, x: Tensor, y: Tensor) -> None:
    """Compares Opacus's per-example gradients with autograd's on one or two records.

    Opacus is silently wrong for some layouts (1.6.0: convolutions over channels_last
    activations); a model is trained only if every trained tensor agrees.

    Args:
        task: whose loss.
        module: the hooked model.
        x: inputs of one or two records.
        y: their targets.

    Raises:
        ModelError: naming the parameter.
    """
    model = module._module
    with _dropout_off(model), unhooked(module):
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        parameters = [p for _, p in trained]
        expected = [_autograd(task, model, parameters, x[i:], y[i:]) for i in range(len(x))]
    with _dropout_off(model):
        module.zero_grad(set_to_none=True)
        torch.autograd.backward(task.loss(module(x), y))
    wanted = [torch.stack([grads[i] for grads in expected]) for i in range(len(trained))]
    whole = torch.stack([want.norm() for want in wanted]).norm()
    for (name, p), want in zip(trained, wanted, strict=True):
        got = getattr(p, "grad_sample", None)
        if not isinstance(got, Tensor) or got.shape != want.shape:
            raise ModelError(
                f"parameter {name} gets no per-example gradients",
                "use it in every forward pass, or freeze it with requires_grad_(False)",
            )
        off = (got - want).norm()
        if not off <= 1e-3 * want.norm() + 1e-5 * whole:
            raise ModelError(
                f"per-example gradients of {name} are wrong: they differ from autograd's",
                "is the model in channels_last, or does a record's output depend on others?",
            )
    for _, p in trained:
        p.grad_sample = None
        p.grad = None


@torch.no_grad()
def is_finite(task: Task, module: GradSampleModule, x: Tensor, y: Tensor) -> bool:
    """Whether the loss of some records is."""
    with _dropout_off(module._module), unhooked(module):
        return bool(torch.isfinite(task.loss(module._module(x), y)).all())


def _autograd(
    task: Task, model: nn.Module, parameters: list[nn.Parameter], x: Tensor, y: Tensor
) -> list[Tensor]:
    loss = task.loss(model(x[:1]), y[:1])
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


@contextlib.contextmanager
def _dropout_off(model: nn.Module) -> Iterator[None]:
    """Training mode, which Opacus needs, but nothing drawn."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.eval()
    try:
        yield
    finally:
        model.train()


@contextlib.contextmanager
def unhooked(module: GradSampleModule | None) -> Iterator[None]:
    """The model without Opacus's hooks, for passes that need no per-example gradients."""
    if module is not None:
        module.disable_hooks()
    try:
        yield
    finally:
        if module is not None:
            module.enable_hooks()


@torch.no_grad()
def check_loss(
    task: Task, model: nn.Module, module: GradSampleModule | None, x: Tensor, y: Tensor
) -> None:
    """Refuses a loss that isn't the mean: a sum would scale every gradient by the batch.

    Raises:
        ModelError: the loss isn't a scalar, or doubles when a record is there twice.
    """
    with _dropout_off(model), unhooked(module):
        single = task.loss(model(x[:1]), y[:1])
        double = task.loss(model(torch.cat([x[:1], x[:1]])), torch.cat([y[:1], y[:1]]))
    hint = "return the mean over the records of the batch"
    if single.dim() != 0:
        shape = tuple(single.shape)
        raise ModelError(f"task {task.name}: the loss has shape {shape}, not a scalar", hint)
    if torch.isfinite(single) and abs(double - single) > 1e-3 * (abs(single) + 1e-6):
        raise ModelError(
            # No figure: an error's text leaves the client, and this is a record's loss.
            f"task {task.name}: the loss isn't a mean over records: the same record twice has "
            "another loss than once",
            hint,
        )
