"""Cases: a client withdraws, what to do about it is decided, and what linked it is destroyed.

A case goes through *opened* (the client is excluded, and looked up), *chosen* (retrain, or keep
with its epsilon as evidence; can be chosen anew), *closing* (what linked it is gone from the rows),
*closed* (and from the database's files), and if the operator wants, *forgotten* (nothing is left of
it but its leaves). The ledger has an ERASURE leaf of the first and of the third, with commitments
to the case file under the case's key, which name nobody.

Guarantees: each step is one transaction, so a case is in one state or the next; from the first on
its client is in no charge's cohort. After the third no row of the home says, of any cohort that
was drawn by handles, that this client was in it.

It doesn't take back what was released: a sum with noise can't be unmixed.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, ConflictError, MissingError
from tacit.privacy.log.leaves import sealed
from tacit.server import log as logs
from tacit.server.erasure import affected, evidence, proof, unlinking, withdrawals
from tacit.server.erasure import tables as t
from tacit.server.erasure.affected import Affected
from tacit.server.erasure.proof import Asked
from tacit.server.gateway import tables as g
from tacit.server.log import Log
from tacit.server.store import Store

CHOICES = ("retrain", "keep")
OPEN = ("opened", "chosen")
CLOSED = ("closing", "closed")
File = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A case as its row has it.

    Attributes:
        id: of the case.
        population: whose client.
        state: see above.
        body: ``opened`` and ``closed``, the files that the leaves commit to, one after the other;
            ``choice`` meanwhile; ``leaves``, theirs, by stage.
        key: opens the commitments; None once it is forgotten.
    """

    id: str
    population: str
    state: str
    body: File
    key: bytes | None

    @property
    def client(self) -> int | None:
        """The client's number; None once the case is closed."""
        return None if self.state not in OPEN else int(self.body["opened"]["client"])

    def brief(self) -> dict[str, Any]:
        """Where it stands, without whose it is."""
        chosen = self.body.get("choice") or self.body.get("closed", {}).get("choice") or {}
        return {
            "case": self.id,
            "population": self.population,
            "state": self.state,
            "choice": chosen.get("choice"),
            "leaves": self.body["leaves"],
        }


class Cases:
    """The cases of a home.

    Args:
        store: of the home.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    # Looking

    def list(self) -> list[Case]:
        """All cases, in the order of their leaves."""
        with self._store.database.reading() as c:
            found = [_case(row) for row in c.execute(sa.select(t.cases))]
        return sorted(found, key=lambda case: case.body["leaves"]["opened"])

    def get(self, case: str) -> Case:
        """A case, by its id or a prefix of it that no other has.

        Raises:
            MissingError: there is none, or several.
        """
        with self._store.database.reading() as c:
            return _got(c, case)

    def affected(self, case: str) -> Affected:
        """What the client of an open case took part in, as of now.

        Raises:
            ConflictError: the case is closed, and nobody can tell any more.
        """
        with self._store.database.reading() as c:
            found = _got(c, case)
            return affected.find(c, found.population, _number(found))

    # Changing

    def open(self, asked: Asked, actor: str) -> Case:
        """Excludes a client from now on, and looks up what it took part in.

        Args:
            asked: who, and how that is known.
            actor: who does it.

        Raises:
            ConflictError: the client has withdrawn already.
        """
        population, client = asked.population, asked.client
        identifier, key = secrets.token_hex(8), secrets.token_bytes(32)
        with self._store.appending() as (c, log):
            out = withdrawals.within(c, population)
            if client in out:
                known = f", case={out[client]}" if out[client] else ""
                raise ConflictError(
                    f"client={client} of {population} has withdrawn already{known}",
                    "tacit erase list",
                )
            file = {
                **_said(c, log, identifier, population, actor),
                "client": client,
                "asked": asked.to_json(),
                "found": affected.find(c, population, client).to_json(),
            }
            leaf = log.append(_leaf(identifier, population, "opened", None, key, file))
            row = {"population": population, "client": client, "case": identifier}
            c.execute(t.withdrawals.insert().values(**row))
            made = Case(identifier, population, "opened", _body(leaf, opened=file), key)
            c.execute(t.cases.insert().values(**_row(made)))
            d = g.devices.c
            own = sa.and_(d.population == population, d.client == client, d.revoked_at.is_(None))
            c.execute(g.devices.update().where(own).values(revoked_at=int(time.time())))
        return made

    def choose(self, case: str, choice: str, reason: str, actor: str) -> Case:
        """Decides what to do about the versions, with what that rests on; can be done again.

        Args:
            case: its id.
            choice: "retrain", from the last clean versions, or "keep", with the client's epsilon.
            reason: in words.
            actor: who decides.

        Raises:
            ConfigError: there is no such choice, or no reason.
            ConflictError: the case is closed.
        """
        validate.one_of("choice", choice, CHOICES)
        if not reason.strip() or len(reason) > proof.MOST:
            raise ConfigError(f"reason={reason[:40]!r} must be text of 1 to {proof.MOST} signs")
        with self._store.database.reading() as c:
            found = _got(c, case)
            now = affected.find(c, found.population, _number(found))
            own = [charge["leaf"] for charge in now.charges]
            # Of what came before the withdrawal alone, so it won't change.
            spent = evidence.rows(c, found.population, own, found.body["leaves"]["opened"])
        chosen = {
            "choice": choice,
            "reason": reason,
            "actor": actor,
            "at": logs.now(),
            "evidence": spent,
        }
        with self._store.database.writing() as c:
            found = _got(c, found.id)
            _number(found)
            body = {**found.body, "choice": chosen}
            made = Case(found.id, found.population, "chosen", body, found.key)
            c.execute(t.cases.update().where(t.cases.c.id == found.id).values(**_row(made)))
        return made

    def close(self, case: str, actor: str, anyway: bool = False, everyone: bool = False) -> Case:
        """Destroys what links the client, in the rows and then in the files.

        A case that was left *closing* (others read the database, or the process died) is scrubbed.

        Args:
            case: its id.
            actor: who does it.
            anyway: although aliases name affected versions and retraining was chosen; the case
                file says so.
            everyone: destroy all others' links to past cohorts too, so that the client can't be
                told by elimination; whoever withdraws later then counts for all those cohorts.

        Raises:
            ConflictError: nothing was chosen, it is closed already, see ``anyway``, or others'
                cases are open whose links ``everyone`` would destroy.
            StorageError: the rows are gone, but the database's files couldn't be scrubbed.
        """
        found = self.get(case)
        if found.state != "closing":
            found = self._unlinked(case, actor, anyway, everyone)
        unlinking.scrub(self._store.database)
        with self._store.database.writing() as c:
            own = sa.and_(t.cases.c.id == found.id, t.cases.c.state == "closing")
            c.execute(t.cases.update().where(own).values(state="closed"))
            return _got(c, found.id)

    def forget(self, case: str) -> Case:
        """Removes what is left of a closed case but its leaves: the person has its report.

        Raises:
            ConflictError: it isn't closed.
        """
        with self._store.database.writing() as c:
            found = _got(c, case)
            if found.state != "closed":
                raise ConflictError(f"case={found.id} is {found.state}", "close it first")
            left = Case(found.id, found.population, "forgotten", _kept(found), None)
            unlinking.replace(c, _row(left))
        unlinking.scrub(self._store.database)
        return left

    def _unlinked(self, case: str, actor: str, anyway: bool, everyone: bool) -> Case:
        with self._store.appending() as (c, log):
            found = _got(c, case)
            client = _number(found)
            if found.state != "chosen":
                raise ConflictError(
                    f"case={found.id}: nothing is chosen yet",
                    f"tacit erase choose {found.id} retrain|keep --reason TEXT",
                )
            now = affected.find(c, found.population, client)
            choice = found.body["choice"]
            if choice["choice"] == "retrain" and now.aliases and not anyway:
                raise _named(found, now)
            if everyone:
                _alone(c, found)
            said = _said(c, log, found.id, found.population, actor)
            file = {**said, **_summary(found, now), "everyone": everyone}
            key = found.key
            assert key is not None
            leaf = log.append(
                _leaf(found.id, found.population, "closed", choice["choice"], key, file)
            )
            body = {**_kept(found), "closed": file, **({"everyone": True} if everyone else {})}
            body["leaves"]["closed"] = leaf
            left = Case(found.id, found.population, "closing", body, key)
            unlinking.forget(c, found.population, client, _row(left), everyone)
        return left


def _summary(found: Case, now: Affected) -> File:
    """What a closed case file says: no number, no leaf or round of a cohort."""
    opened, choice = found.body["opened"], found.body["choice"]
    names = ("name", "number", "release", "artifact")
    return {
        "opened": found.body["leaves"]["opened"],
        "asked": {"kind": opened["asked"]["kind"], "digest": proof.digest(opened["asked"])},
        "choice": choice,
        "participations": now.participations(),
        "versions": [{name: version[name] for name in names} for version in now.versions],
        "aliases": [{k: a[k] for k in ("model", "alias", "number")} for a in now.aliases],
        "clean": now.clean,
        "runs": now.runs(),
        "numbered": now.numbered,
        "uncertain": now.uncertain,
    }


def _named(case: Case, now: Affected) -> ConflictError:
    names = ", ".join(f"{a['model']}@{a['alias']} ({a['number']})" for a in now.aliases)
    error = ConflictError(
        f"case={case.id}: retraining was chosen, and affected versions are still named: {names}",
        "move those aliases to versions that are clean (`tacit models promote`), or close it "
        "--anyway, which the case file says",
    )
    error.current = now.aliases
    return error


def _alone(c: Connection, case: Case) -> None:
    """Refuses to destroy everybody's links while another's are still needed."""
    w = t.withdrawals.c
    query = sa.select(w.case).where(w.population == case.population, w.case != case.id)
    others = sorted(c.execute(query).scalars())
    if others:
        raise ConflictError(
            f"case={case.id}: cases {', '.join(others)} of {case.population} are open",
            "close them first",
        )


def _said(c: Connection, log: Log, case: str, population: str, actor: str) -> File:
    origin = logs.first_key(c)["origin"]
    return {"case": case, "population": population, "ledger": origin, "at": log.at, "actor": actor}


def _leaf(
    case: str, population: str, stage: str, choice: str | None, key: bytes, file: File
) -> File:
    return {
        "kind": "ERASURE",
        "run": "",
        "population": population,
        "case": case,
        "stage": stage,
        "choice": choice,
        "file": sealed(key, stage, file),
    }


def _body(leaf: int, **files: File) -> File:
    return {"leaves": {"opened": leaf}, **files}


def _kept(case: Case) -> File:
    """What stays of a case's body whatever is removed."""
    more = {"everyone": True} if case.body.get("everyone") else {}
    return {"leaves": dict(case.body["leaves"]), **more}


def _row(case: Case) -> File:
    return {
        "id": case.id,
        "population": case.population,
        "state": case.state,
        "body": json.dumps(case.body),
        "key": case.key,
    }


def _case(row: sa.Row[Any]) -> Case:
    key = None if row.key is None else bytes(row.key)
    return Case(row.id, row.population, row.state, json.loads(row.body), key)


def _got(c: Connection, case: str) -> Case:
    query = sa.select(t.cases).where(t.cases.c.id.startswith(case, autoescape=True)).limit(2)
    rows = c.execute(query).all()
    exact = [row for row in rows if row.id == case]
    rows = exact or rows
    if len(rows) != 1 or not case:
        what = "matches several cases" if rows else "is no case of this home"
        raise MissingError(f"case={case} {what}", "tacit erase list")
    return _case(rows[0])


def _number(case: Case) -> int:
    """The client of a case that is open."""
    client = case.client
    if client is None:
        raise ConflictError(
            f"case={case.id} is {case.state}: nobody can tell any more whose it is",
            f"tacit erase report {case.id} --to FILE has what there is to hand over",
        )
    return client
