"""A client's part in secure aggregation: its identity, its directory, its vault."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

from tacit.client.floors import Floors
from tacit.privacy.errors import StorageError
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.directory import LocalDirectory, PinnedDirectory, key_path
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.vault import Vault


class Party(Protocol):
    """Makes the protocol's client for a client's number.

    Attributes:
        floors: what the client insists on.
    """

    floors: Floors

    def masking(self, client: int, rules: Rules) -> MaskingClient:
        """The client's side of secure aggregation under a plan's rules."""


class LocalParty:
    """All clients of a simulation in one process; identities and vaults end with it.

    Args:
        directory: shared with the simulation's coordinator.
    """

    def __init__(self, directory: LocalDirectory) -> None:
        self._directory, self._vault = directory, Vault(None)
        self.floors = Floors()

    def masking(self, client: int, rules: Rules) -> MaskingClient:
        """A simulated client."""
        identity = self._directory.identity(client)
        return MaskingClient(client, identity, self._directory, rules, self._vault)


class FolderParty:
    """A client whose key, directory, floors and vault are files; it survives a restart.

    Args:
        folder: has ``directory.json``, ``K.key`` and, if there are any, ``floors.json``; the
            vault, ``K.vault``, is made there.

    Raises:
        StorageError: the directory isn't there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._directory = PinnedDirectory.load(folder / "directory.json")
        self.floors = Floors.load(folder / "floors.json")
        self._vaults: dict[int, Vault] = {}

    def masking(self, client: int, rules: Rules) -> MaskingClient:
        """The client of this number.

        Raises:
            StorageError: its key can't be read, or isn't the directory's.
        """
        path = key_path(self._folder, client)
        try:
            identity = Identity.from_bytes(path.read_bytes())
        except OSError as error:
            raise StorageError(
                f"key {path} can't be read: {error.strerror}", "was this client enrolled?"
            ) from error
        if self._directory.public(client) != identity.public:
            raise StorageError(f"key {path} isn't the one that the directory has")
        if client not in self._vaults:
            self._vaults[client] = Vault(self._folder / f"{client}.vault")
        return MaskingClient(client, identity, self._directory, rules, self._vaults[client])


@functools.lru_cache(maxsize=4)
def folder_party(folder: Path) -> FolderParty:
    """A folder's party; its directory is read once a process."""
    return FolderParty(folder)
