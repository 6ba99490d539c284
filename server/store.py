"""The one database: runs, ledger leaves, versions, round state.

Guarantees: a method that returns has committed durably (SQLite: WAL with synchronous=FULL);
one that raises has changed nothing. Leaves get consecutive indices under a write lock, so
several processes can share a home. Nothing here updates or deletes a leaf or a version.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from tacit.privacy import ledger
from tacit.privacy.errors import StorageError
from tacit.server import tables as t
from tacit.server.home import Home

Row = dict[str, Any]


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """The database of a home; made and migrated on opening.

    Raises:
        StorageError: it can't be opened, or a newer tacit wrote it.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._engine = _engine(home.database)
        with home.lock("migrate.lock"), _explained():
            _migrate(self._engine)
        home.database.chmod(0o600)

    def close(self) -> None:
        """Releases the connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _explained(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        engine = self._engine.execution_options(writes=True)
        with _explained(), engine.begin() as connection:
            yield connection

    # Runs

    def create_run(self, row: Row) -> None:
        """Adds a run; ``row`` has its id, name, spec, plan, their digests and the code."""
        with self._writing() as c:
            c.execute(t.runs.insert().values(status="running", created_at=now(), round=0, **row))

    def run(self, identifier: str) -> Row:
        """A run by its id, a unique prefix of it, or ``last``.

        Raises:
            StorageError: there is none, or several.
        """
        query = sa.select(t.runs).order_by(t.runs.c.created_at.desc(), t.runs.c.id.desc())
        if identifier != "last":
            query = query.where(t.runs.c.id.startswith(identifier, autoescape=True))
        with self._reading() as c:
            found = [dict(row._mapping) for row in c.execute(query.limit(2))]
        exact = [row for row in found if row["id"] == identifier]
        if identifier == "last" or exact:
            found = exact or found[:1]
        if len(found) == 1:
            return found[0]
        problem = "matches several runs" if found else "is no run in this home"
        raise StorageError(f"run={identifier} {problem}", "tacit runs list shows them")

    def runs(self) -> list[Row]:
        """All runs, oldest first."""
        with self._reading() as c:
            rows = c.execute(sa.select(t.runs).order_by(t.runs.c.created_at, t.runs.c.id))
            return [dict(row._mapping) for row in rows]

    def set_status(self, run: str, status: str, message: str = "") -> None:
        """Marks a run as running, finished, stopped, refused or failed."""
        with self._writing() as c:
            c.execute(
                t.runs.update().where(t.runs.c.id == run).values(status=status, message=message)
            )

    # Leaves

    def append(
        self, body: dict[str, Any], cohort: tuple[bytes, Sequence[int]] | None = None
    ) -> int:
        """Appends a leaf, with what opens its cohort commitment; returns its index."""
        with self._writing() as c:
            return _append(c, body, cohort)

    def leaves(self, run: str | None = None) -> list[Row]:
        """Leaves in order, of one run or all: index, kind, hash, and body as parsed JSON."""
        query = sa.select(t.leaves).order_by(t.leaves.c.index)
        if run is not None:
            query = query.where(t.leaves.c.run == run)
        with self._reading() as c:
            rows = [dict(row._mapping) for row in c.execute(query)]
        return [{**row, "body": json.loads(row["body"])} for row in rows]

    def claims(self, run: str) -> list[dict[str, Any]]:
        """What a run's leaves add up to: every row of its epsilon table, recomputed."""
        plan = json.loads(self.run(run)["plan"])
        deltas = {"client": plan["client_delta"], "record": plan["record_delta"]}
        return ledger.replay([leaf["body"] for leaf in self.leaves(run)], deltas).table()

    def cohorts(self, run: str) -> list[tuple[str, list[int]]]:
        """Purpose and members of every cohort drawn in a run, abandoned ones included."""
        query = sa.select(t.cohorts.c.purpose, t.cohorts.c.members).where(t.cohorts.c.run == run)
        with self._reading() as c:
            return [(purpose, json.loads(members)) for purpose, members in c.execute(query)]

    def abandon_open_charges(self, run: str, reason: str) -> int:
        """Appends an ABANDON for every CHARGE of a run that came to no release.

        The charges stand; this records that nothing was revealed under them.
        """
        with self._writing() as c:
            query = sa.select(t.leaves.c.body).where(t.leaves.c.run == run)
            bodies = [json.loads(b) for (b,) in c.execute(query.order_by(t.leaves.c.index))]
            closed = {_key(b) for b in bodies if b["kind"] != "CHARGE"}
            charges = [b for b in bodies if b["kind"] == "CHARGE" and _key(b) not in closed]
            for body in charges:
                same = {k: body[k] for k in ("run", "round", "attempt", "purpose")}
                _append(c, {"kind": "ABANDON", **same, "reason": reason}, None)
            return len(charges)

    # Releases

    def release(
        self,
        leaves: Sequence[dict[str, Any]],
        version: Row,
        round_row: Row,
        state: str,
    ) -> Row:
        """One transaction: RELEASE leaves, model version, round state.

        Args:
            leaves: bodies; the last is the model's, which gets the version's number.
            version: its columns but id, number, parent and release.
            round_row: columns of ``rounds``.
            state: digest of the coordinator's state after this round.

        Returns:
            The version's row.

        Raises:
            StorageError: this round of this run was released before.
        """
        with self._writing() as c:
            v = t.versions
            same_name = sa.select(sa.func.max(v.c.number)).where(v.c.name == version["name"])
            number = (c.execute(same_name).scalar() or 0) + 1
            last = sa.select(sa.func.max(v.c.id)).where(v.c.run == version["run"])
            parent = c.execute(last).scalar()
            for body in leaves[:-1]:
                _append(c, body, None)
            index = _append(c, {**leaves[-1], "name": version["name"], "number": number}, None)
            row = {
                **version,
                "number": number,
                "parent": parent,
                "release": index,
                "created_at": now(),
            }
            done = c.execute(v.insert().values(**row))
            c.execute(t.rounds.insert().values(**round_row))
            c.execute(
                t.runs.update()
                .where(t.runs.c.id == version["run"])
                .values(round=version["round"], state=state)
            )
            assert done.inserted_primary_key is not None
            return {"id": done.inserted_primary_key[0], **row}

    def versions(self, **where: Any) -> list[Row]:
        """Versions with the given column values, oldest first; metrics as parsed JSON."""
        query = sa.select(t.versions).order_by(t.versions.c.id)
        for column, value in where.items():
            query = query.where(t.versions.c[column] == value)
        with self._reading() as c:
            rows = [dict(row._mapping) for row in c.execute(query)]
        return [{**row, "metrics": json.loads(row["metrics"])} for row in rows]

    def rounds(self, run: str) -> list[Row]:
        """Released rounds of a run in order; JSON columns parsed."""
        query = sa.select(t.rounds).where(t.rounds.c.run == run).order_by(t.rounds.c.round)
        with self._reading() as c:
            rows = [dict(row._mapping) for row in c.execute(query)]
        parsed = ("metrics", "epsilon", "rejected")
        return [{k: json.loads(v) if k in parsed else v for k, v in row.items()} for row in rows]


def _key(body: Mapping[str, Any]) -> tuple[int, int, str]:
    return body["round"], body["attempt"], body["purpose"]


def _append(c: Connection, body: dict[str, Any], cohort: tuple[bytes, Sequence[int]] | None) -> int:
    last = c.execute(sa.select(sa.func.max(t.leaves.c.index))).scalar()
    index = 0 if last is None else last + 1
    data = ledger.leaf_bytes({**body, "at": now()})
    c.execute(
        t.leaves.insert().values(
            index=index,
            run=body["run"],
            kind=body["kind"],
            body=data.decode(),
            hash=ledger.leaf_hash(data),
        )
    )
    if cohort is not None:
        salt, members = cohort
        c.execute(
            t.cohorts.insert().values(
                leaf=index,
                run=body["run"],
                purpose=body["purpose"],
                salt=salt,
                members=json.dumps(list(members)),
            )
        )
    return index


def _engine(path: Path) -> Engine:
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        # SQLAlchemy begins transactions itself (below); the driver must not.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once: one that read first could not upgrade.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _migrate(engine: Engine) -> None:
    # Alembic takes a while to import, and nearly every opening finds nothing to do.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    with engine.execution_options(writes=True).begin() as connection:
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


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise StorageError(
            f"the database refused a double entry: {error.orig}",
            "another process works on this run?",
        ) from error
    except sa.exc.DBAPIError as error:
        text = str(error.orig)
        hint = "is the file a tacit database, and readable?"
        if "full" in text or "disk I/O" in text:
            hint = "free space and use --resume; nothing that was committed is lost"
        elif "readonly" in text or "unable to open" in text:
            hint = "choose another with --home or TACIT_HOME"
        elif "locked" in text:
            hint = "another process has held it for a minute"
        raise StorageError(f"the database failed: {text}", hint) from error
