"""Which accesses are about one model: its reads and its scores, and nobody else's."""

from __future__ import annotations

import re

import sqlalchemy as sa

from tacit.privacy.log.verify import parsed
from tacit.server import tables as t
from tacit.server.store import Row, Store


def about(store: Store, model: str, limit: int = 100) -> list[Row]:
    """Rows about a model, its versions and aliases, newest first.

    Args:
        store: of the home.
        model: its name.
        limit: at most so many.

    Returns:
        Of each id, kind, request, body and the ACCESS leaf that covers it, None before one does.
    """
    a, b = t.accesses.c, t.batches.c
    query = sa.select(t.accesses).order_by(a.id.desc()).execution_options(yield_per=500)
    subject = re.compile(rf"model {re.escape(model)}(?:@.*)?", re.DOTALL)
    found: list[Row] = []
    with store.database.reading() as c:
        for row in c.execute(query):
            body = parsed(row.body)
            if row.kind == "read":
                mine = bool(subject.fullmatch(str(body.get("subject", ""))))
            else:
                mine = body.get("model") == model
            if mine:
                same = {"id": row.id, "kind": row.kind, "request": row.request}
                found.append({**same, "body": body})
            if len(found) == limit:
                break
        batches = c.execute(sa.select(b.leaf, b.first, b.last)).all()
    for one in found:
        covering = [leaf for leaf, first, last in batches if first <= one["id"] <= last]
        one["leaf"] = covering[0] if covering else None
    return found
