"""Who has withdrawn: excluded from every draw from then on.

Guarantees: who is noted here when a charge is committed isn't in its cohort, since the charge asks
within its own transaction. Every other client joins a draw with the probability that it had: the
draw flips a coin for each client alone, and leaving out some afterwards touches no other coin. The
denominators stay too, so the sensitivity is what it was.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.server.erasure import tables as t
from tacit.server.store import Store


def withdrawn(store: Store, population: str) -> set[int]:
    """Numbers of the clients that have withdrawn from a population."""
    with store.database.reading() as c:
        return set(within(c, population))


def within(c: Connection, population: str) -> dict[int, str | None]:
    """Who has withdrawn, and each one's case as long as it isn't closed."""
    w = t.withdrawals.c
    rows = c.execute(sa.select(w.client, w.case).where(w.population == population))
    return {row.client: row.case for row in rows}
