"""The log's own tables: leaves, the Merkle tree's nodes over them, signed checkpoints.

Guarantees: leaves have consecutive indices; every transaction that appended to them ends with
a checkpoint over all of them, signed in the same transaction. So the newest checkpoint covers
every leaf that anybody can read. All of it is within the caller's transaction.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import StorageError
from tacit.privacy.log import leaves, merkle
from tacit.privacy.log.notes import Checkpoint, SignerKey, sign_note
from tacit.server import tables as t

# The salt of a commitment to a cohort, and its members: handles, or numbers as once.
Opening = tuple[bytes, Sequence[int] | Sequence[str]]


def now() -> str:
    """The hour in UTC, in ISO 8601.

    No finer: how long a round took tells who was in it, if that client is known to be slow.
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:00:00Z")


class Log:
    """Appends within one transaction; `seal` ends it.

    Args:
        connection: of a writing transaction.
        signer: the key of the ledger.

    Raises:
        StorageError: it is no longer: another process rotated it.
    """

    def __init__(self, connection: Connection, signer: SignerKey) -> None:
        wanted = newest_key(connection)
        if wanted not in (None, str(signer.verifier)):
            raise StorageError(
                f"the ledger's key was changed to {wanted} since this process opened it",
                "start it again, with --resume if a run was under way",
            )
        self._c, self._signer = connection, signer
        self._size = self._began = size(connection)
        # Of all leaves of this transaction; never before the last one's, whatever the clock says.
        self.at = max(now(), _last_time(connection))

    @property
    def size(self) -> int:
        """Leaves so far: the next one's index."""
        return self._size

    def append(self, body: Mapping[str, Any], cohort: Opening | None = None) -> int:
        """Appends a leaf, with what opens its cohort commitment; returns its index."""
        index = self._size
        data = leaves.leaf_bytes({"at": self.at, **body})
        hashed = merkle.leaf_hash(data)
        self._c.execute(
            t.leaves.insert().values(
                index=index,
                run=body["run"],
                kind=body["kind"],
                body=data.decode(),
                hash=hashed.hex(),
            )
        )
        for level, place, value in merkle.new_nodes(index, hashed, self._node):
            if level:
                self._c.execute(t.nodes.insert().values(level=level, index=place, hash=value))
        self._size += 1
        if cohort is not None:
            salt, members = cohort
            row = {"run": body["run"], "purpose": body["purpose"], "salt": salt}
            members_json = json.dumps(list(members))
            self._c.execute(t.cohorts.insert().values(leaf=index, members=members_json, **row))
        return index

    def rotate(self, signer: SignerKey) -> int:
        """Appends the leaf that makes ``signer`` the ledger's key from this checkpoint on."""
        origin, old = first_key(self._c)["origin"], self._signer
        previous, key = str(old.verifier), str(signer.verifier)
        signature = old.sign(leaves.rotation(origin, key, previous))
        encoded = base64.b64encode(signature).decode()
        index = self.append(leaves.key(origin, key, previous, encoded))
        self._signer = signer
        return index

    def seal(self) -> None:
        """Signs a checkpoint over the log, if anything was appended."""
        if self._size == self._began:
            return
        root = merkle.root(self._size, self._node)
        checkpoint = Checkpoint(first_key(self._c)["origin"], self._size, root)
        note = sign_note(checkpoint.text(), self._signer)
        self._c.execute(t.checkpoints.insert().values(size=self._size, note=note))

    def _node(self, level: int, index: int) -> bytes:
        return node(self._c, level, index)


def _last_time(c: Connection) -> str:
    query = sa.select(t.leaves.c.body).order_by(t.leaves.c.index.desc()).limit(1)
    found = c.execute(query).scalar()
    return "" if found is None else str(json.loads(found)["at"])


def size(c: Connection) -> int:
    """How many leaves there are."""
    last = c.execute(sa.select(sa.func.max(t.leaves.c.index))).scalar()
    return 0 if last is None else int(last) + 1


def node(c: Connection, level: int, index: int) -> bytes:
    """A node of the tree; `merkle.Nodes` with the connection filled in."""
    if level == 0:
        return bytes.fromhex(c.execute(_LEAF, {"place": index}).scalar_one())
    return bytes(c.execute(_NODE, {"height": level, "place": index}).scalar_one())


_PLACE: sa.BindParameter[int] = sa.bindparam("place")
_LEAF = sa.select(t.leaves.c.hash).where(t.leaves.c.index == _PLACE)
_NODE = sa.select(t.nodes.c.hash).where(
    t.nodes.c.level == sa.bindparam("height"), t.nodes.c.index == _PLACE
)


def newest_checkpoint(c: Connection) -> str | None:
    """The newest signed note."""
    query = sa.select(t.checkpoints.c.note).order_by(t.checkpoints.c.size.desc()).limit(1)
    found = c.execute(query).scalar()
    return None if found is None else str(found)


def first_key(c: Connection) -> dict[str, Any]:
    """The KEY leaf that the ledger began with."""
    return next(keys(c))


def keys(c: Connection) -> Iterator[dict[str, Any]]:
    """The KEY leaves, oldest first."""
    query = sa.select(t.leaves.c.body).where(t.leaves.c.kind == "KEY").order_by(t.leaves.c.index)
    return (json.loads(body) for (body,) in c.execute(query))


def newest_key(c: Connection) -> str | None:
    """The ledger's key, as C2SP writes it; None if it has none yet.

    Raises:
        StorageError: the leaf that says it was altered beyond reading.
    """
    query = sa.select(t.leaves.c.body).where(t.leaves.c.kind == "KEY")
    found = c.execute(query.order_by(t.leaves.c.index.desc()).limit(1)).scalar()
    try:
        return None if found is None else str(json.loads(found)["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "the ledger's newest KEY leaf can't be read: the database was altered",
            "restore it from a backup",
        ) from error


def bodies(c: Connection, kinds: Sequence[str], after: int = -1) -> list[tuple[int, Any]]:
    """Leaves of some kinds behind an index, with their own."""
    of = t.leaves.c
    query = sa.select(of.index, of.body).where(of.kind.in_(kinds), of.index > after)
    return [(index, json.loads(body)) for index, body in c.execute(query.order_by(of.index))]


def texts(c: Connection) -> Iterator[str]:
    """Every leaf as it was hashed, oldest first, a few at a time."""
    query = sa.select(t.leaves.c.body).order_by(t.leaves.c.index)
    for (body,) in c.execution_options(yield_per=1000).execute(query):
        yield body
