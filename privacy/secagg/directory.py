"""Who is who: the Ed25519 public key of every client, pinned before any round.

Guarantees: `PinnedDirectory` is what its file says and nothing that arrives in a round can
change it. `LocalDirectory` is a simulation's: one process owns every identity, derived from
one secret when it is first needed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import rfc8785

from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.keys import Identity, derive


class Directory(Protocol):
    """Looks up identities."""

    def public(self, client: int) -> bytes | None:
        """A client's Ed25519 public key, or None if it isn't known."""


class PinnedDirectory:
    """A fixed table of clients and their keys.

    Args:
        keys: public key of each client.

    Raises:
        ConfigError: two clients have one key, or a key isn't of 32 bytes.
    """

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        if len(set(keys.values())) != len(keys):
            raise ConfigError("the directory has one key for two clients")
        if any(len(key) != 32 for key in keys.values()):
            raise ConfigError("the directory has a key that isn't of 32 bytes")
        self._keys = dict(keys)

    def public(self, client: int) -> bytes | None:
        """A client's key, or None."""
        return self._keys.get(client)

    def digest(self) -> str:
        """SHA-256 of the directory in canonical JSON, in hex, to compare out of band."""
        return hashlib.sha256(self._json()).hexdigest()

    def _json(self) -> bytes:
        return rfc8785.dumps({str(k): key.hex() for k, key in self._keys.items()})

    def save(self, path: Path) -> None:
        """Writes the directory.

        Raises:
            StorageError: the file can't be written.
        """
        try:
            part = path.with_suffix(".part")
            part.write_bytes(self._json())
            part.replace(path)
        except OSError as error:
            raise StorageError(f"{path} can't be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> PinnedDirectory:
        """Reads a directory.

        Raises:
            StorageError: the file can't be read, or isn't a directory.
        """
        try:
            found = json.loads(path.read_bytes())
            return cls({int(k): bytes.fromhex(key) for k, key in found.items()})
        except OSError as error:
            raise StorageError(
                f"directory {path} can't be read: {error.strerror}",
                "each client needs everybody's public keys before the first round",
            ) from error
        except (ConfigError, ValueError, AttributeError, TypeError) as error:
            raise StorageError(f"directory {path} isn't one: {error}") from error


def everybody(folder: Path) -> PinnedDirectory:
    """The clients of a folder's ``directory.json``, and of its ``devices.json`` if there is one.

    The first is made once, of silos; the second anew when devices have enrolled.

    Raises:
        StorageError: a file can't be read, or they have different keys for a client.
    """
    silos, path = PinnedDirectory.load(folder / "directory.json"), folder / "devices.json"
    if not path.exists():
        return silos
    devices = PinnedDirectory.load(path)
    odd = [k for k, key in devices._keys.items() if silos.public(k) not in (None, key)]
    if odd:
        raise StorageError(
            f"{path} has another key for client {odd[0]} than directory.json",
            "a client's key isn't replaced",
        )
    try:
        return PinnedDirectory({**silos._keys, **devices._keys})
    except ConfigError as error:
        raise StorageError(f"{path} has a key of directory.json for another client") from error


class LocalDirectory:
    """Every identity of a simulation, derived from one secret.

    Args:
        secret: 32 bytes; None draws them from the operating system.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = os.urandom(32) if secret is None else secret
        self._identity = functools.lru_cache(maxsize=100_000)(self._derived)

    def identity(self, client: int) -> Identity:
        """A client's signing key."""
        return self._identity(client)

    def public(self, client: int) -> bytes | None:
        """A client's public key."""
        return self._identity(client).public

    def _derived(self, client: int) -> Identity:
        return Identity.from_bytes(derive("identity", self._secret, str(client).encode()))


def enrol(folder: Path, clients: int) -> PinnedDirectory:
    """Makes identities for a population on one machine, or finds those made before.

    Writes ``K.key``, owner-only, for every client and ``directory.json`` into ``folder``. In a
    deployment each client makes its own key and the directories are handed out beforehand.

    Raises:
        StorageError: the folder can't be written, or has another population.
    """
    path = folder / "directory.json"
    if path.exists():
        found = PinnedDirectory.load(path)
        if any(found.public(k) is None for k in range(clients)):
            raise StorageError(
                f"{path} has fewer than clients={clients} identities", "use another home"
            )
        return found
    keys = {}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for client in range(clients):
            keys[client] = _enrolled(key_path(folder, client)).public
    except OSError as error:
        raise StorageError(f"{folder} can't be written: {error.strerror}") from error
    made = PinnedDirectory(keys)
    made.save(path)
    return made


def _enrolled(path: Path) -> Identity:
    """The identity in a file, made if it isn't there: an enrolment can be interrupted."""
    if path.exists():
        try:
            return Identity.from_bytes(path.read_bytes())
        except ConfigError as error:
            raise StorageError(f"{path} isn't a signing key", "move it away") from error
    identity, part = Identity.generate(), path.with_suffix(".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(identity.private)
    part.replace(path)
    return identity


def key_path(folder: Path, client: int) -> Path:
    """Where a client's signing key is."""
    return folder / f"{client}.key"
