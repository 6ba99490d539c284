"""Runs as plain data: where each is, what it has spent by its own word, and what came of it.

Guarantees: of a cohort nothing is here but that it was drawn; how many were asked or answered
isn't, nor what would tell it. Epsilons are those that releases state, each with its leaf; what
they are worth is `tacit.server.views.verification`'s to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.server import tables as t
from tacit.server.store import Row, Store
from tacit.server.views import ledger, models
from tacit.server.views.models import Sees, everything

LIVE = ("running", "waiting")


def listed(store: Store, sees: Sees = everything, *, operator: bool = False) -> list[Row]:
    """Runs, newest first, each with the newest leaf of its state and what was last stated.

    Args:
        store: of the runs.
        sees: which models may be known of.
        operator: whether messages are shown.
    """
    rows = ledger.runs(store, sees, operator=operator)
    with store.database.reading() as c:
        newest = _newest(c)
        plans = _plans(c)
    return [_shown(row, plans.get(row["id"], {}), newest.get(row["id"], {})) for row in rows[::-1]]


def detail(
    store: Store, identifier: str, sees: Sees = everything, *, operator: bool = False
) -> Row:
    """One run with its plan, what was charged and released round by round, and its statuses.

    Raises:
        MissingError: there is none, or its model may not be known of.
    """
    row = ledger.run(store, identifier, sees, operator=operator)
    with store.database.reading() as c:
        newest, plans = _newest(c, identifier), _plans(c, identifier)
    found = store.leaves(identifier, ("STATUS", "CHARGE", "RELEASE", "ABANDON", "APPROVAL"))
    leaves = [{"leaf": leaf["index"], **leaf["body"]} for leaf in found]
    charges = [_charge(leaf, leaves) for leaf in leaves if leaf["kind"] == "CHARGE"]
    shown = _shown(row, plans.get(identifier, {}), newest.get(identifier, {}))
    return {
        **shown,
        "plan": row["plan"],
        "configuration": row["configuration"],
        "rounds": ledger.rounds(store, identifier),
        "charges": charges,
        "statuses": [leaf for leaf in leaves if leaf["kind"] == "STATUS"],
        "approvals": [leaf for leaf in leaves if leaf["kind"] == "APPROVAL"],
    }


def _shown(row: Row, plan: Mapping[str, Any], newest: Mapping[str, tuple[int, Row]]) -> Row:
    release, body = newest.get("RELEASE", (None, {}))
    rollout = plan.get("rollout")
    return {
        **row,
        "kind": "rollout" if rollout else "training",
        "rollout": rollout,
        "planned": plan.get("body", {}).get("rounds"),
        "state": newest.get("STATUS", (row["leaf"], {}))[0],
        "release": release,
        "epsilon": [] if release is None else models.epsilon(release, body),
        "metrics": {"leaf": release, "values": body.get("metrics", {})},
    }


def _charge(leaf: Row, leaves: list[Row]) -> Row:
    """A charge, and what came of it."""
    key = ("round", "attempt", "purpose")
    after = (x for x in leaves if x["kind"] in ("RELEASE", "ABANDON") and x["leaf"] > leaf["leaf"])
    came = next((x for x in after if all(x[k] == leaf[k] for k in key)), None)
    names = ("leaf", "at", "round", "attempt", "purpose", "participations", "noise_source")
    return {
        **{name: leaf[name] for name in names},
        "came": None if came is None else {"leaf": came["leaf"], "kind": came["kind"]},
    }


def _newest(c: Connection, run: str | None = None) -> dict[str, dict[str, tuple[int, Row]]]:
    """Of each run its newest STATUS and RELEASE leaf."""
    of = t.leaves.c
    last = sa.select(sa.func.max(of.index)).where(of.kind.in_(("STATUS", "RELEASE")))
    if run is not None:
        last = last.where(of.run == run)
    query = sa.select(of.index, of.run, of.kind, of.body)
    found: dict[str, dict[str, tuple[int, Row]]] = {}
    for row in c.execute(query.where(of.index.in_(last.group_by(of.run, of.kind)))):
        found.setdefault(row[1], {})[row[2]] = (row[0], json.loads(row[3]))
    return found


def _plans(c: Connection, run: str | None = None) -> dict[str, Row]:
    of = t.leaves.c
    query = sa.select(of.run, of.body).where(of.kind == "PLAN")
    if run is not None:
        query = query.where(of.run == run)
    return {name: json.loads(body) for name, body in c.execute(query)}
