"""A client's withdrawal, signed with its own key, offline: a file for the operator.

Guarantees: the file is whole or not there, replaces none, and the key stays where it is.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from tacit.client.party import FolderParty
from tacit.privacy.errors import ConfigError, MessageError, StorageError
from tacit.privacy.log.notes import signed
from tacit.privacy.secagg.keys import Identity
from tacit.protocol.withdrawal import Withdrawal


def from_folder(folder: Path, population: str, client: int | None, ledger: str) -> Withdrawal:
    """A silo's.

    Args:
        folder: its ``client-home``, with ``directory.json`` and ``K.key``.
        population: it withdraws from, as the operator calls it.
        client: its number; None if the folder has one key.
        ledger: origin of the operator's.

    Raises:
        StorageError: the key can't be read, or isn't the directory's.
        ConfigError: the number isn't said, and isn't clear.
    """
    if client is None:
        found = sorted(int(p.stem) for p in folder.glob("*.key") if p.stem.isdecimal())
        if len(found) != 1:
            raise ConfigError(
                f"client-home={folder} has {len(found)} clients' keys", "say which: --client K"
            )
        client = found[0]
    identity = FolderParty(folder, True).identity(client)
    return Withdrawal.signed(identity, population, client, ledger, datetime.now(UTC))


def from_identity(identity: Identity, population: str, client: int, ledger: str) -> Withdrawal:
    """A device's."""
    return Withdrawal.signed(identity, population, client, ledger, datetime.now(UTC))


def origin(ledger: str | None, checkpoint: Path | None) -> str:
    """The ledger's name, given as such or in a checkpoint of it.

    Raises:
        ConfigError: neither is given, or both.
        StorageError: the file can't be read, or isn't a checkpoint.
    """
    if (ledger is None) == (checkpoint is None):
        raise ConfigError(
            "which ledger is to note the withdrawal?",
            "--ledger NAME, the first line of any of its checkpoints, or --checkpoint FILE",
        )
    if checkpoint is None:
        return str(ledger)
    try:
        return signed(checkpoint.read_text("utf-8")).origin
    except OSError as error:
        raise StorageError(f"{checkpoint} can't be read: {error.strerror}") from error
    except (MessageError, ValueError) as error:
        raise StorageError(f"{checkpoint} isn't a checkpoint") from error


def write(made: Withdrawal, to: Path) -> None:
    """Writes the file.

    Raises:
        StorageError: it is there already, or can't be written.
    """
    try:
        with open(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(json.dumps(made.to_json(), indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise StorageError(f"{to} is there already", "choose another name, or remove it") from error
    except OSError as error:
        raise StorageError(f"{to} can't be written: {error.strerror}") from error
