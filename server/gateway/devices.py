"""The store of devices: who is enrolled, by which certificate, and who may enrol.

Guarantees: a token enrols one identity, however many try at once, and its text is nowhere in
the database. The same identity may use its token again until it expires, since a reply can be
lost. A client's number belongs to one identity for good; a revoked one isn't given to another.
A certificate is looked up by its digest, so one that this store doesn't know of is none,
whoever signed it. A renewed certificate takes over when it is first used, not before: a device
that never got it goes on with the old one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError
from tacit.server.database import Database
from tacit.server.gateway import numbers
from tacit.server.gateway import tables as t
from tacit.server.gateway.refused import RefusedError

TOKEN_BYTES = 32
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate.

    Attributes:
        der: X.509.
        fingerprint: its SHA-256, in hex.
        serial: in hex.
        not_after: Unix seconds.
    """

    der: bytes
    fingerprint: str
    serial: str
    not_after: int


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device.

    Attributes:
        client: its number.
        identity: Ed25519 public key.
        attestation: the authority's signature that the identity is this client's.
        not_after: of its certificate in force, Unix seconds.
        revoked: whether it is refused.
    """

    client: int
    identity: bytes
    attestation: bytes
    not_after: int
    revoked: bool


class Devices:
    """The devices of one population.

    Args:
        database: a home's, migrated.
        population: whose.
        clock: Unix seconds.
    """

    def __init__(
        self, database: Database, population: str, clock: Callable[[], float] = time.time
    ) -> None:
        if not 0 < len(population.encode()) <= 200:
            raise ConfigError("population=... must have 1 to 200 bytes")
        self._database, self.population, self._clock = database, population, clock
        self._mine = t.devices.c.population == population

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    # Tokens

    def invite(self, lifetime: float, client: int | None = None) -> str:
        """A fresh token; only its hash is kept.

        Args:
            lifetime: seconds.
            client: the number that it is for; None gives the next that is free.

        Raises:
            ConfigError: the number is enrolled already.
        """
        validate.positive("lifetime", lifetime)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        with self._database.writing() as c:
            if client is not None:
                validate.at_least("client", client, 0)
                if self._numbered(c, client) is not None:
                    raise ConfigError(
                        f"client={client} is enrolled already", "a number is given once"
                    )
            c.execute(
                t.tokens.insert().values(
                    hash=numbers.hashed(token),
                    population=self.population,
                    client=client,
                    created_at=self.now(),
                    expires_at=self.now() + int(lifetime),
                )
            )
        return token

    def enrol(
        self,
        token: str,
        identity: bytes,
        clients: int | None,
        issue: Callable[[int], Issued],
        attest: Callable[[int], bytes],
    ) -> tuple[Device, Issued]:
        """Enrols an identity by its token, in one transaction.

        Args:
            token: as `invite` gave it.
            identity: Ed25519 public key; its holder has proven to be one.
            clients: numbers are below this; None has no limit.
            issue: makes a client's certificate.
            attest: signs that the identity is a client's.

        Raises:
            RefusedError: the token is unknown, used or expired, the identity or the number is
                taken, or every number is.
        """
        with self._database.writing() as c:
            found = numbers.token(c, self.population, token, self.now())
            if found["used_by"] is not None:
                return self._again(c, bytes(found["used_by"]), identity, issue)
            same = sa.select(t.devices.c.client).where(self._mine, t.devices.c.identity == identity)
            if c.execute(same).first() is not None:
                raise RefusedError("IDENTITY", "this identity is enrolled already")
            client = numbers.number(c, self.population, found["client"], clients, self.now())
            issued, attestation = issue(client), attest(client)
            c.execute(
                t.devices.insert().values(
                    population=self.population,
                    client=client,
                    identity=identity,
                    attestation=attestation,
                    enrolled_at=self.now(),
                    certificate=issued.fingerprint,
                    serial=issued.serial,
                    not_after=issued.not_after,
                )
            )
            used = {"used_at": self.now(), "used_by": identity}
            this = t.tokens.c.hash == found["hash"]
            c.execute(t.tokens.update().where(this).values(**used))
            return Device(client, identity, attestation, issued.not_after, False), issued

    def _again(
        self, c: Connection, used_by: bytes, identity: bytes, issue: Callable[[int], Issued]
    ) -> tuple[Device, Issued]:
        """The device that used a token, whose reply was lost perhaps, gets a certificate."""
        if used_by != identity:
            raise RefusedError("TOKEN_USED", "the token was used by another")
        query = sa.select(t.devices).where(self._mine, t.devices.c.identity == identity)
        row = c.execute(query).one()._mapping
        if row["revoked_at"] is not None:
            raise RefusedError("REVOKED", f"client {row['client']} is revoked")
        issued = issue(row["client"])
        self._set_next(c, row["client"], issued)
        return _device(row), issued

    def _numbered(self, c: Connection, client: int) -> Any:
        return c.execute(
            sa.select(t.devices.c.client).where(self._mine, t.devices.c.client == client)
        ).first()

    def adopt(self, client: int, identity: bytes, attestation: bytes) -> None:
        """Notes a client that isn't a device, such as a silo: devices look its identity up.

        It has no certificate, so nothing calls the gateway as it. Told again, it is the same.

        Args:
            client: its number.
            identity: Ed25519 public key, as the operator knows it.
            attestation: the authority's signature that it is the client's.

        Raises:
            ConfigError: the number or the identity is another's.
        """
        with self._database.writing() as c:
            same = sa.or_(t.devices.c.client == client, t.devices.c.identity == identity)
            found = c.execute(sa.select(t.devices).where(self._mine, same)).all()
            if [(row.client, bytes(row.identity)) for row in found] == [(client, identity)]:
                return
            if found:
                raise ConfigError(
                    f"client={client} or its identity is enrolled already", "a number is given once"
                )
            c.execute(
                t.devices.insert().values(
                    population=self.population,
                    client=client,
                    identity=identity,
                    attestation=attestation,
                    enrolled_at=self.now(),
                    # What no certificate's digest is.
                    certificate=f"none {identity.hex()[:58]}",
                    serial="",
                    not_after=0,
                )
            )

    # Certificates

    def admit(self, fingerprint: str) -> Device:
        """The device whose certificate this is.

        Raises:
            RefusedError: it is unknown, superseded, expired or its device revoked.
        """
        d = t.devices.c
        query = sa.select(t.devices).where(
            self._mine, sa.or_(d.certificate == fingerprint, d.next_certificate == fingerprint)
        )
        with self._database.reading() as c:
            found = c.execute(query).first()
        if found is None:
            raise RefusedError(
                "SUPERSEDED", "this certificate is no device's, or not the newest of its device"
            )
        row = dict(found._mapping)
        if row["revoked_at"] is not None:
            raise RefusedError("REVOKED", f"client {row['client']} is revoked")
        if row["next_certificate"] == fingerprint:
            row |= self._promote(row)
        if self.now() > row["not_after"]:
            raise RefusedError("EXPIRED", "the certificate has expired; enrol anew")
        return _device(row)

    def _promote(self, row: Row) -> Row:
        """A renewed certificate was used: the one before is over."""
        names = ("certificate", "serial", "not_after")
        moved = {name: row[f"next_{name}"] for name in names}
        cleared = dict.fromkeys([f"next_{name}" for name in names])
        d = t.devices.c
        same = (self._mine, d.client == row["client"], d.next_certificate == moved["certificate"])
        with self._database.writing() as c:
            c.execute(t.devices.update().where(*same).values(**moved, **cleared))
        return moved

    def renew(self, client: int, interval: float, issue: Callable[[int], Issued]) -> Issued:
        """Another certificate; the old one is good until this one is first used.

        Raises:
            RefusedError: the device is revoked, or renewed within ``interval`` seconds.
        """
        with self._database.writing() as c:
            query = sa.select(t.devices).where(self._mine, t.devices.c.client == client)
            row = c.execute(query).one()._mapping
            if row["revoked_at"] is not None:
                raise RefusedError("REVOKED", f"client {client} is revoked")
            if row["renewed_at"] is not None and self.now() - row["renewed_at"] < interval:
                raise RefusedError("TOO_SOON", f"renewed less than {interval:g} s ago")
            issued = issue(client)
            self._set_next(c, client, issued)
        return issued

    def _set_next(self, c: Connection, client: int, issued: Issued) -> None:
        c.execute(
            t.devices.update()
            .where(self._mine, t.devices.c.client == client)
            .values(
                next_certificate=issued.fingerprint,
                next_serial=issued.serial,
                next_not_after=issued.not_after,
                renewed_at=self.now(),
            )
        )

    # Looking

    def revoke(self, client: int) -> None:
        """Refuses a device from now on; live streams end when the gateway next looks.

        Raises:
            ConfigError: no such device.
        """
        query = t.devices.update().where(self._mine, t.devices.c.client == client)
        with self._database.writing() as c:
            if self._numbered(c, client) is None:
                raise ConfigError(
                    f"client={client} isn't enrolled in population={self.population}",
                    "tacit devices list shows who is",
                )
            c.execute(query.where(t.devices.c.revoked_at.is_(None)).values(revoked_at=self.now()))

    def revoked(self) -> set[int]:
        """Who is revoked."""
        query = sa.select(t.devices.c.client).where(self._mine, t.devices.c.revoked_at.is_not(None))
        with self._database.reading() as c:
            return set(c.execute(query).scalars())

    def enrolled(self) -> list[Device]:
        """All devices, by number."""
        query = sa.select(t.devices).where(self._mine).order_by(t.devices.c.client)
        with self._database.reading() as c:
            return [_device(row._mapping) for row in c.execute(query)]

    def count(self) -> int:
        """How many devices are enrolled and not revoked."""
        d = t.devices.c
        query = sa.select(sa.func.count()).where(self._mine, d.revoked_at.is_(None), d.serial != "")
        with self._database.reading() as c:
            return int(c.execute(query).scalar_one())

    def some(self, clients: Iterable[int]) -> dict[int, Device]:
        """Those of some numbers that are enrolled and not revoked."""
        wanted, found = sorted(set(clients)), {}
        with self._database.reading() as c:
            # Engines limit the parameters of a statement.
            for start in range(0, len(wanted), 500):
                query = sa.select(t.devices).where(
                    self._mine,
                    t.devices.c.client.in_(wanted[start : start + 500]),
                    t.devices.c.revoked_at.is_(None),
                )
                found.update({row.client: _device(row._mapping) for row in c.execute(query)})
        return found

    def rows(self) -> list[Row]:
        """What `tacit devices list` shows: no key but the identity, no token."""
        names = ("client", "identity", "enrolled_at", "serial", "not_after", "revoked_at")
        query = sa.select(*[t.devices.c[name] for name in names]).where(self._mine)
        with self._database.reading() as c:
            rows = [dict(r._mapping) for r in c.execute(query.order_by(t.devices.c.client))]
        return [{**row, "identity": bytes(row["identity"]).hex()} for row in rows]

    def invited(self) -> int:
        """Tokens that can still be used."""
        query = sa.select(sa.func.count()).where(
            t.tokens.c.population == self.population,
            t.tokens.c.used_at.is_(None),
            t.tokens.c.expires_at > self.now(),
        )
        with self._database.reading() as c:
            return int(c.execute(query).scalar_one())


class EnrolledDirectory:
    """The coordinator's directory of clients' keys: who is enrolled and not revoked.

    Answers are remembered for a while, so a revocation counts here some seconds later than at
    the gateway, which no reply of a revoked device gets through.

    Args:
        devices: the store.
        seconds: for which an answer is remembered.
    """

    def __init__(self, devices: Devices, seconds: float = 10.0) -> None:
        self._devices, self._seconds = devices, seconds
        self._known: dict[int, bytes | None] = {}
        self._until = 0.0

    def public(self, client: int) -> bytes | None:
        """A client's Ed25519 public key, or None if it isn't enrolled."""
        now = time.monotonic()
        if now > self._until:
            self._known, self._until = {}, now + self._seconds
        if client not in self._known:
            found = self._devices.some([client]).get(client)
            self._known[client] = None if found is None else found.identity
        return self._known[client]


def _device(row: Any) -> Device:
    return Device(
        row["client"],
        bytes(row["identity"]),
        bytes(row["attestation"]),
        row["not_after"],
        row["revoked_at"] is not None,
    )
