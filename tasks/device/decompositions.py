"""Backward passes of convolution and pooling in operators that every ONNX runtime has.

Guarantees: what each function here returns is what torch's operator of that name returns, up
to rounding, for any number of spatial dimensions, groups, strides, paddings and dilations.
Doesn't guarantee speed: a convolution's weight gradient gathers its windows (im2col) and
multiplies in a batch, which for `vmap` over records is one product per record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions

from tacit.privacy.errors import ModelError

_ATEN = torch.ops.aten


def table() -> dict[Any, Callable[..., Any]]:
    """Torch's core decompositions, and those of this module before them."""
    return {
        **core_aten_decompositions(),
        _ATEN.convolution_backward.default: convolution_backward,
        _ATEN.max_pool2d_with_indices_backward.default: max_pool2d_backward,
        _ATEN.avg_pool2d_backward.default: avg_pool2d_backward,
    }


def windows(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Which flat positions of a padded input each window covers.

    Args:
        sizes: spatial sizes of the padded input.
        kernel: of the window, per dimension.
        stride: between windows, per dimension.
        dilation: between a window's positions, per dimension.

    Returns:
        Indices, int64, shape [positions of a window, windows], both in row-major order.
    """
    index = torch.zeros((1, 1), dtype=torch.int64)
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        count = (size - d * (k - 1) - 1) // s + 1
        here = torch.arange(k)[:, None] * d + torch.arange(count)[None, :] * s
        wide = (index * size)[:, None, :, None] + here[None, :, None, :]
        index = wide.reshape(index.shape[0] * k, index.shape[1] * count)
    return index


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`aten.convolution_backward`: a transposed convolution, and im2col with bmm.

    Args:
        grad: of the output, shape [N, out, ...].
        x: the input, shape [N, in, ...].
        weight: shape [out, in / groups, ...].
        bias_sizes: not used.
        stride: per spatial dimension.
        padding: per spatial dimension.
        dilation: per spatial dimension.
        transposed: whether the convolution is one.
        output_padding: not used.
        groups: of channels.
        output_mask: which of the three are wanted.

    Returns:
        The gradients of input, weight and bias; None where not wanted.

    Raises:
        ModelError: of a transposed convolution.
    """
    if transposed:
        raise ModelError(
            "operator aten.convolution_backward of a transposed convolution can't run on a device",
            "use Upsample and Conv2d",
        )
    spatial = range(x.dim() - 2)
    before = after = bias = None
    if output_mask[0]:
        spans = [(grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + 1 for i in spatial]
        reach = [dilation[i] * (weight.shape[2 + i] - 1) for i in spatial]
        left = [x.shape[2 + i] - spans[i] - reach[i] for i in spatial]
        before = _ATEN.convolution(
            grad, weight, None, stride, padding, dilation, True, left, groups
        )
    if output_mask[1]:
        after = _weight_gradient(grad, x, weight, stride, padding, dilation, groups)
    if output_mask[2]:
        bias = grad.sum([0, *(2 + i for i in spatial)])
    return before, after, bias


def _weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Shape [out, in / groups, ...]; per record where `vmap` made records groups."""
    pads = [p for size in reversed(padding) for p in (size, size)]
    padded = _ATEN.constant_pad_nd(x, pads, 0.0) if any(pads) else x
    index = windows(padded.shape[2:], weight.shape[2:], stride, dilation)
    count, (positions, places) = x.shape[0], index.shape
    flat = padded.reshape(count, x.shape[1], -1)
    columns = _ATEN.index_select(flat, 2, index.reshape(-1))
    columns = columns.reshape(count * groups, x.shape[1] // groups * positions, places)
    outer = grad.reshape(count * groups, grad.shape[1] // groups, places)
    product = torch.bmm(outer, columns.transpose(1, 2))
    return product.reshape(count, *weight.shape).sum(0)


def max_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """`aten.max_pool2d_with_indices_backward`: what came out, added where it came from.

    Args:
        grad: of the output, shape [..., h, w].
        x: the input, shape [..., H, W].
        kernel: not used, as are the next four; the indices say it all.
        stride: not used.
        padding: not used.
        dilation: not used.
        ceil_mode: not used.
        indices: of each output in the flat [H * W] plane of its input, shape [..., h, w].

    Returns:
        The gradient of the input, shape [..., H, W].
    """
    zeros = torch.zeros((*x.shape[:-2], x.shape[-2] * x.shape[-1]), dtype=grad.dtype)
    return zeros.scatter_add(-1, indices.flatten(-2), grad.flatten(-2)).reshape(x.shape)


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """`aten.avg_pool2d_backward`: a transposed convolution of one channel with a constant.

    Args:
        grad: of the output, shape [..., h, w].
        x: the input, shape [..., H, W].
        kernel: of the window.
        stride: between windows; empty for the kernel's.
        padding: of zeros, which count.
        ceil_mode: whether windows may stick out.
        count_include_pad: whether the padding counts in the mean.
        divisor_override: of the sum, instead of the window's size.

    Returns:
        The gradient of the input, shape [..., H, W].

    Raises:
        ModelError: windows of unequal weight.
    """
    if ceil_mode or (any(padding) and not count_include_pad):
        raise ModelError(
            "operator aten.avg_pool2d_backward can't run on a device with ceil_mode=True or "
            "count_include_pad=False",
            "pad the input to whole windows",
        )
    step = list(stride) or list(kernel)
    weight = torch.full((1, 1, *kernel), 1.0 / (divisor_override or kernel[0] * kernel[1]))
    planes = grad.reshape(-1, 1, *grad.shape[-2:])
    left = [
        x.shape[i - 2] - ((grad.shape[i - 2] - 1) * step[i] - 2 * padding[i] + kernel[i])
        for i in range(2)
    ]
    spread: Tensor = _ATEN.convolution(planes, weight, None, step, padding, [1, 1], True, left, 1)
    return spread.reshape(x.shape)
