"""What a client is to the protocol: its identity, directory, floors, vault and ledger."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

from tacit.client.floors import Floors
from tacit.client.ledger import ClientLedger
from tacit.privacy.errors import StorageError
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.directory import LocalDirectory, everybody, key_path
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.vault import Vault


class Party(Protocol):
    """Makes the protocol's client for a client's number.

    Attributes:
        floors: what the client insists on.
        deployed: whether there is somebody to protect; else it is a simulation's.
    """

    floors: Floors
    deployed: bool

    def masking(self, client: int, rules: Rules) -> MaskingClient:
        """The client's side of secure aggregation under a plan's rules."""

    def identity(self, client: int) -> Identity:
        """The client's signing key."""

    def vault(self, client: int) -> Vault:
        """Where the client keeps its sessions."""

    def ledger(self, client: int) -> ClientLedger | None:
        """The client's own ledger; a simulation's has none."""


class LocalParty:
    """All clients of a simulation in one process; identities and vaults end with it.

    Args:
        directory: shared with the simulation's coordinator.
    """

    def __init__(self, directory: LocalDirectory) -> None:
        self._directory, self._vault = directory, Vault(None)
        self.floors, self.deployed = Floors(), False

    def masking(self, client: int, rules: Rules) -> MaskingClient:
        """A simulated client."""
        identity = self._directory.identity(client)
        return MaskingClient(client, identity, self._directory, rules, self._vault)

    def identity(self, client: int) -> Identity:
        """A simulated client's key."""
        return self._directory.identity(client)

    def vault(self, client: int) -> Vault:
        """The one of all of them."""
        return self._vault

    def ledger(self, client: int) -> ClientLedger | None:
        """None."""
        return None


class FolderParty:
    """A client whose key, directory, floors, vault and ledger are files; it survives a restart.

    Args:
        folder: has ``directory.json``, ``K.key`` and, if there are any, ``devices.json`` and
            ``floors.json``; the vault, ``K.vault``, and the ledger, ``K.ledger``, are made there.
        deployed: whether the client is one; else it is one of Flower's simulation, which
            keeps no ledger and takes noise from a seed.

    Raises:
        StorageError: the directory isn't there.
    """

    def __init__(self, folder: Path, deployed: bool = False) -> None:
        self._folder, self.deployed = folder, deployed
        self._directory = everybody(folder)
        self.floors = Floors.load(folder / "floors.json", seeded=not deployed)
        self._vaults: dict[int, Vault] = {}
        self._ledgers: dict[int, ClientLedger] = {}

    def masking(self, client: int, rules: Rules) -> MaskingClient:
        """The client of this number.

        Raises:
            StorageError: its key can't be read, or isn't the directory's.
        """
        identity = self.identity(client)
        return MaskingClient(client, identity, self._directory, rules, self.vault(client))

    def identity(self, client: int) -> Identity:
        """The key of the client of this number.

        Raises:
            StorageError: it can't be read, or isn't the directory's.
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
        return identity

    def vault(self, client: int) -> Vault:
        """The vault of the client of this number."""
        if client not in self._vaults:
            self._vaults[client] = Vault(self._folder / f"{client}.vault")
        return self._vaults[client]

    def ledger(self, client: int) -> ClientLedger | None:
        """The ledger of the client of this number, with the caps of its floors."""
        if not self.deployed:
            return None
        if client not in self._ledgers:
            path = self._folder / f"{client}.ledger"
            self._ledgers[client] = ClientLedger(path, self.floors.caps())
        return self._ledgers[client]


@functools.lru_cache(maxsize=4)
def folder_party(folder: Path, deployed: bool = False) -> FolderParty:
    """A folder's party; its directory is read once a process."""
    return FolderParty(folder, deployed)
