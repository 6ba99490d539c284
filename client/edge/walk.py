"""What is in a graph's bytes, read before anything loads them: no `onnx` needed.

Guarantees: a graph that `check` passes is one well-formed ONNX ``ModelProto`` of the operators
that a device's graph may have, all of ``ai.onnx``, with no function, no graph inside it (so no
loop), no training graph and no sparse tensor; and no tensor of it is kept in a file. It reads the
bytes as protobuf does, a repeated field or a tag written long included, and refuses what it can't
read. What it doesn't check is that the graph makes sense: that is onnxruntime's.
"""

from __future__ import annotations

from collections.abc import Iterator

from tacit.privacy.errors import ModelError
from tacit.protocol.operators import OPERATORS

# Field numbers of onnx.proto, version 1 of the format.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
# Graphs and sparse tensors of an attribute.
_ATTRIBUTE_NEVER = frozenset({6, 11, 22, 23})
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_FIXED = {_EIGHT: 8, _FOUR: 4}
_Value = int | memoryview


def check(data: bytes) -> None:
    """Whether a graph is one for a device.

    Args:
        data: a serialized ``ModelProto``.

    Raises:
        ModelError: it isn't.
    """
    graphs = 0
    for field, value in _fields(memoryview(data)):
        if field in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise ModelError("the graph has functions, or a training graph")
        if field == _MODEL_GRAPH:
            graphs += 1
            _graph(_bytes(value))
    if graphs != 1:
        raise ModelError("the graph isn't one graph")


def _graph(data: memoryview) -> None:
    for field, value in _fields(data):
        if field == _GRAPH_SPARSE:
            raise ModelError("the graph has a sparse constant")
        if field == _GRAPH_INITIALIZER:
            _tensor(_bytes(value))
        elif field == _GRAPH_NODE:
            _node(_bytes(value))


def _node(data: memoryview) -> None:
    operators, domains = list[bytes](), list[bytes]()
    for field, value in _fields(data):
        if field == _NODE_OPERATOR:
            operators.append(bytes(_bytes(value)))
        elif field == _NODE_DOMAIN:
            domains.append(bytes(_bytes(value)))
        elif field == _NODE_ATTRIBUTE:
            _attribute(_bytes(value))
    allowed = len(operators) == 1 and operators[0].decode(errors="replace") in OPERATORS
    if not allowed or any(domain not in (b"", b"ai.onnx") for domain in domains):
        raise ModelError("the graph has an operator that isn't a device's")


def _attribute(data: memoryview) -> None:
    for field, value in _fields(data):
        if field in _ATTRIBUTE_NEVER:
            raise ModelError("the graph has a graph, or a sparse constant, inside it")
        if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _tensor(_bytes(value))


def _tensor(data: memoryview) -> None:
    for field, value in _fields(data):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
            raise ModelError("the graph has a constant in a file, which a device has not")


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ModelError("the graph's bytes aren't an ONNX graph")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, _Value]]:
    """The fields of a message, in order; values are integers, or bytes where they have some."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, wire = tag >> 3, tag & 7
        value: _Value
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            # Groups, which no ONNX has.
            raise ModelError("the graph's bytes aren't an ONNX graph")
        if field == 0 or tag >= 2**32 or size > len(data) - at:
            raise ModelError("the graph's bytes aren't an ONNX graph")
        yield field, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of at most ten bytes, and where the next begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise ModelError("the graph's bytes aren't an ONNX graph")
