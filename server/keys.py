"""Which database a home's is, and whose key signs its log: settled when a store is opened.

Guarantees: a home goes on with the database and the key it began with. A key file that isn't
the ledger's, or is gone, is an error: a log signed by another key from one day on would be no
worse to look at. `rotate` changes the key, signed with the old one.

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

from tacit.privacy.errors import ConfigError, MessageError, StorageError
from tacit.privacy.log import keyfile, leaves
from tacit.privacy.log.leaves import sealed
from tacit.privacy.log.notes import SignerKey
from tacit.server import database
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.database import Database
from tacit.server.home import Home, explained, write_durably
from tacit.server.log import Log


def place(home: Home) -> sa.URL:
    """Where a home's database is."""
    if home.url is None:
        return sa.URL.create("sqlite", database=str(home.database))
    url = database.parse(home.url)
    if home.remembered.is_file():
        known = database.parse(home.remembered.read_text().strip())
        if known != url.set(password=None):
            raise ConfigError(
                f"database={url.render_as_string()} isn't this home's, which is "
                f"{known.render_as_string()}",
                "leave TACIT_DATABASE out, or choose another home",
            )
    elif home.database.exists():
        raise ConfigError(
            f"database={url.render_as_string()}, but home={home.root} keeps its ledger in SQLite",
            "choose another home; one ledger isn't moved into another database",
        )
    return url


def remember(home: Home, url: sa.URL) -> None:
    """Notes a PostgreSQL database's URL in the home, without its password."""
    if not database.is_sqlite(url) and not home.remembered.is_file():
        text = url.set(password=None).render_as_string(hide_password=False)
        write_durably(home.remembered, f"{text}\n".encode())


def opened(home: Home, database: Database) -> SignerKey:
    """The ledger's key; begins or adopts the log if it has none yet.

    Raises:
        StorageError: the key file is gone, or isn't the ledger's.
    """
    with database.reading() as c:
        known = list(logs.keys(c))
    if not known:
        return _begin(home, database)
    wanted = known[-1]["key"]
    _finish_rotation(home, wanted)
    if not home.signing_key.is_file():
        raise StorageError(
            f"{home.signing_key} is gone, and with it the key of this ledger",
            "restore it from a backup; what is signed stays verifiable",
        )
    found = keyfile.load(home.signing_key)
    if str(found.verifier) != wanted:
        raise StorageError(
            f"{home.signing_key} isn't the key of this ledger, {wanted}",
            "restore the right one from a backup, or choose another home",
        )
    return found


def rotate(home: Home, database: Database, old: SignerKey) -> SignerKey:
    """Makes a new key the ledger's, by a leaf signed with the old one; returns it."""
    path = _next(home)
    path.unlink(missing_ok=True)
    made = keyfile.create(path, old.name)
    with database.writing() as c:
        log = Log(c, old)
        log.rotate(made)
        log.seal()
    _finish_rotation(home, str(made.verifier))
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
    origin = f"tacit.ledger/{secrets.token_hex(8)}"
    signer = keyfile.load_or_create(home.signing_key, origin)
    with database.writing() as c:
        if next(logs.keys(c), None) is not None:
            raise StorageError(
                f"another home began this ledger just now: {database.url.render_as_string()}",
                "one ledger has one home",
            )
        log = Log(c, signer)
        log.append(leaves.key(signer.name, str(signer.verifier), None, None))
        for found in c.execute(sa.select(t.runs).order_by(t.runs.c.created_at)).all():
            row = dict(found._mapping)
            said = sealed(row["key"], "adopted", adopted(c, row))
            progress = {name: row[name] for name in ("status", "round", "state")}
            log.append({**plan_leaf(row), "adopted": {**progress, "rows": said}})
        log.seal()
    return signer


def _next(home: Home) -> Path:
    return home.signing_key.with_suffix(".next")


def _finish_rotation(home: Home, wanted: str) -> None:
    """Puts a new key in its place, if the log has it and a crash kept it from there."""
    path = _next(home)
    if not path.is_file():
        return
    try:
        found = keyfile.load(path)
    except (ConfigError, MessageError):
        return
    if str(found.verifier) == wanted:
        with explained(f"{path} can't be moved"):
            path.replace(home.signing_key)
