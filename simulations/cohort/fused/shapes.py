"""A chain's layers with the shapes that records give them, as the compiled engine has them.

Images are channels-last inside, so a transpose stands wherever torch's order is seen: at a
flattening, and before the first layer of images.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from tacit.simulations.cohort.fused.graph import Chain, name_of, pair
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
            raise UnsupportedError(f"{name_of(layer)} over records of shape {self.shape}")
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
    (kh, kw), (sh, sw) = pair(m.kernel_size), pair(m.stride)
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
        raise UnsupportedError(f"{name_of(m)} of {kernel} pixels over {size}")
    return (size - kernel) // stride + 1


def _bind_pool(binder: _Binder, m: nn.Module, tensors: dict[str, float]) -> None:
    assert type(m) is nn.MaxPool2d or type(m) is nn.AvgPool2d
    c, h, w = binder.image(m)
    (kh, kw), (sh, sw) = pair(m.kernel_size), pair(m.stride)
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
