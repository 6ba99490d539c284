"""A model as one flat float32 vector, the form in which it is clipped, noised and sent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tacit.privacy.errors import ModelError
from tacit.privacy.messages import Vector


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each trained parameter sits in the vector.

    Attributes:
        names: of the trained parameters, in the model's order.
        shapes: of each.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a model's trained parameters."""
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        return cls(tuple(n for n, _ in trained), tuple(tuple(p.shape) for _, p in trained))

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def split(self, vector: Vector) -> dict[str, Vector]:
        """The vector as named arrays (views)."""
        if vector.shape != (self.size,):
            raise ModelError(f"vector shape={vector.shape} should be ({self.size},)")
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        parts = np.split(vector, ends[:-1])
        return {
            n: part.reshape(s) for n, part, s in zip(self.names, parts, self.shapes, strict=True)
        }


def read(model: nn.Module) -> Vector:
    """The trained parameters of a model, shape [d], float32, copied."""
    trained = [p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]
    return torch.cat(trained).numpy().copy()


@torch.no_grad()
def write(model: nn.Module, vector: Vector) -> None:
    """Sets the trained parameters of a model.

    Args:
        model: to change.
        vector: shape [d]; not modified, not kept.
    """
    source = torch.from_numpy(np.array(vector, dtype=np.float32))
    offset = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            count = parameter.numel()
            parameter.copy_(source[offset : offset + count].view_as(parameter))
            offset += count
    if offset != source.numel():
        raise ModelError(f"vector length={source.numel()} should be {offset}")


def frozen_state(model: nn.Module) -> dict[str, np.ndarray]:
    """What a model holds beside its trained parameters: frozen ones and buffers."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    state = model.state_dict()
    return {n: t.detach().cpu().numpy().copy() for n, t in state.items() if n not in trained}


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of `frozen_state`; equal on both sides."""
    hasher = hashlib.sha256()
    for name, array in sorted(frozen_state(model).items()):
        hasher.update(f"{name}\x00{array.dtype.str}\x00{array.shape}\x00".encode())
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()
