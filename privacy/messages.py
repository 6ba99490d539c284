"""What coordinator and clients say to each other, as frozen dataclasses with a byte encoding.

Encoding: ``b"TCT1"``, the header's length (uint32, little-endian), the header (canonical
JSON, RFC 8785: kind, fields, and name and length of each array), then the arrays' bytes in
the header's order: float32, little-endian, for a ``Vector``, as they are for ``bytes``.
Decoding refuses anything else: a wrong length, an unknown kind or field. A client's reply
holds nothing but vectors that go through a charged mechanism, and what secure aggregation
needs: no counts, losses or timings.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import numpy as np
import rfc8785
from numpy.typing import NDArray

from tacit.privacy.errors import MessageError

_MAGIC = b"TCT1"
_DTYPE = np.dtype("<f4")
# Bytes an item of an array takes, by the type that its field is declared with.
_ITEM = {"Vector": _DTYPE.itemsize, "bytes": 1}

# Headers that are kept, parsed and written: how many, and the longest.
_KEPT, _KEPT_BYTES = 256, 4096
_PLAIN = (str, int, float, bool)

Vector = NDArray[np.float32]
Shapes = tuple[tuple[str, int], ...]
Plain = tuple[tuple[str, type, Any], ...]
Layout = tuple[tuple[str, str, int], ...]
M = TypeVar("M", bound="Message")


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """Base of the messages.

    Attributes:
        run: the run's identifier.
        round: the round, from 1.
        attempt: counts the charges made for this round, from 0.
    """

    kind: ClassVar[str] = ""

    run: str
    round: int
    attempt: int

    def encode(self) -> bytes:
        """The message in bytes."""
        return b"".join(self._parts())

    def digest(self) -> bytes:
        """SHA-256 of the message in bytes, without making them."""
        hasher = hashlib.sha256()
        for part in self._parts():
            hasher.update(part)
        return hasher.digest()

    def _parts(self) -> list[bytes | memoryview]:
        scalars: list[tuple[str, Any]] = []
        shapes: list[tuple[str, int]] = []
        arrays: list[bytes | memoryview] = []
        for name in _types(type(self)):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                shapes.append((name, value.size))
                arrays.append(np.ascontiguousarray(value, dtype=_DTYPE).data)
            elif isinstance(value, bytes):
                shapes.append((name, len(value)))
                arrays.append(value)
            else:
                scalars.append((name, value))
        header = _header(self.kind, scalars, tuple(shapes))
        return [_MAGIC, struct.pack("<I", len(header)), header, *arrays]

    @classmethod
    def decode(cls: type[M], data: bytes) -> M:
        """Reads a message of this kind.

        The vectors are read-only views of ``data``.

        Raises:
            MessageError: the bytes aren't exactly one message of this kind.
        """
        head, body = _split(data)
        # What is long isn't kept, or peers could fill the memory; nor is what was refused.
        read = _read if len(head) > _KEPT_BYTES else _read_once
        kind: Any = cls  # mypy takes a class's hash for its instances'.
        scalars, layout = read(kind, head)
        values: dict[str, Any] = {**scalars, **_arrays(layout, body)}
        return cls(**values)


def _read(cls: type[Message], head: bytes) -> tuple[Mapping[str, Any], Layout]:
    """A header's fields, and name, type and bytes of each array; nobody may change them."""
    header = _parsed(head)
    if header["kind"] != cls.kind:
        raise MessageError(f"message kind={header['kind']!r} where {cls.kind!r} was due")
    types, arrays, scalars = _types(cls), header["arrays"], header["fields"]
    order = [name for name, declared in types.items() if declared in _ITEM]
    if [array["name"] for array in arrays] != order:
        raise MessageError(f"message arrays should be {order}, in this order")
    if not scalars.keys().isdisjoint(order):
        raise MessageError("message has two fields of one name")
    if scalars.keys() | set(order) != types.keys():
        found = sorted([*scalars, *order])
        raise MessageError(f"message fields={found} should be {sorted(types)}")
    for name, value in scalars.items():
        if not _fits(value, types[name]):
            raise MessageError(f"message field {name!r} should be of type {types[name]}")
    values = {k: float(v) if types[k] == "float" else v for k, v in scalars.items()}
    layout = tuple((a["name"], types[a["name"]], a["length"]) for a in arrays)
    return MappingProxyType(values), layout


# A cohort's answers have one header.
_read_once = functools.lru_cache(_KEPT)(_read)


_TYPES: dict[type[Message], Mapping[str, str]] = {}


def _types(cls: type[Message]) -> Mapping[str, str]:
    """The type that each field is declared with."""
    found = _TYPES.get(cls)
    if found is None:
        found = {field.name: str(field.type) for field in fields(cls)}
        _TYPES[cls] = found = MappingProxyType(found)
    return found


def _arrays(layout: Layout, body: bytes) -> dict[str, Vector | bytes]:
    """The arrays that a header promises, as views of the body, which they fill exactly."""
    found: dict[str, Vector | bytes] = {}
    offset = 0
    for name, declared, length in layout:
        size = length * _ITEM[declared]
        if size < 0 or offset + size > len(body):
            raise MessageError(f"message array={name!r} is cut short")
        part = body[offset : offset + size]
        found[name] = np.frombuffer(part, _DTYPE) if declared == "Vector" else part
        offset += size
    if offset != len(body):
        raise MessageError(f"message has {len(body) - offset} bytes too many")
    return found


def _fits(value: object, declared: str) -> bool:
    if declared == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if declared == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Header and arrays."""
    if len(data) < 8 or data[:4] != _MAGIC:
        raise MessageError("not a message of tacit's protocol")
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < 8 + length:
        raise MessageError("message header is cut short")
    return data[8 : 8 + length], data[8 + length :]


def _parsed(head: bytes) -> dict[str, Any]:
    """A header that is canonical, and has the parts of one."""
    try:
        header = json.loads(head, parse_int=_whole)
    except (ValueError, OverflowError, RecursionError) as error:
        raise MessageError("message header isn't JSON") from error
    if not isinstance(header, dict) or set(header) != {"kind", "fields", "arrays"}:
        raise MessageError("message header should have kind, fields and arrays")
    arrays_fit = isinstance(header["arrays"], list) and all(
        isinstance(a, dict)
        and set(a) == {"name", "length"}
        and isinstance(a["name"], str)
        and isinstance(a["length"], int)
        and not isinstance(a["length"], bool)
        for a in header["arrays"]
    )
    if not isinstance(header["fields"], dict) or not arrays_fit:
        raise MessageError("message header is malformed")
    if _canonical(header) != head:
        raise MessageError("message header isn't canonical")
    return header


def _header(kind: str, scalars: list[tuple[str, Any]], shapes: Shapes) -> bytes:
    """A header in bytes, looked up if it is short and its values are of plain types."""
    # What is equal isn't what is written alike: 1 is True, and 0.0 is -0.0.
    plain = tuple((name, type(v), repr(v) if type(v) is float else v) for name, v in scalars)
    short = sum(len(v) for _, of, v in plain if of is str) <= _KEPT_BYTES
    if short and all(of in _PLAIN for _, of, _ in plain):
        return _header_once(kind, plain, shapes)
    return _made(kind, dict(scalars), shapes)


@functools.lru_cache(_KEPT)
def _header_once(kind: str, plain: Plain, shapes: Shapes) -> bytes:
    scalars = {name: float(v) if of is float else v for name, of, v in plain}
    return _made(kind, scalars, shapes)


def _made(kind: str, scalars: dict[str, Any], shapes: Shapes) -> bytes:
    arrays = [{"name": name, "length": length} for name, length in shapes]
    return _canonical({"kind": kind, "fields": scalars, "arrays": arrays})


def _canonical(header: dict[str, Any]) -> bytes:
    try:
        return rfc8785.dumps(header)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise MessageError("a message has values outside its types") from error


def _whole(digits: str) -> int | float:
    """RFC 8785 writes large floats as digits; integers stop at 2^53."""
    value = int(digits)
    return value if abs(value) < 2**53 else float(value)


@dataclass(frozen=True, slots=True, eq=False)
class Request(Message):
    """Coordinator to client: do this with this model.

    Attributes:
        plan: digest of the privacy plan; a client refuses another than its own.
        frozen: digest of what isn't trained, which both sides must share.
        clip: L2 bound of this round's update; 0 where nothing is clipped.
        clients: how many add a share of the noise, where it is added in shares and vectors
            are seen; else 0.
        members: who takes part in secure aggregation
            (`tacit.privacy.secagg.messages.pack_members`); else empty.
        parameters: the global model's trained parameters, shape [d].
    """

    plan: str
    frozen: str
    clip: float
    clients: int
    members: bytes
    parameters: Vector

    def task(self) -> str:
        """Digest of what is asked, whoever takes part, in hex."""
        bare = dataclasses.replace(self, clients=0, members=b"")
        return bare.digest().hex()


@dataclass(frozen=True, slots=True, eq=False)
class TrainRequest(Request):
    """Train from this model."""

    kind: ClassVar[str] = "train-request"


@dataclass(frozen=True, slots=True, eq=False)
class EvaluateRequest(Request):
    """Evaluate this model on your data."""

    kind: ClassVar[str] = "evaluate-request"


@dataclass(frozen=True, slots=True, eq=False)
class TrainReply(Message):
    """Client to coordinator: a clipped update.

    Attributes:
        update: local minus global, clipped and weighted, shape [d].
        vote: shape [1], the bit of adaptive clipping, or shape [0].
    """

    kind: ClassVar[str] = "train-reply"

    update: Vector
    vote: Vector


@dataclass(frozen=True, slots=True, eq=False)
class EvaluateReply(Message):
    """Client to coordinator: clipped counts.

    Attributes:
        counts: shape [3], (correct, examples, loss) over the plan's cap.
    """

    kind: ClassVar[str] = "evaluate-reply"

    counts: Vector


@dataclass(frozen=True, slots=True, eq=False)
class EncodedReply(Message):
    """Client to coordinator: an encoded vector with its share of noise, not masked.

    Attributes:
        words: packed (`tacit.privacy.secagg.words`).
        chain: seed of the noise's first layer that may be surplus.
    """

    kind: ClassVar[str] = "encoded-reply"

    words: bytes
    chain: bytes
