"""Where a version came from and what became of it, as plain data; every item names its leaf.

Guarantees: what is said of a version is read from leaves (``leaf`` beside each item is which); only
the text of the configuration comes from the run's row, with the digest that its PLAN leaf has.
Nothing here names a client: cohorts are the commitments that charges carry. Charges are all that
the version is a function of: its run's up to its release, abandoned ones included, and those of the
runs that its run's first model came from.

It isn't a verification: `tacit ledger verify` is, and `ModelRegistry.verified` for one version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from tacit.privacy.errors import MissingError, StorageError
from tacit.privacy.log.leaves import SPENDING, digest
from tacit.server import tables as t
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Row, Store

# Text and what is under it.
Tree = tuple[str, list["Tree"]]
_RUN = ("PLAN", "APPROVAL", "AUDIT", *SPENDING)


def lineage(store: Store, row: Row) -> Row:
    """Everything that led to a version, and what happened to it since.

    Args:
        store: of the home.
        row: the version's.

    Raises:
        StorageError: a leaf that it rests on isn't there, or isn't what its row says.
    """
    runs = _ancestry(store, row)
    mine = runs[0]
    plan, release = mine["plan"], _found(mine["leaves"], row["release"])
    life = Lifecycle(store)
    moves = [_said(r["index"], r["body"]) for r in life.history(row["name"], row["number"])]
    every = [body for part in runs for body in _within(part)]
    charges = list(_charges(every))
    return {
        "model": row["name"],
        "number": row["number"],
        "artifact": row["artifact"],
        "leaf": row["release"],
        "at": release["at"],
        "stage": life.stages(row["name"])[row["number"]],
        "run": {
            "id": row["run"],
            "round": row["round"],
            "population": plan["population"],
            "actor": plan.get("actor"),
            "at": plan["at"],
            "leaf": plan["leaf"],
        },
        "configuration": _configuration(store, row["run"], plan),
        "plan": {"digest": plan["plan"], "body": plan["body"], "leaf": plan["leaf"]},
        "code": {"digest": plan["code"], "leaf": plan["leaf"]},
        "data": _data(charges, plan),
        "rounds": [_round(b) for b in mine["leaves"] if _is_version(b) and _upto(b, mine)],
        "parents": _parents(runs, row),
        "charges": charges,
        "epsilon": {"leaf": row["release"], **(release.get("epsilon") or {})},
        "metrics": {"leaf": row["release"], "values": release["metrics"]},
        "approvals": [_approval(b) for b in every if b["kind"] == "APPROVAL"],
        "audits": [_audit(b) for p in runs for b in p["leaves"] if b["kind"] == "AUDIT"],
        "policies": _policies(store, {p["plan"]["population"] for p in runs}, charges),
        "moves": moves,
        "evidence": _evidence(store, moves),
    }


def tree(found: Row) -> Tree:
    """A lineage as nested text, for a terminal."""
    run, data = found["run"], found["data"]
    conf, plan = found["configuration"], found["plan"]
    who = f" by {run['actor']}" if run["actor"] else ""
    parts: list[Tree] = [
        (f"run {run['id']} of {run['at']}{who}, round {run['round']} {_at(run)}", []),
        (f"configuration {conf['digest'][:16]} {_at(conf)}", []),
        (f"plan {plan['digest'][:16]} {_at(plan)}", []),
        (f"code {found['code']['digest']} {_at(found['code'])}", []),
        _many(f"population {data['population']}, cohorts by commitment", data["cohorts"], _cohort),
        _many("parents", found["parents"], _parent_line),
        _many("charges", found["charges"], _charge_line),
        _many("approvals", found["approvals"], _approval_line),
        _many("audits", found["audits"], lambda b: f"{b['method']}, {b['stage']}"),
        _many("policies in force", found["policies"], _policy_line),
        _many("moves", found["moves"], _move_line),
        _many("evidence", found["evidence"], lambda b: f"evaluation of run {b['run']}"),
    ]
    title = f"{found['model']}@{found['number']} ({found['stage']}) {_at(found)}"
    return title, [part for part in parts if part[1] or not part[0].endswith(": none")]


# What is read


def _ancestry(store: Store, row: Row) -> list[Row]:
    """The runs that a version comes from, its own first: plan, leaves, and where each is left."""
    runs: list[Row] = []
    run, end = row["run"], row["release"]
    while True:
        rows = [{"leaf": r["index"], **r["body"]} for r in store.leaves(run, _RUN)]
        plans = [body for body in rows if body["kind"] == "PLAN"]
        if len(plans) != 1 or any(part["plan"]["run"] == run for part in runs):
            raise StorageError(f"run={run} hasn't one PLAN leaf", "tacit ledger verify says more")
        # Charges of a run that is gone on from count up to when it was: `tacit.privacy.ancestry`.
        runs.append({"plan": plans[0], "leaves": rows, "end": end})
        begun = plans[0].get("initial")
        if begun is None:
            return runs
        run, end = _leaf(store, begun["release"])["run"], plans[0]["leaf"]


def _leaf(store: Store, index: int) -> Row:
    query = sa.select(t.leaves.c.body).where(t.leaves.c.index == index)
    with store.database.reading() as c:
        found = c.execute(query).scalar()
    if found is None:
        raise MissingError(f"leaf={index} isn't in the ledger", "tacit ledger verify says more")
    return {"leaf": index, **json.loads(found)}


def _found(leaves: Sequence[Row], index: int) -> Row:
    for body in leaves:
        if body["leaf"] == index and body["kind"] == "RELEASE":
            return body
    raise StorageError(f"leaf={index} releases no version", "tacit ledger verify says more")


def _within(part: Row) -> list[Row]:
    """The leaves of a run that count: all until it was left, but for what closes an open charge."""
    return [body for body in part["leaves"] if _upto(body, part)]


def _upto(body: Row, part: Row) -> bool:
    return bool(body["leaf"] <= part["end"])


def _is_version(body: Row) -> bool:
    return body["kind"] == "RELEASE" and "artifact" in body


def _said(index: int, body: Row) -> Row:
    return {"leaf": index, **body}


def _configuration(store: Store, run: str, plan: Row) -> Row:
    spec = json.loads(store.run(run)["spec"])
    if digest(spec) != plan["spec"]:
        raise StorageError(
            f"the configuration of run={run} isn't the one of its PLAN leaf",
            "tacit ledger verify says more",
        )
    return {"digest": plan["spec"], "body": spec, "leaf": plan["leaf"]}


def _charges(leaves: Iterable[Row]) -> Iterable[Row]:
    """Charges with what became of each."""
    made: dict[tuple[Any, ...], Row] = {}
    for body in leaves:
        if body["kind"] not in SPENDING:
            continue
        key = (body["run"], body["round"], body["attempt"], body["purpose"])
        if body["kind"] == "CHARGE":
            same = ("leaf", "run", "round", "attempt", "purpose", "at", "plan", "claims")
            made[key] = {name: body.get(name) for name in same}
            made[key] |= {"cohort": body.get("cohort"), "outcome": "open", "closed": None}
        elif key in made:
            outcome = "released" if body["kind"] == "RELEASE" else "abandoned"
            made[key] |= {"outcome": outcome, "closed": body["leaf"]}
    return sorted(made.values(), key=lambda charge: int(charge["leaf"]))


def _data(charges: Sequence[Row], plan: Row) -> Row:
    """Whose data: a population, and of it cohorts that are committed to."""
    same = ("leaf", "run", "round", "attempt", "purpose")
    cohorts = [{**{n: c[n] for n in same}, "commitment": c["cohort"]} for c in charges]
    return {"population": plan["population"], "leaf": plan["leaf"], "cohorts": cohorts}


def _round(body: Row) -> Row:
    same = ("leaf", "round", "number", "artifact", "charge", "metrics", "at")
    return {name: body[name] for name in same}


def _parents(runs: Sequence[Row], row: Row) -> list[Row]:
    """The versions before, newest first: of the run, then those that runs began with."""
    found, wanted = [], row["release"]
    for part in runs:
        before = [b for b in part["leaves"] if _is_version(b) and b["leaf"] < wanted]
        found += [_version(body, "round before", body["leaf"]) for body in reversed(before)]
        begun = part["plan"].get("initial")
        if begun is not None:
            place = {"name": begun["model"], "number": begun["number"]}
            place |= {"artifact": begun["artifact"], "leaf": begun["release"]}
            found.append(_version(place, "began the run with it", part["plan"]["leaf"]))
            wanted = begun["release"]
    return found


def _version(body: Row, how: str, said: int) -> Row:
    same = {"model": body["name"], "number": body["number"], "artifact": body["artifact"]}
    return {**same, "leaf": body["leaf"], "how": how, "said": said}


def _approval(body: Row) -> Row:
    same = ("leaf", "run", "verdict", "note", "at", "lifts")
    return {**{name: body.get(name) for name in same}, "by": body["key"]}


def _audit(body: Row) -> Row:
    same = ("leaf", "run", "method", "unit", "stage", "lower_bound", "charged", "violated", "at")
    return {name: body[name] for name in same if name in body}


def _policies(store: Store, populations: set[str], charges: Sequence[Row]) -> list[Row]:
    """Those that ruled when a charge was made: each from its leaf to the next one's."""
    rows = store.leaves(kinds=("POLICY",))
    found = []
    for i, row in enumerate(rows):
        policy = row["body"]["policy"]
        of = policy["population"]
        later = [r["index"] for r in rows[i + 1 :] if r["body"]["policy"]["population"] == of]
        until = later[0] if later else None
        ruled = [c for c in charges if row["index"] < c["leaf"] < (until or float("inf"))]
        if of in populations and ruled:
            found.append({"leaf": row["index"], "until": until, "policy": policy})
    return found


def _evidence(store: Store, moves: Sequence[Row]) -> list[Row]:
    """The releases of evaluations that moves rest on."""
    named = sorted({leaf for move in moves for leaf in move.get("evidence", ())})
    found = []
    for body in (_leaf(store, index) for index in named):
        same = ("leaf", "kind", "run", "round", "purpose", "arms", "metrics", "at")
        found.append({name: body[name] for name in same if name in body})
    return found


# Text


def _at(item: Row) -> str:
    return f"[leaf {item['leaf']}]"


def _many(title: str, items: Sequence[Row], line: Any) -> Tree:
    if not items:
        return f"{title}: none", []
    return f"{title} ({len(items)})", [(f"{line(item)} {_at(item)}", []) for item in items]


def _cohort(item: Row) -> str:
    return f"{item['commitment']} round {item['round']} ({item['purpose']})"


def _parent_line(item: Row) -> str:
    name = f"{item['model']}@{item['number']} {item['artifact'][:16]}"
    return f"{name}, {item['how']}"


def _charge_line(item: Row) -> str:
    closed = "" if item["closed"] is None else f" by leaf {item['closed']}"
    what = f"round {item['round']}, attempt {item['attempt']} ({item['purpose']})"
    return f"{what}: {item['outcome']}{closed}"


def _approval_line(item: Row) -> str:
    return f"{item['verdict']} by {item['by'].partition('+')[0]}: {item['note']}"


def _policy_line(item: Row) -> str:
    said = {k: v for k, v in item["policy"].items() if v not in (None, [], "")}
    return ", ".join(f"{k}={v}" for k, v in said.items())


def _move_line(item: Row) -> str:
    if item["kind"] == "RETIRE":
        return f"RETIRE by {item['actor']}: {item['reason']}"
    to = "nothing" if item["number"] is None else item["number"]
    return f"{item['kind']} {item['alias']} -> {to} by {item['actor']}: {item['reason']}"
