"""Signed statements about a file: DSSE v1 envelopes around in-toto Statements v1.

Guarantees: `opened` gives a payload only if a key that the caller named signed exactly these bytes
as of this type (Ed25519 over the envelope's pre-authentication encoding). An envelope has one text
here: canonical JSON (RFC 8785), standard base64 that could not be written otherwise, one signature,
and a ``keyid`` which names its key; the specification would let others pass. So a bit flipped
anywhere in an envelope is a `MessageError`, and other implementations read what is written here.

It doesn't say that what was signed is true, or recent, or that the signer signed nothing else.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md,
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

import rfc8785

from tacit.privacy.errors import MessageError
from tacit.privacy.log.notes import SignerKey, VerifierKey

IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
VERSION = "urn:tacit:predicate:version:1"
MAX_BYTES = 1_000_000

# What the predicate of a version's statement has, all of it.
_PREDICATE = {
    "run": str,
    "round": int,
    "release": int,
    "plan": str,
    "spec": str,
    "code": str,
    "parent": int,
    "ledger": str,
}


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: "DSSEv1", then length and bytes of type and payload, each after a space."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def keyid(key: VerifierKey) -> str:
    """How an envelope names a key: as a signed note does, by name and id."""
    return f"{key.name}+{key.id.hex()}"


def signed(payload: bytes, payload_type: str, signer: SignerKey) -> str:
    """The envelope of a payload, signed: one line of canonical JSON."""
    signature = signer.sign(pae(payload_type, payload))
    envelope: dict[str, Any] = {
        "payload": _encode(payload),
        "payloadType": payload_type,
        "signatures": [{"keyid": keyid(signer.verifier), "sig": _encode(signature)}],
    }
    return rfc8785.dumps(envelope).decode()


def opened(text: str, payload_type: str, keys: Iterable[VerifierKey]) -> bytes:
    """The payload of an envelope, verified.

    Args:
        text: the envelope.
        payload_type: that it must have.
        keys: whose signature counts.

    Raises:
        MessageError: it is malformed, of another type, signed by nobody in ``keys``, or its
            signature is wrong.
    """
    body = _canonical("an envelope", text.encode(errors="surrogatepass"))
    if set(body) != {"payload", "payloadType", "signatures"}:
        raise MessageError("an envelope has other fields than payload, payloadType and signatures")
    if body["payloadType"] != payload_type:
        raise MessageError(f"an envelope is of {body['payloadType']!r:.80}, not {payload_type}")
    lines = body["signatures"]
    one = isinstance(lines, list) and len(lines) == 1 and isinstance(lines[0], dict)
    if not one or set(lines[0]) != {"keyid", "sig"}:
        raise MessageError("an envelope hasn't exactly one signature, with keyid and sig")
    payload = _decode("an envelope's payload", body["payload"])
    signature = _decode("an envelope's signature", lines[0]["sig"])
    known = [key for key in keys if keyid(key) == lines[0]["keyid"]]
    if not known:
        raise MessageError(
            f"an envelope is signed by {lines[0]['keyid']!r:.120}, whom nobody knows"
        )
    said = pae(payload_type, payload)
    if not any(key.verify(signature, said) for key in known):
        raise MessageError(
            f"an envelope's signature by {lines[0]['keyid']:.120} is wrong",
            "the envelope was altered, or it isn't by whom it names",
        )
    return payload


def statement(name: str, number: int, artifact: str, predicate: Mapping[str, Any]) -> bytes:
    """The in-toto Statement about a version, in canonical JSON.

    Args:
        name: of the model.
        number: of the version.
        artifact: SHA-256 of its file, in hex.
        predicate: run, round, release (leaf), plan, spec and code (digests), parent (its RELEASE
            leaf, or None) and ledger (origin).
    """
    return rfc8785.dumps(
        {
            "_type": STATEMENT,
            "subject": [{"name": f"{name}@{number}", "digest": {"sha256": artifact}}],
            "predicateType": VERSION,
            "predicate": {key: predicate[key] for key in _PREDICATE},
        }
    )


def described(envelope: str, keys: Iterable[VerifierKey]) -> dict[str, Any]:
    """What a signed statement says about a version: ``subject``, ``artifact`` and the predicate.

    Raises:
        MessageError: it isn't one, or none of the keys signed it.
    """
    body = _canonical("a statement", opened(envelope, IN_TOTO, keys))
    subject, predicate = body.get("subject"), body.get("predicate")
    if (body.get("_type"), body.get("predicateType")) != (STATEMENT, VERSION):
        raise MessageError("the statement isn't about a version of tacit's")
    if not isinstance(predicate, dict) or set(predicate) != set(_PREDICATE):
        raise MessageError(f"the statement's predicate hasn't exactly {', '.join(_PREDICATE)}")
    for key, kind in _PREDICATE.items():
        value = predicate[key]
        absent = key == "parent" and value is None
        if not absent and (not isinstance(value, kind) or isinstance(value, bool)):
            raise MessageError(f"the statement's {key}={value!r:.80} isn't of its type")
    try:
        ((name, artifact),) = ((one["name"], one["digest"]["sha256"]) for one in subject or ())
    except (LookupError, TypeError, ValueError) as error:
        raise MessageError("the statement hasn't exactly one subject with a SHA-256") from error
    if not isinstance(name, str) or not isinstance(artifact, str):
        raise MessageError("the statement's subject isn't text")
    return {"subject": name, "artifact": artifact, **predicate}


def _canonical(what: str, data: bytes) -> dict[str, Any]:
    """A JSON object from the one text that it has."""
    if len(data) > MAX_BYTES:
        raise MessageError(f"{what} has {len(data)} bytes, above {MAX_BYTES}")
    try:
        body = json.loads(data)
        same = isinstance(body, dict) and rfc8785.dumps(body) == data
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what} isn't JSON: {error}") from error
    if not same:
        raise MessageError(f"{what} isn't a JSON object in canonical form (RFC 8785)")
    return dict(body)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(what: str, text: Any) -> bytes:
    """The bytes that have exactly this base64."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise MessageError(f"{what} isn't base64") from error
    if _encode(data) != text:
        raise MessageError(f"{what} isn't in the one base64 that its bytes have")
    return data
