"""The core of any other layer: per-record gradients by `torch.func`, slower and as right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vjp, vmap

from tacit.simulations.cohort.tape import Sampled


class Generic(Sampled):
    """A module of one input whose records are in dimension 0.

    Args:
        module: with its parameters, trained and frozen.
        rest: as for `Core`.
    """

    def __init__(self, module: nn.Module, *rest: Any) -> None:
        super().__init__(*rest)
        self._module = module

    def apply(self, x: Tensor) -> Tensor:
        """The module at [N, ...], recorded."""
        return _Call.apply(x, self.bucket.anchor, self)  # type: ignore[no-any-return,no-untyped-call]

    def _parameters(self) -> tuple[dict[str, Tensor], int | None]:
        """Parameters for each client, and the dimension that has the clients."""
        found = {name: self.get(name) for name in self.slots}
        held = {name: value for name, value in found.items() if value is not None}
        if len(self.bucket.parameters) == 1:
            return {name: value[0] for name, value in held.items()}, None
        return held, 0

    def run(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """The module with other parameters."""
        return functional_call(self._module, parameters, (x,))  # type: ignore[no-any-return]

    def call(self, x: Tensor) -> Tensor:
        """The module at [N, ...] with each client's parameters."""
        parameters, axis = self._parameters()
        blocks = x.reshape(self.bucket.clients, self.bucket.rows, *x.shape[1:])
        return vmap(self.run, in_dims=(axis, 0))(parameters, blocks).flatten(0, 1)

    def record(self, x: Tensor, g: Tensor) -> Tensor | None:
        """Adds one use to the records' gradients; returns the input's gradient."""
        parameters, axis = self._parameters()
        real = x.is_floating_point()

        def one(p: dict[str, Tensor], row: Tensor, due: Tensor) -> tuple[Any, Any]:
            if real:
                pull: Any = vjp(lambda q, r: self.run(q, r[None])[0], p, row)[1]
                made, back = pull(due)
                return made, back
            pull = vjp(lambda q: self.run(q, row[None])[0], p)[1]
            return pull(due)[0], due.new_zeros(())

        shape = (self.bucket.clients, self.bucket.rows)
        rows, dues = x.reshape(*shape, *x.shape[1:]), g.reshape(*shape, *g.shape[1:])
        samples, back = vmap(vmap(one, in_dims=(None, 0, 0)), in_dims=(axis, 0, 0))(
            parameters, rows, dues
        )
        for name, made in samples.items():
            self.add(name, made.flatten(0, 1))
        return back.flatten(0, 1) if real else None


class _Call(torch.autograd.Function):
    """`Generic.call` forwards; backwards it records."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, core: Generic) -> Tensor:
        """The layer's output."""
        ctx.core, ctx.x = core, x.detach()
        return core.call(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None]:
        """Records; passes the input's gradient on."""
        back = ctx.core.record(ctx.x, g)
        return (back if ctx.needs_input_grad[0] else None), None, None
