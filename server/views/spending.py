"""What runs and populations have spent, recomputed from CHARGE leaves as the verifier does.

Guarantees: a figure is composed of all charges that are there when it is asked for, released or
not, and names them. Computing one takes seconds; `Memo` keeps those of leaves that haven't changed.
That the charges are true to their plans is the verifier's to say.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import sqlalchemy as sa

from tacit.privacy import ancestry, ledger
from tacit.privacy.log.trail import RunTrail, Trail
from tacit.server import tables as t
from tacit.server.past import Past
from tacit.server.store import Row, Store
from tacit.server.views.models import Sees, everything

_KEPT = 256


class Memo:
    """Answers that were computed, by what they were computed from; any thread may ask."""

    def __init__(self) -> None:
        self._lock, self._known = threading.Lock(), OrderedDict[Hashable, Any]()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is known under a key, else what ``make`` gives; one computes at a time."""
        with self._lock:
            if key not in self._known:
                self._known[key] = make()
                if len(self._known) > _KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]


def of_run(store: Store, run: str, memo: Memo | None = None) -> dict[str, Any]:
    """Every row of a run's epsilon, and the leaves that it is made of.

    Args:
        store: of the ledger.
        run: its id.
        memo: of this store, if there is one.
    """
    rows = store.spending(run)
    charges = [row["index"] for row in rows if row["kind"] == "CHARGE"]
    key = ("run", run, rows[-1]["index"] if rows else -1)
    table = (memo or Memo()).get(key, lambda: store.claims(run))
    return {"run": run, "charges": charges, "rows": table}


def populations(
    store: Store, sees: Sees = everything, memo: Memo | None = None
) -> list[dict[str, Any]]:
    """What all runs on each population spent together, as if their plans had been fixed before.

    Args:
        store: of the ledger.
        sees: which models may be known of: a population is shown if a run on it is of one of
            them, with the total of all its runs.
        memo: of this store, if there is one.

    Returns:
        Of each its ``runs`` that may be known of, with their CHARGE leaves, the POLICY leaf in
        force and ``rows`` of epsilon.
    """
    memo = memo or Memo()
    charges: dict[str, list[int]] = {}
    policies: dict[str, int] = {}
    of = t.leaves.c
    with store.database.reading() as c:
        charged = sa.select(of.index, of.run).where(of.kind == "CHARGE").order_by(of.index)
        for index, run in c.execute(charged):
            charges.setdefault(run, []).append(index)
        ruling = sa.select(of.index, of.body).where(of.kind == "POLICY").order_by(of.index)
        for index, body in c.execute(ruling):
            policies[json.loads(body)["policy"]["population"]] = index
    runs = [run for run in store.runs() if run["id"] in charges]
    found = []
    for name in dict.fromkeys(run["population"] for run in runs):
        own = [run for run in runs if run["population"] == name]
        shown = [run for run in own if sees(run["name"])]
        if not shown:
            continue
        key = ("population", name, tuple((run["id"], charges[run["id"]][-1]) for run in own))
        rows = memo.get(key, functools.partial(_together, store, own))
        found.append(
            {
                "population": name,
                "runs": [
                    {"run": r["id"], "model": r["name"], "charges": charges[r["id"]]} for r in shown
                ],
                "policy": policies.get(name),
                "rows": rows,
            }
        )
    return found


def _together(store: Store, runs: list[Row]) -> list[dict[str, Any]]:
    """Rows of what runs on one population spent."""
    trail = Trail()
    for run in runs:
        plans = store.leaves(run["id"], ("PLAN",))
        if not plans:
            continue
        body = plans[0]["body"]
        deltas = {unit: float(body["body"][f"{unit}_delta"]) for unit in ("client", "record")}
        bodies = [row["body"] for row in store.spending(run["id"])]
        spending = ledger.replay(bodies, deltas, ancestry.base(Past(store), run["id"]))
        charges = sum(body["kind"] == "CHARGE" for body in bodies)
        trail.runs[run["id"]] = RunTrail(body, None, {}, spending, charges=charges)
    return list(trail.population_tables()[0]["rows"])
