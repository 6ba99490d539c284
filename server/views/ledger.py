"""A ledger as plain data: leaves, checkpoints, policies, what waits for a reviewer, what was spent.

Guarantees: leaves are given as they were signed, page by page in order, with their hashes; what is
computed from them names them. `waiting` asks the same governor that lets charges through, so it
says what would be said to the run. Models that ``sees`` refuses are in nothing that is returned:
leaves of their runs are left out, whole, as are policies of populations that only they have, and
who withdrew.

Whether the leaves are what they should be is the verifier's to say
(`tacit.server.views.verification`); what they add up to is in `tacit.server.views.spending`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import BudgetError, MissingError
from tacit.privacy.log.notes import signed
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.governance import Governance
from tacit.server.store import Row, Store
from tacit.server.views.models import Sees, everything

_PAGE = 500
# A run that ended can't wait for anybody.
_LIVE = ("running", "waiting", "stopped")


def leaves(
    store: Store,
    start: int = 0,
    limit: int = 100,
    *,
    kinds: Sequence[str] = (),
    run: str | None = None,
    sees: Sees = everything,
) -> dict[str, Any]:
    """A page of leaves in order.

    Args:
        store: of the ledger.
        start: the first index wanted.
        limit: at most so many.
        kinds: only these; all if empty.
        run: only this one's.
        sees: which models may be known of.

    Returns:
        ``size`` of the ledger, ``leaves``, and ``next``, the index to go on from; None at the end.
    """
    of = t.leaves.c
    query = sa.select(of.index, of.run, of.kind, of.hash, of.body).order_by(of.index)
    if kinds:
        query = query.where(of.kind.in_(kinds))
    if run is not None:
        query = query.where(of.run == run)
    found: list[Row] = []
    with store.database.reading() as c:
        hidden, size, place = _Hidden(c, sees), logs.size(c), start
        while len(found) <= limit:
            rows = c.execute(query.where(of.index >= place).limit(_PAGE)).mappings().all()
            shown = (_leaf(row) for row in rows)
            found += [leaf for leaf in shown if not hidden.hides(leaf["body"])]
            if len(rows) < _PAGE:
                break
            place = rows[-1]["index"] + 1
    more = found[limit]["leaf"] if len(found) > limit else None
    return {"size": size, "leaves": found[:limit], "next": more}


def leaf(store: Store, index: int, sees: Sees = everything) -> Row:
    """One leaf.

    Raises:
        MissingError: there is none, or it is of a model that may not be known of.
    """
    of = t.leaves.c
    query = sa.select(of.index, of.run, of.kind, of.hash, of.body).where(of.index == index)
    with store.database.reading() as c:
        row = c.execute(query).mappings().first()
        found = None if row is None else _leaf(row)
        if found is None or _Hidden(c, sees).hides(found["body"]):
            raise MissingError(
                f"leaf={index} isn't in the ledger", f"it has leaves 0 to {logs.size(c) - 1}"
            )
    return found


def checkpoint(store: Store) -> dict[str, Any]:
    """The newest checkpoint, and the key that whoever keeps it should know the ledger by."""
    note = store.checkpoint()
    found = signed(note)
    with store.database.reading() as c:
        keys = [str(body["key"]) for body in logs.keys(c)]
    return {
        "origin": found.origin,
        "size": found.size,
        "root": found.root.hex(),
        "keys": keys,
        "note": note,
    }


def policies(store: Store, sees: Sees = everything) -> list[Row]:
    """The policies in force, by population, each with its leaf and who signed it."""
    with store.database.reading() as c:
        rows, hidden = logs.bodies(c, ("POLICY",)), _Hidden(c, sees)
    newest: dict[str, Row] = {}
    for index, body in rows:
        if hidden.hides(body):
            continue
        terms = body["policy"]
        newest[terms["population"]] = {
            "population": terms["population"],
            "leaf": index,
            "at": body["at"],
            "signed_by": body["key"],
            "terms": terms,
        }
    return [newest[name] for name in sorted(newest)]


def waiting(
    store: Store, sees: Sees = everything, governance: Governance | None = None
) -> list[Row]:
    """What only a reviewer can let go on: runs before they begin, and audits that freeze all.

    Args:
        store: of the ledger.
        sees: which models may be known of.
        governance: one that followed the ledger before, which is faster.

    Returns:
        Of each the run, its model, ``why``, the PLAN ``leaf``, ``lifts``, the AUDIT leaf or None,
        and the reviewers' keys; none are named where anybody but the ledger may sign.
    """
    governance, found = governance or Governance(store), list[Row]()
    for run in store.runs():
        if run["status"] not in _LIVE or run["round"] or not sees(run["name"]):
            continue
        try:
            why = governance.awaits_review(run["id"])
        except (BudgetError, KeyError):
            # A reviewer said no; or it is of a home from before there were plans.
            continue
        if why is not None:
            found.append(_awaited(governance, store, run, why, None))
    for index, body in governance.frozen():
        run = store.run(body["run"])
        if sees(run["name"]):
            why = (
                f"the audit found an epsilon of at least {body['lower_bound']:.3f} where "
                f"{body['charged']:.3f} was charged; nothing is released until that is explained"
            )
            found.append(_awaited(governance, store, run, why, index))
    return found


def runs(store: Store, sees: Sees = everything, *, operator: bool = False) -> list[Row]:
    """Runs, oldest first, each with its PLAN leaf.

    Args:
        store: of the runs.
        sees: which models may be known of.
        operator: whether messages are shown, which may say how many clients answered.
    """
    of = t.leaves.c
    query = sa.select(of.run, of.index).where(of.kind == "PLAN")
    with store.database.reading() as c:
        plans = {row.run: row._mapping["index"] for row in c.execute(query)}
    return [_run(row, plans.get(row["id"]), operator) for row in store.runs() if sees(row["name"])]


def run(store: Store, identifier: str, sees: Sees = everything, *, operator: bool = False) -> Row:
    """One run by its whole id, with its plan and configuration.

    Raises:
        MissingError: there is none, or its model may not be known of.
    """
    row = found(store, identifier, sees)
    of = t.leaves.c
    query = sa.select(of.index).where(of.run == row["id"], of.kind == "PLAN")
    with store.database.reading() as c:
        plan = c.execute(query).scalar()
    made = _run(row, plan, operator)
    return {**made, "plan": json.loads(row["plan"]), "configuration": json.loads(row["spec"])}


def found(store: Store, identifier: str, sees: Sees = everything) -> Row:
    """The row of a run by its whole id; raises as `run`."""
    row = next((r for r in _rows(store, identifier) if sees(r["name"])), None)
    if row is None:
        raise MissingError(f"run={identifier} is no run in this home", "tacit runs list shows them")
    return row


def rounds(store: Store, run: str) -> list[Row]:
    """What was released of each round: model, metrics, and epsilon by then, with its leaf.

    How many clients were asked and answered is the operator's, and in no release.
    """
    released: dict[int, tuple[int, Row]] = {}
    for leaf in store.leaves(run, ("RELEASE",)):
        if "artifact" in leaf["body"]:
            released[leaf["body"]["round"]] = (leaf["index"], leaf["body"])
    return [
        {
            "round": number,
            "leaf": index,
            "charge": body["charge"],
            "number": body["number"],
            "artifact": body["artifact"],
            "metrics": body["metrics"],
            "epsilon": body.get("epsilon", {}),
        }
        for number, (index, body) in sorted(released.items())
    ]


def _run(row: Mapping[str, Any], leaf: int | None, operator: bool) -> Row:
    names = ("id", "name", "population", "status", "round", "created_at", "code")
    digests = {"plan_digest": row["plan_digest"], "configuration_digest": row["spec_digest"]}
    message = row["message"] if operator else None
    return {**{name: row[name] for name in names}, **digests, "leaf": leaf, "message": message}


def _rows(store: Store, identifier: str) -> list[Row]:
    try:
        row = store.run(identifier)
    except MissingError:
        return []
    return [row] if row["id"] == identifier else []


def _awaited(
    governance: Governance, store: Store, run: Mapping[str, Any], why: str, lifts: int | None
) -> Row:
    policy = governance.policy(run["population"])
    plans = store.leaves(run["id"], ("PLAN",))
    return {
        "run": run["id"],
        "model": run["name"],
        "population": run["population"],
        "status": run["status"],
        "why": why,
        "leaf": plans[0]["index"] if plans else None,
        "lifts": lifts,
        "reviewers": list(policy.reviewers) if policy is not None else [],
    }


def _leaf(row: sa.RowMapping) -> Row:
    index, run, kind, hashed, text = (row[k] for k in ("index", "run", "kind", "hash", "body"))
    return {"leaf": index, "run": run, "kind": kind, "hash": hashed, "body": json.loads(text)}


class _Hidden:
    """Which leaves are of models that may not be known of."""

    def __init__(self, c: Connection, sees: Sees) -> None:
        self._sees = sees
        self._runs: dict[str, str] = {}
        self._populations: set[str] = set()
        if sees is not everything:
            of = t.runs.c
            rows = c.execute(sa.select(of.id, of.name, of.population)).all()
            self._runs = {row.id: row.name for row in rows}
            self._populations = {row.population for row in rows if sees(row.name)}

    def hides(self, body: Mapping[str, Any]) -> bool:
        """Whether a leaf is one of those."""
        if self._sees is everything:
            return False
        if body["kind"] == "ERASURE":
            return True
        if body["kind"] == "POLICY":
            return body["policy"]["population"] not in self._populations
        names = [body.get("model"), body.get("name"), self._runs.get(body["run"])]
        begun = body.get("initial") or {}
        names.append(begun.get("model") if isinstance(begun, Mapping) else None)
        return not all(self._sees(str(name)) for name in names if name is not None)
