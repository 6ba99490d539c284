"""What a token is good for, and which number a device gets; within the caller's transaction."""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.server.erasure import tables as e
from tacit.server.gateway import tables as t
from tacit.server.gateway.refused import RefusedError


def hashed(token: str) -> str:
    """What is kept of a token. It has 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def token(c: Connection, population: str, text: str, now: int) -> dict[str, Any]:
    """A token's row.

    Raises:
        RefusedError: the population has no such token, or it has expired.
    """
    query = sa.select(t.tokens).where(
        t.tokens.c.hash == hashed(text), t.tokens.c.population == population
    )
    found = c.execute(query).first()
    if found is None:
        raise RefusedError("TOKEN_UNKNOWN", "no such token")
    if now >= found.expires_at:
        raise RefusedError("TOKEN_EXPIRED", "the token has expired")
    return dict(found._mapping)


def number(
    c: Connection, population: str, wanted: int | None, clients: int | None, now: int
) -> int:
    """A number that nobody has had: the wanted one, or else the first that is free.

    Args:
        c: of a writing transaction.
        population: whose.
        wanted: None takes any that no token is for.
        clients: numbers are below this; None has no limit.
        now: Unix seconds.

    Raises:
        RefusedError: it is taken, or all are.
    """
    mine = t.devices.c.population == population
    if wanted is not None:
        if clients is not None and wanted >= clients:
            raise RefusedError("FULL", f"client {wanted} isn't below clients={clients}")
        same = sa.select(t.devices.c.client).where(mine, t.devices.c.client == wanted)
        if c.execute(same).first() is not None:
            raise RefusedError("TAKEN", f"client {wanted} is enrolled already")
        if wanted in _withdrawn(c, population):
            raise RefusedError("TAKEN", f"client {wanted} has withdrawn")
        return wanted
    free = _free(c, population, now)
    if clients is not None and free >= clients:
        raise RefusedError("FULL", f"all of clients={clients} are enrolled or invited")
    return free


def _free(c: Connection, population: str, now: int) -> int:
    mine = t.devices.c.population == population
    due = sa.select(t.tokens.c.client).where(
        t.tokens.c.population == population,
        t.tokens.c.client.is_not(None),
        t.tokens.c.used_at.is_(None),
        t.tokens.c.expires_at > now,
    )
    # Who withdrew without being a device has no row, and its number isn't given again either.
    taken = set(c.execute(due).scalars()) | _withdrawn(c, population)
    count = sa.select(sa.func.count(), sa.func.max(t.devices.c.client)).where(mine)
    many, top = c.execute(count).one()
    if not taken and (not many or top == many - 1):
        return int(many)
    # There are gaps: invited, or left by tokens for numbers.
    taken |= set(c.execute(sa.select(t.devices.c.client).where(mine)).scalars())
    return next(k for k in range(len(taken) + 1) if k not in taken)


def _withdrawn(c: Connection, population: str) -> set[int]:
    """Numbers of clients that withdrew and weren't devices (`tacit.server.erasure`)."""
    w, d = e.withdrawals.c, t.devices.c
    device = sa.exists().where(d.population == population, d.client == w.client)
    query = sa.select(w.client).where(w.population == population, ~device)
    return set(c.execute(query).scalars())
