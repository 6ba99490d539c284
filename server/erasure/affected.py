"""What a client took part in, and which versions came of it.

Guarantees: every cohort of every run of the population in which the client's handle is, whatever
its purpose and outcome; of versions, each that was trained in a released round with the client in
its cohort, each later one of the same run, and each of a run that began with one of those, on and
on. All of it is one state of the database. A round under way is said to be: what it will release is
affected too, and everything after.

It can't see who answered: a member of a cohort that fell silent counts as one that took part. Runs
of before there were handles have numbers in their cohorts, which are found as well and can't be
unlinked. Of cohorts from before everybody's links were destroyed nobody can tell who was in them:
each of those counts, as it may be.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.log.leaves import SPENDING
from tacit.server import tables as t
from tacit.server.erasure import handles
from tacit.server.erasure import tables as e

Leaf = dict[str, Any]


@dataclass
class Affected:
    """What was found.

    Attributes:
        charges: of each cohort that the client is in, its leaf, run, round, attempt, purpose,
            RELEASE leaf (None if nothing was released) and whether it is open.
        versions: that came of it: name, number, run, round, release, artifact, and why: "trained"
            or "follows".
        aliases: that name one of those: model, alias, number, and leaf of the move.
        clean: of each model the newest version that isn't one of those; None if there is none.
        pending: training rounds under way that the client was drawn for: run and round.
        numbered: cohorts that name it by its number.
        uncertain: cohorts of before everybody's links were destroyed, which count as the client's.
    """

    charges: list[Leaf] = field(default_factory=list)
    versions: list[Leaf] = field(default_factory=list)
    aliases: list[Leaf] = field(default_factory=list)
    clean: dict[str, int | None] = field(default_factory=dict)
    pending: list[Leaf] = field(default_factory=list)
    numbered: int = 0
    uncertain: int = 0

    def to_json(self) -> dict[str, Any]:
        """For a case file."""
        names = ("charges", "versions", "aliases", "clean", "pending", "numbered", "uncertain")
        return {name: getattr(self, name) for name in names}

    def runs(self) -> list[str]:
        """Runs whose every later version is affected too."""
        found = {version["run"] for version in self.versions}
        return sorted(found | {x["run"] for x in self.pending})

    def participations(self) -> dict[str, int]:
        """How often the client was drawn, by purpose."""
        found = {"train": 0, "evaluate": 0}
        for charge in self.charges:
            found[charge["purpose"]] += 1
        return found


def find(c: Connection, population: str, client: int) -> Affected:
    """Looks a client up.

    Args:
        c: of any transaction.
        population: whose.
        client: its number; not erased yet.
    """
    made = Affected()
    drawn, made.numbered = _drawn(c, population, client)
    unknown = _unknown(c, population)
    made.uncertain = len(unknown)
    made.charges = _outcomes(c, population, sorted({*drawn, *unknown}))
    open_ = [x for x in made.charges if x["open"] and x["purpose"] == "train"]
    made.pending = [{k: x[k] for k in ("run", "round")} for x in open_]
    made.versions = _versions(c, made.charges)
    models = sorted({version["name"] for version in made.versions})
    made.aliases = _aliases(c, made.versions)
    made.clean = {model: _clean(c, model, made.versions) for model in models}
    return made


def _drawn(c: Connection, population: str, client: int) -> tuple[list[int], int]:
    """CHARGE leaves of the cohorts that the client is in, and how many have its number."""
    tree, found, numbered = handles.load(c, population), list[int](), 0
    members = t.cohorts.c.members
    runs = sa.select(t.runs.c.id).where(t.runs.c.population == population)
    for run in c.execute(runs).scalars().all():
        handle = tree.handle(run, client)
        # Beside those with the handle, those that have numbers have to be read.
        likely = members.like("[%") & ~members.like('["%')
        if handle is not None:
            likely |= members.contains(f'"{handle}"', autoescape=True)
        query = sa.select(t.cohorts.c.leaf, members).where(t.cohorts.c.run == run, likely)
        for leaf, text in c.execute(query):
            named = json.loads(text)
            numbered += client in named
            if client in named or handle in named:
                found.append(leaf)
    return sorted(found), numbered


def renewed(c: Connection, population: str) -> int:
    """The leaf by which everybody's links were destroyed last; -1 if they never were."""
    query = sa.select(e.cases.c.body).where(e.cases.c.population == population)
    bodies = [json.loads(text) for text in c.execute(query).scalars()]
    return max((b["leaves"]["closed"] for b in bodies if b.get("everyone")), default=-1)


def _unknown(c: Connection, population: str) -> list[int]:
    """CHARGE leaves of cohorts with handles that are nobody's since then."""
    h, before = t.cohorts.c, renewed(c, population)
    runs = sa.select(t.runs.c.id).where(t.runs.c.population == population)
    query = sa.select(h.leaf).where(h.run.in_(runs), h.leaf < before, h.members.like('["%'))
    return list(c.execute(query).scalars())


def _outcomes(c: Connection, population: str, drawn: list[int]) -> list[Leaf]:
    """Each charge with what it came to."""
    wanted, found = set(drawn), dict[int, Leaf]()
    open_: dict[tuple[Any, ...], int] = {}
    of = t.leaves.c
    runs = sa.select(t.runs.c.id).where(t.runs.c.population == population)
    query = sa.select(of.index, of.body).where(of.run.in_(runs), of.kind.in_(SPENDING))
    for index, text in c.execute(query.order_by(of.index)):
        body = json.loads(text)
        place = (body["run"], body["round"], body["attempt"], body["purpose"])
        if body["kind"] == "CHARGE":
            if index in wanted:
                names = ("run", "round", "attempt", "purpose")
                said = {name: body[name] for name in names}
                found[index] = {"leaf": index, **said, "release": None, "open": True}
                open_[place] = index
        elif place in open_:
            charge = found[open_.pop(place)]
            charge["open"] = False
            if body["kind"] == "RELEASE":
                charge["release"] = index
    return [found[index] for index in sorted(found)]


def _versions(c: Connection, charges: list[Leaf]) -> list[Leaf]:
    """Versions that came of released training rounds, in the order of their releases."""
    trained = {x["release"] for x in charges if x["release"] is not None}
    initial = _initial(c)
    v = t.versions.c
    names = ("name", "number", "run", "round", "release", "artifact")
    query = sa.select(*[v[name] for name in names]).order_by(v.release)
    found: list[Leaf] = []
    runs, releases = set[str](), set[int]()
    for row in c.execute(query):
        why = "trained" if row.release in trained else "follows"
        begun = initial.get(row.run) in releases
        if why == "trained" or row.run in runs or begun:
            runs.add(row.run)
            releases.add(row.release)
            found.append({**row._mapping, "why": why})
    return found


def _initial(c: Connection) -> dict[str, int]:
    """Of each run that began with a version, that version's RELEASE."""
    of = t.leaves.c
    found = {}
    for run, text in c.execute(sa.select(of.run, of.body).where(of.kind == "PLAN")):
        began = json.loads(text).get("initial")
        if began is not None:
            found[run] = int(began["release"])
    return found


def _aliases(c: Connection, versions: list[Leaf]) -> list[Leaf]:
    """The aliases that name one of some versions now."""
    numbers: Mapping[str, set[int]] = defaultdict(set)
    for version in versions:
        numbers[version["name"]].add(version["number"])
    newest: dict[tuple[str, str], tuple[int, int | None]] = {}
    m = t.moves.c
    for row in c.execute(sa.select(m.leaf, m.model, m.alias, m.number).order_by(m.leaf)):
        newest[row.model, row.alias] = (row.leaf, row.number)
    return [
        {"model": model, "alias": alias, "number": number, "leaf": leaf}
        for (model, alias), (leaf, number) in sorted(newest.items())
        if number in numbers.get(model, ())
    ]


def _clean(c: Connection, model: str, versions: list[Leaf]) -> int | None:
    """The newest version of a model that isn't among some and isn't retired."""
    v, r = t.versions.c, t.retirements.c
    out = {version["number"] for version in versions if version["name"] == model}
    out |= set(c.execute(sa.select(r.number).where(r.model == model)).scalars())
    numbers = c.execute(sa.select(v.number).where(v.name == model)).scalars()
    return max((number for number in numbers if number not in out), default=None)
