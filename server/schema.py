"""Whether a database's schema is what the migrations make: no trigger was dropped or altered."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.server import tables as t
from tacit.server.database import Database, is_sqlite


def problems(c: Connection, database: Database) -> Iterator[str]:
    """What is wrong with the schema, and with SQLite's own structures."""
    if not is_sqlite(database.url):
        yield from _postgresql(c)
        return
    for (said,) in c.exec_driver_sql("PRAGMA integrity_check"):
        if said != "ok":
            yield f"the database is damaged: {said}"
    for row in c.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"a row of {row[0]} names one that isn't there"
    found = _sqlite(c)
    due = _due()
    for name in sorted(set(found) | set(due)):
        if found.get(name) != due.get(name):
            yield f"the schema's {name} isn't what the migrations make"


@functools.lru_cache(maxsize=1)
def _due() -> dict[str, str]:
    fresh = Database(sa.URL.create("sqlite", database=":memory:"))
    fresh.migrate()
    with fresh.reading() as c:
        found = _sqlite(c)
    fresh.close()
    return found


def _sqlite(c: Connection) -> dict[str, str]:
    schema = c.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master")
    found = {f"{kind} {name}": f"{table}: {sql}" for kind, name, table, sql in schema}
    revision = c.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    return {**found, "revision": ",".join(revision)}


# Of each table; those of `runs` protect what isn't progress.
_GUARDS = {
    **{name: ("frozen", "no_truncate") for name in t.metadata.tables if name != "runs"},
    "runs": ("fixed", "no_delete", "no_truncate"),
}


def _postgresql(c: Connection) -> Iterator[str]:
    query = sa.text(
        "SELECT tgname, tgenabled, pg_get_functiondef(tgfoid) FROM pg_trigger "
        "WHERE NOT tgisinternal"
    )
    found = {name: (enabled, body) for name, enabled, body in c.execute(query)}
    for table, guards in _GUARDS.items():
        for guard in guards:
            enabled, body = found.get(f"{table}_{guard}", ("D", ""))
            state = enabled.decode() if isinstance(enabled, bytes) else enabled
            if state != "O" or "RAISE EXCEPTION" not in body:
                yield f"trigger {table}_{guard} is off or altered"
