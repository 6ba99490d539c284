"""Removes what linked a client, from the rows and from the database's own files.

`forget` belongs into the transaction that closes a case. The tables whose old rows would tell are
written anew in it, whole: on SQLite, with ``secure_delete``, the pages that they had are
overwritten with zeros. `scrub` comes after: SQLite's log of pages is copied into the file and
emptied; PostgreSQL writes the tables into new files.

It doesn't reach copies that were made before: backups, replicas, snapshots, blocks that a file
system or a disk keeps, PostgreSQL's write-ahead log until it is recycled.
"""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import StorageError
from tacit.server.database import Database, explained, is_sqlite
from tacit.server.erasure import handles, withdrawals
from tacit.server.erasure import tables as t
from tacit.server.gateway import tables as g

_TABLES = (t.seeds, t.withdrawals, t.cases)


def forget(
    c: Connection, population: str, client: int, case: dict[str, Any], everyone: bool
) -> None:
    """Takes away what a client's handles come from, its case's link to it, and its identity.

    Args:
        c: of a writing transaction.
        population: whose client.
        client: its number, which stays withdrawn.
        case: the row that is left of its case.
        everyone: whether all others' older handles go too, so that none is left over alone.
    """
    if everyone:
        out = sorted(withdrawals.within(c, population))
        handles.renew(c, population, out)
    else:
        handles.erase(c, population, client)
    w = t.withdrawals.c
    own = sa.and_(w.population == population, w.client == client)
    c.execute(t.withdrawals.update().where(own).values({w.case: None}))
    _anew(c, t.withdrawals)
    replace(c, case)
    _identity(c, population, client)


def replace(c: Connection, case: dict[str, Any]) -> None:
    """Puts another row in a case's place, of which nothing else is left."""
    c.execute(t.cases.update().where(t.cases.c.id == case["id"]).values(**case))
    _anew(c, t.cases)


def scrub(database: Database) -> None:
    """Removes what the database's files still have of rows that are gone.

    Raises:
        StorageError: others are reading; nothing is lost, and it can be done later.
    """
    with explained():
        if is_sqlite(database.url):
            _checkpointed(database)
            return
        engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as c:
            for table in (*_TABLES, g.devices, g.tokens):
                c.exec_driver_sql(f"VACUUM FULL {table.name}")


def _checkpointed(database: Database) -> None:
    connection = database.engine.raw_connection()
    try:
        cursor = connection.cursor()
        busy, left, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    if busy or left:
        raise StorageError(
            "another process reads the database, so its files still have what was erased",
            "do it again when that has ended",
        )


def _anew(c: Connection, table: sa.Table) -> None:
    """Writes a table's rows again, in the order of its key."""
    key = list(table.primary_key)
    rows = [dict(row._mapping) for row in c.execute(sa.select(table).order_by(*key))]
    # Without a condition, which on SQLite clears whole pages.
    c.execute(table.delete())
    if rows:
        c.execute(table.insert(), rows)


def _identity(c: Connection, population: str, client: int) -> None:
    """A device's key, attestation and certificate; its number stays taken, and revoked."""
    d, tokens = g.devices.c, g.tokens.c
    own = sa.and_(d.population == population, d.client == client)
    identity = c.execute(sa.select(d.identity).where(own)).scalar()
    if identity is None:
        return
    nobody = secrets.token_bytes(32)
    left: dict[str, Any] = {"identity": nobody, "attestation": b"", "serial": "", "not_after": 0}
    left |= {"certificate": f"none {nobody.hex()[:58]}"}
    left |= dict.fromkeys(("next_certificate", "next_serial", "next_not_after", "renewed_at"))
    # When it was revoked is when the case was opened: the time alone would tell whose it was.
    left["revoked_at"] = 0
    c.execute(g.devices.update().where(own).values(**left))
    c.execute(g.tokens.delete().where(tokens.used_by == bytes(identity)))
