"""Tokens: what a caller shows, kept so that whoever reads the file can't be one.

Guarantees: a token is ``tacit_ID_SECRET``, its secret 256 bits from the system; the database holds
a salted SHA-256 of it, never the secret, which is shown once. `authenticate` looks each time, so
a token that was revoked or has expired is refused from that moment on, in any process; unknown,
wrong, revoked and expired ones get the same error, after the same comparison.

SHA-256 and no slow hash: those make guessing passwords dear. Nobody guesses 256 random bits, at
any speed, and a slow hash would only let strangers spend the server's time.

It doesn't say who holds a token. The ids, names and models of tokens aren't secret here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tacit.privacy import validate
from tacit.privacy.errors import AccessError, ConfigError, MissingError, StorageError
from tacit.server.access.roles import ROLES, Caller, check_globs
from tacit.server.access.tenants import Tenants
from tacit.server.database import Database
from tacit.server.home import explained

Row = dict[str, Any]
Clock = Callable[[], datetime]

FILE = "access.db"
LONGEST = timedelta(days=366)
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 @._-]{0,63}")
_TEXT = re.compile(r"tacit_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")

metadata = sa.MetaData()
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("tenant", sa.String(63), nullable=False, index=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.String(20), nullable=False),
    sa.Column("expires", sa.String(20), nullable=False),
    sa.Column("revoked", sa.String(20), nullable=True),
    sa.Column("used", sa.String(10), nullable=True),
)
# Of the dashboard: a cookie stands for a token, for some hours.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("token", sa.String(16), sa.ForeignKey("tokens.id"), nullable=False, index=True),
    sa.Column("expires", sa.String(20), nullable=False),
)
# What an unknown token is compared with.
_NOBODY = (secrets.token_bytes(16), secrets.token_bytes(32))


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Tokens:
    """The tokens of a root, in a database of its own that only its owner can read.

    Args:
        root: as `Tenants`'.
        clock: tells the time.

    Raises:
        StorageError: the database can't be opened, or a newer tacit wrote it.
    """

    def __init__(self, root: str | os.PathLike[str], clock: Clock = now) -> None:
        self.root, self.clock = Path(root).absolute(), clock
        self._tenants = Tenants(self.root)
        path = self.root / FILE
        with explained(f"{path} can't be written"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite does: its other files get this one's rights.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
        self.database = Database(sa.URL.create("sqlite", database=str(path)))
        with self.database.writing() as c:
            found = c.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found > _VERSION:
                self.database.close()
                raise StorageError(f"{path} has version {found}", "a newer tacit wrote it; upgrade")
            metadata.create_all(c)
            c.exec_driver_sql(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """Releases the connections."""
        self.database.close()

    def issue(
        self,
        name: str,
        role: str,
        *,
        tenant: str,
        models: Sequence[str] = ("*",),
        lifetime: timedelta,
    ) -> tuple[str, Row]:
        """Makes a token.

        Args:
            name: of whom it is for, as leaves and records will name them.
            role: one of `ROLES`.
            tenant: whose data it is for.
            models: globs of the models that it may know of.
            lifetime: until it expires; at most `LONGEST`.

        Returns:
            The token, which can't be had again, and its row as `list` has it.

        Raises:
            ConfigError: a value that no token can have.
            MissingError: there is no such tenant.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"name={name[:80]!r} must be 1 to 64 letters, digits, spaces, @, ., - and _"
            )
        validate.one_of("role", role, ROLES)
        globs = check_globs(models)
        if not timedelta(minutes=1) <= lifetime <= LONGEST:
            raise ConfigError(
                f"lifetime={lifetime} must be a minute to {LONGEST.days} days",
                "issue another before it expires",
            )
        self._tenants.home(tenant)
        secret, salt = _random(), secrets.token_bytes(16)
        at = self.clock()
        row = {
            "id": secrets.token_hex(8),
            "tenant": tenant,
            "name": name,
            "role": role,
            "models": json.dumps(globs),
            "created": _text(at),
            "expires": _text(at + lifetime),
            "revoked": None,
            "used": None,
        }
        with self.database.writing() as c:
            c.execute(tokens.insert().values(**row, salt=salt, digest=_digest(salt, secret)))
        return f"tacit_{row['id']}_{secret}", _shown(row)

    def authenticate(self, text: str) -> Caller:
        """Whose token this is.

        Raises:
            AccessError: nobody's, or not any more; it doesn't say which.
        """
        found = _TEXT.fullmatch(text)
        identifier, secret = found.groups() if found else ("", "")
        row = self._row(identifier)
        salt, digest = (row["salt"], row["digest"]) if row else _NOBODY
        same = hmac.compare_digest(_digest(salt, secret), digest)
        if row is None or not same or not self._valid(row):
            raise unknown()
        return self.used(row)

    def used(self, row: Row) -> Caller:
        """The caller of a token that was found valid; notes the day, once a day."""
        today = self.clock().date().isoformat()
        if row["used"] != today:
            with self.database.writing() as c:
                c.execute(tokens.update().where(tokens.c.id == row["id"]).values(used=today))
        models = tuple(json.loads(row["models"]))
        return Caller(row["tenant"], row["name"], row["role"], models, row["id"])

    def revoke(self, identifier: str, tenant: str | None = None) -> Row:
        """Ends a token at once, and the sessions that stand for it; ending it again is nothing.

        Args:
            identifier: of the token: its id, not the token.
            tenant: whose it has to be, if that is asked for.

        Raises:
            MissingError: there is no such token.
        """
        with self.database.writing() as c:
            query = sa.select(tokens).where(tokens.c.id == identifier)
            found = c.execute(query).first()
            row = dict(found._mapping) if found else None
            if row is None or tenant not in (None, row["tenant"]):
                raise MissingError(
                    f"token={identifier[:40]!r} isn't there", "tacit access token list shows them"
                )
            if row["revoked"] is None:
                row["revoked"] = _text(self.clock())
                where = tokens.c.id == identifier
                c.execute(tokens.update().where(where).values(revoked=row["revoked"]))
            c.execute(sessions.delete().where(sessions.c.token == identifier))
        return _shown(row)

    def list(self, tenant: str | None = None) -> list[Row]:
        """Tokens, oldest first: id, tenant, name, role, models, days, and whether it is valid."""
        query = sa.select(tokens).order_by(tokens.c.created, tokens.c.id)
        if tenant is not None:
            query = query.where(tokens.c.tenant == tenant)
        with self.database.reading() as c:
            rows = [dict(row._mapping) for row in c.execute(query)]
        return [{**_shown(row), "valid": self._valid(row)} for row in rows]

    def valid(self, identifier: str) -> Row | None:
        """The row of a token that is valid now."""
        row = self._row(identifier)
        return row if row is not None and self._valid(row) else None

    def _row(self, identifier: str) -> Row | None:
        with self.database.reading() as c:
            found = c.execute(sa.select(tokens).where(tokens.c.id == identifier)).first()
        return dict(found._mapping) if found else None

    def _valid(self, row: Row) -> bool:
        return row["revoked"] is None and _text(self.clock()) < row["expires"]


def unknown() -> AccessError:
    """What everybody hears who isn't known, whatever the reason."""
    return AccessError("the token isn't valid", "ask an administrator of your tenant for one")


def days(value: int) -> timedelta:
    """A lifetime.

    Raises:
        ConfigError: it isn't one that a token can have.
    """
    validate.at_least("days", value, 1)
    if value > LONGEST.days:
        raise ConfigError(f"days={value} must be at most {LONGEST.days}")
    return timedelta(days=value)


def _random() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(b"tacit token v1\x00" + salt + secret.encode()).digest()


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(row: Row) -> Row:
    shown = {k: v for k, v in row.items() if k not in ("salt", "digest")}
    return {**shown, "models": json.loads(shown["models"])}
