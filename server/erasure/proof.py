"""Whether a client asked: its signed withdrawal, held against the key that it is known by.

Guarantees: a withdrawal counts only with the signature of the key that the home pins for that
number (an enrolled device's, revoked ones included, or a silo's in ``clients/directory.json``),
for this ledger and a population of it, and not long after it was signed. One that is shown again
does nothing more: the client has withdrawn, and numbers aren't given twice.

It doesn't guarantee that who holds the key is who it was made for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
import sqlalchemy as sa

from tacit.privacy.errors import ConfigError, MessageError, StorageError
from tacit.privacy.secagg.directory import everybody
from tacit.protocol.withdrawal import Withdrawal
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.gateway import tables as g
from tacit.server.store import Store

# A file that was signed and not handed over so long isn't what its client wants by now.
OLDEST = timedelta(days=90)
# What clocks may differ by.
AHEAD = timedelta(days=1)
MOST = 2000


@dataclass(frozen=True, slots=True)
class Asked:
    """Who withdraws, and how that is known.

    Attributes:
        population: whose client.
        client: its number.
        kind: "key" (its own signature), "simulated" (there is nobody to ask), or "none".
        reason: in words; of "key" empty.
        statement: the withdrawal, of "key".
    """

    population: str
    client: int
    kind: str
    reason: str = ""
    statement: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """What a case file says of it."""
        return {"kind": self.kind, "reason": self.reason, "statement": self.statement}


def by_key(store: Store, found: Withdrawal, now: datetime | None = None) -> Asked:
    """A client's own withdrawal, verified.

    Args:
        store: of the home.
        found: as it was handed over.
        now: the time; None asks the clock.

    Raises:
        MessageError: it is of another ledger, too old, of the future, or not signed by that
            client's key.
        ConfigError: the home knows no such population, or no key of that client.
    """
    known(store, found.population, found.client)
    with store.database.reading() as c:
        origin = logs.first_key(c)["origin"]
    if found.ledger != origin:
        raise MessageError(f"the withdrawal is for the ledger {found.ledger:.80}, not {origin}")
    age = (now or datetime.now(UTC)) - found.time()
    if age > OLDEST or age < -AHEAD:
        raise MessageError(f"the withdrawal says that it was signed at {found.at}")
    key = public(store, found.population, found.client)
    if key is None:
        raise ConfigError(
            f"no key of client={found.client} is known here",
            "--without-proof POPULATION:CLIENT --reason TEXT excludes it all the same",
        )
    if not found.by(key):
        raise MessageError(f"the withdrawal isn't signed by client={found.client}'s key")
    return Asked(found.population, found.client, "key", "", found.to_json())


def simulated(store: Store, population: str, client: int) -> Asked:
    """A simulated client, which nobody stands behind.

    Raises:
        ConfigError: that client has a key, so it isn't one; or there is no such client.
    """
    known(store, population, client)
    if (store.home.root / "clients" / "directory.json").exists() or _enrolled(store, population):
        raise ConfigError(
            f"the clients of population={population} have keys",
            "one withdraws with its own: tacit withdraw or tacit-edge withdraw, then "
            "tacit erase open FILE; or use --without-proof",
        )
    return Asked(population, client, "simulated")


def without(store: Store, population: str, client: int, reason: str) -> Asked:
    """A client that the operator excludes, which didn't ask, or can't show it.

    Raises:
        ConfigError: there is no reason, or no such client.
    """
    known(store, population, client)
    if not reason.strip() or len(reason) > MOST:
        raise ConfigError(f"reason={reason[:40]!r} must be text of 1 to {MOST} characters")
    return Asked(population, client, "none", reason)


def named(text: str) -> tuple[str, int]:
    """``POPULATION:CLIENT``.

    Raises:
        ConfigError: it isn't that.
    """
    population, _, number = text.rpartition(":")
    if not population or not number.isdecimal():
        raise ConfigError(f"client={text!r} must be POPULATION:CLIENT, such as hospitals:7")
    return population, int(number)


def known(store: Store, population: str, client: int) -> None:
    """Raises `ConfigError` if no run or device of this home is of that population and number."""
    r, d = t.runs.c, g.devices.c
    with store.database.reading() as c:
        plans = c.execute(sa.select(r.plan).where(r.population == population)).scalars().all()
        device = sa.select(d.client).where(d.population == population, d.client == client)
        enrolled = c.execute(device).first() is not None
    largest = max((json.loads(plan).get("population", 0) for plan in plans), default=0)
    if not enrolled and not 0 <= client < largest:
        what = f"has clients 0 to {largest - 1}" if plans else "is no population of this home"
        raise ConfigError(f"client={client}: {population} {what}", "tacit runs list shows runs")


def public(store: Store, population: str, client: int) -> bytes | None:
    """The Ed25519 key that a client is known by; None if it isn't known by any.

    Raises:
        StorageError: it is enrolled with one key and pinned with another.
    """
    d = g.devices.c
    query = sa.select(d.identity, d.attestation)
    with store.database.reading() as c:
        row = c.execute(query.where(d.population == population, d.client == client)).first()
    # An erased device's has no attestation.
    device = bytes(row.identity) if row is not None and row.attestation else None
    folder = store.home.root / "clients"
    pinned = None
    if (folder / "directory.json").exists():
        pinned = everybody(folder).public(client)
    if device is not None and pinned is not None and device != pinned:
        raise StorageError(f"client={client} is enrolled with another key than directory.json has")
    return device or pinned


def digest(asked: dict[str, Any]) -> str:
    """What is kept of a proof when its case is closed: it has a nonce, so it tells nothing."""
    return hashlib.sha256(rfc8785.dumps(asked)).hexdigest()


def _enrolled(store: Store, population: str) -> bool:
    query = sa.select(g.devices.c.client).where(g.devices.c.population == population).limit(1)
    with store.database.reading() as c:
        return c.execute(query).first() is not None
