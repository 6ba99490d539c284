"""Checks records of reads and scores against the ACCESS leaves over them, both ways.

Finds a row under a leaf that was altered, removed, added or put elsewhere, a gap in the ids, and a
leaf without its row in ``batches`` or a row there without its leaf. Of rows that no leaf covers
yet it sees only that they are canonical and numbered without gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import MessageError
from tacit.privacy.log import merkle
from tacit.privacy.log.verify import parsed
from tacit.server import log as logs
from tacit.server import tables as t

Problem = tuple[int | None, str]


def problems(c: Connection) -> Iterator[Problem]:
    """What is wrong with the accesses of a database."""
    sealed = dict(logs.bodies(c, ("ACCESS",)))
    yield from _batches(c, sealed)
    query = sa.select(t.accesses).order_by(t.accesses.c.id).execution_options(yield_per=1000)
    rows = c.execute(query)
    ends = {body["last"]: (index, body) for index, body in sealed.items()}
    hashes: list[bytes] = []
    last = 0
    for row in rows:
        if row.id != last + 1:
            yield None, f"the access after {last} has id {row.id}"
        last = row.id
        yield from _row(row)
        text = row.body if isinstance(row.body, str) else str(row.body)
        hashes.append(merkle.leaf_hash(text.encode(errors="surrogatepass")))
        if row.id in ends:
            index, body = ends.pop(row.id)
            if merkle.root_of(hashes).hex() != body["root"] or len(hashes) != body["count"]:
                what = f"accesses {body['first']} to {body['last']}"
                yield index, f"{what} aren't those that were sealed"
            hashes = []
    for index, body in ends.values():
        yield index, f"accesses {body['first']} to {body['last']} are gone, or not all there"


def _batches(c: Connection, sealed: dict[int, Any]) -> Iterator[Problem]:
    rows = {row.leaf: (row.first, row.last) for row in c.execute(sa.select(t.batches))}
    for index, body in sealed.items():
        if rows.pop(index, None) != (body["first"], body["last"]):
            yield index, "its row among the batches isn't there, or isn't the leaf's"
    for index in rows:
        yield index, "is a batch of accesses, and no such leaf"


def _row(row: sa.Row[Any]) -> Iterator[Problem]:
    what = f"access {row.id}"
    try:
        body = parsed(row.body)
    except MessageError as error:
        yield None, f"{what} {error.message}"
        return
    for name in ("kind", "request"):
        if body.get(name) != row._mapping[name]:
            yield None, f"{what}: {name}={row._mapping[name]!r} isn't its body's"
