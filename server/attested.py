"""Checks one version in a home, or an exported file without one, against the ledger's key.

Guarantees: what is returned was signed, by a key that the caller named or that is the home's, about
exactly these bytes. Of a file it doesn't say that the ledger still stands by what was signed: a
version that was retired since has the same envelope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.privacy import dsse
from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log.notes import VerifierKey
from tacit.server.home import explained
from tacit.server.lifecycle import Lifecycle
from tacit.server.proven import Proven
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row


def of_file(name: str, envelope: str, keys: Sequence[str]) -> dict[str, Any]:
    """What an envelope says of a file, if it does.

    Args:
        name: the file.
        envelope: its envelope's file.
        keys: that may have signed it, as signed notes write them.

    Raises:
        StorageError: a file can't be read, or the envelope is of other bytes.
        MessageError: the envelope isn't sound, or none of the keys signed it.
    """
    known = [VerifierKey.parse(key) for key in keys]
    with explained(f"{envelope} can't be read"):
        raw = Path(envelope).read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MessageError(f"{envelope} isn't an envelope: it isn't text") from error
    said = dsse.described(text, known)
    with explained(f"{name} can't be read"), Path(name).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != said["artifact"]:
        raise StorageError(
            f"{name} isn't {said['subject']}: its SHA-256 is {found[:16]}..., and what was signed "
            f"is {said['artifact'][:16]}...",
            "get it again from whom you had it",
        )
    return said


def of_version(registry: ModelRegistry, row: Row, keys: Sequence[str]) -> dict[str, Any]:
    """What is signed of a version, with its file, row and leaves checked; and its stage.

    Args:
        registry: of the home.
        row: the version's.
        keys: that must have signed the ledger, as signed notes write them; may be none.

    Raises:
        StorageError: something isn't what was released, or a key isn't the ledger's.
    """
    registry.verified(row)
    store = registry.store
    with store.database.reading() as c:
        known = Proven(c, store.signer.verifier).keys
    for text in keys:
        if VerifierKey.parse(text) not in known:
            raise StorageError(
                f"the ledger isn't signed by the key {text}", "is it another home's?"
            )
    said = dsse.described(registry.envelope(row), known)
    return {**said, "stage": Lifecycle(store).stages(row["name"])[row["number"]]}
