"""Checks moves, retirements and attestations against the leaves that they come from, both ways.

Finds a row that was altered, is missing or is one too many, and an envelope that isn't signed with
a key of the ledger, or says something else than its version's row, which `tacit.server.check` holds
against its leaves. Whether the leaves make sense is `tacit.privacy.log.lifecycle`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy import dsse
from tacit.privacy.errors import MessageError
from tacit.privacy.log.leaves import MOVES
from tacit.privacy.log.notes import VerifierKey
from tacit.server import attestations
from tacit.server import log as logs
from tacit.server import tables as t

Problem = tuple[int | None, str]
_PLACE = ("model", "alias", "number")


def problems(c: Connection) -> Iterator[Problem]:
    """What is wrong with the rows of versions' lives in a database."""
    moves = {
        index: (*(body[name] for name in _PLACE), -1 if (p := body["previous"]) is None else p)
        for index, body in logs.bodies(c, MOVES)
    }
    columns = (*(t.moves.c[name] for name in _PLACE), t.moves.c.previous)
    yield from _same(c, "move", t.moves.c.leaf, columns, moves)
    retired = {index: (b["model"], b["number"]) for index, b in logs.bodies(c, ("RETIRE",))}
    columns = (t.retirements.c.model, t.retirements.c.number)
    yield from _same(c, "retirement", t.retirements.c.leaf, columns, retired)
    yield from _attested(c)


def _same(
    c: Connection,
    what: str,
    leaf: sa.ColumnElement[Any],
    columns: Sequence[sa.ColumnElement[Any]],
    due: dict[int, tuple[Any, ...]],
) -> Iterator[Problem]:
    """Whether each leaf has its row, and each row its leaf."""
    left = dict(due)
    for index, *values in c.execute(sa.select(leaf, *columns).order_by(leaf)):
        wanted = left.pop(index, None)
        if wanted is None:
            yield None, f"a {what} is noted for leaf {index}, which is no such leaf"
        elif tuple(values) != wanted:
            yield index, f"its row, {tuple(values)}, isn't the leaf's {what}, {wanted}"
    for index in left:
        yield index, f"its row among the {what}s is gone"


def _attested(c: Connection) -> Iterator[Problem]:
    """Whether each version has its envelope, and each envelope its version."""
    try:
        keys = [VerifierKey.parse(body["key"]) for body in logs.keys(c)]
    except MessageError as error:
        yield None, f"no attestation can be checked: {error.message}"
        return
    origin = logs.first_key(c)["origin"]
    a = t.attestations
    envelopes = {row.version: row.envelope for row in c.execute(sa.select(a))}
    rows = {row.id: dict(row._mapping) for row in c.execute(sa.select(t.versions))}
    releases = {None: None} | {identifier: row["release"] for identifier, row in rows.items()}
    for identifier, row in rows.items():
        what, envelope = f"{row['name']}@{row['number']}", envelopes.pop(identifier, None)
        if envelope is None:
            yield row["release"], f"the attestation of {what} is gone"
            continue
        try:
            due = attestations.statement(row, releases.get(row["parent"]), origin)
            if dsse.opened(envelope, dsse.IN_TOTO, keys) != due:
                yield row["release"], f"the attestation of {what} says something else"
        except (MessageError, LookupError, TypeError, ValueError, AttributeError) as error:
            yield row["release"], f"the attestation of {what}: {error}"
    for identifier in envelopes:
        yield None, f"an attestation is of version id={identifier}, which isn't there"
