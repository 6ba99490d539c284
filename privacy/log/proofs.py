"""Proofs in a file: that a leaf is in a ledger, or that it only grew, without showing leaves.

A JSON object. A proof of a leaf ("proof") holds the leaf's text, its index, the tree's size,
the inclusion proof (RFC 9162, section 2.1.3) and the checkpoint. A proof of growth
("consistency") holds an older checkpoint, a newer one, and the consistency proof between them
(section 2.1.4). Either is worth what the key is worth: whoever checks it must know the
ledger's key from elsewhere. Growth is worth what the older checkpoint is worth too: it must be
one that was kept, since an operator with two histories has a checkpoint of each.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
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


def grown(since: str, checkpoint: str, nodes: merkle.Nodes) -> dict[str, Any]:
    """A proof that the tree of a checkpoint begins with that of an older one.

    Args:
        since: the older signed note.
        checkpoint: the newer.
        nodes: of the newer one's tree.

    Raises:
        ValueError: the older one is of more leaves.
    """
    proof = merkle.consistency_proof(signed(since).size, signed(checkpoint).size, nodes)
    return {
        "tacit": "consistency",
        "version": VERSION,
        "since": since,
        "proof": [digest.hex() for digest in proof],
        "checkpoint": checkpoint,
    }


def is_proof(path: Path) -> bool:
    """Whether a file looks like a proof of a leaf, and not like a bundle."""
    return _marked(path, "proof")


def is_growth(path: Path) -> bool:
    """Whether a file looks like a proof of growth, and not like a bundle."""
    return _marked(path, "consistency")


def check(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Checks a proof of a leaf; returns the leaf.

    Args:
        path: of its file.
        keys: the ledger's, as signed notes write them; at least one.

    Raises:
        MessageError: it doesn't hold, or isn't one.
        StorageError: it can't be read.
    """
    with _explained(path):
        found = json.loads(_read(path))
    return check_object(found, keys, str(path))


def check_object(found: Any, keys: Sequence[str], what: str = "the proof") -> dict[str, Any]:
    """As `check`, of a proof that was read.

    Args:
        found: JSON.
        keys: as of `check`.
        what: it is called in an error.
    """
    known = _known(keys)
    with _explained(what):
        found = _fields(found, "proof", ("leaf", "index", "size", "proof", "checkpoint"))
        text, index = found["leaf"], found["index"]
        hashes = [_digest(digest) for digest in found["proof"]]
        leaf = merkle.leaf_hash(text.encode())
        checkpoint = Checkpoint.parse(open_note(found["checkpoint"], *known))
    if type(index) is not int or found["size"] != checkpoint.size:
        raise MessageError(f"{what} is of a tree of {found['size']}, and its checkpoint of another")
    if not merkle.verify_inclusion(index, checkpoint.size, leaf, hashes, checkpoint.root):
        raise MessageError(f"{what} doesn't prove that leaf {index} is in the ledger")
    return parsed(text)


def check_growth(
    path: Path, keys: Sequence[str], kept: Sequence[str] = ()
) -> tuple[Checkpoint, Checkpoint]:
    """Checks a proof of growth; returns the older checkpoint and the newer.

    Args:
        path: of its file.
        keys: the ledger's, as signed notes write them: those of both checkpoints.
        kept: signed notes, each of which must be the older one or the newer.

    Raises:
        MessageError: it doesn't hold, isn't one, or isn't of the checkpoints kept.
        StorageError: it can't be read.
    """
    known = _known(keys)
    with _explained(path):
        found = json.loads(_read(path))
        found = _fields(found, "consistency", ("since", "proof", "checkpoint"))
        hashes = [_digest(digest) for digest in found["proof"]]
        older, newer = (
            Checkpoint.parse(open_note(found[name], *known)) for name in ("since", "checkpoint")
        )
    if older.origin != newer.origin:
        raise MessageError(f"{path} is of two ledgers, {older.origin} and {newer.origin}")
    if not merkle.verify_consistency(older.size, newer.size, older.root, newer.root, hashes):
        raise MessageError(
            f"{path} doesn't prove that the ledger's {newer.size} leaves begin with those of its"
            f" checkpoint of {older.size}"
        )
    for note in kept:
        mine = Checkpoint.parse(open_note(note, *known))
        if mine not in (older, newer):
            raise MessageError(
                f"{path} isn't of the checkpoint of {mine.size} leaves that was kept",
                f"it is of one of {older.size} and one of {newer.size}",
            )
    return older, newer


def _marked(path: Path, kind: str) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    return f'"tacit": "{kind}"'.encode() in head or f'"tacit":"{kind}"'.encode() in head


def _known(keys: Sequence[str]) -> list[VerifierKey]:
    if not keys:
        raise MessageError("a proof needs the ledger's key", "give it with --key")
    return [VerifierKey.parse(key) for key in keys]


def _fields(found: Any, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    """A proof's fields, of whatever types they are."""
    if set(found) != {"tacit", "version", *names} or found["tacit"] != kind:
        raise ValueError(f"it hasn't the fields of a {kind}")
    version = found["version"]
    if type(version) is not int or version != VERSION:
        raise MessageError(f"proof version={version} isn't {VERSION}")
    return dict(found)


@contextlib.contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MessageError(f"{path} isn't a proof: {error}") from error


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
