"""Whether a database's schema is what the migrations make: no trigger was dropped or altered."""

from __future__ import annotations

import functools
import re
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
_EVERY_ROW = {"frozen": "before delete or update on {0} for each row"}
_EMPTYING = {"no_truncate": "before truncate on {0} for each statement"}
_PROGRESS = ("status", "message", "round", "state")
_SOURCE = "BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END"


def _guards() -> dict[str, str]:
    """Every trigger's definition, as `_plain` leaves it."""
    fixed = [c.name for c in t.runs.columns if c.name not in _PROGRESS]
    changed = " or ".join(f"new.{name} is distinct from old.{name}" for name in fixed)
    made = {}
    for table in t.metadata.tables:
        whens = {**_EVERY_ROW, **_EMPTYING}
        if table == "runs":
            whens = {
                "fixed": f"before update on {{0}} for each row when {changed}",
                "no_delete": "before delete on {0} for each row",
                **_EMPTYING,
            }
        for name, when in whens.items():
            made[f"{table}_{name}"] = (
                f"create trigger {table}_{name} {when.format(table)} "
                "execute function tacit_append_only"
            )
    return made


def _postgresql(c: Connection) -> Iterator[str]:
    query = sa.text(
        "SELECT tgname, tgisinternal, tgenabled::text, pg_get_triggerdef(g.oid, true), prosrc "
        "FROM pg_trigger g JOIN pg_proc p ON p.oid = tgfoid JOIN pg_class r ON r.oid = tgrelid "
        "WHERE r.relnamespace = current_schema()::regnamespace"
    )
    due = _guards()
    for name, internal, enabled, definition, source in c.execute(query):
        if internal:
            # Foreign keys, in PostgreSQL's own words.
            if enabled != "O":
                yield f"trigger {name}, which checks a foreign key, is off"
            continue
        as_made = due.pop(name, None) == _plain(definition) and source.strip() == _SOURCE
        if enabled != "O" or not as_made:
            yield f"trigger {name} is off or altered"
    for name in due:
        yield f"trigger {name} is gone"
    for (name,) in c.execute(
        sa.text(
            "SELECT rulename FROM pg_rules WHERE schemaname = current_schema() AND tablename = "
            "ANY(:tables)"
        ),
        {"tables": list(t.metadata.tables)},
    ):
        yield f"rule {name} isn't tacit's"
    yield from _tables(sa.inspect(c))


def _plain(definition: str) -> str:
    """Without the casts and parentheses that PostgreSQL adds."""
    return re.sub(r"::\w+|[()]", "", definition).lower()


def _tables(found: sa.Inspector) -> Iterator[str]:
    """Columns and keys that aren't those of `tacit.server.tables`."""
    for name, table in t.metadata.tables.items():
        columns = {(c["name"], c["nullable"]) for c in found.get_columns(name)}
        unique = {tuple(u["column_names"]) for u in found.get_unique_constraints(name)}
        foreign = {
            (*f["constrained_columns"], f["referred_table"], *f["referred_columns"])
            for f in found.get_foreign_keys(name)
        }
        if columns != {(c.name, c.nullable) for c in table.columns}:
            yield f"the columns of {name} aren't what the migrations make"
        same = [u for u in table.constraints if isinstance(u, sa.UniqueConstraint)]
        due = {tuple(c.name for c in u.columns) for u in same}
        key = [c.name for c in table.primary_key]
        if unique != due or found.get_pk_constraint(name)["constrained_columns"] != key:
            yield f"the keys of {name} aren't what the migrations make"
        if foreign != {
            (f.parent.name, f.column.table.name, f.column.name) for f in table.foreign_keys
        }:
            yield f"the foreign keys of {name} aren't what the migrations make"
