"""Figures that take long, made beside the pages: what the verifier recomputed, and the budgets.

Guarantees: a page waits at most `PATIENCE` for a check, and only where there is none yet; else it
shows the newest, with the number of leaves that it is of.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from tacit.server import tables as t
from tacit.server.access.roles import Caller
from tacit.server.api.context import Place
from tacit.server.api.routes.ledger import verification
from tacit.server.dashboard.pages import sight
from tacit.server.governance import Governance
from tacit.server.views import ledger
from tacit.server.views.budgets import Books

PATIENCE = 4.0
_OLD = timedelta(minutes=15)


def books(place: Place) -> Books:
    """What was spent on a place's populations."""
    return place.shared("books", lambda: Books(place.store))


def waiting(place: Place, caller: Caller) -> list[dict[str, Any]]:
    """What waits for a reviewer, as far as a caller may know of it."""
    governance = place.shared("governance", lambda: Governance(place.store))
    # It follows the ledger from where it was, and takes one at a time.
    with place.shared("governance's turn", threading.Lock):
        return ledger.waiting(place.store, sight(caller), governance)


def figures(place: Place, caller: Caller, patience: float = PATIENCE) -> dict[str, Any]:
    """What the verifier found, as far as a caller may know of it.

    Returns:
        ``state``, ``failed``, ``report`` or None, ``size`` of the ledger now, ``behind``: how many
        leaves but those of reads the report doesn't have, ``runs`` by id and ``populations`` by
        name, with rows of epsilon; ``whole``: whether the caller sees all of it.
    """
    verifier, size = verification(place), int(ledger.checkpoint(place.store)["size"])
    status = verifier.status()
    if _due(place, status["report"], size):
        status = verifier.ask(size)
    if status["report"] is None and patience:
        status = verifier.wait(patience)
    report, whole = status["report"], caller.covers(["*"])
    made = {**status, "size": size, "behind": 0, "runs": {}, "populations": {}, "whole": whole}
    if report is None:
        return made
    made["behind"] = _newer(place, report["size"])
    made["runs"] = {run["run"]: run for run in report["runs"] if caller.sees(run["name"])}
    seen = {run["population"] for run in made["runs"].values()}
    rows = report["populations"]
    made["populations"] = {r["population"]: r for r in rows if r["population"] in seen}
    return made


def _due(place: Place, report: dict[str, Any] | None, size: int) -> bool:
    """Whether to check anew: what was read since is a leaf too, and can wait a little."""
    if report is None or _newer(place, report["size"]):
        return True
    age = datetime.now(UTC) - datetime.fromisoformat(report["at"])
    return size != report["size"] and age > _OLD


def _newer(place: Place, size: int) -> int:
    """Leaves behind so many, but those that cover reads."""
    of = t.leaves.c
    query = sa.select(sa.func.count()).where(of.index >= size, of.kind != "ACCESS")
    with place.store.database.reading() as c:
        return int(c.execute(query).scalar_one())
