"""A model as the chain of layers that the compiled engine knows.

Only exact types are taken: a subclass, a hook or a parametrization can compute anything.
`chain` reads the layers and where their weights are; `bind` gives them the shapes that
records have. Images are channels-last inside, so a transpose stands wherever torch's order
is seen: at a flattening, and before the first layer of images.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.simulations.cohort.job import UnsupportedError
from tacit.tasks.models import Scale

Shape = tuple[int, ...]

# As layers.h counts them.
_KINDS = ("linear", "conv", "max", "average", "relu", "tanh", "scale", "norm", "pad", "transpose")
KIND = {name: k for k, name in enumerate(_KINDS)}
_WHOLE = (
    *("kind", "size_in", "size_out"),
    *("c", "h", "w", "oc", "kh", "kw", "sh", "sw", "oh", "ow"),
    *("top", "left", "groups"),
    *("weight", "weight_trained", "bias", "bias_trained", "in_place"),
)


class Spec(ctypes.Structure):
    """``struct spec`` of layers.h."""

    _fields_ = [*((name, ctypes.c_int64) for name in _WHOLE), ("value", ctypes.c_double)]


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
        raise UnsupportedError(f"{_name(layer)} in {tensor.dtype} on {tensor.device.type}")
    if id(tensor) in used:
        raise UnsupportedError(f"{_name(layer)} shares its parameters with another layer")
    used.add(id(tensor))


def _name(layer: nn.Module) -> str:
    return type(layer).__name__


def _leaves(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    """The layers of nested Sequentials, checked; without those that do nothing."""
    if id(module) in seen:
        raise UnsupportedError(f"{_name(module)} is used twice")
    seen.add(id(module))
    _check_plain(module)
    if type(module) is nn.Sequential:
        for child in module:
            yield from _leaves(child, seen)
        return
    check = _CHECKS.get(type(module))
    if check is None:
        raise UnsupportedError(f"{_name(module)} isn't a layer that it knows")
    why = check(module)
    if why:
        raise UnsupportedError(f"{_name(module)} with {why}")
    if type(module) not in (nn.Identity, nn.Dropout):
        yield module


def _check_plain(module: nn.Module) -> None:
    """Nothing runs beside the module's own forward."""
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
    )
    if any(hooks):
        raise UnsupportedError(f"{_name(module)} has hooks")
    if "forward" in vars(module) or "__call__" in vars(module):
        raise UnsupportedError(f"{_name(module)} has a forward of its own")
    known = ("weight", "bias") if type(module) is not nn.Sequential else ()
    for name, tensor in module._parameters.items():
        if tensor is not None and name not in known:
            raise UnsupportedError(f"{_name(module)} has a parameter {name}")
    if type(module) is not nn.Sequential and module._modules:
        raise UnsupportedError(f"{_name(module)} isn't a layer that it knows")


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
    if _pair(m.dilation) != (1, 1):
        return f"dilation={m.dilation}"
    if _pair(m.padding) != (0, 0):
        return f"padding={m.padding}"
    # Which tap was the largest is kept in a byte.
    taps = math.prod(_pair(m.kernel_size))
    if taps > 127:
        return f"a window of {taps} pixels"
    return "ceil_mode or return_indices" if m.ceil_mode or m.return_indices else ""


def _check_average(m: nn.Module) -> str:
    assert type(m) is nn.AvgPool2d
    if _pair(m.padding) != (0, 0):
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


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if len(pair) != 2:
        raise UnsupportedError(f"a size of {len(pair)} dimensions")
    return int(pair[0]), int(pair[1])


@dataclass
class _Binder:
    """Follows a record's shape through the layers.

    Attributes:
        shape: of a record, as torch has it.
        last: whether channels are last in memory.
        specs: so far.
    """

    shape: Shape
    last: bool = False
    specs: list[Spec] = field(default_factory=list)

    def add(self, kind: str, shape: Shape, **values: float) -> None:
        spec = Spec(kind=KIND[kind], weight=-1, bias=-1)
        spec.size_in, spec.size_out = math.prod(self.shape), math.prod(shape)
        for name, value in values.items():
            setattr(spec, name, value)
        self.specs.append(spec)
        self.shape = shape

    def image(self, layer: nn.Module) -> Shape:
        """Brings channels last; the shape (channels, height, width)."""
        if len(self.shape) != 3:
            raise UnsupportedError(f"{_name(layer)} over records of shape {self.shape}")
        c, h, w = self.shape
        if not self.last and c > 1 and h * w > 1:
            self.add("transpose", self.shape, h=c, w=h * w)
        self.last = True
        return self.shape

    def plain(self) -> None:
        """Brings torch's order back."""
        if self.last:
            c, h, w = self.shape
            if c > 1 and h * w > 1:
                self.add("transpose", self.shape, h=h * w, w=c)
            self.last = False

    def elementwise(self, kind: str, value: float = 0.0) -> None:
        # ReLU and tanh look at what they put out when they go backwards.
        kept = (KIND["relu"], KIND["tanh"])
        in_place = not self.specs or self.specs[-1].kind not in kept
        self.add(kind, self.shape, in_place=int(in_place), value=value)


def bind(found: Chain, shape: Shape) -> list[Spec]:
    """The chain for records of one shape.

    Raises:
        UnsupportedError: the layers can't take it, or don't put out a vector of classes.
    """
    binder = _Binder(shape)
    if math.prod(shape) == 0:
        raise UnsupportedError(f"records of shape {shape}")
    for layer, (weight, bias) in zip(found.layers, found.places, strict=True):
        tensors: dict[str, float] = {
            "weight": weight.offset,
            "weight_trained": int(weight.trained),
            "bias": bias.offset,
            "bias_trained": int(bias.trained),
        }
        _BIND[type(layer)](binder, layer, tensors)
    if len(binder.shape) != 1:
        raise UnsupportedError(f"outputs of shape {binder.shape}, not of classes")
    return binder.specs


def _bind_linear(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    assert type(m) is nn.Linear
    if binder.shape != (m.in_features,):
        raise UnsupportedError(f"Linear({m.in_features}) over records of shape {binder.shape}")
    binder.add("linear", (m.out_features,), **tensors)


def _bind_conv(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    assert type(m) is nn.Conv2d
    c, h, w = binder.image(m)
    if c != m.in_channels:
        raise UnsupportedError(f"Conv2d of {m.in_channels} channels over shape {binder.shape}")
    (kh, kw), (sh, sw) = _pair(m.kernel_size), _pair(m.stride)
    (top, bottom), (left, right) = _frame(m, 0, kh), _frame(m, 1, kw)
    if top or bottom or left or right:
        framed = (c, h + top + bottom, w + left + right)
        binder.add("pad", framed, c=c, h=h, w=w, oh=framed[1], ow=framed[2], top=top, left=left)
    _, h, w = binder.shape
    oh, ow = _windows(m, h, kh, sh), _windows(m, w, kw, sw)
    sizes = {"c": c, "h": h, "w": w, "oc": m.out_channels, "oh": oh, "ow": ow}
    steps = {"kh": kh, "kw": kw, "sh": sh, "sw": sw}
    binder.add("conv", (m.out_channels, oh, ow), **sizes, **steps, **tensors)


def _frame(m: nn.Conv2d, axis: int, kernel: int) -> tuple[int, int]:
    """Zeros before and after."""
    if m.padding == "same":
        return (kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2
    if m.padding == "valid":
        return 0, 0
    assert not isinstance(m.padding, str)
    return m.padding[axis], m.padding[axis]


def _windows(m: nn.Module, size: int, kernel: int, stride: int) -> int:
    if size < kernel:
        raise UnsupportedError(f"{_name(m)} of {kernel} pixels over {size}")
    return (size - kernel) // stride + 1


def _bind_pool(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    assert type(m) is nn.MaxPool2d or type(m) is nn.AvgPool2d
    c, h, w = binder.image(m)
    (kh, kw), (sh, sw) = _pair(m.kernel_size), _pair(m.stride)
    oh, ow = _windows(m, h, kh, sh), _windows(m, w, kw, sw)
    sizes = {"c": c, "h": h, "w": w, "oh": oh, "ow": ow, "kh": kh, "kw": kw, "sh": sh, "sw": sw}
    binder.add("max" if type(m) is nn.MaxPool2d else "average", (c, oh, ow), **sizes)


def _bind_group_norm(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    assert type(m) is nn.GroupNorm
    c, h, w = binder.image(m) if len(binder.shape) == 3 else (*binder.shape, 1, 1)[:3]
    if len(binder.shape) == 2 or c != m.num_channels:
        raise UnsupportedError(f"GroupNorm of {m.num_channels} over shape {binder.shape}")
    if c * h * w == m.num_groups:
        raise UnsupportedError("GroupNorm of groups of one value")
    binder.add("norm", binder.shape, c=c, w=h * w, groups=m.num_groups, value=m.eps, **tensors)


def _bind_layer_norm(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    assert type(m) is nn.LayerNorm
    binder.plain()
    if tuple(m.normalized_shape) != binder.shape:
        raise UnsupportedError(f"LayerNorm of a part of records of shape {binder.shape}")
    binder.add(
        "norm", binder.shape, c=math.prod(binder.shape), w=1, groups=1, value=m.eps, **tensors
    )


def _bind_flatten(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    binder.plain()
    binder.shape = (math.prod(binder.shape),)


def _bind_scale(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    assert type(m) is Scale
    binder.elementwise("scale", m.factor)


_BIND: dict[type[nn.Module], Callable[[_Binder, nn.Module, dict[str, float]], None]] = {
    nn.Linear: _bind_linear,
    nn.Conv2d: _bind_conv,
    nn.MaxPool2d: _bind_pool,
    nn.AvgPool2d: _bind_pool,
    nn.GroupNorm: _bind_group_norm,
    nn.LayerNorm: _bind_layer_norm,
    nn.Flatten: _bind_flatten,
    nn.ReLU: lambda binder, m, tensors: binder.elementwise("relu"),
    nn.Tanh: lambda binder, m, tensors: binder.elementwise("tanh"),
    Scale: _bind_scale,
}
