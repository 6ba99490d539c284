"""Leaves of a database as the ledger's key vouches for them, without reading all of them.

Guarantees: a body from here is of a leaf under the newest checkpoint, by an inclusion proof, and
that checkpoint is signed with the key in the home, or with one that came after it, each signed by
the one before. So a leaf, a node, a checkpoint or a KEY that was altered is an error, not an
answer. It reads one state of the database.

It doesn't say that the other leaves are sound: that is `tacit ledger verify`.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import leaves, merkle
from tacit.privacy.log.notes import Checkpoint, VerifierKey, open_note
from tacit.privacy.log.verify import parsed
from tacit.server import log as logs
from tacit.server import tables as t

# What comes of a value that isn't what its column should hold.
_UNREADABLE = (MessageError, LookupError, TypeError, ValueError, AttributeError)


class Proven:
    """The leaves that a key vouches for.

    Args:
        c: of a transaction.
        known: the key of the home.

    Raises:
        StorageError: the newest checkpoint isn't signed by it or by one that follows from it.
    """

    def __init__(self, c: Connection, known: VerifierKey) -> None:
        self._c = c
        with _explained("the newest checkpoint can't be trusted"):
            note = logs.newest_checkpoint(c)
            if note is None:
                raise MessageError("there is none")
            query = sa.select(t.leaves.c.index).where(t.leaves.c.kind == "KEY")
            places = c.execute(query.order_by(t.leaves.c.index)).scalars().all()
            rows = [parsed(self._text(index)) for index in places]
            newest = _following(rows, known)
            self._head = Checkpoint.parse(open_note(note, newest))
            if self._head.size != logs.size(c):
                raise MessageError(f"it is of {self._head.size} of {logs.size(c)} leaves")
        # All that signed this ledger, oldest first: each is under the checkpoint.
        self.keys = [VerifierKey.parse(self.body(index)["key"]) for index in places]
        self.origin = self._head.origin

    def body(self, index: int) -> dict[str, Any]:
        """A leaf's body.

        Raises:
            StorageError: there is no such leaf, or it isn't the one that was signed.
        """
        with _explained(f"leaf {index} can't be trusted"):
            text = self._text(index)
            size, root = self._head.size, self._head.root
            proof = merkle.inclusion_proof(index, size, lambda *at: logs.node(self._c, *at))
            leaf = merkle.leaf_hash(text.encode(errors="surrogatepass"))
            if not merkle.verify_inclusion(index, size, leaf, proof, root):
                raise MessageError("it isn't the one that the newest checkpoint signs")
            return parsed(text)

    def only(self, kind: str, run: str) -> tuple[int, dict[str, Any]]:
        """Index and body of the one leaf of a kind that a run has, such as its PLAN.

        Raises:
            StorageError: it has none, or several.
        """
        of = t.leaves.c
        query = sa.select(of.index).where(of.run == run, of.kind == kind).limit(2)
        found = self._c.execute(query).scalars().all()
        if len(found) != 1:
            raise _damaged(f"run={run} has {len(found) or 'no'} {kind} leaves, and 1 is due")
        return found[0], self.body(found[0])

    def _text(self, index: int) -> str:
        text = self._c.execute(_TEXT, {"place": index}).scalar()
        if not isinstance(text, str):
            raise MessageError("there is no such leaf")
        return text


_TEXT = sa.select(t.leaves.c.body).where(
    t.leaves.c.index == sa.bindparam("place", type_=sa.Integer())
)


def _following(rows: list[dict[str, Any]], known: VerifierKey) -> VerifierKey:
    """The newest key: the known one, or what those after it, each signed by the last, end in."""
    found, started = known, False
    for body in rows:
        if started:
            said = leaves.rotation(body["origin"], body["key"], str(found))
            signature = base64.b64decode(body["signature"], validate=True)
            if not found.verify(signature, said):
                raise MessageError(f"the key {body['key']} isn't signed with the one before it")
            found = VerifierKey.parse(body["key"])
        started = started or body["key"] == str(known)
    if not started:
        raise MessageError(f"the home's key, {known}, isn't in the ledger")
    return found


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (sa.exc.InvalidRequestError, *_UNREADABLE) as error:
        said = (
            error.message if isinstance(error, MessageError) else f"{type(error).__name__} {error}"
        )
        raise _damaged(f"{what}: {said}") from error


def _damaged(message: str) -> StorageError:
    return StorageError(message, "tacit ledger verify says what is wrong; restore from a backup")
