"""Epsilon at the number of survivors there really were: the operator's to know.

What is charged against colluding clients counts on the fewest survivors planned. How many
there were follows from who was drawn, so this is in no leaf, no release and no report.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from tacit.privacy import ledger
from tacit.server.store import Store


def at_survivors(store: Store, run: str) -> list[dict[str, Any]]:
    """The rows against colluding clients, with the noise that the survivors left.

    Returns:
        As `Store.claims`, at the fewest survivors of any training round that was released;
        empty for a plan without ``secure.collusion``.
    """
    plan = json.loads(store.run(run)["plan"])
    rules = plan.get("rules")
    if not rules or rules["collusion"] == 0:
        return []
    survivors = min((row["accepted"] for row in store.rounds(run)), default=0)
    if survivors <= rules["minimum"]:
        return []
    bodies = [leaf["body"] for leaf in store.spending(run)]
    found = [_scaled(b, rules, survivors) if _trains(b) else b for b in bodies]
    deltas = {"client": plan["client_delta"], "record": plan["record_delta"]}
    table = ledger.replay(found, deltas, store.base(run)).table()
    return [row for row in table if row["adversary"] == "collusion"]


def _trains(body: Mapping[str, Any]) -> bool:
    return (body["kind"], body["purpose"]) == ("CHARGE", "train")


def _scaled(body: dict[str, Any], rules: Mapping[str, Any], survivors: int) -> dict[str, Any]:
    """A charge with the honest part of the noise that there was."""
    colluders = rules["collusion"]
    gain = (1 - colluders / survivors) / (1 - colluders / rules["minimum"])
    made = copy.deepcopy(body)
    for claim in made["claims"]:
        if claim["adversary"] == "collusion" and claim["event"]:
            claim["event"]["variance"] *= gain
    return made
