"""Models, their versions and aliases as plain data, each number with the leaf that it comes from.

Guarantees: everything is JSON, read in few queries whose cost follows what is asked for, not the
ledger's length. ``leaf`` beside a figure is where the figure is stated; what a release states was
compared with the charges by the verifier, not here. Models that ``sees`` refuses are left out as
if there were none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import MissingError
from tacit.privacy.ledger import STATED
from tacit.privacy.log.leaves import SPENDING
from tacit.server import tables as t
from tacit.server.lifecycle import Lifecycle, Move
from tacit.server.store import Row, Store

Sees = Callable[[str], bool]


def everything(_: str) -> bool:
    """Whoever may know of all models."""
    return True


def exists(store: Store, model: str) -> bool:
    """Whether there is a version of this name."""
    query = sa.select(t.versions.c.id).where(t.versions.c.name == model).limit(1)
    with store.database.reading() as c:
        return c.execute(query).first() is not None


def models(store: Store, sees: Sees = everything) -> list[Row]:
    """The models of a home by name: how many versions, the newest, and aliases with their moves."""
    v = t.versions.c
    query = sa.select(v.name, sa.func.count(), sa.func.max(v.release)).group_by(v.name)
    with store.database.reading() as c:
        rows = [row for row in c.execute(query.order_by(v.name)) if sees(row[0])]
        newest = _by(c, v.release, [last for _, _, last in rows])
    life = Lifecycle(store)
    return [
        {
            "name": name,
            "versions": count,
            "newest": _place(newest[last]),
            "aliases": aliases(life, name),
        }
        for name, count, last in rows
    ]


def aliases(life: Lifecycle, model: str) -> list[Row]:
    """The aliases of a model that name a version, with the moves by which they do."""
    return [move(found) for _, found in sorted(life.aliases(model).items())]


def move(found: Move) -> Row:
    """One move of an alias."""
    return {
        "alias": found.alias,
        "number": found.number,
        "leaf": found.leaf,
        "kind": found.kind,
        "previous": found.previous,
        "at": found.at,
        "actor": found.actor,
        "reason": found.reason,
        "evidence": list(found.evidence),
        "forced": found.forced,
        "automatic": found.automatic,
    }


def versions(
    store: Store, model: str, start: int = 1, limit: int | None = None
) -> tuple[list[Row], int | None]:
    """A model's versions in order, and the number to go on from if there are more.

    Args:
        store: of the home.
        model: whose.
        start: the first number wanted.
        limit: at most so many.
    """
    v = t.versions.c
    query = sa.select(t.versions).where(v.name == model, v.number >= start).order_by(v.number)
    if limit is not None:
        query = query.limit(limit + 1)
    with store.database.reading() as c:
        rows = [dict(row._mapping) for row in c.execute(query)]
        more = None
        if limit is not None and len(rows) > limit:
            more = rows.pop()["number"]
        bodies = _leaves(c, [row["release"] for row in rows])
        parents = _by(c, v.id, [row["parent"] for row in rows if row["parent"] is not None])
    stages = Lifecycle(store).stages(model)
    return [
        {
            **_place(row),
            "run": row["run"],
            "round": row["round"],
            "artifact": row["artifact"],
            "created_at": row["created_at"],
            "parent": None if row["parent"] is None else _place(parents[row["parent"]]),
            "stage": stages[row["number"]],
            "charge": row["charge"],
            "plan": row["plan_digest"],
            "configuration": row["spec_digest"],
            "code": row["code"],
            "metrics": {"leaf": row["release"], "values": json.loads(row["metrics"])},
            "epsilon": epsilon(row["release"], bodies[row["release"]]),
        }
        for row in rows
    ], more


def version(store: Store, model: str, number: int) -> Row:
    """One version with what it rests on: its run, policy of evaluation, and its leaves.

    Raises:
        MissingError: there is none.
    """
    found, _ = versions(store, model, number, 1)
    if not found or found[0]["number"] != number:
        raise MissingError(f"model={model}@{number} isn't in this home", "tacit models list")
    made = found[0]
    with store.database.reading() as c:
        plan = _plan(c, made["run"])
        attested = c.execute(
            sa.select(t.attestations.c.version)
            .join(t.versions, t.versions.c.id == t.attestations.c.version)
            .where(t.versions.c.name == model, t.versions.c.number == number)
        ).first()
        leaves = _concerning(c, made)
    deltas = {unit: plan["body"].get(f"{unit}_delta") for unit in ("client", "record")}
    return {
        **made,
        "population": plan.get("population"),
        "deltas": {"leaf": plan["leaf"], **deltas},
        "begun_with": plan.get("initial"),
        "attested": attested is not None,
        "leaves": leaves,
        "history": history(Lifecycle(store), model, number),
    }


def history(life: Lifecycle, model: str, number: int | None = None) -> list[Row]:
    """The leaves of a model's life, or of one of its versions', in order."""
    return [
        {"leaf": row["index"], **{k: v for k, v in row["body"].items() if k != "run"}}
        for row in life.history(model, number)
    ]


def epsilon(leaf: int, body: Mapping[str, Any]) -> list[Row]:
    """What a RELEASE states was spent by then, by unit and adversary; None is not claimed.

    Empty for the releases of a home from before they stated it.
    """
    said: Mapping[str, Any] = body.get("epsilon") or {}
    return [
        {
            "unit": key.unit,
            "adversary": key.adversary,
            "amplified": key.amplified,
            "epsilon": said[name],
            "leaf": leaf,
        }
        for name, key in STATED.items()
        if name in said
    ]


def _place(row: Mapping[str, Any]) -> Row:
    return {"name": row["name"], "number": row["number"], "leaf": row["release"]}


def _by(c: Connection, column: sa.ColumnElement[Any], values: Sequence[int]) -> dict[int, Row]:
    """Versions by the value of a column."""
    query = sa.select(t.versions).where(column.in_(values))
    name = str(getattr(column, "name", ""))
    return {row._mapping[name]: dict(row._mapping) for row in c.execute(query)}


def _leaves(c: Connection, indices: Sequence[int]) -> dict[int, Row]:
    query = sa.select(t.leaves.c.index, t.leaves.c.body).where(t.leaves.c.index.in_(indices))
    return {index: json.loads(body) for index, body in c.execute(query)}


def _plan(c: Connection, run: str) -> Row:
    """A run's PLAN leaf, with its index."""
    of = t.leaves.c
    found = c.execute(
        sa.select(of.index, of.body).where(of.run == run, of.kind == "PLAN").limit(1)
    ).first()
    if found is None:
        raise MissingError(f"run={run} has no PLAN leaf", "tacit ledger verify says what is wrong")
    return {"leaf": found[0], **json.loads(found[1])}


def _concerning(c: Connection, made: Mapping[str, Any]) -> list[Row]:
    """The leaves that led to a version: its run's plan, and its own charges and release."""
    of = t.leaves.c
    query = sa.select(of.index, of.kind, of.body).where(
        of.run == made["run"], of.kind.in_(("PLAN", "APPROVAL", "AUDIT", *SPENDING))
    )
    rows = [(i, kind, json.loads(body)) for i, kind, body in c.execute(query.order_by(of.index))]
    return [
        {"leaf": index, "kind": kind, "purpose": body.get("purpose"), "at": body["at"]}
        for index, kind, body in rows
        if kind not in SPENDING or body["round"] == made["round"]
    ]
