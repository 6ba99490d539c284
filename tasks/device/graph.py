"""A task's model and loss as one ONNX graph: the sum of clipped per-example gradients.

Guarantees: for flat parameters w [d], records x and y [m, ...], a mask [m] and a clip C, the
graph gives ``sum_i ok_i * min(1, MARGIN * C / (||g_i|| + 1e-12)) * g_i``, float32 [d], with
g_i the gradient of record i's loss: what `tacit.client.dpsgd.NoisyOptimizer` sums (Abadi et
al. 2016, Algorithm 1). Row i counts where the mask has it, what it holds is finite, and so is
the norm; any other row adds exactly zero, whatever it holds. Plain `ai.onnx` operators of an
allow-list, no functions, no control flow, nothing random. An export is checked by
`tacit.tasks.device.check` before it is returned.

Doesn't guarantee privacy: the noise is the caller's, outside the graph, as is a clip that is
positive and finite, and labels and indices in range in rows that count. Frozen parameters and
buffers are constants of the graph, as they were at export.

One difference from the trainer: a record with a NaN or an infinity in it never counts, even
where a model would make a finite gradient of it, since onnxruntime's Relu and MaxPool may
drop a NaN that torch passes on.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Iterator

import onnx
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from tacit.privacy import validate
from tacit.privacy.errors import ModelError
from tacit.privacy.mechanisms import MARGIN
from tacit.tasks.device import decompositions
from tacit.tasks.device.check import made_up, verify
from tacit.tasks.device.manifest import OPSET, DeviceStep, Manifest, Tensors
from tacit.tasks.task import Task

# What stock builds of onnxruntime run, deterministic and without control flow.
# fmt: off
OPERATORS = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "ArgMax",
        "ArgMin",
        "AveragePool",
        "Cast",
        "CastLike",
        "Ceil",
        "Clip",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Conv",
        "ConvTranspose",
        "Cos",
        "CumSum",
        "Div",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "IsInf",
        "IsNaN",
        "LayerNormalization",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "Log",
        "LogSoftmax",
        "MatMul",
        "Max",
        "MaxPool",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "OneHot",
        "Or",
        "PRelu",
        "Pad",
        "Pow",
        "Range",
        "Reciprocal",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Round",
        "ScatterElements",
        "ScatterND",
        "Selu",
        "Shape",
        "Sigmoid",
        "Sign",
        "Sin",
        "Slice",
        "Softmax",
        "Softplus",
        "Softsign",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tan",
        "Tanh",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Xor",
    }
)
# fmt: on
_INPUTS = ("parameters", "inputs", "targets", "mask", "clip")
_REFUSED = (
    torch.onnx.OnnxExporterError,
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
)
_Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def export_device_step(
    task: Task, model: nn.Module, like: tuple[Tensor, Tensor], microbatch: int
) -> DeviceStep:
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
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    flat = torch.cat([p.detach().reshape(-1) for _, p in trained])
    arguments = (flat, x, y, torch.ones(microbatch, dtype=torch.bool), torch.tensor(1.0))
    inputs = tuple(_described(n, t) for n, t in zip(_INPUTS, arguments, strict=True))
    proto = _exported(_step(task, copy.deepcopy(model).train()), arguments)
    graph = proto.SerializeToString(deterministic=True)
    manifest = Manifest(
        task=task.name,
        inputs=inputs,
        outputs=(_described("sum", flat),),
        parameters=tuple(_described(n, p) for n, p in trained),
        microbatch=microbatch,
        operators=check_operators(proto),
        graph=hashlib.sha256(graph).hexdigest(),
    )
    made = DeviceStep(graph=graph, manifest=manifest)
    verify(made, task, model, like)
    return made


def check_operators(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The operators of a graph, sorted.

    Raises:
        ModelError: one isn't `OPERATORS`' or not of ``ai.onnx``, or the opset isn't `OPSET`.
    """
    for node in proto.graph.node:
        name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if name not in OPERATORS:
            raise ModelError(f"operator {name} can't run on a device", "use another layer")
    opsets = [(opset.domain, opset.version) for opset in proto.opset_import]
    if opsets != [("", OPSET)] or proto.functions:
        raise ModelError(f"opset={opsets} of the graph must be ai.onnx {OPSET}, without functions")
    return tuple(sorted({node.op_type for node in proto.graph.node}))


def _step(task: Task, model: nn.Module) -> _Step:
    """The sum of clipped gradients, as a function of flat parameters."""
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    ends = list(itertools.accumulate(p.numel() for _, p in trained))

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return task.loss(functional_call(model, parameters, (x[None],)), y[None])

    def step(flat: Tensor, x: Tensor, y: Tensor, mask: Tensor, clip: Tensor) -> Tensor:
        parameters = {
            name: flat[end - p.numel() : end].view(p.shape)
            for (name, p), end in zip(trained, ends, strict=True)
        }
        fit = mask & _finite(x) & _finite(y)
        grads = vmap(grad(loss), (None, 0, 0))(parameters, _kept(fit, x), _kept(fit, y))
        rows = [grads[name].reshape(len(x), -1) for name, _ in trained]
        norms = torch.stack([g.pow(2).sum(1) for g in rows]).sum(0).sqrt()
        fit = fit & torch.isfinite(norms)
        factor = (MARGIN * clip / (norms + 1e-12)).clamp(max=1.0)
        factor = torch.where(fit, factor, torch.zeros_like(factor))
        return torch.cat([factor @ _kept(fit, g) for g in rows])

    return step


def _finite(rows: Tensor) -> Tensor:
    """Which rows are, bool [m]."""
    if not rows.is_floating_point():
        return torch.ones(len(rows), dtype=torch.bool)
    return torch.isfinite(rows.reshape(len(rows), -1)).all(1)


def _kept(fit: Tensor, rows: Tensor) -> Tensor:
    """Rows that count, and zeros: a product would keep a NaN."""
    return torch.where(fit.view(-1, *[1] * (rows.dim() - 1)), rows, torch.zeros_like(rows))


def _exported(step: _Step, arguments: tuple[Tensor, ...]) -> onnx.ModelProto:
    """ONNX of a step, constants folded, nothing of this machine in it."""
    try:
        traced = make_fx(step, decomposition_table=decompositions.table())(*arguments)
        with _quiet():
            program = torch.onnx.export(
                torch.export.export(traced, arguments),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(_INPUTS),
                output_names=["sum"],
                # Its rules take 1 - 2^-20 for 1, and MARGIN goes.
                optimize=False,
                verbose=False,
            )
    except _REFUSED as error:
        raise _refusal(error) from error
    assert program is not None
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
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Tensors(name=name, dtype=dtype, shape=tuple(tensor.shape))


def _refusal(error: Exception) -> ModelError:
    """What an exporter's error says of an operator, in one line."""
    text = str(error)
    found = re.search(r"op='(\w+\.\w+)", text)
    if found:
        return ModelError(f"operator {found[1]} can't run on a device", "use another layer")
    if "randomness" in text:
        return ModelError(
            "the model draws random numbers, which no device step may", "use no dropout"
        )
    said = text.strip().partition("\n")[0]
    return ModelError(f"the model has no device step: {type(error).__name__}: {said}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's lines on packages that aren't there."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
