"""A task's model as an ONNX graph that answers for records: what scoring serves.

Guarantees of a `Graph`: it gives what the task's model gives in evaluation mode with a version's
parameters, within 1e-5 of the largest output, on made-up records of several sizes, in
onnxruntime on this machine; and what it gives for a record doesn't depend on the records beside
it. It has a version's whole state in it and takes ``inputs`` [n, ...] alone. Plain ``ai.onnx`` of
the list that devices keep to (`tacit.tasks.device.operators`): nothing random, no loops, no files.

The structure is exported once (`template`, about a second) and takes any version's parameters
(`graph`, milliseconds). n is free where torch can export the model so; else the graph takes one
record a call (``rows`` is 1), and callers go row by row.

Doesn't guarantee anything of records that no model of the task could take, such as letters beyond
its alphabet; nor that another machine's arithmetic rounds alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.func import functional_call

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ModelError
from tacit.protocol.manifest import OPSET
from tacit.tasks.device import operators
from tacit.tasks.device.bundle import shapes
from tacit.tasks.device.runtime import FAILED, said
from tacit.tasks.device.runtime import session as opened
from tacit.tasks.device.tracing import REFUSED, quiet, refusal, tidied
from tacit.tasks.task import Task, make_model

Array = np.ndarray
TOLERANCE = 1e-5
INPUTS, OUTPUTS = "inputs", "outputs"
_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Template:
    """A model's structure: it takes every tensor of a version as an input.

    Attributes:
        graph: ONNX.
        dtype: of a record, as numpy calls it.
        shape: of a record.
        rows: records of a call; None for any number.
    """

    graph: bytes
    dtype: str
    shape: tuple[int, ...]
    rows: int | None


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A version's graph.

    Attributes:
        graph: ONNX.
        digest: SHA-256 of it, in hex.
        dtype: of a record.
        shape: of a record.
        rows: records of a call; None for any number.
        runtime: that runs it.
    """

    graph: bytes
    digest: str
    dtype: str
    shape: tuple[int, ...]
    rows: int | None
    runtime: onnxruntime.InferenceSession

    def run(self, inputs: Array, options: onnxruntime.RunOptions | None = None) -> Array:
        """What the model gives for each record.

        Args:
            inputs: [n, ...] of `dtype`, n at least 1.
            options: whose ``terminate`` ends the run from another thread.

        Raises:
            ModelError: onnxruntime can't run it on these records, or was told to end.
        """
        step = self.rows or len(inputs)
        parts = [inputs[at : at + step] for at in range(0, len(inputs), step)]
        try:
            made = [self.runtime.run([OUTPUTS], {INPUTS: part}, options)[0] for part in parts]
        except FAILED as error:
            raise ModelError(f"the graph can't score these records: {said(error):.200}") from error
        return np.concatenate(made) if len(made) > 1 else np.asarray(made[0])


def template(task: Task, spec: RunSpec) -> Template:
    """Exports a task's model.

    Raises:
        ModelError: an operator, named, can't be served; or the model draws random numbers, or
            gives anything but one tensor with a record in each row.
        DataError: no records say what shape they have.
    """
    like = shapes(task, spec)[0]
    model = make_model(task, spec.seed).eval()
    rows = None
    try:
        proto = _exported(model, made_up(like, 3, seed=0), free=True)
        proven = onnx.shape_inference.infer_shapes(proto)
        if proven.graph.output[0].type.tensor_type.shape.dim[0].dim_value:
            raise ModelError("the number of records is fixed")
    except ModelError:
        rows, proto = 1, _exported(model, made_up(like, 1, seed=0), free=False)
    operators.check(proto)
    return Template(
        graph=proto.SerializeToString(deterministic=True),
        dtype=str(like.dtype).removeprefix("torch."),
        shape=tuple(like.shape[1:]),
        rows=rows,
    )


def graph(task: Task, spec: RunSpec, arrays: Mapping[str, Array], made: Template) -> Graph:
    """A version's graph, checked beside torch.

    Args:
        task: that the version is of.
        spec: of its run.
        arrays: the version's, as the registry has them.
        made: of the task.

    Raises:
        ModelError: the arrays aren't of this task's model; or the graph differs from it.
    """
    model = make_model(task, spec.seed).eval()
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the version isn't of task {task.name}'s model: {said(error):.200}",
            "give the task that it was trained with",
        ) from error
    data = _bound(made, model)
    found = Graph(
        graph=data,
        digest=hashlib.sha256(data).hexdigest(),
        dtype=made.dtype,
        shape=made.shape,
        rows=made.rows,
        runtime=session(data),
    )
    _check(found, model)
    return found


def session(data: bytes) -> onnxruntime.InferenceSession:
    """A graph as it answers; what is refused is told by its error, not by a line of a log.

    Raises:
        ModelError: onnxruntime can't load it.
    """
    return opened(data, severity=4)


def made_up(like: Tensor, rows: int, seed: int, spread: float = 1.0) -> Tensor:
    """Records of the shape and type of ``like``, the same ones each time.

    Args:
        like: records in dimension 0; their values aren't looked at.
        rows: how many.
        seed: of the draw.
        spread: standard deviation of floats.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, *like.shape[1:])
    if like.is_floating_point():
        return spread * torch.randn(shape, generator=generator).to(like.dtype)
    # Indices; only 0 and 1 are known to be allowed.
    return torch.randint(0, 2, shape, generator=generator).to(like.dtype)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """All that a model computes with, each tensor once."""
    held = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in held}


class _Forward(nn.Module):
    """A model as a function of records and its own tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Not registered: its tensors come as arguments.
        object.__setattr__(self, "held", model)
        self.names = list(_tensors(model))

    def forward(self, x: Tensor, *tensors: Tensor) -> Any:
        named = dict(zip(self.names, tensors, strict=True))
        return functional_call(object.__getattribute__(self, "held"), named, (x,))


def _exported(model: nn.Module, x: Tensor, free: bool) -> onnx.ModelProto:
    """ONNX of a model; ``free`` leaves the number of records open."""
    forward = _Forward(model).eval()
    tensors = tuple(tensor.clone() for tensor in _tensors(model).values())
    sizes: Any = ({0: torch.export.Dim.DYNAMIC}, tuple(None for _ in tensors)) if free else None
    try:
        with torch.no_grad(), quiet():
            outputs = forward(x, *tensors)
            if not isinstance(outputs, Tensor) or outputs.dim() == 0 or len(outputs) != len(x):
                raise ModelError(
                    "the model must give one tensor with a record in each row to be served"
                )
            program = torch.onnx.export(
                torch.export.export(forward, (x, *tensors), dynamic_shapes=sizes),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUTS, *(_name(name) for name in forward.names)],
                output_names=[OUTPUTS],
                optimize=False,
                verbose=False,
            )
    except REFUSED as error:
        raise refusal(error, "in a scoring graph", "scoring graph") from error
    assert program is not None
    return tidied(program)


def _name(tensor: str) -> str:
    """What a version's tensor is called in a graph."""
    return f"state.{tensor}"


def _bound(made: Template, model: nn.Module) -> bytes:
    """A template's graph with a model's tensors in it."""
    proto = onnx.load_from_string(made.graph)
    held = {_name(name): tensor.cpu().numpy() for name, tensor in _tensors(model).items()}
    kept = []
    for value in proto.graph.input:
        if value.name == INPUTS:
            kept.append(value)
            continue
        if value.name not in held:
            raise ModelError(f"the graph takes {value.name}, which the model hasn't")
        proto.graph.initializer.append(numpy_helper.from_array(held[value.name], value.name))
    if not kept:
        raise ModelError("the model's outputs don't depend on its inputs")
    proto.graph.ClearField("input")
    proto.graph.input.extend(kept)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _check(made: Graph, model: nn.Module) -> None:
    """Compares a graph with torch.

    Raises:
        ModelError: it differs; or a record's score depends on those beside it; or made-up
            records have no finite scores, so that nothing was compared.
    """
    compared = False
    for x in _cases(made):
        with torch.no_grad():
            want = model(x).numpy()
        got = made.run(x.numpy())
        if got.shape != want.shape:
            raise ModelError(f"the graph gives shape={got.shape}, and torch {want.shape}")
        single = np.concatenate([made.run(x[i : i + 1].numpy()) for i in range(len(x))])
        fit = np.isfinite(want)
        if not fit.any():
            continue
        compared = True
        allowed = TOLERANCE * max(float(np.abs(want[fit]).max()), 1e-6)
        if not np.abs(got[fit] - want[fit]).max() <= allowed:
            raise ModelError("the graph's outputs differ from torch's")
        if not np.abs(single[fit] - want[fit]).max() <= allowed:
            raise ModelError("a record's score depends on the records beside it")
    if not compared:
        raise ModelError("made-up records have no finite scores: the graph can't be checked")


def _cases(made: Graph) -> Iterator[Tensor]:
    like = torch.zeros((1, *made.shape), dtype=getattr(torch, made.dtype))
    yield made_up(like, _ROWS, seed=1)
    yield made_up(like, 1, seed=2, spread=0.1)
    yield made_up(like, 2 * _ROWS, seed=3, spread=4.0)
