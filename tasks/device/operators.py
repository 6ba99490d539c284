"""Which operators a device's graph may have, and a check of a graph against the list.

Guarantees of a graph that `check` passes: plain `ai.onnx` of one opset, no functions, no
graphs inside it (so no loops), nothing random, and all its constants in its own bytes: it
names no file of the device. The list is checked here at export, with `onnx`, and again by
every device, without it (`tacit.client.edge.walk`).
"""

from __future__ import annotations

import onnx

from tacit.privacy.errors import ModelError
from tacit.protocol.manifest import OPSET
from tacit.protocol.operators import OPERATORS


def check(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The operators of a graph, sorted.

    Raises:
        ModelError: one isn't `OPERATORS`' or not of ``ai.onnx``, or the opset isn't `OPSET`;
            or a constant is in a file.
    """
    for node in proto.graph.node:
        name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        held = {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}
        if name not in OPERATORS or any(attribute.type in held for attribute in node.attribute):
            raise ModelError(f"operator {name} can't run on a device", "use another layer")
        constants = [attribute.t for attribute in node.attribute]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in constants):
            raise ModelError(f"operator {name} has a constant in a file, which a device has not")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer):
        raise ModelError("the graph has a constant in a file, which a device has not")
    if proto.graph.sparse_initializer:
        raise ModelError("the graph has a sparse constant, which not every device can read")
    opsets = [(opset.domain, opset.version) for opset in proto.opset_import]
    if opsets != [("", OPSET)] or proto.functions:
        raise ModelError(f"opset={opsets} of the graph must be ai.onnx {OPSET}, without functions")
    return tuple(sorted({node.op_type for node in proto.graph.node}))
