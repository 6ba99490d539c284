"""`tacit.protocol.statements`: what is signed for one purpose is nothing for another."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tacit.protocol import statements

short = st.binary(max_size=4)
texts = st.text(max_size=3)
clients = st.integers(0, 2**32 - 1)


@given(nonce=short, kind=texts, client=clients, body=short, reason=clients, text=texts, more=short)
def test_no_two_purposes_share_a_statement(
    nonce: bytes, kind: str, client: int, body: bytes, reason: int, text: str, more: bytes
) -> None:
    made = [
        statements.reply(nonce, kind, client, body),
        statements.refusal(nonce, kind, client, reason, text),
        statements.enrolment(text, body),
        statements.renewal(body),
        statements.attestation(text, client, more),
        statements.document(body),
        statements.manifest(body),
    ]
    assert len(set(made)) == len(made)
    assert all(len(statement) == 32 for statement in made)


Reply = tuple[bytes, str, int, bytes]
replies = st.tuples(short, texts, clients, short)


@given(replies, replies)
def test_replies_that_differ_have_other_statements(one: Reply, other: Reply) -> None:
    assert (statements.reply(*one) == statements.reply(*other)) == (one == other)


def test_parts_cut_elsewhere_are_other_parts() -> None:
    # The same letters, moved between what stands side by side.
    cuts = [("ab", "cd"), ("abc", "d"), ("a", "bcd"), ("", "abcd")]
    enrolled = [statements.enrolment(a, b.encode()) for a, b in cuts]
    refused = [
        statements.refusal(b"n", "train", 1, 1, "2"),
        statements.refusal(b"n", "train", 1, 12, ""),
    ]
    attested = [statements.attestation("p1", 2, b"i"), statements.attestation("p", 12, b"i")]
    for pair in itertools.combinations(enrolled, 2):
        assert pair[0] != pair[1]
    assert refused[0] != refused[1]
    assert attested[0] != attested[1]


def test_statements_stay_what_they_are() -> None:
    """Golden: devices in the field sign these."""
    assert statements.reply(bytes(16), "train", 7, b"body").hex() == (
        "21784adc847a6dd57ecf0f624db77c07e103487a2cb7d50e197c4b5006e5222f"
    )
    assert statements.document(b"{}").hex() == (
        "aa54496f42bac931c7d2ef33e24c97cd5652443f38e307cdce982d95ba07655e"
    )
