"""Budgets as plain data: what was spent on a population, charge by charge, against its policy.

Guarantees: each figure is what the policy's own filter gives (`tacit.privacy.policy`): the Renyi
divergences of its order, summed over the charges in its window, converted at its delta; so what is
shown as spent is what the next charge is added to. Every figure names the leaf of the charge or of
the policy that it comes from. All charges count, whoever looks; the runs of models that ``sees``
refuses have neither name nor leaf.

Earlier points are counted under the policy in force, not that of their day. A projection is of
what running runs still plan, without rounds that fail, and no promise.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tacit.privacy import policy as policies
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import Event
from tacit.privacy.ledger import Additions, ClaimKey
from tacit.privacy.log import plans
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.plans import read
from tacit.privacy.policy import Policy
from tacit.server import log as logs
from tacit.server.store import Row, Store
from tacit.server.views import ledger
from tacit.server.views.models import Sees, everything

_KINDS = ("PLAN", "CHARGE", "POLICY", "RESTORE")
_POINTS = 240
_DAY = 86400.0


@dataclass(slots=True)
class _Charge:
    leaf: int
    at: str
    time: float
    run: str
    round: int
    purpose: str
    added: list[tuple[ClaimKey, Event | None]]
    claimed: frozenset[ClaimKey]


@dataclass(slots=True)
class _Population:
    charges: list[_Charge] = field(default_factory=list)
    policies: list[tuple[int, Row]] = field(default_factory=list)
    policy: Policy | None = None
    stale: int | None = None


class Books:
    """Follows a ledger's charges and policies, each leaf once; threads may share it.

    Args:
        store: of the ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock, self._seen = store, threading.Lock(), -1
        self._populations: dict[str, _Population] = {}
        self._runs: dict[str, tuple[int, Row]] = {}
        self._additions: dict[str, Additions] = {}

    def populations(self, sees: Sees = everything) -> list[Row]:
        """What is spent, allowed and left of each population by name; see `population`."""
        with self._lock:
            self._follow()
            rows = {row["id"]: row for row in ledger.runs(self._store)}
            return [self._shown(name, sees, rows) for name in self._names(sees)]

    def population(self, name: str, sees: Sees = everything) -> Row | None:
        """One population; None if there is none, or none of its runs may be known of.

        Returns:
            ``policy`` with its leaf, ``spent``, ``cap``, ``left`` (of the filter, 0 to 1), ``like``
            (how many more charges like the newest fit), ``projected``, ``points``, and ``frees``,
            when the oldest charge leaves the window. None where it can't be said.
        """
        with self._lock:
            self._follow()
            if name not in self._names(sees):
                return None
            rows = {row["id"]: row for row in ledger.runs(self._store)}
            return self._shown(name, sees, rows)

    def _names(self, sees: Sees) -> list[str]:
        known = {plan["population"] for _, plan in self._runs.values() if sees(plan["name"])}
        if sees is everything:
            known |= {name for name, found in self._populations.items() if found.policies}
        return sorted(known)

    # Following

    def _follow(self) -> None:
        with self._store.database.reading() as c:
            rows = logs.bodies(c, _KINDS, self._seen)
        early = [(index, body) for index, body in rows if body["kind"] == "PLAN"]
        # An older home's plans come after its charges.
        for index, body in early:
            self._runs.setdefault(body["run"], (index, body))
            self._of(body["population"])
        for index, body in rows:
            if body["kind"] == "CHARGE" and body["run"] in self._runs:
                self._charge(index, body)
            elif body["kind"] == "POLICY":
                self._policy(index, body)
            elif body["kind"] == "RESTORE" and body["known"] != body["size"]:
                for found in self._populations.values():
                    found.stale = index if found.policy else found.stale
            self._seen = max(self._seen, index)

    def _charge(self, index: int, body: Row) -> None:
        run = body["run"]
        additions = self._additions.setdefault(run, Additions())
        claimed = additions.claimed(body)
        made = _Charge(
            index,
            body["at"],
            policies.seconds(body["at"]),
            run,
            body["round"],
            body["purpose"],
            additions.of(body),
            claimed,
        )
        self._of(self._runs[run][1]["population"]).charges.append(made)

    def _policy(self, index: int, body: Row) -> None:
        found = self._of(body["policy"]["population"])
        found.policies.append((index, body))
        try:
            found.policy, found.stale = Policy.from_json(body["policy"]), None
        except ConfigError:
            # The verifier says so; a page shows the leaf.
            found.policy = None

    def _of(self, name: str) -> _Population:
        return self._populations.setdefault(name, _Population())

    # Showing

    def _shown(self, name: str, sees: Sees, rows: Mapping[str, Row]) -> Row:
        found = self._populations[name]
        runs = dict.fromkeys(charge.run for charge in found.charges)
        seen = {run for run in runs if sees(self._runs[run][1]["name"])}
        terms = None
        if found.policies:
            index, body = found.policies[-1]
            terms = {"leaf": index, "at": body["at"], "terms": body["policy"]}
            terms["signed_by"] = body.get("key")
        last = found.charges[-1] if found.charges else None
        made: Row = {
            "population": name,
            "policy": terms,
            "policies": [index for index, _ in found.policies],
            "stale": found.stale,
            "runs": [self._run(run, rows) for run in runs if run in seen],
            "others": len(runs) - len(seen),
            "charges": len(found.charges),
            "last": None if last is None or last.run not in seen else last.leaf,
        }
        nothing = dict.fromkeys(("spent", "cap", "left", "like", "projected", "frees"))
        made |= {**nothing, "points": [], "claimed": True}
        if found.policy is not None and found.policy.epsilon is not None:
            made |= _burned(found.charges, found.policy, seen)
            made["projected"] = self._projected(name, found.policy, made, rows, sees)
        return made

    def _run(self, run: str, rows: Mapping[str, Row]) -> Row:
        index, plan = self._runs[run]
        status = rows[run]["status"] if run in rows else ""
        return {"run": run, "leaf": index, "model": plan["name"], "status": status}

    def _projected(
        self, name: str, policy: Policy, made: Row, rows: Mapping[str, Row], sees: Sees
    ) -> Row | None:
        """What will be spent when the runs that run have done all that they planned."""
        if made["total"] is None or policy.unit != "client":
            return None
        assert policy.delta is not None
        assert policy.order is not None
        more, live, leaf = 0.0, 0, None
        for run, (index, plan) in self._runs.items():
            row = rows.get(run)
            if (
                plan["population"] != name
                or row is None
                or row["status"]
                not in (
                    "running",
                    "waiting",
                )
            ):
                continue
            cost = _planned(plan, row["round"], policy)
            if cost is None:
                return None
            more, live = more + cost, live + 1
            leaf = index if sees(plan["name"]) else leaf
        if not live:
            return None
        value = policies.spent(made["total"] + more, policy.delta, policy.order)
        fits = made["total"] + more <= made["most"]
        return {"epsilon": value, "runs": live, "fits": fits, "leaf": leaf}


def _burned(charges: list[_Charge], policy: Policy, seen: set[str]) -> Row:
    """The filter's state after each charge, at most so many of them, and what is left of it."""
    assert policy.epsilon is not None
    assert policy.delta is not None
    assert policy.order is not None
    delta, order = policy.delta, policy.order
    most = policies.budget(policy.epsilon, delta, order)
    ordered = sorted(charges, key=lambda charge: (charge.time, charge.leaf))
    wanted = _picked(len(ordered))
    points, window = list[Row](), _Window(policy)
    for place, charge in enumerate(ordered):
        window.add(charge)
        if place in wanted:
            total = window.total()
            value = None if total is None else policies.spent(total, delta, order)
            points.append(_point(charge, value, charge.run in seen))
    window.until(policies.seconds(logs.now()))
    total = window.total()
    made: Row = {
        "cap": policy.epsilon,
        "points": points,
        "claimed": total is not None,
        "total": total,
        "most": most,
        "frees": window.frees(),
    }
    if total is None:
        return made
    left = max(0.0, most - total)
    made["spent"] = policies.spent(total, delta, order) if window.inside else 0.0
    made["left"] = left / most
    last = window.cost(charges[-1]) if charges else 0.0
    if last > 0:
        leaf = charges[-1].leaf if charges[-1].run in seen else None
        made["like"] = {"charges": math.floor(left / last + 1e-9), "leaf": leaf}
    return made


class _Window:
    """The charges in the policy's window, which ends at the newest."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.inside: list[_Charge] = []
        self._events: Counter[Event] = Counter()
        self._unclaimed = self._first = 0

    def add(self, charge: _Charge) -> None:
        self.inside.append(charge)
        self._count(charge, 1)
        self.until(charge.time)

    def until(self, end: float) -> None:
        """Lets go of what left the window."""
        days = self._policy.window_days
        while days is not None and self.inside[self._first :]:
            if self.inside[self._first].time > end - _DAY * days:
                break
            self._count(self.inside[self._first], -1)
            self._first += 1

    def total(self) -> float | None:
        """The divergence of what is inside; None if something there isn't claimed."""
        if self._unclaimed:
            return None
        return math.fsum(n * self._of(e) for e, n in self._events.items() if n)

    def cost(self, charge: _Charge) -> float:
        """The divergence of one charge."""
        row = self._policy.row
        return math.fsum(self._of(e.once()) * e.count for k, e in charge.added if e and k == row)

    def frees(self) -> str | None:
        """When the oldest charge leaves the window, in ISO 8601."""
        days = self._policy.window_days
        if days is None or not self.inside[self._first :]:
            return None
        return _iso(self.inside[self._first].time + _DAY * days)

    def _of(self, event: Event) -> float:
        assert self._policy.order is not None
        return policies.divergence(event.once(), self._policy.order)

    def _count(self, charge: _Charge, sign: int) -> None:
        self._unclaimed += sign * (self._policy.row not in charge.claimed)
        for key, event in charge.added:
            if key == self._policy.row and event is not None:
                self._events[event.once()] += sign * event.count


def _planned(plan: Row, done: int, policy: Policy) -> float | None:
    """The divergence of the rounds that a run has before it; None if it can't be said."""
    assert policy.order is not None
    try:
        made = read(plan["body"])
        train, evaluate = _cost(made, policy, "training"), _cost(made, policy, "evaluating")
    except ConfigError:
        return None
    if train is None or (made.evaluation is not None and evaluate is None):
        return None
    rounds = range(done + 1, made.rounds + 1)
    evaluated = sum(made.evaluation is not None and plans.evaluates(n, made) for n in rounds)
    if plan.get("rollout"):
        return len(rounds) * (evaluate or 0.0)
    return len(rounds) * train + evaluated * (evaluate or 0.0)


def _cost(plan: PrivacyPlan, policy: Policy, what: str) -> float | None:
    assert policy.order is not None
    claims = plan.training() if what == "training" else plan.evaluating()
    for claim in claims:
        key = ClaimKey(claim.unit, claim.adversary, claim.amplified)
        if key == policy.row and claim.event is not None and claim.per == "release":
            return policies.divergence(claim.event, policy.order)
    return None


def _picked(count: int) -> set[int]:
    """Which charges are shown: all, or so many of them, the newest among them."""
    if count <= _POINTS:
        return set(range(count))
    return {round(i * (count - 1) / (_POINTS - 1)) for i in range(_POINTS)}


def _point(charge: _Charge, epsilon: float | None, seen: bool) -> Row:
    place = {"leaf": charge.leaf, "run": charge.run, "round": charge.round}
    hidden = dict.fromkeys(place)
    shown: dict[str, Any] = place if seen else hidden
    return {**shown, "at": charge.at, "purpose": charge.purpose, "epsilon": epsilon}


def _iso(time: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
