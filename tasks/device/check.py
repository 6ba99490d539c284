"""A device step beside Opacus: the same sum of clipped gradients, or it isn't used.

Guarantees of what `verify` lets pass, on made-up records, in onnxruntime on this machine: the
sum is that of Opacus's per-example gradients, clipped and added in float64, within 1e-5 of
each tensor's norm; one clipped row is at most C long; masked rows, short and empty batches,
and NaN in a row, masked or not, do what they should. Doesn't guarantee another runtime's
arithmetic, nor a model whose gradients are wrong only where no made-up record reaches.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from tacit.privacy.errors import ModelError
from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.messages import Vector
from tacit.protocol.manifest import DeviceGraph, Manifest
from tacit.tasks import vector
from tacit.tasks.device.runtime import FAILED, said
from tacit.tasks.device.runtime import session as opened
from tacit.tasks.task import Task

TOLERANCE = 1e-5
# Of the whole sum's norm: a tensor whose gradient is nothing but rounding has no scale.
_FLOOR = 1e-6
_Array = NDArray[np.generic]
_Wide = NDArray[np.float64]


@dataclass(frozen=True)
class _Case:
    """Rows of a call, and which of them should count."""

    name: str
    x: _Array
    y: _Array
    mask: NDArray[np.bool_]
    counted: NDArray[np.bool_]


def session(step: DeviceGraph) -> onnxruntime.InferenceSession:
    """The graph in onnxruntime, on one thread of the CPU.

    Raises:
        ModelError: onnxruntime can't load it.
    """
    return opened(step.graph)


def made_up(like: Tensor, rows: int, seed: int) -> Tensor:
    """Records of the shape and type of ``like``, the same ones each time.

    Args:
        like: records in dimension 0; their values aren't looked at.
        rows: how many.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, *like.shape[1:])
    if like.is_floating_point():
        return torch.rand(shape, generator=generator).to(like.dtype)
    # Labels or indices; only 0 and 1 are known to be allowed.
    return torch.randint(0, 2, shape, generator=generator).to(like.dtype)


def verify(step: DeviceGraph, task: Task, model: nn.Module, like: tuple[Tensor, Tensor]) -> float:
    """Compares a graph with Opacus, tensor by tensor.

    Args:
        step: to be checked.
        task: whose loss.
        model: whose parameters, and a little away from them; not modified.
        like: some records; only their shape and type are used.

    Returns:
        The largest error of a whole sum, relative to its norm.

    Raises:
        ModelError: the sum differs, naming the parameter and the case; or Opacus can't take
            the model's gradients.
    """
    runtime, rows = session(step), step.manifest.microbatch
    x, y = made_up(like[0], rows, seed=2), made_up(like[1], rows, seed=3)
    worst, compared = 0.0, False
    for start in (vector.moved(model), vector.read(model)):
        grads = _opacus(task, model, start, x, y)
        if not np.isfinite(grads).all():
            continue
        compared = True
        norms = np.linalg.norm(grads, axis=1)
        middle = float(np.median(norms)) or 1.0
        for case in _cases(x.numpy(), y.numpy()):
            for clip in (middle / 64, middle, 64 * middle):
                bound = float(np.float32(clip))
                scalar = np.array(bound, dtype=np.float32)
                feeds = (start, case.x, case.y, case.mask, scalar)
                got: _Wide = run(runtime, step.manifest, *feeds)[0]
                factor = np.minimum(1.0, MARGIN * bound / (norms + 1e-12))
                want = (factor * case.counted) @ grads
                worst = max(worst, _compare(step, got, want, case))
                if case.counted.sum() == 1 and float(np.linalg.norm(got)) > bound:
                    raise ModelError("a row of the graph's sum is longer than the clip")
    if not compared:
        raise ModelError("made-up records have no finite gradients: the graph can't be checked")
    return worst


def _cases(x: _Array, y: _Array) -> Iterator[_Case]:
    """Batches: full, short, of one row, of none, and with rows that mustn't count."""
    rows = len(x)
    for name, count in (("full", rows), ("short", (rows + 1) // 2), ("single", 1), ("empty", 0)):
        mask = np.arange(rows) < count
        yield _Case(name, x, y, mask, mask)
    last = np.arange(rows) < rows - 1
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[-1], bad_y[-1] = _impossible(x), _impossible(y)
    yield _Case("poisoned and masked", bad_x, bad_y, last, last)
    if x.dtype.kind == "f":
        for value in (np.nan, np.inf):
            bad = x.copy()
            bad.reshape(rows, -1)[-1, 0] = value
            yield _Case(f"with {value}", bad, y, np.ones(rows, dtype=bool), last)


def _impossible(like: _Array) -> float | int:
    """What no record holds."""
    if like.dtype.kind == "f":
        return float("nan")
    return 1 if like.dtype.kind == "b" else int(np.iinfo(like.dtype.name).max)


def run(
    runtime: onnxruntime.InferenceSession, manifest: Manifest, *feeds: _Array
) -> list[np.ndarray]:
    """A graph's outputs.

    Args:
        runtime: from `session`.
        manifest: of the graph.
        feeds: the inputs, in the manifest's order.

    Raises:
        ModelError: onnxruntime can't run it.
    """
    named = {tensor.name: feed for tensor, feed in zip(manifest.inputs, feeds, strict=True)}
    # What the graph has no use for isn't among its inputs any more.
    wanted = {value.name for value in runtime.get_inputs()}
    outputs = [tensor.name for tensor in manifest.outputs]
    try:
        made: list[np.ndarray] = runtime.run(
            outputs, {name: feed for name, feed in named.items() if name in wanted}
        )
    except FAILED as error:
        raise ModelError(f"onnxruntime can't run the graph: {said(error)}") from error
    return made


def _compare(step: DeviceGraph, got: _Wide, want: _Wide, case: _Case) -> float:
    """The relative error of a sum.

    Raises:
        ModelError: a tensor of it differs.
    """
    if not case.counted.any():
        if got.any():
            raise ModelError(f"the graph's sum of no rows isn't zero ({case.name})")
        return 0.0
    whole = float(np.linalg.norm(want))
    ends = np.cumsum([p.size for p in step.manifest.parameters])[:-1]
    parts = zip(step.manifest.parameters, np.split(got, ends), np.split(want, ends), strict=True)
    for parameter, g, w in parts:
        off = float(np.linalg.norm(g - w))
        if not off <= TOLERANCE * float(np.linalg.norm(w)) + _FLOOR * whole:
            raise ModelError(
                f"the graph's clipped gradients of {parameter.name} differ from Opacus's "
                f"({case.name} batch)",
                "is the loss a mean over records, and does each record stand alone?",
            )
    return float(np.linalg.norm(got - want)) / whole if whole else 0.0


def _opacus(task: Task, model: nn.Module, start: Vector, x: Tensor, y: Tensor) -> _Wide:
    """Opacus's per-example gradients, [m, d].

    Raises:
        ModelError: it can't take them.
    """
    twin = copy.deepcopy(model).train()
    vector.write(twin, start)
    try:
        module = GradSampleModule(twin, loss_reduction="mean")
        with warnings.catch_warnings():
            # Opacus hooks modules whose inputs need no gradients.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            torch.autograd.backward(task.loss(module(x), y))
    except (NotImplementedError, RuntimeError, ValueError, IndexError) as error:
        raise ModelError(f"Opacus can't take the model's gradients: {said(error)}") from error
    taken = []
    for name, parameter in twin.named_parameters():
        if not parameter.requires_grad:
            continue
        grads = getattr(parameter, "grad_sample", None)
        if not isinstance(grads, Tensor) or len(grads) != len(x):
            raise ModelError(f"parameter {name} gets no per-example gradients")
        taken.append(grads.reshape(len(x), -1).double())
    return torch.cat(taken, dim=1).numpy()
