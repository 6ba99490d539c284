"""A model as one flat float32 vector, the form in which it is clipped, noised and sent."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from tacit.privacy.errors import ModelError
from tacit.privacy.messages import Vector


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

    Raises:
        ModelError: the vector has another length; the model is as it was.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in trained)
    if vector.shape != (size,):
        raise ModelError(f"vector shape={vector.shape} should be ({size},)")
    source = torch.from_numpy(np.array(vector, dtype=np.float32))
    offset = 0
    for parameter in trained:
        count = parameter.numel()
        parameter.copy_(source[offset : offset + count].view_as(parameter))
        offset += count


def moved(model: nn.Module) -> Vector:
    """Parameters a little away from where a model begins, the same ones each time.

    Layers that begin at zero hide from a check what the layers before them do wrong.
    """
    start = read(model)
    noise = np.random.default_rng(1).standard_normal(len(start)).astype(np.float32)
    return start + np.float32(0.05) * noise


def frozen_state(model: nn.Module) -> dict[str, np.ndarray]:
    """What a model holds beside its trained parameters: frozen ones and buffers.

    Raises:
        ModelError: one of them is of a type that a safetensors file can't hold.
    """
    held = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
    return {name: array(name, tensor) for name, tensor in [*held, *model.named_buffers()]}


def array(name: str, tensor: Tensor) -> np.ndarray:
    """A copy of a tensor as numpy has it.

    Raises:
        ModelError: numpy has no such type.
    """
    try:
        return tensor.detach().cpu().numpy().copy()
    except TypeError as error:
        raise ModelError(
            f"{name} is {tensor.dtype}, which can't be stored", "use float32 or float16"
        ) from error


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of `frozen_state`; equal on both sides."""
    hasher = hashlib.sha256()
    for name, held in sorted(frozen_state(model).items()):
        hasher.update(f"{name}\x00{held.dtype.str}\x00{held.shape}\x00".encode())
        hasher.update(np.ascontiguousarray(held).tobytes())
    return hasher.hexdigest()
