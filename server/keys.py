"""Which database a home's is, and whose key signs its log: settled when a store is opened.

Guarantees: a home goes on with the database and the key it began with. A key file that isn't
the ledger's, or is gone, is an error: a log signed by another key from one day on would be no
worse to look at. `rotate` changes the key, signed with the old one. Where there is a key but
no ledger of it, none is begun: a database that was lost or emptied doesn't start over.

A new key is in ``ledger.next`` before the log names it and in ``ledger.key`` after, so a crash
between the two loses neither; the next opening finishes it.

A home from before there was a tree is adopted: its leaves stay as they are, a KEY leaf and one
PLAN leaf a run come after them, and what its rows say is committed to in those.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.log import keyfile, leaves
from tacit.privacy.log.leaves import sealed
from tacit.privacy.log.notes import SignerKey
from tacit.server import database
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.database import Database
from tacit.server.home import Home, explained, write_durably
from tacit.server.log import Log

# Openings and changes of the key take turns.
LOCK = "migrate.lock"


def place(home: Home) -> sa.URL:
    """Where a home's database is."""
    if home.url is None:
        return sa.URL.create("sqlite", database=str(home.database))
    url = database.parse(home.url)
    if database.is_sqlite(url) and url.database != str(home.database):
        raise ConfigError(
            f"database={url.render_as_string()} must be PostgreSQL",
            "SQLite is the home's own; choose another home",
        )
    if home.remembered.is_file():
        known = database.parse(home.remembered.read_text().strip())
        if known != _without_password(url):
            raise ConfigError(
                f"database={url.render_as_string()} isn't this home's, which is "
                f"{known.render_as_string()}",
                "leave TACIT_DATABASE out, or choose another home",
            )
    elif home.database.exists() and not database.is_sqlite(url):
        raise ConfigError(
            f"database={url.render_as_string()}, but home={home.root} keeps its ledger in SQLite",
            "choose another home; one ledger isn't moved into another database",
        )
    return url


def remember(home: Home, url: sa.URL) -> None:
    """Notes a PostgreSQL database's URL in the home, without its password."""
    if not database.is_sqlite(url) and not home.remembered.is_file():
        text = _without_password(url).render_as_string(hide_password=False)
        write_durably(home.remembered, f"{text}\n".encode())


def opened(home: Home, database: Database) -> SignerKey:
    """The ledger's key; begins or adopts the log if it has none yet.

    Call it with the home's `LOCK` held.

    Raises:
        StorageError: the key file is gone, or isn't the ledger's; or the ledger is.
    """
    with database.reading() as c:
        wanted = logs.newest_key(c)
    if wanted is None:
        if home.signing_key.is_file():
            raise StorageError(
                f"{home.signing_key} is the key of a ledger that isn't in "
                f"{database.url.render_as_string()}",
                "restore the database from a backup, or choose another home",
            )
        remember(home, database.url)
        return _begin(home, database)
    found = _held(home, wanted)
    remember(home, database.url)
    return found


def rotate(home: Home, database: Database, old: SignerKey) -> SignerKey:
    """Makes a new key the ledger's, by a leaf signed with the old one; returns it.

    Raises:
        StorageError: ``old`` isn't the ledger's key any more.
    """
    with home.lock(LOCK):
        with database.reading() as c:
            wanted = logs.newest_key(c)
        if wanted is not None:
            _held(home, wanted)  # What is next may be the ledger's key, after a lost COMMIT.
        made = _create_next(home, old.name)
        with database.writing() as c:
            log = Log(c, old)
            log.rotate(made)
            log.seal()
        _settle(home)
    return made


def plan_leaf(row: dict[str, Any]) -> leaves.Body:
    """The PLAN leaf of a run's row."""
    return {
        "kind": "PLAN",
        "run": row["id"],
        "name": row["name"],
        "population": row["population"],
        "plan": row["plan_digest"],
        "body": json.loads(row["plan"]),
        "spec": row["spec_digest"],
        "code": row["code"],
    }


def adopted(c: Connection, row: dict[str, Any]) -> dict[str, Any]:
    """What an adopted run's rows say, as it is committed to."""
    run = row["id"]
    mutable = ("status", "message", "round", "state")
    versions = sa.select(t.versions).where(t.versions.c.run == run).order_by(t.versions.c.id)
    rounds = sa.select(t.rounds).where(t.rounds.c.run == run).order_by(t.rounds.c.round)
    return {
        "run": {name: row[name] for name in ("created_at", *mutable)},
        "versions": [dict(found._mapping) for found in c.execute(versions)],
        "rounds": [dict(found._mapping) for found in c.execute(rounds)],
    }


def _begin(home: Home, database: Database) -> SignerKey:
    signer = _create_next(home, f"tacit.ledger/{secrets.token_hex(8)}")
    with database.writing() as c:
        if logs.newest_key(c) is not None:
            raise StorageError(
                f"another home began this ledger just now: {database.url.render_as_string()}",
                "one ledger has one home",
            )
        log = Log(c, signer)
        log.append(leaves.key(signer.name, str(signer.verifier), None, None))
        for found in c.execute(sa.select(t.runs).order_by(t.runs.c.created_at, t.runs.c.id)).all():
            row = dict(found._mapping)
            said = sealed(row["key"], "adopted", adopted(c, row))
            progress = {name: row[name] for name in ("status", "round", "state")}
            log.append({**plan_leaf(row), "adopted": {**progress, "rows": said}})
        log.seal()
    _settle(home)
    return signer


def _held(home: Home, wanted: str) -> SignerKey:
    """The home's key, which must be the wanted one."""
    path, following = home.signing_key, _next(home)
    found = keyfile.load(path) if path.is_file() else None
    if found is not None and str(found.verifier) == wanted:
        return found
    if following.is_file():
        made = keyfile.load(following)
        if str(made.verifier) == wanted:
            _settle(home)
            return made
    if found is None:
        raise StorageError(
            f"{path} is gone, and with it the key of this ledger",
            "restore it from a backup; if another home began the ledger, use that one",
        )
    raise StorageError(
        f"{path} isn't the key of this ledger, {wanted}",
        "restore the right one from a backup, or choose another home",
    )


def _next(home: Home) -> Path:
    return home.signing_key.with_suffix(".next")


def _create_next(home: Home, name: str) -> SignerKey:
    """A new key beside the old; what else lay there was never the ledger's."""
    path = _next(home)
    with explained(f"{path} can't be removed"):
        path.unlink(missing_ok=True)
    return keyfile.create(path, name)


def _settle(home: Home) -> None:
    """Puts the new key in its place."""
    path = _next(home)
    with explained(f"{path} can't be moved"):
        path.replace(home.signing_key)


def _without_password(url: sa.URL) -> sa.URL:
    # Not `set`, to which None means "as it is".
    bare = sa.URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database, url.query
    )
    return bare.difference_update_query(["password", "sslpassword"])
