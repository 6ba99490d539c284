"""The order of leaves, run by run: plan, charges, releases, and what they add up to.

Part of the verifier (`tacit.privacy.log.verify`): `Trail.take` answers with what is wrong with
the next leaf, `Trail.closing` with what can only be said at the end, the tables with epsilon.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from tacit.privacy import participation
from tacit.privacy.accountant import Accountant
from tacit.privacy.errors import ConfigError
from tacit.privacy.ledger import Spending
from tacit.privacy.log.leaves import digest
from tacit.privacy.log.plans import read
from tacit.privacy.plan import PrivacyPlan

Leaf = Mapping[str, Any]
STATUSES = ("running", "waiting", "finished", "stopped", "refused", "failed")


@dataclass
class RunTrail:
    """What is known of one run so far.

    Attributes:
        leaf: its PLAN.
        plan: read from it; None if another tacit wrote it.
        claims: what a charge for each purpose has to claim.
        spending: up to the last release of a model; ``since`` are the charges after it.
    """

    leaf: Leaf
    plan: PrivacyPlan | None
    claims: dict[str, Any]
    spending: Spending
    since: list[Leaf] = field(default_factory=list)
    stated: tuple[int, Leaf] | None = None
    open: dict[tuple[int, int, str], int] = field(default_factory=dict)
    attempts: Counter[tuple[int, str]] = field(default_factory=Counter)
    draws: Counter[str] = field(default_factory=Counter)
    bounds: dict[str, int] = field(default_factory=dict)
    charges: int = 0
    round: int = 0
    release: int | None = None
    status: str = "running"
    canaries: set[str] = field(default_factory=set)
    artifacts: list[tuple[int, str]] = field(default_factory=list)

    def whole(self) -> Spending:
        """All that was charged, released or not."""
        total = self.spending.copy()
        for leaf in self.since:
            total.add(leaf)
        return total


class Trail:
    """Follows every run of a log."""

    def __init__(self) -> None:
        self.runs: dict[str, RunTrail] = {}
        self.versions: Counter[str] = Counter()
        self.notes: list[str] = []
        # Leaves before the first KEY are a home's from before there was a tree.
        self.legacy = 0
        self._early: dict[str, list[tuple[int, Leaf]]] = {}

    def take(self, index: int, body: Leaf) -> Iterator[str]:
        """What is wrong with the next leaf."""
        kind, run = body["kind"], body["run"]
        if kind == "PLAN":
            yield from self._plan(index, body)
            return
        if kind in ("KEY", "POLICY"):
            return
        found = self.runs.get(run)
        if found is None:
            if index < self.legacy:
                self._early.setdefault(run, []).append((index, body))
                return
            yield f"{kind} of run={run}, which has no PLAN leaf"
            return
        check = {
            "CHARGE": self._charge,
            "RELEASE": self._release,
            "ABANDON": self._abandon,
            "STATUS": self._status,
            "AUDIT": self._audit,
        }.get(kind)
        if check is not None:
            yield from check(index, body, found)

    def closing(self) -> Iterator[tuple[int | None, str]]:
        """What is wrong with each run as a whole; afterwards all charges are composed."""
        for run in self._early:
            yield None, f"run={run} was charged and never planned"
        for name, run in self.runs.items():
            yield from self._stated(run)
            if run.plan is not None:
                yield from _participations(name, run, run.plan)
            run.spending, run.since = run.whole(), []

    # Kinds

    def _plan(self, index: int, body: Leaf) -> Iterator[str]:
        name, adopted = body["run"], "adopted" in body
        if name in self.runs:
            yield f"run={name} was planned twice"
            return
        if digest(body["body"]) != body["plan"]:
            yield f"the plan of run={name} isn't the one of its digest"
        plan, claims = None, {}
        try:
            plan = read(body["body"])
            claims = {
                "train": _written(plan.training()),
                "evaluate": _written(plan.evaluating()),
            }
        except ConfigError as error:
            if not adopted:
                yield f"the plan of run={name} can't be read: {error.message}"
            self.notes.append(f"run={name}: an older tacit's plan; its claims are taken as is")
        deltas = {"client": body["body"]["client_delta"], "record": body["body"]["record_delta"]}
        self.runs[name] = RunTrail(body, plan, claims, Spending(deltas))
        for early, leaf in self._early.pop(name, []):
            for problem in self.take(early, leaf):
                yield f"(leaf {early}) {problem}"

    def _charge(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        key = (body["round"], body["attempt"], body["purpose"])
        what = f"round {key[0]}, attempt {key[1]} ({key[2]})"
        if body["plan"] != run.leaf["plan"]:
            yield f"{what} is charged under another plan than the run's"
        if body["attempt"] != run.attempts[key[0], key[2]]:
            yield f"{what} isn't the next attempt"
        if body["round"] != run.round + 1:
            yield f"{what} is charged when round {run.round} was the last released"
        if run.plan is not None:
            yield from _as_planned(what, body, run, run.plan)
        run.attempts[key[0], key[2]] += 1
        run.draws[key[2]] += 1
        run.charges += 1
        run.bounds[key[2]] = body["participations"]
        run.open[key] = index
        run.since.append(body)

    def _release(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        key = (body["round"], body["attempt"], body["purpose"])
        what = f"round {key[0]}, attempt {key[1]} ({key[2]})"
        charge = run.open.pop(key, None)
        if charge is None:
            yield f"{what} is released without an open charge"
        elif body["charge"] != charge:
            yield f"{what} names charge {body['charge']}, and was charged by leaf {charge}"
        if body["plan"] != run.leaf["plan"]:
            yield f"{what} is released under another plan than the run's"
        if "artifact" not in body:
            return
        if body["round"] != run.round + 1 or body["purpose"] != "train":
            yield f"{what} is released after round {run.round}"
        self.versions[body["name"]] += 1
        if body["name"] != run.leaf["name"] or body["number"] != self.versions[body["name"]]:
            yield f"{body['name']}@{body['number']} isn't the next version of {run.leaf['name']}"
        if index >= self.legacy and body["parent"] != run.release:
            yield f"{what} names leaf {body['parent']} as its parent, and not {run.release}"
        run.round, run.release = body["round"], index
        run.artifacts.append((index, body["artifact"]))
        for leaf in run.since:
            run.spending.add(leaf)
        run.since = []
        run.stated = (index, body["epsilon"]) if index >= self.legacy else None

    def _abandon(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        key = (body["round"], body["attempt"], body["purpose"])
        if run.open.pop(key, None) is None:
            yield f"round {key[0]}, attempt {key[1]} ({key[2]}) is abandoned without an open charge"

    def _status(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        if body["status"] not in STATUSES:
            yield f"status={body['status']} is unknown"
        run.status = body["status"]

    def _audit(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        if body["stage"] == "commitment":
            if run.charges:
                yield "canaries are committed to after the run began"
            run.canaries.add(body["commitment"])
        elif body["commitment"] not in run.canaries:
            yield "an audit's result with canaries that weren't committed to beforehand"
        elif body["violated"] != (body["lower_bound"] > body["charged"]):
            yield f"violated={body['violated']} isn't what the audit's bound says"

    def _stated(self, run: RunTrail) -> Iterator[tuple[int, str]]:
        """Whether the epsilon beside the last release is what its charges add up to."""
        if run.stated is None:
            return
        index, said = run.stated
        for name, value in run.spending.stated().items():
            if not close(said.get(name), value):
                yield index, f"states epsilon.{name}={said.get(name)}, and its charges are {value}"

    # Tables

    def run_tables(self) -> list[dict[str, Any]]:
        """Of each run what it is and its rows of epsilon, recomputed."""
        return [
            {
                "run": name,
                "name": run.leaf["name"],
                "population": run.leaf["population"],
                "plan": run.leaf["plan"],
                "code": run.leaf["code"],
                "status": run.status,
                "released": run.round,
                "charges": run.charges,
                "rows": run.whole().table(),
            }
            for name, run in self.runs.items()
        ]

    def population_tables(self) -> list[dict[str, Any]]:
        """Of each population its rows over all runs: what they spent together.

        Composed as if every run's plan had been fixed before the first began; a policy's filter
        is what holds without that.
        """
        names = dict.fromkeys(run.leaf["population"] for run in self.runs.values() if run.charges)
        return [self._population(name) for name in names]

    def _population(self, name: str) -> dict[str, Any]:
        runs = [r for r in self.runs.values() if r.leaf["population"] == name and r.charges]
        totals = [run.whole() for run in runs]
        rows = []
        for key in sorted({key for total in totals for key in total.rows()}, key=repr):
            delta = min(total.deltas[key.unit] for total in totals)
            accountant = Accountant(delta)
            parts = [total.composed(key) for total in totals]
            for event in (e for part in parts if part is not None for e in part):
                accountant.compose(event)
            claimed = None not in parts
            rows.append(
                {
                    "unit": key.unit,
                    "adversary": key.adversary,
                    "amplified": key.amplified,
                    "epsilon": accountant.epsilon() if claimed else None,
                    "delta": delta,
                    "method": accountant.method if claimed else None,
                }
            )
        return {"population": name, "runs": len(runs), "rows": rows}


def _as_planned(what: str, body: Leaf, run: RunTrail, plan: PrivacyPlan) -> Iterator[str]:
    if not 1 <= body["round"] <= plan.rounds:
        yield f"{what} is beyond the {plan.rounds} rounds planned"
    if body["noise_source"] != plan.noise_source:
        yield f"{what} drew its noise from {body['noise_source']}, not {plan.noise_source}"
    if body["purpose"] not in run.claims:
        yield f"purpose={body['purpose']} is unknown"
    elif body["claims"] != run.claims[body["purpose"]]:
        yield f"{what} claims other than its plan: {_difference(body, run)}"


def _difference(body: Leaf, run: RunTrail) -> str:
    """The first row in which a charge isn't its plan's."""
    due = {_place(claim): claim for claim in run.claims[body["purpose"]]}
    for claim in body["claims"]:
        planned = due.pop(_place(claim), None)
        if planned != claim:
            return f"{'/'.join(map(str, _place(claim)))}: {claim['event']}"
    return f"{len(due)} rows are missing"


def _place(claim: Leaf) -> tuple[str, str, bool]:
    return claim["unit"], claim["adversary"], claim["amplified"]


def _participations(name: str, run: RunTrail, plan: PrivacyPlan) -> Iterator[tuple[None, str]]:
    for purpose, charged in run.bounds.items():
        draws = run.draws[purpose]
        least = participation.bound(draws, plan.sampling_rate, plan.population)
        if charged < least:
            yield (
                None,
                f"run={name}: {charged} participations are charged for {draws} draws to "
                f"{purpose}, and {least} are due",
            )


def _written(claims: list[Any]) -> Any:
    """Claims as they are after a way through JSON."""
    return json.loads(rfc8785.dumps([claim.to_json() for claim in claims]))


def close(a: float | None, b: float | None) -> bool:
    """Whether two epsilons are the same but for the round-off of two ways to compose."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=2e-4, abs_tol=1e-9)
