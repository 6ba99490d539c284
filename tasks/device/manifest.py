"""What a device must know of a graph before it runs it: names, shapes, order and digest.

Guarantees: a manifest is immutable and whole, its canonical JSON (RFC 8785) is the same
wherever it is written, and a graph with another SHA-256 isn't its. Doesn't guarantee who
wrote it: its digest, or its JSON, is what a coordinator signs.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import rfc8785

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, MessageError, ModelError

VERSION = 1
OPSET = 20
DTYPES = frozenset({"bool", "float32", "float64", "int32", "int64", "uint8"})


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Name, element type and shape of what a graph takes, gives, or trains.

    Attributes:
        name: in the graph; of a parameter, in the model.
        dtype: one of `DTYPES`, as numpy calls it.
        shape: fixed; empty for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("name='' must not be empty")
        validate.one_of(f"{self.name}.dtype", self.dtype, DTYPES)
        for size in self.shape:
            validate.at_least(f"{self.name}.shape", size, 1)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A graph's contract.

    Attributes:
        task: the task's name.
        inputs: what the graph takes, in order: ``parameters`` [d], ``inputs`` [m, ...],
            ``targets`` [m, ...], ``mask`` [m] and ``clip`` [].
        outputs: what it gives: ``sum`` [d].
        parameters: the trained tensors, in the order in which they lie in [d], row-major.
        microbatch: m, the rows of a call; a short batch fills up with masked rows.
        operators: of the graph, sorted; all of domain ``ai.onnx``.
        opset: of ``ai.onnx``.
        graph: SHA-256 of the graph's bytes, in hex.
        version: of this format.
    """

    task: str
    inputs: tuple[Tensors, ...]
    outputs: tuple[Tensors, ...]
    parameters: tuple[Tensors, ...]
    microbatch: int
    operators: tuple[str, ...]
    graph: str
    opset: int = OPSET
    version: int = VERSION

    def __post_init__(self) -> None:
        validate.at_least("microbatch", self.microbatch, 1)
        if (self.version, self.opset) != (VERSION, OPSET):
            raise ConfigError(
                f"version={self.version} opset={self.opset} must be {VERSION} and {OPSET}"
            )
        if not re.fullmatch("[0-9a-f]{64}", self.graph):
            raise ConfigError(f"graph={self.graph} must be a SHA-256 in hex")
        names = tuple(tensor.name for tensor in self.inputs)
        if names != ("parameters", "inputs", "targets", "mask", "clip"):
            raise ConfigError(f"inputs={', '.join(names)} aren't those of a device step")
        if tuple(tensor.name for tensor in self.outputs) != ("sum",):
            raise ConfigError("outputs must be the one tensor sum")
        self._check_shapes()

    def _check_shapes(self) -> None:
        flat, x, y, mask, clip = self.inputs
        size, rows = sum(tensor.size for tensor in self.parameters), self.microbatch
        if not flat.shape == self.outputs[0].shape == (size,):
            raise ConfigError(f"parameters.shape={flat.shape} must be ({size},)")
        if mask.shape != (rows,) or x.shape[:1] != (rows,) or y.shape[:1] != (rows,):
            raise ConfigError(f"microbatch={rows} isn't the first dimension of each input")
        if clip.shape != ():
            raise ConfigError(f"clip.shape={clip.shape} must be ()")
        types = (flat.dtype, mask.dtype, clip.dtype, self.outputs[0].dtype)
        if types != ("float32", "bool", "float32", "float32"):
            raise ConfigError(f"dtype={types} aren't those of a device step")

    @property
    def size(self) -> int:
        """How many trained numbers there are: d."""
        return self.outputs[0].size

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785), UTF-8."""
        return rfc8785.dumps(json.loads(json.dumps(asdict(self))))

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def check(self, graph: bytes) -> None:
        """Refuses another graph than the manifest's.

        Raises:
            ModelError: the SHA-256 differs.
        """
        found = hashlib.sha256(graph).hexdigest()
        if found != self.graph:
            raise ModelError(f"graph={found[:12]} isn't the manifest's {self.graph[:12]}")


@dataclass(frozen=True, kw_only=True)
class DeviceStep:
    """A graph and its manifest, which fit.

    Attributes:
        graph: an ONNX `ModelProto`, serialised.
        manifest: of it.
    """

    graph: bytes
    manifest: Manifest

    def __post_init__(self) -> None:
        self.manifest.check(self.graph)


def from_json(text: bytes) -> Manifest:
    """The manifest that canonical JSON holds.

    Raises:
        MessageError: it isn't a manifest, or isn't canonical.
    """
    try:
        held = json.loads(text)
        for key in ("inputs", "outputs", "parameters"):
            held[key] = tuple(_tensors(tensor) for tensor in held[key])
        held["operators"] = tuple(held["operators"])
        manifest = Manifest(**held)
        whole = manifest.to_json() == text
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise MessageError(f"these bytes aren't a device manifest: {error}") from error
    if not whole:
        raise MessageError("the device manifest isn't canonical JSON (RFC 8785)")
    return manifest


def _tensors(held: Mapping[str, Any]) -> Tensors:
    return Tensors(name=held["name"], dtype=held["dtype"], shape=tuple(held["shape"]))
