"""The database engine: SQLite in the home, or PostgreSQL, with one way to read and one to write.

Guarantees: a `writing` block that ends has committed durably; one that raises has changed
nothing. Writers take turns from the block's first statement to its commit, on either engine
and over any number of processes: what a writer reads can't change before it commits. (A
PostgreSQL that is lost *during* COMMIT leaves open whether the whole block happened;
resuming reads which.)

SQLite: WAL with synchronous=FULL, writers by BEGIN IMMEDIATE. PostgreSQL: one advisory lock
held by the writing transaction, synchronous_commit on. Either gives up after a minute's wait
for another writer.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from tacit.privacy.errors import ConfigError, StorageError

# Any number that other users of the database are unlikely to lock.
_WRITERS = 0x7461636974
_PATIENCE = 60


class Database:
    """One database; migrated by `migrate`.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://...``.
    """

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self.engine = _sqlite(url) if is_sqlite(url) else _postgresql(url)

    def close(self) -> None:
        """Releases the connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read from; what it reads is one state of the database."""
        with explained(), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer's overlaps."""
        engine = self.engine.execution_options(writes=True)
        with explained(), engine.begin() as connection:
            yield connection

    def migrate(self) -> None:
        """Brings the tables up to date.

        Raises:
            StorageError: a newer tacit wrote them.
        """
        # Alembic takes a while to import, and nearly every opening finds nothing to do.
        from alembic import command
        from alembic.config import Config
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory
        from alembic.util.exc import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        script = ScriptDirectory.from_config(config)
        with self.writing() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            if current == script.get_current_head():
                return
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise StorageError(
                    f"the database is at revision {current}, which this tacit doesn't know",
                    "a newer tacit wrote it; upgrade",
                ) from error


def parse(text: str) -> sa.URL:
    """A database URL.

    Raises:
        ConfigError: it isn't one, or names an engine that tacit doesn't know.
    """
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        # Neither quoted nor chained: what isn't a URL may still have a password in it.
        raise ConfigError("database=... isn't a URL", _EXAMPLE) from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"database={url.render_as_string()} must be PostgreSQL", _EXAMPLE)
    return url if is_sqlite(url) else url.set(drivername="postgresql+psycopg")


_EXAMPLE = "such as postgresql://user@host/tacit; left out, it is SQLite in the home"


def is_sqlite(url: sa.URL) -> bool:
    """Whether the database is a file of the home."""
    return url.get_backend_name() == "sqlite"


def _sqlite(url: sa.URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _PATIENCE})

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        # SQLAlchemy begins transactions itself (below); the driver must not.
        connection.isolation_level = None
        # What is deleted is overwritten; hardly anything is (`tacit.server.erasure`).
        kept = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
        for pragma in kept:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once: one that read first could not upgrade.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: sa.URL) -> Engine:
    try:
        # A reader sees one state of the database, as with SQLite; a writer must see what was
        # committed while it waited for its turn.
        engine = sa.create_engine(url, pool_pre_ping=True, isolation_level="REPEATABLE READ")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"database={url.render_as_string()} needs psycopg", "pip install 'tacit[postgres]'"
        ) from error

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes"):
            connection.exec_driver_sql(
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"
                f"SET LOCAL synchronous_commit TO on; SET LOCAL lock_timeout TO '{_PATIENCE}s';"
                f"SELECT pg_advisory_xact_lock({_WRITERS})"
            )

    return engine


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns the engines' errors into a `StorageError` that says what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise StorageError(
            f"the database is damaged: {error}", "restore it from a backup"
        ) from error
    except sa.exc.DBAPIError as error:
        text = _first(error)
        if isinstance(error, sa.exc.IntegrityError) and "UNIQUE" in text.upper():
            what, hint = "refused a double entry", "another process works on this run?"
        else:
            what, hint = "failed", _hint(text)
        raise StorageError(f"the database {what}: {text}", hint) from error


def _first(error: sa.exc.DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


# The first that fits: a refused connection says "connection" too.
_HINTS = {
    ("full", "disk I/O", "No space"): "free space and use --resume; nothing that was committed "
    "is lost",
    ("readonly", "unable to open", "read-only"): "choose another with --home or TACIT_HOME",
    ("append-only",): "leaves and versions are never changed; somebody tried",
    ("is locked", "lock timeout"): "another process has held it for a minute",
    ("does not exist",): "create it first, with createuser and createdb",
    ("authentication", "no password supplied"): "PGPASSWORD or ~/.pgpass can hold the password",
    ("permission denied", "no schema"): "make its user the database's owner",
    ("connect", "server closed", "terminating", "starting up", "shutting down", "recovery"): (
        "is PostgreSQL up? once it is, use --resume; nothing that was committed is lost"
    ),
}


@functools.lru_cache(maxsize=64)
def _hint(text: str) -> str:
    for words, hint in _HINTS.items():
        if any(word in text for word in words):
            return hint
    return "is it a tacit database, and readable?"
