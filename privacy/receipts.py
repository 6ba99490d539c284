"""Receipts of scores: which version answered for which records, without the records.

A receipt is a JSON object that the ledger's key signs (Ed25519 over a domain tag and the RFC 8785
form of all but the signature). It has a commitment to each record and to what was answered for
it: HMAC-SHA256 under a key of the record's own, derived from one that is drawn for the request,
and over these the root of an RFC 9162 tree. Whoever asked gets the request's key with the
receipt; it is stored nowhere else.

Guarantees, as far as SHA-256, HMAC and Ed25519 hold: a receipt that `check` passes was signed by a
key that the caller named; with the request's key its owner can show, for any one record, that this
version was asked about it and what it answered (`reveal`, `shown`), and nothing of the others;
without the key a receipt says how many records there were, and nothing else of them. With the
proofs of an `Envelope` it is in a ledger that its checkpoint fixes.

It doesn't guarantee that the version really computed the answer: the operator's word is what is
signed. Nor does it need torch or a database.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import custody, leaves, merkle, proofs
from tacit.privacy.log.notes import SignerKey, VerifierKey
from tacit.privacy.log.verify import parsed

VERSION = 1
KEY_BYTES = 32
# fmt: off
FIELDS = frozenset((
    "kind", "version", "request", "at", "actor", "model", "alias", "number", "artifact", "release",
    "graph", "leaf", "role", "count", "root", "signer",
))
# fmt: on
_DOMAIN = b"tacit receipt v1\n"
_RECORD = b"tacit receipt record v1\x00"
_KEY = b"tacit receipt record key v1\x00"
_NUMBERS = ("version", "number", "release", "count")
# Element types of records and answers, as numpy writes them, little-endian.
_SIZES = {"float32": 4, "float64": 8, "float16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
_LARGEST = 1 << 26
_MARKED = re.compile(rb'\s*\{\s*"tacit"\s*:\s*"receipt"')

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One record, or what was answered for it.

    Attributes:
        dtype: of its numbers.
        shape: without the dimension of records.
        data: the numbers, little-endian, in C order.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        size = _SIZES.get(self.dtype)
        if size is None or len(self.data) != size * math.prod(self.shape):
            raise MessageError(
                f"shape={self.shape} of dtype={self.dtype} hasn't {len(self.data)} bytes"
            )

    def encoded(self) -> bytes:
        """Injective: type and shape, then the numbers."""
        head = rfc8785.dumps([self.dtype, list(self.shape)])
        return len(head).to_bytes(4, "big") + head + self.data


def record_key(key: bytes, index: int) -> bytes:
    """The key of one record's commitment, from the request's; it opens no other."""
    return hmac.new(key, _KEY + index.to_bytes(8, "big"), hashlib.sha256).digest()


def commitment(key: bytes, given: Part, made: Part) -> bytes:
    """Hash of the leaf of one record and its answer.

    Args:
        key: of the record, `record_key`.
        given: the record.
        made: what was answered.
    """
    first, second = given.encoded(), made.encoded()
    message = _RECORD + len(first).to_bytes(8, "big") + first + second
    return merkle.leaf_hash(hmac.new(key, message, hashlib.sha256).digest())


def root(key: bytes, pairs: Iterator[tuple[Part, Part]]) -> str:
    """The root over a request's records, in hex."""
    hashes = (commitment(record_key(key, i), *pair) for i, pair in enumerate(pairs))
    return merkle.root_of(hashes).hex()


def sign(body: Body, signer: SignerKey) -> dict[str, Any]:
    """A receipt.

    Args:
        body: all of `FIELDS` but kind, version and signer.
        signer: the ledger's key.
    """
    whole = {**body, "kind": "score", "version": VERSION, "signer": str(signer.verifier)}
    if set(whole) != FIELDS:
        raise MessageError(f"a receipt hasn't {sorted(FIELDS ^ set(whole))}")
    signature = signer.sign(_DOMAIN + rfc8785.dumps(whole))
    return {**whole, "signature": base64.b64encode(signature).decode()}


def check(receipt: Body, keys: Sequence[str]) -> None:
    """Checks a receipt's form and signature.

    Args:
        receipt: without the request's key.
        keys: the ledger's, as signed notes write them; at least one.

    Raises:
        MessageError: it isn't a receipt, or none of them signed it.
    """
    if not keys:
        raise MessageError("a receipt needs the ledger's key", "give it with --key")
    known = {str(VerifierKey.parse(key)): VerifierKey.parse(key) for key in keys}
    if set(receipt) != FIELDS | {"signature"} or receipt["kind"] != "score":
        raise MessageError("it hasn't the fields of a receipt")
    numbers = [receipt[name] for name in _NUMBERS]
    if any(type(number) is not int for number in numbers) or receipt["version"] != VERSION:
        raise MessageError(f"receipt version={receipt['version']!r:.20} isn't {VERSION}")
    signer = known.get(receipt["signer"]) if isinstance(receipt["signer"], str) else None
    if signer is None:
        raise MessageError(f"signer={receipt['signer']!r:.120} isn't a key that was named")
    try:
        signature = base64.b64decode(receipt["signature"], validate=True)
        rest = {name: value for name, value in receipt.items() if name != "signature"}
        signed = _DOMAIN + rfc8785.dumps(rest)
    except (TypeError, ValueError) as error:
        raise MessageError(f"it isn't a receipt: {error}") from error
    if not signer.verify(signature, signed):
        raise MessageError("the receipt's signature is wrong", "it was altered")


def reveal(key: bytes, pairs: Sequence[tuple[Part, Part]], index: int) -> dict[str, Any]:
    """What shows one record and its answer under a receipt's root, and no other.

    Args:
        key: the request's.
        pairs: all its records and answers, in order.
        index: which is shown.

    Raises:
        MessageError: there is no such record.
    """
    if not 0 <= index < len(pairs):
        raise MessageError(f"record={index} must be in 0..{len(pairs) - 1}")
    tree = merkle.Tree()
    for i, pair in enumerate(pairs):
        tree.append(commitment(record_key(key, i), *pair))
    given, made = pairs[index]
    return {
        "index": index,
        "key": record_key(key, index).hex(),
        "record": _part(given),
        "answer": _part(made),
        "proof": [node.hex() for node in merkle.inclusion_proof(index, tree.size, tree.node)],
    }


def shown(receipt: Body, revealed: Body) -> bool:
    """Whether what `reveal` made, or anybody, is under a receipt's root."""
    try:
        leaf = commitment(
            bytes.fromhex(revealed["key"]), _parsed(revealed["record"]), _parsed(revealed["answer"])
        )
        path = [bytes.fromhex(node) for node in revealed["proof"]]
        found = bytes.fromhex(receipt["root"])
        index = revealed["index"]
        if type(index) is not int:
            return False
    except (LookupError, TypeError, ValueError, AttributeError, MessageError):
        return False
    return merkle.verify_inclusion(index, receipt["count"], leaf, path, found)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A receipt in a file, with what shows that the ledger has it.

    Attributes:
        receipt: signed.
        inclusion: that it is under an ACCESS leaf (`tacit.privacy.log.custody.covered`); None
            while no leaf covers it.
        proof: that this leaf is in the ledger (`tacit.privacy.log.proofs`), or None.
        shown: records that are revealed.
    """

    receipt: Body
    inclusion: Body | None = None
    proof: Body | None = None
    shown: tuple[Body, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a file has it."""
        return {
            "tacit": "receipt",
            "version": VERSION,
            "receipt": dict(self.receipt),
            "inclusion": self.inclusion,
            "proof": self.proof,
            "shown": list(self.shown),
        }


def is_receipt(path: Path) -> bool:
    """Whether a file looks like a receipt: it may have proofs inside it."""
    return _MARKED.match(_read(path, 1 << 12)) is not None


def check_file(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Checks a receipt's file: signature, the proofs that it has, the records that it shows.

    Args:
        path: of its file.
        keys: the ledger's.

    Returns:
        ``receipt``; ``leaf``, the ACCESS leaf that covers it, None if the file has no proof of
        one; ``shown``, how many records it shows.

    Raises:
        MessageError: something doesn't hold, or isn't a receipt.
        StorageError: it can't be read.
    """
    try:
        found = json.loads(_read(path, _LARGEST))
        envelope = Envelope(
            found["receipt"], found["inclusion"], found["proof"], tuple(found["shown"])
        )
        if envelope.to_json() != found:
            raise MessageError("it hasn't the fields of a receipt's file")
        check(envelope.receipt, keys)
        leaf = _covered(envelope, keys)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MessageError(f"{path} isn't a receipt: {error}") from error
    except MessageError as error:
        raise MessageError(f"{path}: {error.message}", error.hint) from error
    for each in envelope.shown:
        if not shown(envelope.receipt, each):
            raise MessageError(f"{path}: a record that it shows isn't under the receipt's root")
    return {"receipt": dict(envelope.receipt), "leaf": leaf, "shown": len(envelope.shown)}


def _covered(envelope: Envelope, keys: Sequence[str]) -> int | None:
    """The ACCESS leaf that a file proves its receipt to be under."""
    inclusion, proof = envelope.inclusion, envelope.proof
    if inclusion is None and proof is None:
        return None
    if inclusion is None or proof is None:
        raise MessageError("inclusion and proof go together")
    leaf, index = proofs.check_object(proof, keys), proof["index"]
    if inclusion["leaf"] != index or not custody.covered(inclusion, leaf):
        raise MessageError(f"it isn't under leaf {index}")
    if parsed(inclusion["row"]) != dict(envelope.receipt):
        raise MessageError(f"what is under leaf {index} is another receipt")
    return int(index)


def of_row(body: Body) -> dict[str, Any]:
    """The receipt that an access's row is.

    Raises:
        MessageError: it isn't one.
    """
    if body.get("kind") != "score" or set(body) != FIELDS | {"signature"}:
        raise MessageError("the record isn't a receipt")
    return dict(body)


def row(receipt: Body) -> bytes:
    """A receipt as it is stored and hashed."""
    return leaves.leaf_bytes(receipt)


def _part(part: Part) -> dict[str, Any]:
    data = base64.b64encode(part.data).decode()
    return {"dtype": part.dtype, "shape": list(part.shape), "data": data}


def _parsed(body: Body) -> Part:
    data = base64.b64decode(body["data"], validate=True)
    return Part(body["dtype"], tuple(body["shape"]), data)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    return data[:limit]
