"""Checks what a home says of withdrawals: cases against their leaves, and cohorts against both.

Finds a case without its leaves or leaves without their case, a file that isn't the one committed
to, a client that was drawn after it withdrew, one that can still be told after its case was closed,
and handles of nobody in a cohort where nobody was erased.

Of clients that were erased it can't see whether they are in later cohorts: that is the point.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.log.leaves import sealed
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.erasure import affected, handles
from tacit.server.erasure import tables as e
from tacit.server.erasure.handles import Tree

Problem = tuple[int | None, str]
Leaf = dict[str, Any]
_STAGES = {
    "opened": ("opened",),
    "chosen": ("opened",),
    "closing": ("opened", "closed"),
    "closed": ("opened", "closed"),
    "forgotten": ("opened", "closed"),
}


def problems(c: Connection) -> Iterator[Problem]:
    """What is wrong with the cases, withdrawals and handles of a database."""
    leaves: dict[str, dict[str, tuple[int, Leaf]]] = {}
    for index, body in logs.bodies(c, ("ERASURE",)):
        leaves.setdefault(body["case"], {})[body["stage"]] = (index, body)
    open_ = dict[str, int]()
    for row in c.execute(sa.select(e.cases).order_by(e.cases.c.id)):
        said = leaves.pop(row.id, {})
        yield from _case(row, said)
        if row.state in ("opened", "chosen") and "opened" in said:
            open_[row.id] = said["opened"][0]
    for name, stages in leaves.items():
        yield min(index for index, _ in stages.values()), f"case={name} is gone"
    yield from _withdrawals(c, open_)


def _case(row: sa.Row[Any], said: dict[str, tuple[int, Leaf]]) -> Iterator[Problem]:
    what, due = f"case={row.id}", _STAGES.get(row.state)
    if due is None or set(due) != set(said):
        yield None, f"{what} is {row.state}, and has leaves for {sorted(said)}"
        return
    body = json.loads(row.body)
    for stage, (index, leaf) in said.items():
        if leaf["population"] != row.population:
            yield index, f"{what} is of another population than its leaf"
        if body["leaves"].get(stage) != index:
            yield index, f"{what} doesn't name this leaf as that of stage={stage}"
    newest = said[due[-1]]
    if row.state == "forgotten":
        if row.key is not None or not set(body) <= {"leaves", "everyone"}:
            yield newest[0], f"{what} is forgotten, and something of it is left"
        return
    if row.key is None or sealed(row.key, due[-1], body[due[-1]]) != newest[1]["file"]:
        yield newest[0], f"{what}: its file isn't the one committed to"
    if len(due) > 1 and {"opened", "choice"} & set(body):
        yield newest[0], f"{what} is closed, and its row still links the client"


def _withdrawals(c: Connection, open_: dict[str, int]) -> Iterator[Problem]:
    """Who withdrew, beside the cases and the cohorts of each population."""
    out: dict[str, dict[int, str | None]] = {}
    for row in c.execute(sa.select(e.withdrawals)):
        out.setdefault(row.population, {})[row.client] = row.case
    named = {case for clients in out.values() for case in clients.values() if case is not None}
    for case in sorted(set(open_) ^ named):
        yield open_.get(case), f"case={case} and the withdrawals don't agree about who is out"
    populations = {row.population for row in c.execute(sa.select(t.runs.c.population).distinct())}
    for population in sorted(populations):
        yield from _population(c, population, out.get(population, {}), open_)


def _population(
    c: Connection, population: str, out: dict[int, str | None], open_: dict[str, int]
) -> Iterator[Problem]:
    tree = handles.load(c, population)
    erased = sum(case is None for case in out.values())
    for client, case in out.items():
        told = tree.handle("", client) is not None
        if told and case is None:
            yield None, f"a closed case's client of {population} can still be told"
        if tree.seeds and not told and case is not None:
            yield open_.get(case), f"case={case} is open, and its client can't be told any more"
    before = affected.renewed(c, population)
    since = {client: open_[case] for client, case in out.items() if case in open_}
    r = t.runs.c
    for run, plan in c.execute(sa.select(r.id, r.plan).where(r.population == population)).all():
        yield from _run(c, (run, plan), tree, since, (before, erased))


def _run(
    c: Connection,
    run: tuple[str, str],
    tree: Tree,
    since: dict[int, int],
    gone: tuple[int, int],
) -> Iterator[Problem]:
    """The cohorts of one run.

    Args:
        c: of the database.
        run: its id and plan.
        tree: of its population.
        since: of who withdrew, the leaf.
        gone: the leaf up to which everybody's links are, and how many clients were erased.
    """
    h, (name, plan), (before, erased) = t.cohorts.c, run, gone
    rows = c.execute(sa.select(h.leaf, h.members).where(h.run == name).order_by(h.leaf))
    cohorts = [(row.leaf, json.loads(row.members)) for row in rows]
    handled = any(isinstance(member, str) for _, members in cohorts for member in members)
    size = json.loads(plan)["population"] if handled else 0
    whose, nobody = tree.clients(name, size), set[str]()
    for leaf, members in cohorts:
        for client in handles.named(members, whose):
            if leaf > since.get(client, leaf):
                yield leaf, "has a client in its cohort that had withdrawn"
        if leaf > before:
            nobody |= {m for m in members if isinstance(m, str) and m not in whose}
    if len(nobody) > erased:
        what = f"{len(nobody)} handles are nobody's, and {erased} clients were erased"
        yield None, f"run={name}: {what}"
