"""Manifests of graphs that nobody runs, of 50 parameters as the plans of `planned`."""

from __future__ import annotations

import hashlib
from typing import Any

from tacit.protocol.manifest import Manifest, Tensors

GRAPH = b"a graph"


def tensors(name: str, dtype: str, *shape: int) -> Tensors:
    return Tensors(name=name, dtype=dtype, shape=shape)


BASE: dict[str, Any] = {
    "task": "made-up",
    "inputs": (
        tensors("parameters", "float32", 50),
        tensors("inputs", "float32", 4, 3),
        tensors("targets", "int64", 4),
        tensors("mask", "bool", 4),
        tensors("clip", "float32"),
    ),
    "outputs": (tensors("sum", "float64", 50),),
    "parameters": (tensors("weight", "float32", 16, 3), tensors("bias", "float32", 2)),
    "microbatch": 4,
    "operators": ("Add", "MatMul"),
    "graph": hashlib.sha256(GRAPH).hexdigest(),
    "graph_bytes": len(GRAPH),
}


def manifest(**changes: Any) -> Manifest:
    """Of a step, with ``changes``."""
    return Manifest(**{**BASE, **changes})


def scores(rows: int = 8, **changes: Any) -> Manifest:
    """Of an evaluation."""
    kept = [tensors(t.name, t.dtype, rows, *t.shape[1:]) for t in BASE["inputs"][1:4]]
    made = {
        "kind": "evaluation",
        "inputs": (BASE["inputs"][0], *kept),
        "outputs": (tensors("score", "float32", rows), tensors("loss", "float32", rows)),
        "microbatch": rows,
    }
    return manifest(**{**made, **changes})
