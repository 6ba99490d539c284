"""What the parties say: encodings come back, and signatures cover all of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import MessageError
from tacit.privacy.messages import Message
from tacit.privacy.secagg import messages as m

PLACE = ("run", 3, 1)
EACH: list[Message] = [
    m.Invitation(*PLACE, "train", "plan", "task"),
    m.Advertisement(*PLACE, "s", 7, b"\x01" * 64, b"\x02" * 32, b"\x03" * 32),
    m.Roster(*PLACE, "s", b"entries"),
    m.Shares(*PLACE, "s", 7, b"\x01" * 64, b"ciphertexts", b"commitments"),
    m.Masked(*PLACE, "s", 7, b"\x01" * 64, b"members", b"words"),
    m.Survivors(*PLACE, "s", b"members"),
    m.Confirmation(*PLACE, "s", 7, b"\x01" * 64, b"agreed"),
    m.Reveal(*PLACE, "s", b"confirmations", b"ciphertexts"),
    m.Revealed(*PLACE, "s", 7, b"\x01" * 64, b"shares"),
]
named = pytest.mark.parametrize("message", EACH, ids=lambda e: e.kind)
clients = st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=20)


def values(message: Message) -> dict[str, Any]:
    return {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}


@named
def test_messages_come_back(message: Message) -> None:
    again = type(message).decode(message.encode())
    assert values(again) == values(message)
    assert again.encode() == message.encode()


@named
def test_messages_are_of_one_kind(message: Message) -> None:
    assert len({e.kind for e in EACH}) == len(EACH)
    for other in EACH:
        if other is not message:
            with pytest.raises(MessageError, match="where"):
                type(message).decode(other.encode())


@named
def test_messages_cut_short_or_too_long_are_refused(message: Message) -> None:
    data = message.encode()
    for wrong in (data[:-1], data + b"\x00", data[:20], b""):
        with pytest.raises(MessageError):
            type(message).decode(wrong)


# Sessions


@given(
    first=st.tuples(*[st.text(max_size=3)] * 4, st.integers(0, 20), st.integers(0, 20)),
    second=st.tuples(*[st.text(max_size=3)] * 4, st.integers(0, 20), st.integers(0, 20)),
)
def test_a_session_is_all_that_it_is_about(first: Any, second: Any) -> None:
    def session(run: str, purpose: str, plan: str, task: str, round: int, attempt: int) -> str:
        return m.Invitation(run, round, attempt, purpose, plan, task).session()

    assert (session(*first) == session(*second)) == (first == second)
    assert len(session(*first)) == 64


# Signatures


@pytest.mark.parametrize(
    "message", [e for e in EACH if isinstance(e, m.Answer)], ids=lambda e: e.kind
)
def test_a_signature_covers_everything_but_itself(message: m.Answer) -> None:
    said = message.statement()
    assert len(said) == 32 or message.kind == "confirmation"
    assert dataclasses.replace(message, signature=b"").statement() == said
    for name, value in values(message).items():
        if name == "signature":
            continue
        if isinstance(value, bytes):
            other: Any = value[:-1] + bytes([value[-1] ^ 1])
        else:
            other = value + 1 if isinstance(value, int) else value + "x"
        changed = dataclasses.replace(message, **{name: other}).statement()
        bound = {"session", "client", "channel", "mask"}
        if message.kind == "confirmation":
            bound = {"agreed"}
        if message.kind in ("advertisement", "confirmation"):
            # Run, round and attempt are in the session's digest.
            assert (changed != said) == (name in bound), name
        else:
            assert changed != said, name


def test_statements_of_different_kinds_differ() -> None:
    answers = [e for e in EACH if isinstance(e, m.Answer)]
    said = [a.statement() for a in answers] + [m.agreement("s", b"", b"", b"")]
    assert len(set(said)) == len(said)


@given(
    first=st.tuples(st.text(max_size=2), *[st.binary(max_size=3)] * 3),
    second=st.tuples(st.text(max_size=2), *[st.binary(max_size=3)] * 3),
)
def test_an_agreement_is_on_session_roster_members_and_survivors(first: Any, second: Any) -> None:
    assert (m.agreement(*first) == m.agreement(*second)) == (first == second)


# Lists


@given(who=clients)
def test_members_come_back(who: list[int]) -> None:
    packed = m.pack_members(who)
    assert len(packed) == 4 * len(who)
    assert m.unpack_members(packed) == sorted(who)


@given(data=st.binary(max_size=24))
def test_one_set_of_members_has_one_encoding(data: bytes) -> None:
    try:
        found = m.unpack_members(data)
    except MessageError:
        return
    assert m.pack_members(found) == data
    assert sorted(set(found)) == found


@given(who=clients, fill=st.binary(min_size=64, max_size=64))
def test_rosters_and_signatures_come_back(who: list[int], fill: bytes) -> None:
    entries = [m.Entry(k, fill[:32], fill[32:], fill) for k in who]
    packed = m.pack_roster(entries)
    assert len(packed) == 132 * len(who)
    assert m.unpack_roster(packed) == sorted(entries, key=lambda e: e.client)
    signed = [(k, fill) for k in who]
    assert m.unpack_signed(m.pack_signed(signed)) == sorted(signed)


def test_zeros_at_the_end_of_a_field_are_kept() -> None:
    entry = m.Entry(1, b"\x01" + bytes(31), bytes(32), b"\x05" * 60 + bytes(4))
    assert m.unpack_roster(m.pack_roster([entry])) == [entry]
    assert m.unpack_signed(m.pack_signed([(1, bytes(64))])) == [(1, bytes(64))]


@pytest.mark.parametrize(
    ("unpack", "row"), [(m.unpack_members, 4), (m.unpack_roster, 132), (m.unpack_signed, 68)]
)
def test_lists_out_of_order_twice_or_cut_are_refused(unpack: Any, row: int) -> None:
    rows = [k.to_bytes(4, "little") + bytes(row - 4) for k in (1, 2, 256)]
    assert len(unpack(b"".join(rows))) == 3
    assert unpack(b"") == []
    for wrong in ([1, 0, 2], [0, 0, 1], [2, 1, 0], [0, 1, 1]):
        with pytest.raises(MessageError, match="ascending"):
            unpack(b"".join(rows[i] for i in wrong))
    for cut in (b"".join(rows)[:-1], b"".join(rows) + b"\x00", b"\x01"):
        with pytest.raises(MessageError, match="bytes each"):
            unpack(cut)
