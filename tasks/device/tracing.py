"""From a function of tensors to plain ONNX: what a step and an evaluation have in common.

Guarantees: equal functions and arguments give equal bytes with equal versions of torch and
onnxscript, and what an exporter can't do is a `ModelError` that names the operator. It doesn't
check that the operators are a device's (`tacit.tasks.device.operators`), nor any result.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from tacit.privacy.errors import ModelError
from tacit.protocol.manifest import KINDS, OPSET, DeviceGraph, Manifest, Tensors
from tacit.tasks.device import decompositions, operators
from tacit.tasks.task import Task

REFUSED = (
    torch.onnx.OnnxExporterError,
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
)


def packed(
    kind: str,
    task: Task,
    model: nn.Module,
    function: Callable[..., Any],
    arguments: tuple[Tensor, ...],
) -> DeviceGraph:
    """A function's graph with its manifest.

    Args:
        kind: of graph, `tacit.protocol.manifest.KINDS`.
        task: whose name it has.
        model: whose trained parameters the first argument holds.
        function: without state, and random numbers.
        arguments: of the shapes and types that it will get; the mask is the fourth.

    Raises:
        ConfigError: a shape can't be.
        ModelError: an operator, named, can't run on a device, or the model draws random
            numbers.
    """
    names, outputs = KINDS[kind]
    proto = _exported(function, names, outputs, arguments)
    graph: bytes = proto.SerializeToString(deterministic=True)
    with torch.no_grad():
        results = function(*arguments)
    given = results if isinstance(results, tuple) else (results,)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    manifest = Manifest(
        kind=kind,
        task=task.name,
        inputs=tuple(_described(n, t) for n, t in zip(names, arguments, strict=True)),
        outputs=tuple(_described(n, t) for n, t in zip(outputs, given, strict=True)),
        parameters=tuple(_described(n, p) for n, p in trained),
        microbatch=len(arguments[3]),
        operators=operators.check(proto),
        graph=hashlib.sha256(graph).hexdigest(),
        graph_bytes=len(graph),
    )
    return DeviceGraph(graph=graph, manifest=manifest)


def flat_parameters(model: nn.Module) -> Tensor:
    """The trained parameters as one tensor, [d]."""
    trained = [p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]
    return torch.cat(trained)


def unflattened(model: nn.Module) -> Callable[[Tensor], dict[str, Tensor]]:
    """What names the trained parameters in a tensor made by `flat_parameters`."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    ends = list(itertools.accumulate(p.numel() for _, p in trained))

    def named(flat: Tensor) -> dict[str, Tensor]:
        return {
            name: flat[end - p.numel() : end].view(p.shape)
            for (name, p), end in zip(trained, ends, strict=True)
        }

    return named


def _exported(
    function: Callable[..., Any],
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    arguments: tuple[Tensor, ...],
) -> onnx.ModelProto:
    """ONNX of a function, constants folded, nothing of this machine in it."""
    try:
        traced = make_fx(function, decomposition_table=decompositions.table())(*arguments)
        with quiet():
            program = torch.onnx.export(
                torch.export.export(traced, arguments),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(names),
                output_names=list(outputs),
                # Its rules take 1 - 2^-20 for 1, and MARGIN goes.
                optimize=False,
                verbose=False,
            )
    except REFUSED as error:
        raise refusal(error) from error
    assert program is not None
    return tidied(program)


def tidied(program: torch.onnx.ONNXProgram) -> onnx.ModelProto:
    """An exported graph with constants folded, and nothing in it of where it was made."""
    onnxscript.optimizer.fold_constants(program.model, output_size_limit=256)
    passes.CommonSubexpressionEliminationPass()(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    passes.RemoveUnusedOpsetsPass()(program.model)
    passes.ClearMetadataAndDocStringPass()(program.model)
    proto: onnx.ModelProto = program.model_proto
    # Shapes between operators: half the bytes, and onnxruntime finds them itself.
    proto.graph.ClearField("value_info")
    return proto


def _described(name: str, tensor: Tensor) -> Tensors:
    """A tensor as a manifest has it."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Tensors(name=name, dtype=dtype, shape=tuple(tensor.shape))


def finite(rows: Tensor) -> Tensor:
    """Which rows hold neither NaN nor an infinity, bool [m]."""
    if not rows.is_floating_point():
        return torch.ones(len(rows), dtype=torch.bool)
    return torch.isfinite(rows.reshape(len(rows), -1)).all(1)


def kept(fit: Tensor, rows: Tensor) -> Tensor:
    """Rows that count, and zeros: a product would keep a NaN."""
    return torch.where(fit.view(-1, *[1] * (rows.dim() - 1)), rows, torch.zeros_like(rows))


def refusal(error: Exception, where: str = "on a device", what: str = "device step") -> ModelError:
    """What an exporter's error says of an operator, in one line.

    Args:
        error: of `REFUSED`.
        where: the graph was to run.
        what: the graph was to be.
    """
    text = str(error)
    found = re.search(r"op='(\w+\.\w+)", text)
    if found:
        return ModelError(f"operator {found[1]} can't run {where}", "use another layer")
    if "randomness" in text:
        return ModelError(f"the model draws random numbers, which no {what} may", "use no dropout")
    said = text.strip().partition("\n")[0]
    return ModelError(f"the model has no {what}: {type(error).__name__}: {said}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's lines on packages that aren't there, and torch's on itself."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*isinstance.treespec", category=FutureWarning
            )
            yield
    finally:
        logger.setLevel(before)
