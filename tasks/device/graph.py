"""A task's model and loss as one ONNX graph: the sum of clipped per-example gradients.

Guarantees: for flat parameters w [d], records x and y [m, ...], a mask [m] and a clip C, the
graph gives ``sum_i ok_i * min(1, MARGIN * C / (||g_i|| + 1e-12)) * g_i``, float64 [d], with
g_i the gradient of record i's loss in single precision: what
`tacit.client.dpsgd.NoisyOptimizer` sums (Abadi et al. 2016, Algorithm 1). Row i counts where
the mask has it, what it holds is finite, and so, as a float32, is its norm's square; any other
row adds exactly zero, whatever it holds. Plain `ai.onnx` operators of an allow-list
(`tacit.tasks.device.operators`). An export is checked by `tacit.tasks.device.check` before it
is returned.

**No row adds more than C.** Norms, factors, products and sum are in doubles. A norm of
d <= 2^24 squares is off by less than 2^-28 of itself whatever the order of addition, each
product by 2^-53, C by 2^-24 where a float32 can't hold it; so a row is at most
C (1 - 2^-20) (1 + 2^-23) < C.
The sum over a step's N rows, over as many calls as it takes if they are added in doubles, is
off by less than N^2 2^-53 C from the exact one. So adding or removing a record moves the
*computed* sum by less than C while N <= 2^15, for the gradients that the runtime made. In
single precision neither would hold: a norm of a million equal numbers is off by up to 2^-9.

Doesn't guarantee privacy: the noise is the caller's, outside the graph, to be added before
the sum is rounded to single precision; as is a clip that is positive and finite, and labels
and indices in range in rows that count. Nor that a runtime makes the same gradient of a record
whatever row it stands in: most of onnxruntime's kernels were found to, to the bit, but a
LayerNorm's gradient moved by 4e-8 of the clip (`benchmarks/device_step.py`). One record less
moves those after it by a row, so N of them by N times that; a microbatch of 1 has no such rows.
Frozen parameters and buffers are constants of the graph, as they were at export.

One difference from the trainer: a record with a NaN or an infinity in it never counts, even
where a model would make a finite gradient of it, since onnxruntime's Relu and MaxPool may
drop a NaN that torch passes on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from tacit.privacy import validate
from tacit.privacy.mechanisms import MARGIN
from tacit.protocol.manifest import DeviceGraph
from tacit.tasks.device.check import made_up, verify
from tacit.tasks.device.tracing import finite, flat_parameters, kept, packed, unflattened
from tacit.tasks.task import Task

_Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def export_device_step(
    task: Task, model: nn.Module, like: tuple[Tensor, Tensor], microbatch: int
) -> DeviceGraph:
    """Exports a step and checks it beside Opacus.

    Args:
        task: whose loss; a record's loss may depend on no other record.
        model: in the state in which its frozen parts are wanted; not modified.
        like: some records (inputs, targets), in dimension 0; only shape and type are used.
        microbatch: m, the rows of a call, at least 1.

    Returns:
        The graph and its manifest. Equal arguments give equal bytes with equal versions of
        torch and onnxscript.

    Raises:
        ConfigError: ``microbatch`` or a shape can't be.
        ModelError: an operator, named, can't run on a device; the model draws random numbers
            or keeps state; or the graph differs from Opacus.
    """
    validate.at_least("microbatch", microbatch, 1)
    x, y = made_up(like[0], microbatch, seed=0), made_up(like[1], microbatch, seed=1)
    mask = torch.ones(microbatch, dtype=torch.bool)
    arguments = (flat_parameters(model), x, y, mask, torch.tensor(1.0))
    made = packed("step", task, model, _step(task, copy.deepcopy(model).train()), arguments)
    verify(made, task, model, like)
    return made


def _step(task: Task, model: nn.Module) -> _Step:
    """The sum of clipped gradients, as a function of flat parameters."""
    named = unflattened(model)

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return task.loss(functional_call(model, parameters, (x[None],)), y[None])

    def step(flat: Tensor, x: Tensor, y: Tensor, mask: Tensor, clip: Tensor) -> Tensor:
        parameters = named(flat)
        fit = mask & finite(x) & finite(y)
        grads = vmap(grad(loss), (None, 0, 0))(parameters, kept(fit, x), kept(fit, y))
        rows = [grads[name].reshape(len(x), -1).double() for name in parameters]
        squares = torch.stack([(g * g).sum(1) for g in rows]).sum(0)
        # As the trainer, whose squares are in single precision.
        fit = fit & torch.isfinite(squares.float())
        factor = (MARGIN * clip.double() / (squares.sqrt() + 1e-12)).clamp(max=1.0)
        factor = torch.where(fit, factor, torch.zeros_like(factor))
        return torch.cat([factor @ kept(fit, g) for g in rows])

    return step
