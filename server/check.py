"""Checks a whole home against its log: every row, every model, the database's own triggers.

`tacit.privacy.log.verify` takes the leaves; here all else that the home says is compared with
them: columns beside a leaf, nodes of the tree, every checkpoint ever signed, runs, versions,
rounds and cohorts, through their commitments where a leaf has only those, artifacts and states
through their digests, and the schema through a fresh one's.

A change that leaves all of that as it was (of bytes that no table uses, or of reports, which
are made from it) isn't found, nor is anything that was changed before it was first written.
Nothing binds the secret key of a run of which no leaf says anything yet but its plan, what an
adopted run's older rounds reported once the run went on, or that a checkpoint in the middle
is still there. PostgreSQL leaves gaps in the versions' ids, so there only their order is checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import MessageError
from tacit.privacy.log import leaves
from tacit.privacy.log.leaves import sealed
from tacit.privacy.log.notes import Checkpoint, open_note
from tacit.privacy.log.verify import Report, Verifier, parsed
from tacit.server import keys, schema
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.checks import access, erasure, life
from tacit.server.database import is_sqlite
from tacit.server.registry import ModelRegistry
from tacit.server.state import file_of
from tacit.server.store import Store

Leaf = dict[str, Any]
Problem = tuple[int | None, str]
# What comes of a value that isn't of its column's type, which SQLite may hold anyhow.
_UNREADABLE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    sa.exc.InvalidRequestError,
)


def verify(
    store: Store,
    kept: list[str] | None = None,
    pinned: list[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Verifies a home: its log, and everything else against the log.

    Args:
        store: of the home.
        kept: checkpoints that somebody kept from earlier.
        pinned: keys that must have signed the ledger.
        progress: called with the number of leaves read, now and then.
    """
    verifier = Verifier()
    with store.database.reading() as c:
        home = _Home(store, c, verifier)
        for what, problems in home.parts(progress):
            for problem in _explained(what, problems):
                verifier.wrong(*problem)
        return verifier.finish(logs.newest_checkpoint(c) or "", kept or [], pinned or [])


class _Home:
    """One state of a home's database, beside its log."""

    def __init__(self, store: Store, c: Connection, verifier: Verifier) -> None:
        self._store, self._c, self._verifier = store, c, verifier
        self._plans: dict[str, Leaf] = {}
        self._status: dict[str, tuple[int, Leaf]] = {}
        self._charges: dict[int, Leaf] = {}
        self._releases: dict[int, Leaf] = {}
        self._evaluations: dict[int, Leaf] = {}

    def parts(
        self, progress: Callable[[int], None] | None
    ) -> Iterator[tuple[str, Iterator[Problem]]]:
        """What there is to check, in order."""
        yield "the leaves", self._log(progress)
        yield "the tree", self._nodes()
        yield "the checkpoints", self._checkpoints()
        yield "the schema", self._schema()
        yield "the runs", self._runs()
        yield "the versions", self._versions()
        yield "the rounds", self._rounds()
        yield "the cohorts", self._cohorts()
        yield "what became of versions", life.problems(self._c)
        yield "the accesses", access.problems(self._c)
        yield "the withdrawals", erasure.problems(self._c)

    def _log(self, progress: Callable[[int], None] | None) -> Iterator[Problem]:
        """Leaves with the columns beside them."""
        query = sa.select(t.leaves).order_by(t.leaves.c.index)
        rows = self._c.execution_options(yield_per=1000).execute(query)
        for count, row in enumerate(rows):
            index = row._mapping["index"]
            if index != count:
                yield count, f"the leaf after {count - 1} has index {index}"
            if progress is not None and count % 1000 == 0:
                progress(count)
            text = row.body if isinstance(row.body, str) else ""
            self._verifier.add(text)
            hashed = self._verifier.tree.node(0, count).hex()
            try:
                body = parsed(text)
                said = (row.run, row.kind, row.hash)
                if said != (body["run"], body["kind"], hashed):
                    yield count, f"its columns {said} aren't those of the leaf"
                self._sort(count, body)
            except (MessageError, *_UNREADABLE):
                # The verifier says it.
                continue

    def _schema(self) -> Iterator[Problem]:
        for problem in schema.problems(self._c, self._store.database):
            yield None, problem

    def _sort(self, index: int, body: Leaf) -> None:
        kind = body["kind"]
        if kind == "PLAN":
            self._plans[body["run"]] = body
        elif kind == "STATUS":
            self._status[body["run"]] = (index, body)
        elif kind == "CHARGE":
            self._charges[index] = body
        elif kind == "RELEASE" and "artifact" in body:
            self._releases[index] = body
        elif kind == "RELEASE" and "arms" in body:
            self._evaluations[index] = body

    def _nodes(self) -> Iterator[Problem]:
        tree, size = self._verifier.tree, self._verifier.tree.size
        due = sum(size >> level for level in range(1, size.bit_length()))
        found = 0
        query = sa.select(t.nodes).execution_options(yield_per=1000)
        for row in self._c.execute(query):
            found += 1
            level, index = row.level, row._mapping["index"]
            known = 1 <= level < 63 and 0 <= index < (size >> level)
            if not known or tree.node(level, index) != row.hash:
                yield None, f"node {index} of level {level} isn't the tree's"
        if found != due:
            yield None, f"the tree has {found} nodes, and {due} are due"

    def _checkpoints(self) -> Iterator[Problem]:
        verifier, newest = self._verifier, 0
        for size, note in self._c.execute(sa.select(t.checkpoints.c.size, t.checkpoints.c.note)):
            newest = max(newest, size)
            key = verifier.key_at(size)
            try:
                if key is None:
                    raise MessageError("no leaf names its key")
                found = Checkpoint.parse(open_note(note, key))
                within = found.size == size <= verifier.tree.size
                if not within or found.root != verifier.tree.root_at(size):
                    raise MessageError("it signs other leaves")
            except MessageError as error:
                yield None, f"the checkpoint of {size} leaves: {error.message}"
        if newest != verifier.tree.size:
            yield None, f"the newest checkpoint is of {newest} of {verifier.tree.size} leaves"

    # Rows

    def _runs(self) -> Iterator[Problem]:
        rows = {row.id: dict(row._mapping) for row in self._c.execute(sa.select(t.runs))}
        for name in set(self._plans) - set(rows):
            yield None, f"run={name} is gone from the database"
        for name, row in rows.items():
            plan = self._plans.get(name)
            if plan is None:
                yield None, f"run={name} is in no leaf"
                continue
            yield from _explained(f"run={name}", self._run(row, plan))

    def _run(self, row: Leaf, plan: Leaf) -> Iterator[Problem]:
        name = row["id"]
        due = {key: plan[key] for key in ("name", "population", "code")}
        due |= {"plan_digest": plan["plan"], "spec_digest": plan["spec"]}
        releases = [body for body in self._releases.values() if body["run"] == name]
        before = plan.get("adopted")
        if before is None:
            due |= {"created_at": plan["at"], "round": 0, "state": None, "status": "running"}
        else:
            due |= {key: before[key] for key in ("round", "state", "status")}
        newer = [body for body in releases if "state" in body]
        if newer:
            due |= {"round": newer[-1]["round"], "state": newer[-1]["state"]}
        rolled = [body for body in self._evaluations.values() if body["run"] == name]
        if rolled:
            due["round"] = rolled[-1]["round"]
        status = self._status.get(name)
        if status is not None:
            due["status"] = status[1]["status"]
        for key, value in due.items():
            if row[key] != value:
                yield None, f"run={name}: {key}={row[key]!r} isn't {value!r}, as its leaves say"
        for key in ("spec", "plan"):
            value = json.loads(row[key])
            if leaves.digest(value) != row[f"{key}_digest"] or json.dumps(value) != row[key]:
                yield None, f"run={name}: its {key} isn't the one of its digest"
        yield from self._message(row, before, status)
        if row["state"] is not None:
            yield from self._state(row)

    def _message(
        self, row: Leaf, before: Leaf | None, status: tuple[int, Leaf] | None
    ) -> Iterator[Problem]:
        name = row["id"]
        if status is not None:
            index, body = status
            if sealed(row["key"], f"status {index}", row["message"]) != body["message"]:
                yield index, f"run={name}: its message isn't the one committed to"
        elif before is None:
            if row["message"]:
                yield None, f"run={name}: its message isn't in the ledger"
        elif sealed(row["key"], "adopted", keys.adopted(self._c, row)) != before["rows"]:
            yield None, f"run={name}: its rows aren't those that were adopted"

    def _state(self, row: Leaf) -> Iterator[Problem]:
        path = file_of(self._store.home.runs / row["id"], row["state"])
        yield from _file(path, row["state"], f"run={row['id']}: its state")

    def _versions(self) -> Iterator[Problem]:
        known, seen = self._releases, set()
        query = sa.select(t.versions).order_by(t.versions.c.id)
        rows = [dict(found._mapping) for found in self._c.execute(query)]
        if [row["release"] for row in rows] != sorted(row["release"] for row in rows):
            yield None, "the versions' ids aren't in the order of their releases"
        if is_sqlite(self._store.database.url):
            ids = [row["id"] for row in rows]
            if ids != list(range(1, len(ids) + 1)):
                yield None, f"the versions' ids={ids} aren't consecutive"
        released: dict[Any, Any] = {None: None} | {row["id"]: row["release"] for row in rows}
        for row in rows:
            body, what = known.get(row["release"]), f"{row['name']}@{row['number']}"
            if body is None or row["release"] in seen:
                yield None, f"{what} has no RELEASE leaf of its own"
                continue
            seen.add(row["release"])
            row["parent"] = released.get(row["parent"], f"id {row['parent']}")
            yield from _explained(what, self._version(row, body, what))
        for index in set(known) - seen:
            yield index, f"the version that it released, {known[index].get('name')}, is gone"

    def _version(self, row: Leaf, body: Leaf, what: str) -> Iterator[Problem]:
        plan = self._plans.get(body["run"], {})
        due = {key: body[key] for key in ("name", "number", "run", "round", "artifact", "charge")}
        due |= {"plan_digest": body["plan"], "created_at": body["at"]}
        due |= {"spec_digest": plan.get("spec"), "code": plan.get("code")}
        due |= {"metrics": json.dumps(body["metrics"])}
        if "parent" in body:
            due["parent"] = body["parent"]
        for key, value in due.items():
            if row[key] != value and not _same_metrics(key, row[key], body):
                yield row["release"], f"{what}: {key}={row[key]!r} isn't {value!r}"
        path = ModelRegistry(self._store.home, self._store).path(body["artifact"])
        yield from _file(path, body["artifact"], f"{what}: its file")

    def _rounds(self) -> Iterator[Problem]:
        opening = {row.id: row.key for row in self._c.execute(sa.select(t.runs))}
        rows = {(row.run, row.round): dict(row._mapping) for row in self._c.execute(_ROUNDS)}
        for index, body in (self._releases | self._evaluations).items():
            row = rows.pop((body["run"], body["round"]), None)
            if row is None:
                yield index, f"the report of run={body['run']} round={body['round']} is gone"
            elif "report" in body:
                what = f"the report of round {body['round']}"
                yield from _explained(what, self._report(index, body, opening[body["run"]], row))
        for run, number in rows:
            yield None, f"run={run} round={number} has a report and no release"

    def _report(self, index: int, body: Leaf, key: bytes, row: Leaf) -> Iterator[Problem]:
        if sealed(key, f"round {body['round']}", row) != body["report"]:
            yield index, f"the report of round {body['round']} isn't the one committed to"

    def _cohorts(self) -> Iterator[Problem]:
        seen = set()
        for row in self._c.execute(sa.select(t.cohorts)):
            seen.add(row.leaf)
            body = self._charges.get(row.leaf)
            if body is None or (row.run, row.purpose) != (body["run"], body["purpose"]):
                yield row.leaf, "a cohort is noted for it, and it is no such charge"
                continue
            try:
                members = json.loads(row.members)
                opened = json.dumps(members) == row.members and leaves.commit(row.salt, members)
            except _UNREADABLE:
                opened = False
            if opened != body.get("cohort"):
                yield row.leaf, "its cohort isn't the one committed to"
        for index in set(self._charges) - seen:
            yield index, "its cohort is gone"


_ROUNDS = sa.select(t.rounds).order_by(t.rounds.c.run, t.rounds.c.round)


def _same_metrics(key: str, text: Any, body: Leaf) -> bool:
    """Whether metrics are the leaf's; JSON has several texts for one number."""
    if key != "metrics" or not isinstance(text, str):
        return False
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return bool(
        json.dumps(found) == text and leaves.digest(found) == leaves.digest(body["metrics"])
    )


def _explained(what: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    """The problems; a value that can't be read at all is one more, and the last."""
    try:
        yield from problems
    except _UNREADABLE as error:
        yield None, f"{what} can't be read: {type(error).__name__} {error}"


def _file(path: Path, digest: str, what: str) -> Iterator[Problem]:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        yield None, f"{what}, {path}, can't be read: {error.strerror}"
        return
    if found != digest:
        yield None, f"{what}, {path}, isn't the one of its digest"
