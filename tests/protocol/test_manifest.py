"""`tacit.protocol.manifest`: whole, canonical, within limits, and of one graph."""

from __future__ import annotations

import hashlib
import json

import pytest
from manifests import GRAPH, manifest, scores, tensors

from tacit.privacy.errors import ConfigError, MessageError, ModelError
from tacit.protocol.manifest import LARGEST_GRAPH, DeviceGraph, Manifest, from_json


@pytest.mark.parametrize("made", [manifest(), scores()])
def test_what_is_written_is_read(made: Manifest) -> None:
    assert from_json(made.to_json()) == made
    assert made.digest() == hashlib.sha256(made.to_json()).hexdigest()
    assert made.size == 50


def test_another_graph_is_refused() -> None:
    assert DeviceGraph(graph=GRAPH, manifest=manifest()).graph == GRAPH
    for other in (GRAPH + b".", GRAPH[:-1] + b"."):
        with pytest.raises(ModelError, match="isn't the manifest's"):
            DeviceGraph(graph=other, manifest=manifest())
    with pytest.raises(ModelError, match="isn't the manifest's"):
        manifest(graph_bytes=8).check(GRAPH)


HELD = json.loads(manifest().to_json())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        manifest().to_json() + b" ",
        json.dumps(HELD).encode(),
        *(
            json.dumps(HELD | change, sort_keys=True, separators=(",", ":")).encode()
            for change in (
                {"microbatch": 5},
                {"microbatch": True},
                {"microbatch": 4.0},
                {"more": 1},
                {"task": 1},
                {"operators": "Add"},
                {"operators": [1]},
                {"inputs": {}},
                {"inputs": HELD["inputs"][:4]},
                {"parameters": [{"name": "weight"}]},
                {"parameters": [{"name": "w", "dtype": [], "shape": [50]}]},
                {"kind": "evaluation"},
                {"kind": []},
                {"version": 2},
                {"version": True},
            )
        ),
        *(
            json.dumps(
                {k: v for k, v in HELD.items() if k != key}, sort_keys=True, separators=(",", ":")
            ).encode()
            for key in HELD
        ),
    ],
)
def test_other_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(MessageError, match="manifest"):
        from_json(text)


def many(d: int) -> dict[str, object]:
    return {
        "inputs": (tensors("parameters", "float32", d), *manifest().inputs[1:]),
        "outputs": (tensors("sum", "float64", d),),
        "parameters": (tensors("weight", "float32", d),),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "code"}, "kind=code"),
        ({"microbatch": 3}, "microbatch=3"),
        ({"microbatch": 0}, "microbatch=0"),
        ({"microbatch": 5000}, "microbatch=5000"),
        ({"opset": 21}, "opset=21"),
        ({"graph": "abc"}, "graph=abc"),
        ({"graph_bytes": LARGEST_GRAPH + 1}, "graph_bytes="),
        ({"inputs": ()}, "inputs="),
        ({"outputs": ()}, "outputs"),
        ({"outputs": (tensors("sum", "float32", 50),)}, "outputs"),
        ({"parameters": (tensors("weight", "float32", 51),)}, "parameters.shape"),
        ({"parameters": (tensors("weight", "float64", 50),)}, "parameters.dtype"),
        (many(2**24 + 1), "parameters=16777217"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        manifest(**change)


def test_an_evaluation_has_no_clip_and_a_step_no_scores() -> None:
    with pytest.raises(ConfigError, match="inputs="):
        manifest(kind="evaluation")
    with pytest.raises(ConfigError, match="inputs="):
        scores(kind="step")
    with pytest.raises(ConfigError, match="outputs"):
        scores(outputs=(tensors("score", "float32", 8), tensors("loss", "float64", 8)))


def test_a_tensor_has_a_known_type_and_no_empty_dimension() -> None:
    with pytest.raises(ConfigError, match=r"x\.dtype=complex64"):
        tensors("x", "complex64", 1)
    with pytest.raises(ConfigError, match=r"x\.shape=0"):
        tensors("x", "float32", 0)
    with pytest.raises(ConfigError, match=r"x\.shape="):
        tensors("x", "float32", 2**20, 2**20)
