"""Aliases of a model and the life of its versions: moved by compare-and-swap, each move a leaf.

Guarantees: who moves an alias names the move that they saw last; if another came between, nothing
happens and `ConflictError` has the state as it is now. A move is one transaction with its leaf and
its row, so whoever reads sees the old state or the new one. What an alias names was released, and
isn't retired; a retired version stays what it is, and no alias names it again.

It doesn't guarantee that whoever is named as actor is who acted: that is the caller's to know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import ConfigError, ConflictError, MissingError, StorageError
from tacit.privacy.log.leaves import LIFE, Body
from tacit.privacy.log.lifecycle import LONGEST, NEVER, check_alias
from tacit.server import gates
from tacit.server import tables as t
from tacit.server.log import Log
from tacit.server.store import Row, Store

Check = Callable[[Connection, Body], None]
CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class Move:
    """One DEPLOY or ROLLBACK leaf.

    Attributes:
        leaf: its index.
        kind: "DEPLOY" or "ROLLBACK".
        run: of the version; "" if none is named.
        model: whose alias.
        alias: which.
        number: of the version it names from then on; None for none.
        previous: leaf of the move before; None for the first.
        at: the hour.
        actor: who did it, as they were known.
        reason: in words.
        evidence: RELEASE leaves of evaluations that it rests on.
        forced: whether it was made past a gate.
        automatic: whether a fallback made it.
    """

    leaf: int
    kind: str
    run: str
    model: str
    alias: str
    number: int | None
    previous: int | None
    at: str
    actor: str
    reason: str
    evidence: tuple[int, ...]
    forced: bool
    automatic: bool

    @classmethod
    def of(cls, index: int, body: Body) -> Move:
        """The move that a leaf is."""
        same = ("kind", "run", "model", "alias", "number", "previous", "at", "actor", "reason")
        return cls(
            leaf=index,
            evidence=tuple(body["evidence"]),
            forced=body["forced"],
            automatic=body.get("automatic", False),
            **{name: body[name] for name in same},
        )


class Lifecycle:
    """The aliases and stages of a home's models.

    Args:
        store: of the home.
        checks: asked within the transaction of each move, with its leaf, after the gates; what
            one raises refuses it.
    """

    def __init__(self, store: Store, checks: Sequence[Check] = ()) -> None:
        self._store, self._checks = store, (gates.check, *checks)

    # Looking

    def current(self, model: str, alias: str) -> Move | None:
        """The newest move of an alias; None if there never was one."""
        with self._store.database.reading() as c:
            return newest(c, model, alias)

    def replaced(self, move: Move) -> Move | None:
        """The move that another followed; None for the first of its alias."""
        if move.previous is None:
            return None
        with self._store.database.reading() as c:
            return _moves(c, t.moves.c.leaf == move.previous)[0]

    def aliases(self, model: str) -> dict[str, Move]:
        """The aliases that name a version, and the move by which they do."""
        found: dict[str, Move] = {}
        with self._store.database.reading() as c:
            for move in _moves(c, t.moves.c.model == model):
                found[move.alias] = move
        return {alias: move for alias, move in found.items() if move.number is not None}

    def history(self, model: str, number: int | None = None) -> list[Row]:
        """The leaves that concern a model, or one of its versions: index and body, in order.

        A version's are those that name it, and those by which an alias left it.
        """
        of = t.leaves.c
        query = sa.select(of.index, of.body).where(of.kind.in_(LIFE)).order_by(of.index)
        with self._store.database.reading() as c:
            rows = [{"index": i, "body": json.loads(body)} for i, body in c.execute(query)]
        rows = [row for row in rows if row["body"]["model"] == model]
        return rows if number is None else _about(rows, number)

    def stages(self, model: str) -> dict[int, str]:
        """Of each version "released", "retired", or the aliases that name it."""
        with self._store.database.reading() as c:
            v, r = t.versions.c, t.retirements.c
            numbers = c.execute(sa.select(v.number).where(v.name == model)).scalars().all()
            gone = set(c.execute(sa.select(r.number).where(r.model == model)).scalars())
            named: dict[str, int | None] = {}
            for move in _moves(c, t.moves.c.model == model):
                named[move.alias] = move.number
        found = {}
        for number in sorted(numbers):
            aliases = sorted(alias for alias, n in named.items() if n == number)
            found[number] = ", ".join(aliases) or ("retired" if number in gone else "released")
        return found

    # Changing

    def move(
        self,
        model: str,
        alias: str,
        number: int | None,
        *,
        expected: int | None,
        actor: str,
        reason: str,
        evidence: Sequence[int] = (),
        forced: bool = False,
    ) -> Move:
        """Points an alias at a version.

        Args:
            model: whose.
            alias: which; "champion" is what scoring serves.
            number: of the version; None takes the alias away.
            expected: leaf of the alias's newest move as the caller knows it; None if it knows
                of none.
            actor: who does it.
            reason: in words, for whoever reads the ledger.
            evidence: RELEASE leaves of evaluations that it rests on.
            forced: past a gate.

        Raises:
            ConflictError: the alias was moved meanwhile.
            ConfigError: the alias or the words aren't fit for it, or a gate doesn't let the
                version pass.
            StorageError: there is no such version, or it is retired.
        """
        more = {"kind": "DEPLOY", "evidence": list(evidence), "forced": forced}
        return self._moved(model, alias, number, expected, _said(actor, reason) | more)

    def rollback(
        self,
        model: str,
        alias: str,
        *,
        expected: int | None,
        actor: str,
        reason: str,
        number: int | None = None,
        evidence: Sequence[int] = (),
        automatic: bool = False,
    ) -> Move:
        """Points an alias back at a version that it named before.

        Args:
            model: whose.
            alias: which.
            expected: as in `move`.
            actor: who does it.
            reason: in words.
            number: of a version that it named; None takes the newest before the present one
                that isn't retired.
            evidence: as in `move`.
            automatic: whether a fallback does it.

        Raises:
            ConflictError, ConfigError: as `move`.
            StorageError: it named no such version before.
        """
        more = {
            "kind": "ROLLBACK",
            "evidence": list(evidence),
            "forced": False,
            "automatic": automatic,
        }
        return self._moved(model, alias, number, expected, _said(actor, reason) | more)

    def retire(self, model: str, number: int, *, actor: str, reason: str) -> int:
        """Ends a version's life: no alias may name it again. Returns the leaf.

        Raises:
            StorageError: there is no such version, an alias names it, or it is retired already.
        """
        with self._store.appending() as (c, log):
            named = sorted({m.alias for m in _newest(c, model) if m.number == number})
            if named:
                raise StorageError(
                    f"{model}@{number} is what {', '.join(named)} names",
                    "move the alias to another version first",
                )
            body = {"kind": "RETIRE", "model": model, "number": number, **_said(actor, reason)}
            leaf = log.append(body | _version(c, model, number))
            c.execute(t.retirements.insert().values(leaf=leaf, model=model, number=number))
            return leaf

    def _moved(
        self, model: str, alias: str, number: int | None, expected: int | None, more: Body
    ) -> Move:
        check_alias(alias)
        with self._store.appending() as (c, log):
            before = newest(c, model, alias)
            if (before.leaf if before else None) != expected:
                raise _conflict(model, alias, expected, before)
            if more["kind"] == "ROLLBACK":
                number = _earlier(c, model, alias, number)
            if number is None and before is None:
                raise StorageError(f"{model}@{alias} names nothing already")
            named = {"run": "", "release": None, "artifact": None}
            if number is not None:
                named = _version(c, model, number)
            place = {"model": model, "alias": alias, "number": number}
            body = {**more, **place, **named, "previous": before.leaf if before else None}
            for check in self._checks:
                check(c, body)
            return self._written(c, log, body)

    @staticmethod
    def _written(c: Connection, log: Log, body: Body) -> Move:
        leaf = log.append(body)
        row = {name: body[name] for name in ("model", "alias", "number")}
        previous = -1 if body["previous"] is None else body["previous"]
        c.execute(t.moves.insert().values(leaf=leaf, previous=previous, **row))
        return Move.of(leaf, {"at": log.at, **body})


def newest(c: Connection, model: str, alias: str) -> Move | None:
    """The newest move of an alias, within a transaction."""
    found = list(_moves(c, t.moves.c.model == model, t.moves.c.alias == alias))
    return found[-1] if found else None


def _moves(c: Connection, *where: sa.ColumnElement[bool]) -> list[Move]:
    """Moves in order."""
    query = sa.select(t.leaves.c.index, t.leaves.c.body).join(
        t.moves, t.moves.c.leaf == t.leaves.c.index
    )
    rows = c.execute(query.where(*where).order_by(t.leaves.c.index))
    return [Move.of(index, json.loads(body)) for index, body in rows]


def _newest(c: Connection, model: str) -> list[Move]:
    """The newest move of each of a model's aliases."""
    return list({move.alias: move for move in _moves(c, t.moves.c.model == model)}.values())


def _version(c: Connection, model: str, number: int) -> Body:
    """Run, RELEASE leaf and artifact of a version that isn't retired."""
    v, r = t.versions.c, t.retirements.c
    query = sa.select(v.run, v.release, v.artifact).where(v.name == model, v.number == number)
    found = c.execute(query).first()
    if found is None:
        raise MissingError(f"model={model}@{number} isn't in this home", "tacit models list")
    gone = c.execute(sa.select(r.leaf).where(r.model == model, r.number == number)).scalar()
    if gone is not None:
        raise StorageError(f"{model}@{number} was retired, by leaf {gone}")
    return dict(found._mapping)


def _earlier(c: Connection, model: str, alias: str, number: int | None) -> int:
    """The version that a rollback goes to."""
    trail = NEVER
    for move in _moves(c, t.moves.c.model == model, t.moves.c.alias == alias):
        trail = trail.follow(move.leaf, move.kind, move.number)
    r = t.retirements.c
    gone = set(c.execute(sa.select(r.number).where(r.model == model)).scalars())
    before = trail.past
    wanted = [n for n in before if n not in gone] if number is None else [number]
    if not wanted or wanted[-1] not in before:
        what = "no version" if number is None else f"version {number}"
        raise StorageError(
            f"{model}@{alias} named {what} before that it could go back to",
            f"tacit models history {model}",
        )
    return wanted[-1]


def _about(rows: list[Row], number: int) -> list[Row]:
    """The leaves that name a version, and those by which an alias left it."""
    found: list[Row] = []
    named: dict[str, int | None] = {}
    for row in rows:
        body = row["body"]
        alias = body.get("alias")
        if body.get("number") == number or (alias and named.get(alias) == number):
            found.append(row)
        if alias and body["kind"] != "GATE":
            named[alias] = body["number"]
    return found


def _said(actor: str, reason: str) -> dict[str, Any]:
    for name, text in (("actor", actor), ("reason", reason)):
        written = text.encode(errors="replace").decode() == text and "\x00" not in text
        if not text.strip() or len(text) > LONGEST or not written:
            raise ConfigError(f"{name}={text[:40]!r} must be text of 1 to {LONGEST} characters")
    return {"actor": actor, "reason": reason}


def _conflict(model: str, alias: str, expected: int | None, current: Move | None) -> ConflictError:
    now = "was never moved" if current is None else f"was moved by leaf {current.leaf}"
    if current is not None:
        names = f"version {current.number}" if current.number is not None else "nothing"
        now += f" ({current.actor}) and names {names}"
    error = ConflictError(
        f"expected={expected}, but {model}@{alias} {now}", "look at it, and decide anew"
    )
    error.current = current
    return error
