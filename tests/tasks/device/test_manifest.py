"""`tacit.tasks.device.manifest`: whole, canonical, and of one graph."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from tacit.privacy.errors import ConfigError, MessageError, ModelError
from tacit.tasks.device.manifest import DeviceStep, Manifest, Tensors, from_json

GRAPH = b"a graph"


def tensors(name: str, dtype: str, *shape: int) -> Tensors:
    return Tensors(name=name, dtype=dtype, shape=shape)


def manifest() -> Manifest:
    return Manifest(
        task="made-up",
        inputs=(
            tensors("parameters", "float32", 8),
            tensors("inputs", "float32", 4, 3),
            tensors("targets", "int64", 4),
            tensors("mask", "bool", 4),
            tensors("clip", "float32"),
        ),
        outputs=(tensors("sum", "float32", 8),),
        parameters=(tensors("weight", "float32", 2, 3), tensors("bias", "float32", 2)),
        microbatch=4,
        operators=("Add", "MatMul"),
        graph=hashlib.sha256(GRAPH).hexdigest(),
    )


def test_what_is_written_is_read() -> None:
    made = manifest()
    assert from_json(made.to_json()) == made
    assert made.digest() == hashlib.sha256(made.to_json()).hexdigest()
    assert made.size == 8


def test_another_graph_is_refused() -> None:
    assert DeviceStep(graph=GRAPH, manifest=manifest()).graph == GRAPH
    with pytest.raises(ModelError, match="isn't the manifest's"):
        DeviceStep(graph=GRAPH + b".", manifest=manifest())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        manifest().to_json() + b" ",
        json.dumps(json.loads(manifest().to_json()) | {"microbatch": 5}).encode(),
        json.dumps(json.loads(manifest().to_json()) | {"more": 1}).encode(),
    ],
)
def test_other_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(MessageError, match="manifest"):
        from_json(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"microbatch": 3}, "microbatch=3"),
        ({"microbatch": 0}, "microbatch=0"),
        ({"opset": 21}, "opset=21"),
        ({"graph": "abc"}, "graph=abc"),
        ({"inputs": ()}, "inputs="),
        ({"outputs": ()}, "outputs"),
        ({"parameters": (tensors("weight", "float32", 9),)}, "parameters.shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(manifest(), **change)  # type: ignore[arg-type]


def test_a_tensor_has_a_known_type_and_no_empty_dimension() -> None:
    with pytest.raises(ConfigError, match=r"x\.dtype=complex64"):
        tensors("x", "complex64", 1)
    with pytest.raises(ConfigError, match=r"x\.shape=0"):
        tensors("x", "float32", 0)
