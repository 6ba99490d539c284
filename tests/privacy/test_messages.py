"""Messages: what was encoded is what is decoded, and nothing else is decoded at all."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tacit.privacy import messages
from tacit.privacy.errors import MessageError
from tacit.privacy.messages import (
    EncodedReply,
    EvaluateReply,
    EvaluateRequest,
    Message,
    TrainReply,
    TrainRequest,
)

KINDS: list[type[Message]] = [
    TrainRequest,
    TrainReply,
    EvaluateRequest,
    EvaluateReply,
    EncodedReply,
]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
whole = st.integers(0, 2**53 - 1)
# Bit patterns and not floats: NaN payloads, signed zeros and denormals must survive.
vectors = st.lists(st.integers(0, 2**32 - 1), max_size=12).map(
    lambda words: np.array(words, dtype="<u4").view("<f4")
)
FIELD = {
    "str": text,
    "int": whole,
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "Vector": vectors,
    "bytes": st.binary(max_size=12),
}


def of_kind(kind: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **{f.name: FIELD[str(f.type)] for f in fields(kind)})


def bits(value: object) -> object:
    return (value.size, value.tobytes()) if isinstance(value, np.ndarray) else value


def content(message: Message) -> dict[str, object]:
    """All fields, vectors by their bits, so that NaN equals itself and 0.0 isn't -0.0."""
    return {f.name: bits(getattr(message, f.name)) for f in fields(message)}


def canonical(value: object) -> bytes:
    """RFC 8785, and as near to it as can be where that refuses a value."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def framed(header: object, body: bytes = b"") -> bytes:
    data = header if isinstance(header, bytes) else canonical(header)
    return b"TCT1" + struct.pack("<I", len(data)) + data + body


REQUEST = TrainRequest(
    "run-a", 3, 1, "plan", "frozen", 1.5, 12, b"\x07ab", np.array([1.0, -2.0], np.float32)
)
SAMPLES: list[Message] = [
    REQUEST,
    TrainReply("run-a", 3, 1, np.array([0.5, 7.0, -0.0], np.float32), np.array([-0.5], np.float32)),
    EvaluateRequest("run-a", 3, 1, "plan", "frozen", 0.0, 0, b"", np.array([1.0], np.float32)),
    EvaluateReply("run-a", 3, 1, np.array([0.25, 1.0, 0.5], np.float32)),
    EncodedReply("run-a", 3, 1, b"\x00\x01\xff\x7f", b"sixteen bytes ..."),
]
MEMBERS = {"name": "members", "length": 0}
PARAMETERS = {"name": "parameters", "length": 1}
HEADER = {
    "kind": "train-request",
    "fields": {
        "run": "r",
        "round": 1,
        "attempt": 0,
        "plan": "p",
        "frozen": "f",
        "clip": 1.0,
        "clients": 0,
    },
    "arrays": [MEMBERS, {"name": "parameters", "length": 1}],
}


def header(**changes: Any) -> dict[str, Any]:
    return {**HEADER, **changes}


def scalars(**changes: Any) -> dict[str, Any]:
    return header(fields={**HEADER["fields"], **changes})


# Round trips


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.kind)
@given(st.data())
def test_what_is_encoded_is_decoded(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(of_kind(kind))
    encoded = message.encode()
    decoded = kind.decode(encoded)
    assert type(decoded) is kind
    assert content(decoded) == content(message)
    assert decoded.encode() == encoded
    for field in fields(kind):
        if field.type in ("float", "int"):
            assert type(getattr(decoded, field.name)).__name__ == field.type


@pytest.mark.parametrize(
    "clip",
    [
        *(0.0, 1.0, -3.0, 0.1, 1e-7, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308),
        *(2.0**53 - 1, 2.0**53, 2.0**53 + 2, -(2.0**53), 2.0**60, 1e20, 999999999999999900000.0),
        *(1e21, 1e22, -1e300),
    ],
)
def test_a_float_is_decoded_to_the_same_float(clip: float) -> None:
    request = TrainRequest("r", 1, 0, "p", "f", clip, 0, b"", np.zeros(1, np.float32))
    decoded = TrainRequest.decode(request.encode())
    assert type(decoded.clip) is float
    assert decoded.clip == clip
    assert decoded.encode() == request.encode()


def test_nan_payloads_are_carried_bit_by_bit() -> None:
    words = np.array([0x7FC00000, 0x7FC12345, 0xFFC00001, 0x7F800001, 0x80000000], dtype="<u4")
    reply = EvaluateReply("r", 1, 0, words.view("<f4"))
    assert EvaluateReply.decode(reply.encode()).counts.tobytes() == words.tobytes()


@pytest.mark.parametrize("sizes", [(0, 0), (0, 1), (3, 0)])
def test_empty_vectors_are_vectors(sizes: tuple[int, int]) -> None:
    update, vote = (np.ones(n, np.float32) for n in sizes)
    decoded = TrainReply.decode(TrainReply("r", 1, 0, update, vote).encode())
    assert (decoded.update.shape, decoded.vote.shape) == ((sizes[0],), (sizes[1],))
    assert decoded.update.dtype == np.float32


def test_layout_in_memory_does_not_matter() -> None:
    values = np.arange(6, dtype=np.float32)
    strided = np.arange(12, dtype=np.float32)[::2] / 2
    for vector in (values.astype(">f4"), values.astype(np.float64), strided):
        decoded = EvaluateReply.decode(EvaluateReply("r", 1, 0, vector).encode())
        assert (decoded.counts == values).all()


def test_decoded_vectors_cannot_be_written() -> None:
    decoded = EvaluateReply.decode(SAMPLES[3].encode())
    with pytest.raises(ValueError, match="read-only"):
        decoded.counts[0] = 1.0


def test_the_bytes_are_those_of_the_documented_format() -> None:
    reply = EvaluateReply("r", 2, 0, np.array([1.0, -2.0], np.float32))
    expected = (
        b'{"arrays":[{"length":2,"name":"counts"}],'
        b'"fields":{"attempt":0,"round":2,"run":"r"},"kind":"evaluate-reply"}'
    )
    body = bytes.fromhex("0000803f000000c0")
    assert reply.encode() == b"TCT1" + struct.pack("<I", len(expected)) + expected + body


def test_a_reply_holds_nothing_but_its_address_and_vectors() -> None:
    # A count, loss or timing in the clear would be a release that nobody charged.
    for kind in (TrainReply, EvaluateReply):
        beyond = {f.name: str(f.type) for f in fields(kind)}
        assert {beyond.pop(name) for name in ("run", "round", "attempt")} == {"str", "int"}
        assert set(beyond.values()) == {"Vector"}
    encoded = {f.name: str(f.type) for f in fields(EncodedReply)}
    assert set(encoded) - {"run", "round", "attempt"} == {"words", "chain"}


# Damage


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: m.kind)
def test_every_truncation_is_refused(message: Message) -> None:
    data = message.encode()
    for end in range(len(data)):
        with pytest.raises(MessageError):
            type(message).decode(data[:end])


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: m.kind)
@pytest.mark.parametrize("tail", [b"\x00", b"\x00" * 4, b"TCT1", b" "])
def test_trailing_bytes_are_refused(message: Message, tail: bytes) -> None:
    with pytest.raises(MessageError):
        type(message).decode(message.encode() + tail)
    with pytest.raises(MessageError):
        type(message).decode(tail + message.encode())


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: m.kind)
def test_a_changed_byte_is_refused_or_makes_another_message(message: Message) -> None:
    data, before = message.encode(), content(message)
    for at in range(len(data)):
        for mask in (0x01, 0x20, 0x40, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= mask
            try:
                decoded = type(message).decode(bytes(damaged))
            except MessageError:
                continue
            assert content(decoded) != before, f"byte {at} doesn't matter"
            assert decoded.encode() == bytes(damaged)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: m.kind)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.kind)
def test_one_kind_is_not_read_as_another(message: Message, kind: type[Message]) -> None:
    if type(message) is kind:
        assert content(kind.decode(message.encode())) == content(message)
        return
    with pytest.raises(MessageError, match="kind="):
        kind.decode(message.encode())


# Hostile headers


def test_the_header_that_the_next_tests_spoil_is_a_good_one() -> None:
    decoded = TrainRequest.decode(framed(HEADER, b"\x00" * 4))
    assert decoded.clip == 1.0
    assert decoded.encode() == framed(HEADER, b"\x00" * 4)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"\xff\xfe\xfd",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"1" * 10_000,
        b"nul",
        b'"' + b"x" * 1000 + b'"',
        [],
        None,
        7,
        {},
        {"kind": "train-request"},
        header(extra=1),
        header(kind=None),
        header(kind=["train-request"]),
        header(kind={"a": 1}),
        header(fields=[]),
        header(fields=None),
        header(fields={}),
        header(arrays={}),
        header(arrays=None),
        header(arrays=[]),
        header(arrays=[MEMBERS, "parameters"]),
        header(arrays=[MEMBERS, {}]),
        header(arrays=[MEMBERS, {"name": "parameters"}]),
        header(arrays=[MEMBERS, {"length": 1}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": 1, "dtype": "<f8"}]),
        header(arrays=[MEMBERS, {"name": None, "length": 1}]),
        header(arrays=[MEMBERS, {"name": ["parameters"], "length": 1}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": "1"}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": 1.5}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": True}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": None}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": -1}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": 2}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": 0}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": 2**62}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": 10**400}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": -(10**400)}]),
        header(arrays=[MEMBERS, {"name": "parameters", "length": 2}, {"name": "x", "length": -1}]),
        # The lengths add up to the body's, by going back over it.
        header(arrays=[MEMBERS, *({"name": "parameters", "length": n} for n in (-1, 2))]),
        header(arrays=[MEMBERS, *({"name": "parameters", "length": n} for n in (1, 0))]),
        header(arrays=[MEMBERS, *({"name": "parameters", "length": n} for n in (0, 1))]),
        header(
            arrays=[MEMBERS, {"name": "clip", "length": 0}, {"name": "parameters", "length": 1}]
        ),
        header(arrays=[{"name": "members", "length": -4}, {"name": "parameters", "length": 2}]),
        header(arrays=[{"name": "members", "length": 1}, {"name": "parameters", "length": 1}]),
        header(arrays=[{"name": "parameters", "length": 1}]),
        header(arrays=[{"name": "parameters", "length": 1}, MEMBERS]),
        header(arrays=[MEMBERS, MEMBERS, {"name": "parameters", "length": 1}]),
        scalars(members=""),
        scalars(clients=-1),
        scalars(clients=1.5),
        scalars(clients=True),
        scalars(clients=None),
        scalars(parameters=1.0),
        header(arrays=[MEMBERS, {"name": "gradient", "length": 1}]),
        header(arrays=[MEMBERS, {"name": "run", "length": 0}, {"name": "parameters", "length": 1}]),
        header(
            arrays=[MEMBERS, {"name": "parameters", "length": 1}, {"name": "vote", "length": 0}]
        ),
        scalars(run=1),
        scalars(run=None),
        scalars(plan=["p"]),
        scalars(round=-1),
        scalars(round=1.5),
        scalars(round=2**53),
        scalars(round=2**64),
        scalars(attempt=10**400),
        scalars(run="\ud800"),
        scalars(plan="p\udfff"),
        scalars(**{"\ud800": 1}),
        scalars(clip=10**400),
        scalars(clip=-(10**400)),
        scalars(clip=2**53 + 1),
        scalars(clip=math.nan),
        scalars(clip=math.inf),
        scalars(clip=-math.inf),
        scalars(round="1"),
        scalars(round=True),
        scalars(attempt=None),
        scalars(clip="1.0"),
        scalars(clip=True),
        scalars(clip=None),
        scalars(clip=[1.0]),
        scalars(loss=0.3),
        scalars(self=1),
    ],
    ids=lambda bad: (bad if isinstance(bad, bytes) else repr(bad).encode())[-60:].decode("latin1"),
)
def test_a_malformed_header_is_refused(bad: object) -> None:
    with pytest.raises(MessageError):
        TrainRequest.decode(framed(bad, b"\x00" * 4))


GOOD = (
    b'{"arrays":[{"length":0,"name":"members"},{"length":1,"name":"parameters"}],'
    b'"fields":{"attempt":0,"clients":0,"clip":1,"frozen":"f","plan":"p","round":1,"run":"r"},"kind":"train-request"}'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"round":1', b'"round": 1'),
        (b'"round":1', b'"round":1.0'),
        (b'"round":1', b'"round":1e0'),
        (b'"round":1', b'"round":1,"round":1'),
        (b'"round":1', b'"round":2,"round":1'),
        (b'"attempt":0', b'"attempt":-0'),
        (b'"clip":1', b'"clip":1.0'),
        (b'"clip":1', b'"clip":1e0'),
        (b'"clip":1', b'"clip":1E400'),
        (b'"clip":1', b'"clip":NaN'),
        (b'"clip":1', b'"clip":Infinity'),
        (b'"clip":1', b'"clip":-0'),
        (b'"clip":1', b'"clip":-0.0'),
        (b'"clip":1', b'"clip":0.10'),
        (b'"clip":1', b'"clip":0.1000000000000000055'),
        (b'"clip":1', b'"clip":1e-400'),
        (b'"run":"r"', b'"run":"\\u0072"'),
        (b'"run":"r"', b'"run":"\\/"'),
        (b'"run":"r"', b'"run":"\\u00e9"'),
        (b'"run":"r"', b'"run":"\\ud800"'),
        (b'"plan":"p"', b'"pl\\u0061n":"p"'),
        (b'"frozen":"f","plan":"p"', b'"plan":"p","frozen":"f"'),
        (b'"length":1,"name":"parameters"', b'"name":"parameters","length":1'),
        (b'"length":1,', b'"length":1.0,'),
        (b'"length":1,', b'"length":true,'),
        (b'"length":1,', b'"length":9,"length":1,'),
        (b'"kind":"train-request"', b'"kind":"train-reply","kind":"train-request"'),
        (b'"arrays"', b'"arrays":[],"arrays"'),
        (b'"train-request"}', b'"train-request"} '),
        (b'{"arrays"', b'\n{"arrays"'),
        (b'{"arrays"', b'\xef\xbb\xbf{"arrays"'),
    ],
    ids=lambda part: part.decode("latin1"),
)
def test_a_header_that_is_not_canonical_is_refused(old: bytes, new: bytes) -> None:
    assert framed(HEADER)[8:] == GOOD
    assert GOOD.count(old) == 1
    with pytest.raises(MessageError):
        TrainRequest.decode(framed(GOOD.replace(old, new), b"\x00" * 4))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_header_in_another_encoding_is_refused(encoding: str) -> None:
    # json.loads would guess it.
    with pytest.raises(MessageError):
        TrainRequest.decode(framed(GOOD.decode().encode(encoding), b"\x00" * 4))


@pytest.mark.parametrize("depth", range(100, 1100, 25))
@pytest.mark.parametrize(("open_", "shut"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["list", "dict"])
def test_a_deep_header_is_refused_whichever_parser_gives_up(
    depth: int, open_: bytes, shut: bytes
) -> None:
    deep = GOOD.replace(b'"clip":1', b'"clip":' + open_ * depth + b"1" + shut * depth)
    with pytest.raises(MessageError):
        TrainRequest.decode(framed(deep, b"\x00" * 4))


@pytest.mark.parametrize("name", sorted(HEADER["fields"]))
def test_a_missing_field_is_refused(name: str) -> None:
    without = {k: v for k, v in HEADER["fields"].items() if k != name}
    with pytest.raises(MessageError, match="fields="):
        TrainRequest.decode(framed(header(fields=without), b"\x00" * 4))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32 - 1])
def test_a_wrong_header_length_is_refused(length: int) -> None:
    data = REQUEST.encode()
    with pytest.raises(MessageError):
        TrainRequest.decode(data[:4] + struct.pack("<I", length) + data[8:])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
names = st.sampled_from([f.name for f in fields(TrainRequest)]) | st.text(max_size=5)


@settings(max_examples=400)
@given(
    st.fixed_dictionaries(
        {
            "kind": st.just("train-request") | anything,
            "fields": st.dictionaries(names, anything, max_size=7) | anything,
            "arrays": st.lists(
                st.fixed_dictionaries({"name": names, "length": st.integers(-2, 3) | anything})
            )
            | anything,
        }
    )
    | anything,
    st.binary(max_size=16),
)
@example({**HEADER, "fields": {**HEADER["fields"], "clip": float("nan")}}, b"\x00" * 4)
def test_any_json_is_a_message_or_a_message_error(head: object, body: bytes) -> None:
    try:
        decoded = TrainRequest.decode(framed(head, body))
    except MessageError:
        return
    assert isinstance(decoded.run, str)
    assert isinstance(decoded.round, int)
    assert decoded.parameters.dtype == np.float32
    assert decoded.encode() == framed(head, body)


def test_random_bytes_are_never_a_message() -> None:
    rng = np.random.default_rng(0)
    for _ in range(4000):
        noise = rng.bytes(int(rng.integers(0, 80)))
        # Bare, behind the magic, and as a header of the right length.
        for data in (noise, b"TCT1" + noise, framed(noise)):
            with pytest.raises(MessageError):
                TrainReply.decode(data)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: m.kind)
def test_spliced_bytes_are_a_message_or_a_message_error(message: Message) -> None:
    rng = np.random.default_rng(1)
    data = message.encode()
    for _ in range(1500):
        a, b = sorted(rng.integers(0, len(data) + 1, 2))
        spliced = data[:a] + rng.bytes(int(rng.integers(0, 6))) + data[b:]
        try:
            decoded = type(message).decode(spliced)
        except MessageError:
            continue
        assert type(decoded) is type(message)
        assert decoded.encode() == spliced


# Headers that are kept


def test_what_is_equal_but_written_otherwise_is_not_mistaken() -> None:
    """1, True and 1.0 are equal and have one hash, as have 0.0 and -0.0; in any order."""
    orders: list[list[Any]] = [[1, True, 1.0], [True, 1.0, 1], [1.0, 1, True], [0, False, -0.0]]
    for values in [*orders, [-0.0, 0.0, 0, False], [False, 0, 0.0, -0.0]]:
        for value in values * 2:
            request = TrainRequest("once", 1, 0, "p", "f", value, 0, b"", REQUEST.parameters)
            expected = {"true": b'"clip":true', "false": b'"clip":false'}.get(
                json.dumps(value), b'"clip":%d' % int(value)
            )
            assert expected in request.encode(), value
            if isinstance(value, bool):
                with pytest.raises(MessageError):
                    TrainRequest.decode(request.encode())
                continue
            found = TrainRequest.decode(request.encode()).clip
            assert (type(found), found, math.copysign(1, found)) == (float, value, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53, None, [1], {"a": []}, "\ud800"])
def test_what_is_refused_is_refused_again(value: Any) -> None:
    for _ in range(3):
        for name in ("run", "round", "clip"):
            changed = {f.name: getattr(REQUEST, f.name) for f in fields(REQUEST)} | {name: value}
            try:
                data = TrainRequest(**changed).encode()
            except MessageError:
                continue
            with pytest.raises(MessageError):
                TrainRequest.decode(data)


class Whole(int):
    """A class that whoever wrote it may have given any equality."""


def test_a_value_of_another_class_is_not_looked_up() -> None:
    for value in (Whole(7), 7, np.float64(7), 7.0, Whole(7)):
        request = TrainRequest("other", 1, 0, "p", "f", value, 0, b"", REQUEST.parameters)
        assert b'"clip":7,' in request.encode()
        with pytest.raises(MessageError):
            TrainRequest(
                "other", 1, 0, "p", "f", np.float32(7), 0, b"", REQUEST.parameters
            ).encode()


def test_two_decoded_of_one_header_share_nothing_that_can_be_changed() -> None:
    replies = [TrainReply("r", 1, 0, np.full(2, k, np.float32), np.ones(1)) for k in range(3)]
    decoded = [TrainReply.decode(reply.encode()) for reply in replies]
    assert [d.update.tolist() for d in decoded] == [[k, k] for k in range(3)]
    head = replies[0].encode()[8:-12]
    scalars, layout = messages._read_once(TrainReply, head)
    assert messages._read_once(TrainReply, bytes(bytearray(head))) == (scalars, layout)
    with pytest.raises(TypeError):
        scalars["round"] = 2  # type: ignore[index]
    assert all(type(value) in (str, int, float) for value in scalars.values())
    # Other kinds refuse the header that this one keeps.
    for kind in KINDS:
        if kind is not TrainReply:
            with pytest.raises(MessageError, match="kind="):
                kind.decode(replies[0].encode())


def test_one_header_with_other_lengths_of_body_is_refused_each_time() -> None:
    data = SAMPLES[1].encode()
    for _ in range(2):
        assert content(TrainReply.decode(data)) == content(SAMPLES[1])
        for bad in (data[:-1], data + b"\x00", data[:-4]):
            with pytest.raises(MessageError):
                TrainReply.decode(bad)


def test_what_is_kept_is_bounded() -> None:
    def kept() -> tuple[int, int]:
        return (
            messages._read_once.cache_info().currsize,
            messages._header_once.cache_info().currsize,
        )

    for number in range(3 * messages._KEPT):
        reply = EvaluateReply(f"run-{number}", 1, 0, np.zeros(3, np.float32))
        EvaluateReply.decode(reply.encode())
    assert kept() == (messages._KEPT, messages._KEPT)
    messages._read_once.cache_clear()
    messages._header_once.cache_clear()
    # A long header is read and written, and not kept; nor is one that is refused.
    for run in ("x" * (messages._KEPT_BYTES + 1), "\u00e9" * 3000):
        reply = EvaluateReply(run, 1, 0, np.zeros(3, np.float32))
        assert EvaluateReply.decode(reply.encode()).run == run
    for bad in (scalars(clip=None), scalars(round=[[]] * 500), header(arrays=[MEMBERS] * 50)):
        with pytest.raises(MessageError):
            TrainRequest.decode(framed(bad, b"\x00" * 4))
    assert kept()[0] == 0
