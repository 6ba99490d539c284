"""What the ledger's key says of each version: in-toto statements in DSSE envelopes.

Guarantees: a version is released and attested in one transaction. An envelope is made from the
version's row, which its RELEASE and PLAN leaves bind, so what it says is compared to the byte.
Versions of a home from before there were attestations get theirs when it is opened, signed with
the ledger's newest key, once their leaves are proven; from then on a version without one is an
error.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy import dsse
from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log.leaves import digest
from tacit.privacy.log.notes import SignerKey, VerifierKey
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.database import Database
from tacit.server.proven import Proven

log = logging.getLogger("tacit.life")
Leaf = dict[str, Any]


def statement(row: Leaf, parent: int | None, origin: str) -> bytes:
    """What there is to say of a version.

    Args:
        row: its columns.
        parent: RELEASE leaf of the version before it in the run.
        origin: of the ledger.
    """
    same = {key: row[key] for key in ("run", "round", "release", "code")}
    digests = {"plan": row["plan_digest"], "spec": row["spec_digest"]}
    predicate = {**same, **digests, "parent": parent, "ledger": origin}
    return dsse.statement(row["name"], row["number"], row["artifact"], predicate)


def attest(c: Connection, signer: SignerKey, row: Leaf, parent: int | None) -> None:
    """Signs what a new version is, in the transaction that releases it.

    Args:
        c: of that transaction.
        signer: the ledger's key.
        row: the version's, with its id.
        parent: RELEASE leaf of the version before it in the run.
    """
    _write(c, signer, row["id"], statement(row, parent, logs.first_key(c)["origin"]))


def complete(database: Database, signer: SignerKey) -> int:
    """Attests the versions of a home that has no attestation at all; returns how many.

    A version whose leaves aren't proven gets none: loading it is an error then.
    """
    with database.reading() as c:
        if not _untouched(c):
            return 0
    with database.writing() as c:
        if not _untouched(c):
            return 0
        rows = [dict(row._mapping) for row in c.execute(sa.select(t.versions))]
        count = 0
        try:
            proven = Proven(c, signer.verifier)
            for row in sorted(rows, key=lambda row: row["id"]):
                _write(c, signer, row["id"], due(proven, row, _parent(c, row)))
                count += 1
        except StorageError as error:
            log.warning("versions from before attestations aren't attested: %s", error)
    log.info("%d versions were attested with %s", count, signer.verifier)
    return count


def due(proven: Proven, row: Leaf, parent: int | None) -> bytes:
    """What the ledger says of a version, if its row says the same.

    Raises:
        StorageError: the row says something else, or its leaves aren't the signed ones.
    """
    what, index = f"{row['name']}@{row['number']}", row["release"]
    body = proven.body(index)
    if body["kind"] != "RELEASE" or "artifact" not in body:
        raise _unlike(what, f"leaf {index} releases no version")
    _, plan = proven.only("PLAN", body["run"])
    said = {key: body[key] for key in ("name", "number", "run", "round", "artifact", "charge")}
    said |= {"plan_digest": body["plan"], "created_at": body["at"]}
    said |= {"spec_digest": plan["spec"], "code": plan["code"]}
    for key, value in said.items():
        if row[key] != value:
            raise _unlike(what, f"{key}={row[key]!r}, and leaf {index} says {value!r}")
    metrics = row["metrics"]
    if digest(json.loads(metrics) if isinstance(metrics, str) else metrics) != digest(
        body["metrics"]
    ):
        raise _unlike(what, f"its metrics aren't those of leaf {index}")
    if "parent" in body and body["parent"] != parent:
        raise _unlike(what, f"its parent is of leaf {parent}, and leaf {index} names another")
    return statement(row, parent, proven.origin)


def check(c: Connection, known: VerifierKey, row: Leaf) -> str:
    """The envelope of a version, once row, leaves, signature and statement agree.

    Args:
        c: of a transaction.
        known: the key of the home.
        row: the version's.

    Raises:
        StorageError: one of them says something else, or there is no envelope.
    """
    what = f"{row['name']}@{row['number']}"
    try:
        proven = Proven(c, known)
        said = due(proven, row, _parent(c, row))
        a = t.attestations.c
        envelope = c.execute(sa.select(a.envelope).where(a.version == row["id"])).scalar()
        if not isinstance(envelope, str):
            raise _unlike(what, "it has no attestation")
        if dsse.opened(envelope, dsse.IN_TOTO, proven.keys) != said:
            raise _unlike(what, "its attestation says something else than the ledger")
    except MessageError as error:
        raise _unlike(what, f"its attestation: {error.message}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unlike(what, f"it can't be read: {type(error).__name__} {error}") from error
    return envelope


def _untouched(c: Connection) -> bool:
    """Whether there are versions and not one attestation."""
    if c.execute(sa.select(t.attestations.c.version).limit(1)).first() is not None:
        return False
    return c.execute(sa.select(t.versions.c.id).limit(1)).first() is not None


def _parent(c: Connection, row: Leaf) -> int | None:
    """The RELEASE leaf of a version's parent."""
    if row["parent"] is None:
        return None
    v = t.versions.c
    found = c.execute(sa.select(v.release).where(v.id == row["parent"])).scalar()
    if found is None:
        raise StorageError(f"parent={row['parent']} of {row['name']}@{row['number']} is gone")
    return int(found)


def _write(c: Connection, signer: SignerKey, version: int, said: bytes) -> None:
    envelope = dsse.signed(said, dsse.IN_TOTO, signer)
    c.execute(t.attestations.insert().values(version=version, envelope=envelope))


def _unlike(what: str, problem: str) -> StorageError:
    return StorageError(
        f"{what} isn't what was released: {problem}",
        "tacit ledger verify says what is wrong; restore from a backup",
    )
