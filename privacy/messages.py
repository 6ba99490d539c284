"""What coordinator and clients say to each other, as frozen dataclasses with a byte encoding.

Encoding: ``b"TCT1"``, the header's length (uint32, little-endian), the header (canonical
JSON, RFC 8785: kind, fields, and name, dtype and length of each array), then the arrays'
bytes, little-endian, in the header's order. Decoding refuses anything else: a wrong length,
an unknown kind or field, another dtype. A client's reply holds nothing but vectors that go
through a charged mechanism: no counts, losses or timings.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import rfc8785
from numpy.typing import NDArray

from tacit.privacy.errors import MessageError

_MAGIC = b"TCT1"
_DTYPE = np.dtype("<f4")

Vector = NDArray[np.float32]
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
        scalars: dict[str, Any] = {}
        arrays: list[tuple[str, Vector]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                arrays.append((field.name, np.ascontiguousarray(value, dtype=_DTYPE)))
            else:
                scalars[field.name] = value
        shapes = [{"name": name, "length": a.size} for name, a in arrays]
        header = _canonical({"kind": self.kind, "fields": scalars, "arrays": shapes})
        body = b"".join(a.tobytes() for _, a in arrays)
        return b"".join([_MAGIC, struct.pack("<I", len(header)), header, body])

    @classmethod
    def decode(cls: type[M], data: bytes) -> M:
        """Reads a message of this kind.

        The vectors are read-only views of ``data``.

        Raises:
            MessageError: the bytes aren't exactly one message of this kind.
        """
        header, body = _split(data)
        if header.get("kind") != cls.kind:
            raise MessageError(f"message kind={header.get('kind')!r} where {cls.kind!r} was due")
        types = {field.name: str(field.type) for field in fields(cls)}
        order = [name for name, declared in types.items() if declared == "Vector"]
        if [array["name"] for array in header["arrays"]] != order:
            raise MessageError(f"message arrays should be {order}, in this order")
        values = {**header["fields"], **_arrays(header, body)}
        if set(values) != set(types):
            raise MessageError(f"message fields={sorted(values)} should be {sorted(types)}")
        for name, value in values.items():
            if not _fits(value, types[name]):
                raise MessageError(f"message field {name!r} should be of type {types[name]}")
        for name, value in values.items():
            if types[name] == "float":
                values[name] = float(value)
        return cls(**values)


def _arrays(header: dict[str, Any], body: bytes) -> dict[str, Vector]:
    """The arrays that a header promises, as views of the body, which they fill exactly."""
    names = [*header["fields"], *(array["name"] for array in header["arrays"])]
    if len(set(names)) != len(names):
        raise MessageError("message has two fields of one name")
    found: dict[str, Vector] = {}
    offset = 0
    for array in header["arrays"]:
        size = array["length"] * _DTYPE.itemsize
        if size < 0 or offset + size > len(body):
            raise MessageError(f"message array={array['name']!r} is cut short")
        found[array["name"]] = np.frombuffer(body[offset : offset + size], dtype=_DTYPE)
        offset += size
    if offset != len(body):
        raise MessageError(f"message has {len(body) - offset} bytes too many")
    return found


def _fits(value: object, declared: str) -> bool:
    if declared == "Vector":
        return isinstance(value, np.ndarray)
    if declared == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if declared == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, str)


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    if len(data) < 8 or data[:4] != _MAGIC:
        raise MessageError("not a message of tacit's protocol")
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < 8 + length:
        raise MessageError("message header is cut short")
    try:
        header = json.loads(data[8 : 8 + length], parse_int=_whole)
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
    if _canonical(header) != data[8 : 8 + length]:
        raise MessageError("message header isn't canonical")
    return header, data[8 + length :]


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
class TrainRequest(Message):
    """Coordinator to client: train from this model.

    Attributes:
        plan: digest of the privacy plan; a client refuses another than its own.
        frozen: digest of what isn't trained, which both sides must share.
        clip: L2 bound of this round's update; 0 where updates aren't clipped.
        parameters: the global model's trained parameters, shape [d].
    """

    kind: ClassVar[str] = "train-request"

    plan: str
    frozen: str
    clip: float
    parameters: Vector


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
class EvaluateRequest(Message):
    """Coordinator to client: evaluate this model on your data; fields as in `TrainRequest`."""

    kind: ClassVar[str] = "evaluate-request"

    plan: str
    frozen: str
    parameters: Vector


@dataclass(frozen=True, slots=True, eq=False)
class EvaluateReply(Message):
    """Client to coordinator: clipped counts.

    Attributes:
        counts: shape [3], (correct, examples, loss) over the plan's cap.
    """

    kind: ClassVar[str] = "evaluate-reply"

    counts: Vector
