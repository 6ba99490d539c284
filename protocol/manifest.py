"""What a device must know of a graph before it runs it: kind, names, shapes, order, digest.

Guarantees: a manifest is immutable, whole and within `LARGEST_GRAPH` and its fellows, its
canonical JSON (RFC 8785) is the same wherever it is written, and a graph of another size or
SHA-256 isn't its. Doesn't guarantee who wrote it: a run document, or its JSON, is what a
coordinator signs (`tacit.protocol.document`, `tacit.protocol.statements`). Nor what operators
the graph really has: those are checked where it is exported, and again by a device before it
loads it (`tacit.client.edge.walk`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import rfc8785

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, MessageError, ModelError

VERSION = 1
OPSET = 20
DTYPES = frozenset({"bool", "float32", "float64", "int32", "int64", "uint8"})
# What a device is asked to hold at most: bytes of a graph, trained numbers, rows of a call,
# and numbers of all inputs and of all rows' gradients together (1 GiB in single precision).
LARGEST_GRAPH = 2**26
MOST_PARAMETERS = 2**24
MOST_ROWS = 2**12
MOST_NUMBERS = 2**28
# Inputs and outputs of each kind of graph, in order.
KINDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "step": (("parameters", "inputs", "targets", "mask", "clip"), ("sum",)),
    "evaluation": (("parameters", "inputs", "targets", "mask"), ("score", "loss")),
}
_DIGEST = re.compile("[0-9a-f]{64}")


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
        if not isinstance(self.name, str) or not 0 < len(self.name) <= 1024:
            raise ConfigError("name of a tensor must have 1 to 1024 characters")
        validate.one_of(f"{self.name}.dtype", self.dtype, DTYPES)
        for size in self.shape:
            validate.at_least(f"{self.name}.shape", size, 1)
        if self.size > MOST_NUMBERS:
            raise ConfigError(f"{self.name}.shape={self.shape} is more than {MOST_NUMBERS} numbers")

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A graph's contract.

    Attributes:
        kind: "step", or "evaluation".
        task: the task's name.
        inputs: what the graph takes, in order: ``parameters`` [d], ``inputs`` [m, ...],
            ``targets`` [m, ...], ``mask`` [m] and, of a step, ``clip`` []. A graph that has no
            use for one of them doesn't list it among its own; feed it what it lists.
        outputs: what it gives. Of a step ``sum`` [d], float64: the clipped gradients' sum
            (`tacit.tasks.device.graph`). Of an evaluation ``score`` and ``loss``, [m]
            (`tacit.tasks.device.evaluation`).
        parameters: the trained tensors, in the order in which they lie in [d], row-major.
        microbatch: m, the rows of a call; a short batch fills up with masked rows.
        operators: of the graph, sorted; all of domain ``ai.onnx``.
        graph: SHA-256 of the graph's bytes, in hex.
        graph_bytes: how many they are.
        opset: of ``ai.onnx``.
        version: of this format.
    """

    kind: str = "step"
    task: str
    inputs: tuple[Tensors, ...]
    outputs: tuple[Tensors, ...]
    parameters: tuple[Tensors, ...]
    microbatch: int
    operators: tuple[str, ...]
    graph: str
    graph_bytes: int
    opset: int = OPSET
    version: int = VERSION

    def __post_init__(self) -> None:
        if not all(isinstance(n, str) for n in (self.kind, self.task, self.graph, *self.operators)):
            raise ConfigError("kind, task, graph and operators must be words")
        validate.one_of("kind", self.kind, KINDS)
        validate.at_least("version", self.version, 1)
        _within("microbatch", self.microbatch, MOST_ROWS)
        _within("graph_bytes", self.graph_bytes, LARGEST_GRAPH)
        if (self.version, self.opset) != (VERSION, OPSET):
            raise ConfigError(
                f"version={self.version} opset={self.opset} must be {VERSION} and {OPSET}"
            )
        if not _DIGEST.fullmatch(self.graph):
            raise ConfigError(f"graph={self.graph} must be a SHA-256 in hex")
        inputs, outputs = KINDS[self.kind]
        names = tuple(tensor.name for tensor in self.inputs)
        if names != inputs:
            raise ConfigError(f"inputs={', '.join(names)} aren't those of a device's {self.kind}")
        if tuple(tensor.name for tensor in self.outputs) != outputs:
            raise ConfigError(f"outputs of a device's {self.kind} must be {', '.join(outputs)}")
        self._check_shapes()
        self._check_outputs()

    def _check_shapes(self) -> None:
        flat, x, y, mask = self.inputs[:4]
        size, rows = sum(tensor.size for tensor in self.parameters), self.microbatch
        _within("parameters", size, MOST_PARAMETERS)
        _within("parameters * microbatch", size * rows, MOST_NUMBERS)
        if flat.shape != (size,):
            raise ConfigError(f"parameters.shape={flat.shape} must be ({size},)")
        if mask.shape != (rows,) or x.shape[:1] != (rows,) or y.shape[:1] != (rows,):
            raise ConfigError(f"microbatch={rows} isn't the first dimension of each input")
        if any(tensor.dtype != "float32" for tensor in (flat, *self.parameters)):
            raise ConfigError("parameters.dtype must be float32")
        if mask.dtype != "bool":
            raise ConfigError(f"mask.dtype={mask.dtype} must be bool")

    def _check_outputs(self) -> None:
        if self.kind == "step":
            want = [("float32", ()), ("float64", (self.size,))]
            found = [(t.dtype, t.shape) for t in (self.inputs[4], self.outputs[0])]
        else:
            want = [("float32", (self.microbatch,))] * 2
            found = [(t.dtype, t.shape) for t in self.outputs]
        if found != want:
            raise ConfigError(f"clip and outputs={found} of a device's {self.kind} must be {want}")

    @property
    def size(self) -> int:
        """How many trained numbers there are: d."""
        return self.inputs[0].size

    def fields(self) -> dict[str, Any]:
        """As plain JSON values; `from_fields` reads them back."""
        made: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return made

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785), UTF-8."""
        return rfc8785.dumps(self.fields())

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def check(self, graph: bytes) -> None:
        """Refuses another graph than the manifest's.

        Raises:
            ModelError: the size or the SHA-256 differs.
        """
        found = hashlib.sha256(graph).hexdigest()
        if len(graph) != self.graph_bytes or found != self.graph:
            raise ModelError(f"graph={found[:12]} isn't the manifest's {self.graph[:12]}")


@dataclass(frozen=True, kw_only=True)
class DeviceGraph:
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
        manifest = from_fields(json.loads(text))
        whole = manifest.to_json() == text
    except (ValueError, RecursionError, ConfigError) as error:
        raise MessageError(f"these bytes aren't a device manifest: {error}") from error
    if not whole:
        raise MessageError("the device manifest isn't canonical JSON (RFC 8785)")
    return manifest


def from_fields(held: Any) -> Manifest:
    """The manifest of plain JSON values.

    Raises:
        ConfigError: a field is missing, unknown, of the wrong type or out of range.
    """
    _same_fields(held, Manifest, "manifest")
    parts = {key: _all(key, held[key]) for key in ("inputs", "outputs", "parameters")}
    made = {key: tuple(_tensors(tensor) for tensor in value) for key, value in parts.items()}
    return Manifest(**{**held, **made, "operators": tuple(_all("operators", held["operators"]))})


def _tensors(held: Any) -> Tensors:
    _same_fields(held, Tensors, "tensor")
    if not isinstance(held["dtype"], str):
        raise ConfigError("dtype must be a word")
    return Tensors(**{**held, "shape": tuple(_all("shape", held["shape"]))})


def _same_fields(held: Any, cls: type[Manifest | Tensors], what: str) -> None:
    known = {field.name for field in fields(cls)}
    if not isinstance(held, Mapping) or set(held) != known:
        odd = sorted(map(str, set(held) ^ known)) if isinstance(held, Mapping) else "all"
        raise ConfigError(f"{what}: fields={odd} are too many or missing")


def _all(key: str, held: Any) -> list[Any]:
    if not isinstance(held, list):
        raise ConfigError(f"{key} must be a list")
    return held


def _within(name: str, value: int, most: int) -> None:
    validate.at_least(name, value, 1)
    if value > most:
        raise ConfigError(f"{name}={value} must be at most {most}")
