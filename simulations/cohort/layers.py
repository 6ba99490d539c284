"""Cores of the common layers: products (Linear, convolutions), scales (norms), tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tacit.simulations.cohort.job import UnsupportedError
from tacit.simulations.cohort.tape import Core, Sampled, add_rows, weighted

# A record's gradient is made, rather than its norm taken from products of its positions, where
# that moves less memory and costs fewer operations; the constant is measured.
_GHOST = 4.0


class Product(Core):
    """A layer y = W x + b at T positions of each record: Linear, and convolutions unfolded.

    Its tape holds inputs [N, T, in] and output gradients [N, T, out] of every use. A record's
    gradient is the sum over positions of the outer products; its squared norm is
    sum_{t,t'} (x_t . x_t')(g_t . g_t') (Goodfellow 2015, arXiv:1510.01799, and with T > 1
    Li et al. 2022, arXiv:2110.05679, "ghost clipping").
    """

    def forget(self) -> None:
        """Empties the tape."""
        self._uses: list[tuple[Tensor, Tensor]] = []
        self._samples: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """The layer at [N, T, in], recorded; shape [N, T, out]."""
        return _Multiply.apply(x, self.bucket.anchor, self)  # type: ignore[no-any-return,no-untyped-call]

    def multiply(self, x: Tensor) -> Tensor:
        """The layer at [N, T, in]."""
        weight, bias = self.get("weight"), self.get("bias")
        assert weight is not None
        flat = weight.reshape(len(weight), weight.shape[1], -1).transpose(1, 2)
        if len(flat) == 1 and (bias is None or len(bias) == 1):
            return functional.linear(x, flat[0].t(), None if bias is None else bias[0])
        blocks = x.reshape(self.bucket.clients, -1, x.shape[-1])
        blocks = torch.matmul(blocks, flat)
        if bias is not None:
            blocks += bias[:, None]
        return blocks.view(len(x), x.shape[1], -1)

    def transposed(self, g: Tensor) -> Tensor:
        """The gradient of the input, of an output gradient [N, T, out]."""
        weight = self.get("weight")
        assert weight is not None
        flat = weight.reshape(len(weight), weight.shape[1], -1)
        if len(flat) == 1:
            return torch.matmul(g, flat[0])
        blocks = g.reshape(self.bucket.clients, -1, g.shape[-1])
        return torch.bmm(blocks, flat).view(len(g), g.shape[1], -1)

    def record(self, x: Tensor, g: Tensor) -> None:
        """Writes one use down."""
        self._uses.append((x, g))

    def _joined(self) -> tuple[Tensor, Tensor]:
        if len(self._uses) > 1:
            x, g = (torch.cat(parts, 1) for parts in zip(*self._uses, strict=True))
            self._uses = [(x, g)]
        return self._uses[0]

    def squares(self) -> Tensor:
        """Each record's squared norm, shape [N]."""
        total = self.bucket.zeros(self.bucket.records)
        if not self._uses:
            return total
        x, g = self._joined()
        if self.trains("bias"):
            total = total + g.sum(1).pow(2).sum(1)
        if not self.trains("weight"):
            return total
        positions, size = x.shape[1], x.shape[2] * g.shape[2]
        if positions == 1:
            return total + x[:, 0].pow(2).sum(1) * g[:, 0].pow(2).sum(1)
        if positions * (x.shape[2] + g.shape[2]) < _GHOST * size:
            both = torch.bmm(x, x.transpose(1, 2)) * torch.bmm(g, g.transpose(1, 2))
            return total + both.sum((1, 2)).clamp(min=0.0)
        self._samples = torch.bmm(g.transpose(1, 2), x)
        return total + self._samples.flatten(1).pow(2).sum(1)

    def sums(self, factors: Tensor, into: Tensor) -> None:
        """Each client's weighted sum."""
        clients = self.bucket.clients
        if not self._uses:
            for name, slot in self.slots.items():
                self.write(name, self.bucket.zeros(clients, *slot.shape), into)
            return
        x, g = self._joined()
        scaled = None
        if self._samples is None or self.trains("bias"):
            scaled = (g * factors[:, None, None]).reshape(clients, -1, g.shape[2])
            if self.trains("bias"):
                self.write("bias", scaled.sum(1), into)
        if not self.trains("weight"):
            return
        if self._samples is not None:
            summed = weighted(self._samples, factors, clients)
        else:
            assert scaled is not None
            summed = torch.bmm(scaled.transpose(1, 2), x.reshape(clients, -1, x.shape[2]))
        self.write("weight", self.shaped(summed), into)

    def shaped(self, summed: Tensor) -> Tensor:
        """Sums [C, out, in] as the weight's gradient is laid out."""
        return summed


class _Multiply(torch.autograd.Function):
    """`Product.multiply`, with its backward pass written to the tape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, core: Product) -> Tensor:
        """The layer's output."""
        ctx.core, ctx.x = core, x.detach()
        return core.multiply(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None]:
        """Records; passes the input's gradient on."""
        ctx.core.record(ctx.x, g)
        back = ctx.core.transposed(g) if ctx.needs_input_grad[0] else None
        return back, None, None


class Convolution(Product):
    """A convolution without groups as a product: its patches, channels last, unfolded.

    Opacus 1.6.0's own sampler is silently wrong on channels_last activations; this one takes
    any layout.

    Args:
        layer: a Conv1d or Conv2d; the other arguments are as for `Core`.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, *rest: Any) -> None:
        super().__init__(*rest)
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise UnsupportedError("a convolution with groups, or other padding than zeros")
        flat = isinstance(layer, nn.Conv1d)

        def pair(values: Any, first: int) -> tuple[int, int]:
            return (first, values[0]) if flat else (values[0], values[1])

        self._flat, self._outputs = flat, layer.out_channels
        self._kernel, self._stride = pair(layer.kernel_size, 1), pair(layer.stride, 1)
        self._padding, self._dilation = pair(layer.padding, 0), pair(layer.dilation, 1)

    def get(self, name: str) -> Tensor | None:
        """A parameter; weights with the patch in the order (height, width, channel)."""
        found = super().get(name)
        if name != "weight" or found is None:
            return found
        whole = found[:, :, :, None] if self._flat else found
        return whole.permute(0, 1, 3, 4, 2).reshape(len(found), self._outputs, -1)

    def convolve(self, x: Tensor) -> Tensor:
        """The layer at [N, channels, (height,) width], recorded."""
        if self._flat:
            x = x[:, :, None]
        size, step, hole, pad = self._kernel, self._stride, self._dilation, self._padding
        whole = x.permute(0, 2, 3, 1)
        if any(pad):
            whole = functional.pad(whole, (0, 0, pad[1], pad[1], pad[0], pad[0]))
        patches = _Unfold.apply(whole, size, step, hole)  # type: ignore[no-untyped-call]
        n, height, width = patches.shape[:3]
        y = self.apply(patches.view(n, height * width, -1))
        y = y.view(n, height, width, -1).permute(0, 3, 1, 2)
        return y[:, :, 0] if self._flat else y

    def shaped(self, summed: Tensor) -> Tensor:
        """Sums [C, out, patch] in the layer's own order."""
        whole = summed.view(len(summed), self._outputs, *self._kernel, -1)
        return whole.permute(0, 1, 4, 2, 3)


class _Unfold(torch.autograd.Function):
    """Patches of [N, H, W, c]: [N, H', W', h * w * c]; backwards they are added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Any, step: Any, hole: Any) -> Tensor:
        """The patches, copied."""
        n, height, width, channels = x.shape
        out = [(x.shape[i + 1] - hole[i] * (size[i] - 1) - 1) // step[i] + 1 for i in (0, 1)]
        ctx.place = (x.shape, size, step, hole, out)
        x = x.contiguous()
        rows = width * channels
        view = x.as_strided(
            (n, *out, *size, channels),
            (
                height * rows,
                step[0] * rows,
                step[1] * channels,
                hole[0] * rows,
                hole[1] * channels,
                1,
            ),
        )
        return view.reshape(n, *out, size[0] * size[1] * channels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Adds each patch position to where it came from."""
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        shape, size, step, hole, out = ctx.place
        made = g.new_zeros(shape)
        g = g.view(shape[0], *out, *size, shape[3])
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = i * hole[0], j * hole[1]
                made[
                    :,
                    top : top + step[0] * (out[0] - 1) + 1 : step[0],
                    left : left + step[1] * (out[1] - 1) + 1 : step[1],
                ] += g[:, :, :, i, j]
        return made, None, None, None


class Scales(Sampled):
    """An affine y = w * x + b over the channels of what a norm has normalised.

    Args:
        channel: the dimensions of the parameters: 1 for GroupNorm, the last ones for LayerNorm.
        rest: as for `Core`.
    """

    def __init__(self, last: bool, *rest: Any) -> None:
        super().__init__(*rest)
        self._last = last

    def apply(self, x: Tensor) -> Tensor:
        """The affine map at [N, ...], recorded."""
        return _Scale.apply(x, self.bucket.anchor, self)  # type: ignore[no-any-return,no-untyped-call]

    def spread(self, name: str, x: Tensor) -> Tensor | None:
        """A parameter for each row, ready to multiply [N, ...]."""
        found = self.get(name)
        if found is None:
            return None
        if len(found) > 1:
            found = found.repeat_interleave(self.bucket.rows, 0)
        if self._last:
            middle = x.dim() - found.dim()
            return found.view(len(found), *[1] * middle, *found.shape[1:])
        return found.view(*found.shape, *[1] * (x.dim() - 2))

    def record(self, x: Tensor, g: Tensor) -> None:
        """Adds one use to the records' gradients."""
        for name, slot in self.slots.items():
            product = g * x if name == "weight" else g
            middle = range(1, x.dim() - len(slot.shape)) if self._last else range(2, x.dim())
            self.add(name, product.sum(tuple(middle)) if len(middle) else product)


class _Scale(torch.autograd.Function):
    """`Scales` forwards; backwards it records."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, core: Scales) -> Tensor:
        """The layer's output."""
        ctx.core, ctx.x = core, x.detach()
        weight, bias = core.spread("weight", x), core.spread("bias", x)
        y = x.clone() if weight is None else x * weight
        return y if bias is None else y + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None]:
        """Records; passes the input's gradient on."""
        core, x = ctx.core, ctx.x
        core.record(x, g)
        if not ctx.needs_input_grad[0]:
            return None, None, None
        weight = core.spread("weight", x)
        return (g if weight is None else g * weight), None, None


class Lookup(Core):
    """An Embedding: rows of a table [V, D] by index."""

    def forget(self) -> None:
        """Empties the tape."""
        self._uses: list[tuple[Tensor, Tensor]] = []

    def apply(self, index: Tensor) -> Tensor:
        """The rows at indices [N, ...], recorded."""
        return _Look.apply(index, self.bucket.anchor, self)  # type: ignore[no-any-return,no-untyped-call]

    def look(self, index: Tensor) -> Tensor:
        """The rows at indices [N, ...]."""
        table = self.get("weight")
        assert table is not None
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= table.shape[1]):
            # As torch says it on a CPU; on a GPU it would take the whole process along.
            raise IndexError("index out of range in self")
        if len(table) == 1:
            return functional.embedding(index, table[0])
        return functional.embedding(self._own(index, table.shape[1]), table.flatten(0, 1))

    def _own(self, index: Tensor, entries: int) -> Tensor:
        """Indices into all clients' tables, one after another."""
        whose = torch.arange(len(index), device=index.device) // self.bucket.rows
        return index + whose.view(-1, *[1] * (index.dim() - 1)) * entries

    def record(self, index: Tensor, g: Tensor) -> None:
        """Writes one use down."""
        flat = index.reshape(len(index), -1)
        g = g.reshape(*flat.shape, g.shape[-1])
        self._uses.append((flat, g))

    def _joined(self) -> tuple[Tensor, Tensor]:
        if len(self._uses) > 1:
            index, g = (torch.cat(parts, 1) for parts in zip(*self._uses, strict=True))
            self._uses = [(index, g)]
        return self._uses[0]

    def squares(self) -> Tensor:
        """Each record's squared norm, from the pairs of positions with one index."""
        if not self._uses:
            return self.bucket.zeros(self.bucket.records)
        index, g = self._joined()
        same = index[:, :, None] == index[:, None, :]
        return (torch.bmm(g, g.transpose(1, 2)) * same).sum((1, 2)).clamp(min=0.0)

    def sums(self, factors: Tensor, into: Tensor) -> None:
        """Each client's weighted sum."""
        entries, width = self.slots["weight"].shape
        clients = self.bucket.clients
        made = self.bucket.zeros(clients * entries, width)
        if self._uses:
            index, g = self._joined()
            scaled = (g * factors[:, None, None]).flatten(0, 1)
            add_rows(made, self._own(index, entries).flatten(), scaled)
        self.write("weight", made.view(clients, entries, width), into)


class _Look(torch.autograd.Function):
    """`Lookup.look` forwards; backwards it records."""

    @staticmethod
    def forward(ctx: Any, index: Tensor, anchor: Tensor, core: Lookup) -> Tensor:
        """The layer's output."""
        ctx.core, ctx.index = core, index
        return core.look(index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, None]:
        """Records."""
        ctx.core.record(ctx.index, g)
        return None, None, None
