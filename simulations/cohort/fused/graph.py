"""A model as the chain of layers that the compiled engine knows.

Only exact types are taken: a subclass, a hook or a parametrization can compute anything.
`chain` reads the layers and where their weights are; `tacit.simulations.cohort.fused.shapes`
gives them the shapes that records have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.simulations.cohort.job import UnsupportedError
from tacit.tasks.models import Scale


@dataclass(frozen=True)
class Place:
    """Where a layer's tensor is: in the flat vector of trained ones, or in that of frozen ones.

    Attributes:
        offset: in it; -1 for a tensor that the layer doesn't have.
        trained: in which.
    """

    offset: int = -1
    trained: bool = False


@dataclass(frozen=True)
class Chain:
    """A model's layers in their order.

    Attributes:
        layers: without those that do nothing.
        places: of the tensors (weight, bias) of each.
        size: of the trained vector.
        frozen: the frozen tensors' values, flat, float32.
    """

    layers: tuple[nn.Module, ...]
    places: tuple[tuple[Place, Place], ...]
    size: int
    frozen: NDArray[np.float32]


def chain(model: nn.Module) -> Chain:
    """Reads a model.

    Raises:
        UnsupportedError: it isn't a chain of known layers.
    """
    trained: dict[int, int] = {}
    size = 0
    for p in model.parameters():
        if p.requires_grad:
            trained[id(p)] = size
            size += p.numel()
    layers, places, frozen = [], [], [np.zeros(0, dtype=np.float32)]
    used: set[int] = set()
    held = 0
    for layer in _leaves(model, set()):
        of_layer = []
        for name in ("weight", "bias"):
            tensor = layer._parameters.get(name)
            if tensor is None:
                of_layer.append(Place())
                continue
            _check_tensor(layer, tensor, used)
            if tensor.requires_grad:
                of_layer.append(Place(trained[id(tensor)], True))
            else:
                of_layer.append(Place(held, False))
                frozen.append(tensor.detach().reshape(-1).numpy().copy())
                held += tensor.numel()
        layers.append(layer)
        places.append((of_layer[0], of_layer[1]))
    if not set(trained) <= used:
        raise UnsupportedError("trained parameters outside the known layers")
    return Chain(tuple(layers), tuple(places), size, np.concatenate(frozen))


def _check_tensor(layer: nn.Module, tensor: Tensor, used: set[int]) -> None:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise UnsupportedError(f"{name_of(layer)} in {tensor.dtype} on {tensor.device.type}")
    if id(tensor) in used:
        raise UnsupportedError(f"{name_of(layer)} shares its parameters with another layer")
    used.add(id(tensor))


def name_of(layer: nn.Module) -> str:
    """As messages have it."""
    return type(layer).__name__


def _leaves(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    """The layers of nested Sequentials, checked; without those that do nothing."""
    if id(module) in seen:
        raise UnsupportedError(f"{name_of(module)} is used twice")
    seen.add(id(module))
    _check_plain(module)
    if type(module) is nn.Sequential:
        for child in module:
            yield from _leaves(child, seen)
        return
    check = _CHECKS.get(type(module))
    if check is None:
        raise UnsupportedError(f"{name_of(module)} isn't a layer that it knows")
    why = check(module)
    if why:
        raise UnsupportedError(f"{name_of(module)} with {why}")
    if type(module) not in (nn.Identity, nn.Dropout):
        yield module


def _check_plain(module: nn.Module) -> None:
    """Nothing runs beside the module's own forward."""
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
    )
    if any(hooks):
        raise UnsupportedError(f"{name_of(module)} has hooks")
    if "forward" in vars(module) or "__call__" in vars(module):
        raise UnsupportedError(f"{name_of(module)} has a forward of its own")
    known = ("weight", "bias") if type(module) is not nn.Sequential else ()
    for name, tensor in module._parameters.items():
        if tensor is not None and name not in known:
            raise UnsupportedError(f"{name_of(module)} has a parameter {name}")
    if type(module) is not nn.Sequential and module._modules:
        raise UnsupportedError(f"{name_of(module)} isn't a layer that it knows")


def _nothing(_: nn.Module) -> str:
    return ""


def _check_conv(m: nn.Module) -> str:
    assert type(m) is nn.Conv2d
    if m.groups != 1:
        return f"groups={m.groups}"
    if m.dilation != (1, 1):
        return f"dilation={m.dilation}"
    return "" if m.padding_mode == "zeros" else f"padding_mode={m.padding_mode}"


def _check_max(m: nn.Module) -> str:
    assert type(m) is nn.MaxPool2d
    if pair(m.dilation) != (1, 1):
        return f"dilation={m.dilation}"
    if pair(m.padding) != (0, 0):
        return f"padding={m.padding}"
    # Which tap was the largest is kept in a byte.
    taps = math.prod(pair(m.kernel_size))
    if taps > 127:
        return f"a window of {taps} pixels"
    return "ceil_mode or return_indices" if m.ceil_mode or m.return_indices else ""


def _check_average(m: nn.Module) -> str:
    assert type(m) is nn.AvgPool2d
    if pair(m.padding) != (0, 0):
        return f"padding={m.padding}"
    return "ceil_mode or divisor_override" if m.ceil_mode or m.divisor_override else ""


def _check_flatten(m: nn.Module) -> str:
    assert type(m) is nn.Flatten
    return "" if (m.start_dim, m.end_dim) == (1, -1) else "other dimensions than all"


def _check_dropout(m: nn.Module) -> str:
    assert type(m) is nn.Dropout
    return "" if m.p == 0 else f"p={m.p}"


def _check_scale(m: nn.Module) -> str:
    assert type(m) is Scale
    return "" if type(m.factor) in (int, float) else f"factor={m.factor}"


_CHECKS: dict[type[nn.Module], Callable[[nn.Module], str]] = {
    nn.Linear: _nothing,
    nn.ReLU: _nothing,
    nn.Tanh: _nothing,
    nn.Identity: _nothing,
    nn.GroupNorm: _nothing,
    nn.LayerNorm: _nothing,
    nn.Conv2d: _check_conv,
    nn.MaxPool2d: _check_max,
    nn.AvgPool2d: _check_average,
    nn.Flatten: _check_flatten,
    nn.Dropout: _check_dropout,
    Scale: _check_scale,
}


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """A size, of both axes.

    Raises:
        UnsupportedError: it is of other than two.
    """
    both = (value, value) if isinstance(value, int) else value
    if len(both) != 2:
        raise UnsupportedError(f"a size of {len(both)} dimensions")
    return int(both[0]), int(both[1])
