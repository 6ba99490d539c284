"""The ledger as an outbox: leaves in order, from a place that is kept in the home.

Guarantees: the place moves on durably, and only after a leaf was delivered, so whoever is killed
between the two delivers that leaf again: at least once, in order. A place that isn't of this
ledger, or beyond its end since it was put back from a backup, is none: all is delivered again.
One process a target delivers at a time. Nothing here locks or writes the database.

It doesn't guarantee that a receiver takes a leaf twice without harm: that is the receiver's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from tacit.privacy.errors import StorageError
from tacit.privacy.log.leaves import Body
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.home import explained, write_durably
from tacit.server.store import Store

# Leaves that are read at once.
BATCH = 500


class Outbox:
    """What one target has to be told yet.

    Args:
        store: of the home.
        target: who is told, in full; only its digest is kept.
    """

    def __init__(self, store: Store, target: str) -> None:
        self._store = store
        self._name = hashlib.sha256(target.encode()).hexdigest()[:16]

    @property
    def origin(self) -> str:
        """The ledger's name."""
        with self._store.database.reading() as c:
            return str(logs.first_key(c)["origin"])

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the target against other processes.

        Raises:
            StorageError: another one delivers to it.
        """
        busy = "another process mirrors this home to this target"
        with explained(f"{self._file.parent} can't be made"):
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
        with self._store.home.lock(f"mirrors/{self._name}.lock", busy):
            yield

    def position(self) -> int:
        """The first leaf that isn't known to be delivered; 0 for a new target or ledger."""
        if not self._file.exists():
            return 0
        with explained(f"{self._file} can't be read"):
            text = self._file.read_text("utf-8")
        try:
            kept = json.loads(text)
            position, hashed = int(kept["position"]), str(kept["hash"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self._file} isn't the place of a mirror",
                "remove it: everything is delivered again, which changes nothing there",
            ) from error
        return position if self._hash(position - 1) == hashed else 0

    def waiting(self) -> Iterator[tuple[int, Body]]:
        """Leaves that aren't known to be delivered, in order, to those there are by now."""
        position = self.position()
        while rows := self._rows(position):
            yield from rows
            position = rows[-1][0] + 1

    def delivered(self, index: int) -> None:
        """Keeps durably that everything up to a leaf was delivered."""
        kept = {"position": index + 1, "hash": self._hash(index)}
        write_durably(self._file, json.dumps(kept).encode())

    def forget(self) -> None:
        """Begins anew: everything is delivered again."""
        with explained(f"{self._file} can't be removed"):
            self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self._store.home.root / "mirrors" / f"{self._name}.json"

    def _rows(self, position: int) -> list[tuple[int, Body]]:
        of = t.leaves.c
        query = sa.select(of.index, of.body).where(of.index >= position).order_by(of.index)
        with self._store.database.reading() as c:
            return [(index, json.loads(body)) for index, body in c.execute(query.limit(BATCH))]

    def _hash(self, index: int) -> str | None:
        query = sa.select(t.leaves.c.hash).where(t.leaves.c.index == index)
        with self._store.database.reading() as c:
            found = c.execute(query).scalar()
        return None if found is None else str(found)
