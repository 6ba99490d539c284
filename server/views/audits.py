"""Audits as plain data: what was committed to, what was found, what it froze and who lifted that.

Guarantees: each figure is the AUDIT leaf's, beside its index; a freeze counts as lifted only by an
APPROVAL that the governor took, so one that isn't signed by a reviewer lifts nothing here either.
"""

from __future__ import annotations

from typing import Any

from tacit.server.governance import Governance
from tacit.server.store import Row, Store
from tacit.server.views.models import Sees, everything

_FOUND = (
    *("unit", "adversary", "amplified", "canaries", "lower_bound", "estimate", "charged"),
    *("delta", "confidence", "violated"),
)


def listed(store: Store, sees: Sees = everything) -> list[Row]:
    """Audits, newest first: run, model, method, the leaves of commitment and result, and findings.

    Returns:
        ``found`` is None until there is a result; ``state`` is "committed", "holds", "frozen" or
        "lifted", and ``lifted`` the APPROVAL leaf with its note and key.
    """
    names = {run["id"]: run["name"] for run in store.runs()}
    frozen = {index for index, _ in Governance(store).frozen()}
    approvals = store.leaves(kinds=("APPROVAL",))
    made: dict[tuple[str, str], Row] = {}
    for leaf in store.leaves(kinds=("AUDIT",)):
        body, index = leaf["body"], leaf["index"]
        model = names.get(body["run"], "")
        if not sees(model):
            continue
        row = made.setdefault((body["run"], str(body["commitment"])), _begun(body, index, model))
        if body["stage"] != "commitment":
            row |= _result(body, index, index in frozen, approvals)
    return list(made.values())[::-1]


def _begun(body: Row, index: int, model: str) -> Row:
    return {
        "run": body["run"],
        "model": model,
        "method": body.get("method"),
        "at": body["at"],
        "commitment": index,
        "leaf": None,
        "found": None,
        "state": "committed",
        "lifted": None,
    }


def _result(body: Row, index: int, frozen: bool, approvals: list[Row]) -> Row:
    found: dict[str, Any] = {name: body.get(name) for name in _FOUND}
    lifts = [a for a in approvals if a["body"].get("lifts") == index]
    said = next((a for a in lifts if a["body"]["verdict"] == "approved"), None)
    state = "frozen" if frozen else "lifted" if body.get("violated") and said else "holds"
    lifted = None
    if state == "lifted" and said is not None:
        note, key = said["body"].get("note"), said["body"].get("key")
        lifted = {"leaf": said["index"], "note": note, "key": key, "at": said["body"]["at"]}
    named = {"method": body.get("method"), "at": body["at"]}
    return {**named, "leaf": index, "found": found, "state": state, "lifted": lifted}
