"""Who the other devices are: each identity pinned on this device when it is first seen.

Guarantees: `Peers.public` answers with a key only if the enrolment authority, whose key came
with this device's bundle, signed it for that client of this population; the first such key
stays, over restarts, and another one for the same client, or the same key for another, is
refused for ever, whoever signed it.

It doesn't notice a device that was revoked: that is for the gateway to leave out.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tacit.privacy.durable import DurableFile
from tacit.privacy.errors import RoundError
from tacit.privacy.secagg.keys import KEY_BYTES, verify
from tacit.protocol import statements

_SCHEMA = """
CREATE TABLE IF NOT EXISTS peers (
    client INTEGER PRIMARY KEY, identity BLOB NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, plan TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One client's identity, as the authority says.

    Attributes:
        client: whose.
        identity: Ed25519 public key, 32 bytes.
        signature: of the authority, over `statements.attestation`.
    """

    client: int
    identity: bytes
    signature: bytes

    def signed(self, population: str, authority: bytes) -> bool:
        """Whether the authority signed it for this population."""
        said = statements.attestation(population, self.client, self.identity)
        return len(self.identity) == KEY_BYTES and verify(authority, self.signature, said)


class Peers(DurableFile):
    """A `tacit.privacy.secagg.directory.Directory` that grows; safe between threads.

    Args:
        path: of its file, made with owner-only rights; None keeps it in memory.
        population: whose clients these are.
        authority: Ed25519 public key, 32 bytes.

    Raises:
        StorageError: the file can't be opened.
    """

    _name = "the device's file"
    _hint = "is there space, and is the folder this user's?"

    def __init__(self, path: Path | None, population: str, authority: bytes) -> None:
        self._population, self._authority = population, authority
        self._lock = threading.Lock()
        super().__init__(path, _SCHEMA, threads=True)
        with self._explained():
            rows = self._db.execute("SELECT client, identity FROM peers")
            self._known = {int(client): bytes(identity) for client, identity in rows}

    def public(self, client: int) -> bytes | None:
        """A client's key, or None if it was never seen."""
        return self._known.get(client)

    def unknown(self, clients: Iterable[int]) -> list[int]:
        """Those of them who aren't pinned yet."""
        return [client for client in clients if client not in self._known]

    def pin(self, entries: Iterable[Entry]) -> None:
        """Pins identities, all of them or none.

        Raises:
            RoundError: one isn't attested by the authority, or isn't the one that is pinned.
            StorageError: the file can't be written.
        """
        new: dict[int, bytes] = {}
        for entry in entries:
            self._check(entry)
            if self._known.get(entry.client, new.get(entry.client)) is None:
                new[entry.client] = entry.identity
            elif self._known.get(entry.client, new.get(entry.client)) != entry.identity:
                raise RoundError(
                    f"client {entry.client} has another identity than the one pinned here",
                    "a device that was enrolled anew needs a new number",
                )
        if not new:
            return
        with self._lock, self._writing() as db:
            try:
                db.executemany("INSERT INTO peers VALUES (?, ?)", list(new.items()))
            except sqlite3.IntegrityError as error:
                raise RoundError("one identity was given for two clients") from error
        self._known.update(new)

    def agree(self, run: str, plan: str) -> None:
        """Pins the plan of a run: another one under the same name is refused.

        Raises:
            RoundError: the run had another plan.
            StorageError: the file can't be written.
        """
        with self._lock, self._writing() as db:
            db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (run, plan))
            (first,) = db.execute("SELECT plan FROM runs WHERE run = ?", (run,)).fetchone()
        if first != plan:
            raise RoundError(f"run={run} had another plan when this device first met it")

    def _check(self, entry: Entry) -> None:
        if not entry.signed(self._population, self._authority):
            raise RoundError(f"the identity of client {entry.client} isn't the authority's word")
