"""Proofs in a file: that one leaf is in a ledger, without showing the others.

A JSON object with the leaf's text, its index, the tree's size, the inclusion proof (RFC 9162,
section 2.1.3) and the checkpoint. It is worth what the key is worth: whoever checks it must
know the ledger's key from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import merkle
from tacit.privacy.log.notes import Checkpoint, VerifierKey, open_note, signed
from tacit.privacy.log.verify import parsed

VERSION = 1


def make(text: str, index: int, checkpoint: str, nodes: merkle.Nodes) -> dict[str, Any]:
    """A proof that a leaf is in the tree of a checkpoint.

    Args:
        text: the leaf, as it is hashed.
        index: of the leaf.
        checkpoint: the signed note.
        nodes: of the tree.
    """
    size = signed(checkpoint).size
    proof = merkle.inclusion_proof(index, size, nodes)
    return {
        "tacit": "proof",
        "version": VERSION,
        "leaf": text,
        "index": index,
        "size": size,
        "proof": [digest.hex() for digest in proof],
        "checkpoint": checkpoint,
    }


def is_proof(path: Path) -> bool:
    """Whether a file looks like a proof and not like a bundle."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    return b'"tacit": "proof"' in head or b'"tacit":"proof"' in head


def check(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Checks a proof; returns the leaf that it proves.

    Args:
        path: of its file.
        keys: the ledger's, as signed notes write them; at least one.

    Raises:
        MessageError: it doesn't hold, or isn't one.
        StorageError: it can't be read.
    """
    if not keys:
        raise MessageError("a proof needs the ledger's key", "give it with --key")
    known = [VerifierKey.parse(key) for key in keys]
    try:
        found = json.loads(_read(path))
        text, index, size, proof, note = (found[name] for name in _FIELDS)
        hashes = [_digest(digest) for digest in proof]
        leaf = merkle.leaf_hash(text.encode())
        checkpoint = Checkpoint.parse(open_note(note, *known))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MessageError(f"{path} isn't a proof: {error}") from error
    if found.get("version") != VERSION:
        raise MessageError(f"proof version={found.get('version')} isn't {VERSION}")
    if type(index) is not int or size != checkpoint.size:
        raise MessageError(f"{path} is of a tree of {size}, and its checkpoint of another")
    if not merkle.verify_inclusion(index, checkpoint.size, leaf, hashes, checkpoint.root):
        raise MessageError(f"{path} doesn't prove that leaf {index} is in the ledger")
    return parsed(text)


_FIELDS = ("leaf", "index", "size", "proof", "checkpoint")


def _digest(text: str) -> bytes:
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise ValueError("a digest isn't in lower-case hex")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
