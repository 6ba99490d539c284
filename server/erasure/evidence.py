"""What taking part cost one client: its epsilon, recomputed from the leaves.

The unit is all of one client's data, replaced or removed as its runs' plans say. Two kinds of row:

* *amplified*: against those who don't know who was drawn. What every client of the population is
  promised, of all charges up to its withdrawal, whether it was drawn for them or not.
* not amplified: against those who know it. Given who was drawn, which doesn't depend on anybody's
  data, a round without the client is a function of what was released before it; so only the charges
  with the client in their cohort are composed, as many as there were.

Charges that came to nothing count like others. Runs of one population are composed as if their
plans had been fixed beforehand, like the verifier's tables. None means that some run claims
nothing in that row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.accountant import version
from tacit.privacy.ledger import Spending
from tacit.privacy.log import together
from tacit.server import tables as t

Leaf = dict[str, Any]


def rows(c: Connection, population: str, own: Collection[int], before: int) -> list[Leaf]:
    """The rows of one client.

    Args:
        c: of any transaction.
        population: whose client.
        own: CHARGE leaves of the cohorts that it was in.
        before: the leaf of its withdrawal; none of those after it is of concern.

    Returns:
        Of each row unit, adversary, whether it is amplified, epsilon, delta, method, accountant.
    """
    every, taken = _spent(c, population, own, before)
    keys = {key for total in every for key in total.rows() if key.unit == "client"}
    delta = min((total.deltas["client"] for total in every), default=None)
    found = []
    for key in sorted(keys, key=repr):
        totals = every if key.amplified else taken
        assert delta is not None
        charged = [total for total in totals if total.rows()]
        found.append({**together.row(key, charged, delta), "accountant": version()})
    return found


def _spent(
    c: Connection, population: str, own: Collection[int], before: int
) -> tuple[list[Spending], list[Spending]]:
    """Of each run of the population all that was charged, and what was with the client."""
    of, wanted = t.leaves.c, set(own)
    runs = sa.select(t.runs.c.id, t.runs.c.plan).where(t.runs.c.population == population)
    every, taken = list[Spending](), list[Spending]()
    for run, plan in c.execute(runs.order_by(t.runs.c.id)).all():
        stated = json.loads(plan)
        deltas = {unit: float(stated[f"{unit}_delta"]) for unit in ("client", "record")}
        whole, part, counts = Spending(deltas), Spending(deltas), Counter[str]()
        charged = (of.run == run, of.kind == "CHARGE", of.index < before)
        query = sa.select(of.index, of.body).where(*charged)
        for index, text in c.execute(query.order_by(of.index)):
            body = json.loads(text)
            whole.add(body)
            if index in wanted:
                # A charge states a bound on anybody's participations; here they are counted.
                counts[body["purpose"]] += 1
                part.add({**body, "participations": counts[body["purpose"]]})
        every.append(whole)
        taken.append(part)
    return every, taken
