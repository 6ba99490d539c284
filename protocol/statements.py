"""What the signatures of `tacit.edge.v1`, and of replies on any transport, cover.

Each statement is a digest by `tacit.privacy.secagg.keys.derive`: SHA-256 of the tag and the
parts, each after its length, so that a signature for one purpose is none for another.
"""

from __future__ import annotations

import hashlib

from tacit.privacy.secagg.keys import derive

NONCE_BYTES = 16


def reply(nonce: bytes, kind: str, client: int, body: bytes) -> bytes:
    """Of an answer: this body, by this client, to the one message that had this nonce.

    Args:
        nonce: of the request, fresh for each leg and client, `NONCE_BYTES` long.
        kind: the message's type, such as "query.share".
        client: who answers.
        body: the answer in bytes.
    """
    digest = hashlib.sha256(body).digest()
    return derive("reply", nonce, kind.encode(), str(client).encode(), digest)


def refusal(nonce: bytes, kind: str, client: int, reason: int, text: str) -> bytes:
    """Of a refusal; arguments as of `reply`, with the reason's number and its text."""
    parts = (kind.encode(), str(client).encode(), str(reason).encode(), text.encode())
    return derive("refusal", nonce, *parts)


def enrolment(token: str, csr: bytes) -> bytes:
    """Of a device that enrols: it holds the identity's key and means this request."""
    return derive("enrol", token.encode(), csr)


def renewal(csr: bytes) -> bytes:
    """Of a device that asks for another certificate."""
    return derive("renew", csr)


def attestation(population: str, client: int, identity: bytes) -> bytes:
    """Of the enrolment authority: this identity is this client's."""
    return derive("attestation", population.encode(), str(client).encode(), identity)


def document(body: bytes) -> bytes:
    """Of the coordinator: devices may train by this run document."""
    return derive("run document", body)


def manifest(body: bytes) -> bytes:
    """Of the coordinator: the graphs of this manifest are for devices (`tacit.protocol.folder`)."""
    return derive("device manifest", body)


def withdrawal(population: str, client: int, ledger: str, at: str, nonce: bytes) -> bytes:
    """Of a client that takes part no more (`tacit.protocol.withdrawal`).

    Args:
        population: it withdraws from.
        client: its number there.
        ledger: origin of the ledger that is to note it.
        at: when it was signed, ISO 8601.
        nonce: fresh, `NONCE_BYTES` long.
    """
    return derive(
        "withdrawal",
        population.encode(),
        str(client).encode(),
        ledger.encode(),
        at.encode(),
        nonce,
    )
