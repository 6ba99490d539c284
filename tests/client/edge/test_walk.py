"""A graph's bytes as a device reads them before it loads them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import devices
import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tacit.client.edge import walk
from tacit.client.edge.runtime import Graph
from tacit.privacy.errors import ModelError
from tacit.protocol.manifest import Manifest


def exported() -> tuple[ModelProto, Manifest]:
    _, document, blobs = devices.exported()
    proto = ModelProto()
    proto.ParseFromString(blobs[document.step.graph])
    return proto, document.step


def tensor(where: Path | None = None) -> TensorProto:
    made = numpy_helper.from_array(np.zeros(8, dtype=np.uint8), "k")
    if where is not None:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=where.name)
    return made


def test_an_exported_graph_is_a_devices() -> None:
    blobs = devices.exported("evaluation=federated")[2]
    assert len(blobs) == 2
    for data in blobs.values():
        walk.check(data)


def test_a_graph_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"8 bytes.")
    monkeypatch.chdir(tmp_path)
    for walked in (True, False):
        proto, manifest = exported()
        proto.graph.initializer.append(tensor(tmp_path / "key"))
        proto.graph.node.append(NodeProto(op_type="Identity", input=["k"], output=["out"]))
        proto.graph.output.append(helper.make_tensor_value_info("out", TensorProto.UINT8, [8]))
        data = proto.SerializeToString()
        held = {"graph": hashlib.sha256(data).hexdigest(), "graph_bytes": len(data)}
        if not walked:
            # Nor would onnxruntime find it.
            monkeypatch.setattr(walk, "check", lambda _: None)
        with pytest.raises(ModelError, match="in a file" if walked else "can't load"):
            Graph(data, dataclasses.replace(manifest, **held))


def test_what_a_device_does_not_run_is_refused(tmp_path: Path) -> None:
    outside = tensor(tmp_path / "key")
    inner = helper.make_graph([], "inner", [], [])
    for node in (
        NodeProto(op_type="RandomNormal"),
        NodeProto(op_type="Loop"),
        NodeProto(op_type="Add", domain="com.microsoft"),
        NodeProto(),
        NodeProto(op_type="Constant", attribute=[AttributeProto(name="value", t=outside)]),
        NodeProto(op_type="Constant", attribute=[AttributeProto(name="v", tensors=[outside])]),
        NodeProto(op_type="Add", attribute=[AttributeProto(name="body", g=inner)]),
        NodeProto(op_type="Add", attribute=[AttributeProto(name="body", graphs=[inner])]),
    ):
        proto, _ = exported()
        proto.graph.node.append(node)
        with pytest.raises(ModelError, match="the graph has a"):
            walk.check(proto.SerializeToString())
    proto, _ = exported()
    proto.functions.add(name="f")
    with pytest.raises(ModelError, match="functions"):
        walk.check(proto.SerializeToString())
    proto, _ = exported()
    proto.graph.sparse_initializer.add()
    with pytest.raises(ModelError, match="sparse"):
        walk.check(proto.SerializeToString())


def test_bytes_that_are_no_graph_are_refused() -> None:
    whole = exported()[0].SerializeToString()
    # Twice is what protobuf would merge; a field over its end, a group, a tag that never ends.
    for data in (b"", whole + whole, whole[:-1], b"\x0b", b"\xff" * 11, b"\x3a\x05a", b"\x38\x01"):
        with pytest.raises(ModelError, match="the graph"):
            walk.check(data)
    # A tag written long is the same tag.
    proto, _ = exported()
    proto.functions.add(name="f")
    data = proto.SerializeToString().replace(b"\xca\x01", b"\xca\x81\x00")
    with pytest.raises(ModelError):
        walk.check(data)
