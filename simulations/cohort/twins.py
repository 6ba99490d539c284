"""A model whose trained layers use each client's own parameters.

The user's forward stays as it is: only the modules that own trained parameters are replaced,
by twins that call a core. Linear, Conv1d/2d, GroupNorm, LayerNorm and Embedding have cores of
their own (`tacit.simulations.cohort.layers`), Opacus's recurrent and attention layers are made
of these; any other module gets `tacit.simulations.cohort.generic`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from opacus.layers.dp_rnn import RNNLinear
from torch import Tensor, nn
from torch.nn import functional

from tacit.simulations.cohort import layers
from tacit.simulations.cohort.generic import Generic
from tacit.simulations.cohort.job import UnsupportedError
from tacit.simulations.cohort.tape import Bucket, Core, Slot

_NORMS = (nn.GroupNorm, nn.LayerNorm)


class Twin(nn.Module):
    """Stands for a layer.

    Args:
        core: what it has trained.
        run: from an input with the records in dimension 0 to the output.
        original: the layer, whose other attributes a user's code may read.
    """

    def __init__(self, core: Core, run: Callable[[Tensor], Tensor], original: nn.Module) -> None:
        super().__init__()
        self._core, self._run = core, run
        # In a tuple, so that it is no child.
        self._original = (original,)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("weight", "bias"):
                # Not the clients': a forward that uses them can't be replaced.
                raise UnsupportedError(f"the model reads {name} of a layer itself") from None
            return getattr(self._original[0], name)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The layer's output."""
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise UnsupportedError("a layer has several inputs")
        return self._core.back(self._run(self._core.seen(inputs[0])))


class Twins:
    """A copy of a model with twins.

    Args:
        model: as the task makes it, on the device; not modified.
        device: that bucket and parameters are on.

    Attributes:
        model: the copy.
        bucket: what its twins read.
        cores: of its twins.
        generic: kinds of the modules that take the slower way.

    Raises:
        UnsupportedError: its parameters aren't each one module's own.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.bucket = Bucket(device)
        self.cores: list[Core] = []
        self.generic: list[str] = []
        places: dict[int, int] = {}
        offset = 0
        for p in model.parameters():
            if p.requires_grad:
                places[id(p)] = offset
                offset += p.numel()
        self._owned: set[int] = set()
        self._places = places
        twins: dict[int, Twin] = {}
        below: set[int] = set()
        for module in model.modules():
            if id(module) not in below and _owns(module):
                twins[id(module)] = self._twin(module)
                below.update(id(child) for child in module.modules())
        if len(self._owned) != len(places):
            raise UnsupportedError("a parameter belongs to several layers")
        # Wherever the model holds a layer, in a plain list too, the copy holds its twin.
        self.model = copy.deepcopy(model, twins)
        for p in self.model.parameters():
            p.requires_grad_(False)
        self.model.train()

    def _twin(self, module: nn.Module) -> Twin:
        slots: list[Slot] = []
        frozen: dict[str, Tensor] = {}
        for name, p in module.named_parameters():
            if not p.requires_grad:
                frozen[name] = p
                continue
            if id(p) in self._owned:
                raise UnsupportedError("a parameter belongs to several layers")
            self._owned.add(id(p))
            slots.append(Slot(name, p.shape, self._places[id(p)]))
        core, run = self._core(module, (self.bucket, slots, frozen))
        core.forget()
        self.cores.append(core)
        return Twin(core, run, module)

    def _core(
        self, module: nn.Module, rest: tuple[Bucket, list[Slot], dict[str, Tensor]]
    ) -> tuple[Core, Callable[[Tensor], Tensor]]:
        kind = type(module)
        hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        if hooked or hasattr(module, "parametrizations"):
            raise UnsupportedError(f"a {kind.__name__} with hooks or parametrizations")
        if kind in (nn.Linear, RNNLinear):
            product = layers.Product(*rest)
            return product, lambda x: _linear(product, x)
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) and kind in (nn.Conv1d, nn.Conv2d):
            try:
                convolution = layers.Convolution(module, *rest)
            except UnsupportedError:
                return self._generic(module, rest)
            return convolution, convolution.convolve
        if isinstance(module, _NORMS) and kind in _NORMS:
            scales = layers.Scales(kind is nn.LayerNorm, *rest)
            return scales, lambda x: scales.apply(_normalised(module, x))
        if isinstance(module, nn.Embedding) and kind is nn.Embedding:
            if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
                raise UnsupportedError("an Embedding with max_norm, frequencies or sparse")
            if module.padding_idx is not None:
                raise UnsupportedError("an Embedding with padding_idx, which Opacus ignores")
            table = layers.Lookup(*rest)
            return table, table.apply
        return self._generic(module, rest)

    def _generic(
        self, module: nn.Module, rest: tuple[Bucket, list[Slot], dict[str, Tensor]]
    ) -> tuple[Core, Callable[[Tensor], Tensor]]:
        self.generic.append(type(module).__name__)
        core = Generic(copy.deepcopy(module).train(), *rest)
        return core, core.apply


def _owns(module: nn.Module) -> bool:
    """Whether a module has trained parameters that aren't its children's under another name."""
    below = {id(p) for child in module.children() for p in child.parameters()}
    own = module.parameters(recurse=False)
    return any(p.requires_grad and id(p) not in below for p in own)


def _linear(core: layers.Product, x: Tensor) -> Tensor:
    y = core.apply(x.reshape(len(x), -1, x.shape[-1]))
    return y.view(*x.shape[:-1], y.shape[-1])


def _normalised(module: nn.GroupNorm | nn.LayerNorm, x: Tensor) -> Tensor:
    """A norm without its parameters."""
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(x, module.num_groups, None, None, module.eps)
    shape = list(module.normalized_shape)
    return torch.layer_norm(x, shape, None, None, module.eps)
