"""What is kept: runs, ledger leaves, versions, round state.

Guarantees: a method that returns has committed durably; one that raises has changed nothing.
Leaves get consecutive indices under a write lock, so several processes can share a home, and
each transaction ends with a signed checkpoint over all of them (`tacit.server.log`). Nothing
here updates or deletes a leaf or a version, and the database refuses to. Whatever else a row
says is bound by a leaf: in the open, or where only the operator may know it by a commitment.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy import ancestry, ledger
from tacit.privacy.errors import MissingError, StorageError
from tacit.privacy.log.leaves import SPENDING, Body, sealed
from tacit.server import actors, attestations, keys
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.database import Database, is_sqlite
from tacit.server.erasure import handles
from tacit.server.home import Home
from tacit.server.log import Log, Opening
from tacit.server.past import Past

Row = dict[str, Any]
Guard = Callable[[Connection, str], None]

# A run's place among runs: its first leaf. Ids and times of one second, or hour, don't tell.
_BEGUN = (
    sa.select(sa.func.min(t.leaves.c.index))
    .where(t.leaves.c.run == t.runs.c.id)
    .correlate(t.runs)
    .scalar_subquery()
)


class Store:
    """The database of a home; made and migrated on opening.

    Args:
        home: whose database it is.

    Raises:
        StorageError: it can't be opened, a newer tacit wrote it, or the home's key isn't the
            ledger's.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.database = Database(keys.place(home))
        with contextlib.ExitStack() as failing:
            failing.callback(self.close)
            with home.lock(keys.LOCK):
                self.database.migrate()
                if is_sqlite(self.database.url):
                    home.database.chmod(0o600)
                self.signer = keys.opened(home, self.database)
                attestations.complete(self.database, self.signer)
            failing.pop_all()

    def close(self) -> None:
        """Releases the connections."""
        self.database.close()

    @contextlib.contextmanager
    def appending(self) -> Iterator[tuple[Connection, Log]]:
        """A writing transaction with the log; it ends with a checkpoint, or leaves no trace."""
        with self.database.writing() as c:
            log = Log(c, self.signer)
            yield c, log
            log.seal()

    # Runs

    def create_run(
        self,
        row: Row,
        initial: Mapping[str, Any] | None = None,
        rollout: Mapping[str, Any] | None = None,
        cause: int | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Adds a run and its PLAN leaf.

        Args:
            row: its id, name, population, spec, plan, their digests and the code.
            initial: the version that it begins with: model, number, release and artifact.
            rollout: what its rounds evaluate, if they do nothing else.
            cause: leaf of the fallback that asked for it.
            guard: see `append`.
        """
        begins: dict[str, Any] = {} if initial is None else {"initial": dict(initial)}
        begins |= {} if rollout is None else {"rollout": dict(rollout)}
        begins |= {} if cause is None else {"cause": cause}
        with self.appending() as (c, log):
            if guard is not None:
                guard(c, log.at)
            log.append({**keys.plan_leaf(row), "actor": actors.current(), **begins})
            more = {"status": "running", "created_at": log.at, "round": 0, "message": ""}
            key = secrets.token_bytes(32)
            c.execute(t.runs.insert().values(**{**more, **row, "key": key}))

    def run(self, identifier: str) -> Row:
        """A run by its id, a unique prefix of it, or ``last``.

        Raises:
            MissingError: there is none, or several.
        """
        query = sa.select(t.runs).order_by(_BEGUN.desc(), t.runs.c.id.desc())
        if identifier != "last":
            query = query.where(t.runs.c.id.startswith(identifier, autoescape=True))
        with self.database.reading() as c:
            found = [_shown(row) for row in c.execute(query.limit(2))]
        exact = [row for row in found if row["id"] == identifier]
        if identifier == "last" or exact:
            found = exact or found[:1]
        if len(found) == 1:
            return found[0]
        problem = "matches several runs" if found else "is no run in this home"
        raise MissingError(f"run={identifier} {problem}", "tacit runs list shows them")

    def runs(self) -> list[Row]:
        """All runs, oldest first."""
        with self.database.reading() as c:
            rows = c.execute(sa.select(t.runs).order_by(_BEGUN, t.runs.c.id))
            return [_shown(row) for row in rows]

    def set_status(self, run: str, status: str, message: str = "") -> None:
        """Marks a run as running, waiting, finished, stopped, refused or failed.

        The leaf has the message only as a commitment: it may say how many clients answered.
        """
        with self.appending() as (c, log):
            said = sealed(_run_key(c, run), f"status {log.size}", message)
            log.append({"kind": "STATUS", "run": run, "status": status, "message": said})
            c.execute(
                t.runs.update().where(t.runs.c.id == run).values(status=status, message=message)
            )

    # Leaves

    def append(self, body: Body, cohort: Opening | None = None, guard: Guard | None = None) -> int:
        """Appends a leaf, with what opens its cohort commitment; returns its index.

        Args:
            body: of the leaf.
            cohort: salt and members.
            guard: called in the same transaction, before, with the leaf's time; what it raises
                refuses the leaf.
        """
        with self.appending() as (c, log):
            if guard is not None:
                guard(c, log.at)
            return log.append(body, cohort)

    def leaves(self, run: str | None = None, kinds: Sequence[str] = ()) -> list[Row]:
        """Leaves in order: index, run, kind, hash, and body as parsed JSON.

        Args:
            run: only this one's.
            kinds: only these; all if empty.
        """
        query = sa.select(t.leaves).order_by(t.leaves.c.index)
        if run is not None:
            query = query.where(t.leaves.c.run == run)
        if kinds:
            query = query.where(t.leaves.c.kind.in_(kinds))
        with self.database.reading() as c:
            rows = [dict(row._mapping) for row in c.execute(query)]
        return [{**row, "body": json.loads(row["body"])} for row in rows]

    def spending(self, run: str | None = None) -> list[Row]:
        """The CHARGE, RELEASE and ABANDON leaves, as `leaves` gives them."""
        return self.leaves(run, SPENDING)

    def claims(self, run: str) -> list[dict[str, Any]]:
        """What a run's leaves add up to: every row of its epsilon table, recomputed."""
        plan = json.loads(self.run(run)["plan"])
        deltas = {"client": plan["client_delta"], "record": plan["record_delta"]}
        bodies = [leaf["body"] for leaf in self.spending(run)]
        return ledger.replay(bodies, deltas, self.base(run)).table()

    def base(self, run: str) -> ledger.Spending | None:
        """What was spent on the version that a run began with; None if it began with none."""
        return ancestry.base(Past(self), run)

    def cohorts(self, run: str) -> list[tuple[str, list[int]]]:
        """Purpose and members of every cohort drawn in a run, abandoned ones included.

        Who was erased is among no members (`tacit.server.erasure`).
        """
        query = sa.select(t.cohorts.c.purpose, t.cohorts.c.members).where(t.cohorts.c.run == run)
        with self.database.reading() as c:
            rows = [(p, json.loads(m)) for p, m in c.execute(query.order_by(t.cohorts.c.leaf))]
            whose = _whose(c, run) if any(isinstance(k, str) for _, m in rows for k in m) else {}
        return [(purpose, handles.named(members, whose)) for purpose, members in rows]

    def abandon_open_charges(self, run: str, reason: str) -> int:
        """Appends an ABANDON for every CHARGE of a run that came to no release.

        The charges stand; this records that nothing was revealed under them.
        """
        with self.appending() as (c, log):
            query = sa.select(t.leaves.c.body).where(
                t.leaves.c.run == run, t.leaves.c.kind.in_(SPENDING)
            )
            bodies = [json.loads(b) for (b,) in c.execute(query.order_by(t.leaves.c.index))]
            closed = {_key(b) for b in bodies if b["kind"] != "CHARGE"}
            charges = [b for b in bodies if b["kind"] == "CHARGE" and _key(b) not in closed]
            for body in charges:
                same = {k: body[k] for k in ("run", "round", "attempt", "purpose")}
                log.append({"kind": "ABANDON", **same, "reason": reason})
            return len(charges)

    # Releases

    def release(
        self,
        leaves: Sequence[Body],
        version: Row,
        round_row: Row,
        state: str,
        guard: Guard | None = None,
    ) -> Row:
        """One transaction: RELEASE leaves, model version and its attestation, round state.

        Args:
            leaves: bodies; the last is the model's, which gets the version's number, its
                parent's RELEASE, the state's digest and a commitment to ``round_row``.
            version: its columns but id, number, parent and release.
            round_row: columns of ``rounds``.
            state: digest of the coordinator's state after this round.
            guard: see `append`.

        Returns:
            The version's row.

        Raises:
            StorageError: this round of this run was released before.
        """
        with self.appending() as (c, log):
            if guard is not None:
                guard(c, log.at)
            v, run = t.versions, version["run"]
            same_name = sa.select(sa.func.max(v.c.number)).where(v.c.name == version["name"])
            number = (c.execute(same_name).scalar() or 0) + 1
            last = sa.select(v.c.id, v.c.release).where(v.c.run == run).order_by(v.c.round.desc())
            parent = c.execute(last.limit(1)).first()
            for body in leaves[:-1]:
                log.append(body)
            more = {
                "name": version["name"],
                "number": number,
                "parent": parent.release if parent else None,
                "state": state,
                "report": sealed(_run_key(c, run), f"round {version['round']}", round_row),
            }
            index = log.append({**leaves[-1], **more})
            row = {
                **version,
                "number": number,
                "parent": parent.id if parent else None,
                "release": index,
                "created_at": log.at,
            }
            done = c.execute(v.insert().values(**row))
            c.execute(t.rounds.insert().values(**round_row))
            c.execute(
                t.runs.update().where(t.runs.c.id == run).values(round=row["round"], state=state)
            )
            assert done.inserted_primary_key is not None
            made = {"id": done.inserted_primary_key[0], **row}
            attestations.attest(c, self.signer, made, more["parent"])
            return made

    def release_evaluation(self, leaf: Body, round_row: Row, guard: Guard | None = None) -> int:
        """One transaction: the RELEASE leaf of a rollout's round, and the round.

        Args:
            leaf: its body, which gets a commitment to ``round_row``.
            round_row: columns of ``rounds``.
            guard: see `append`.

        Returns:
            The leaf's index.

        Raises:
            StorageError: this round of this run was released before.
        """
        run, number = round_row["run"], round_row["round"]
        with self.appending() as (c, log):
            if guard is not None:
                guard(c, log.at)
            report = sealed(_run_key(c, run), f"round {number}", round_row)
            index = log.append({**leaf, "report": report})
            c.execute(t.rounds.insert().values(**round_row))
            c.execute(t.runs.update().where(t.runs.c.id == run).values(round=number))
            return index

    def versions(self, **where: Any) -> list[Row]:
        """Versions with the given column values, oldest first; metrics as parsed JSON."""
        query = sa.select(t.versions).order_by(t.versions.c.id)
        for column, value in where.items():
            query = query.where(t.versions.c[column] == value)
        with self.database.reading() as c:
            rows = [dict(row._mapping) for row in c.execute(query)]
        try:
            return [{**row, "metrics": json.loads(row["metrics"])} for row in rows]
        except (ValueError, TypeError) as error:
            raise StorageError(
                f"a version's metrics can't be read: {error}",
                "the database was altered; restore it from a backup",
            ) from error

    def rounds(self, run: str) -> list[Row]:
        """Released rounds of a run in order; JSON columns parsed."""
        query = sa.select(t.rounds).where(t.rounds.c.run == run).order_by(t.rounds.c.round)
        with self.database.reading() as c:
            rows = [dict(row._mapping) for row in c.execute(query)]
        parsed = ("metrics", "epsilon", "rejected")
        return [{k: json.loads(v) if k in parsed else v for k, v in row.items()} for row in rows]

    def checkpoint(self) -> str:
        """The newest checkpoint, a signed note."""
        with self.database.reading() as c:
            found = logs.newest_checkpoint(c)
        assert found is not None  # opening a store leaves one
        return found


def _key(body: Mapping[str, Any]) -> tuple[int, int, str]:
    return body["round"], body["attempt"], body["purpose"]


def _whose(c: Connection, run: str) -> dict[str, int]:
    """Whose the handles of a run are."""
    row = c.execute(sa.select(t.runs.c.population, t.runs.c.plan).where(t.runs.c.id == run)).one()
    return handles.load(c, row.population).clients(run, json.loads(row.plan)["population"])


def _shown(row: sa.Row[Any]) -> Row:
    """A run without the key that opens its commitments, which has no business elsewhere."""
    return {name: value for name, value in row._mapping.items() if name != "key"}


def _run_key(c: Connection, run: str) -> bytes:
    found = c.execute(sa.select(t.runs.c.key).where(t.runs.c.id == run)).scalar()
    if found is None:
        raise MissingError(f"run={run} is no run in this home", "tacit runs list shows them")
    return bytes(found)
