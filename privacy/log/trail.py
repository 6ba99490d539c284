"""The order of leaves, run by run: plan, charges, releases, and what they add up to.

Part of the verifier (`tacit.privacy.log.verify`): `Trail.take` answers with what is wrong with
the next leaf, `Trail.closing` with what can only be said at the end, the tables with epsilon.

Of the epsilons beside releases, those of rounds 1, 2, 4, 8... and of the last are recomputed;
each of the others has to lie between its neighbours, as composing only adds.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tacit.privacy.accountant import Accountant
from tacit.privacy.audit.canaries import Canaries
from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.ledger import STATED, Spending
from tacit.privacy.log import plans, together
from tacit.privacy.log.custody import Custody
from tacit.privacy.log.leaves import CUSTODY, LIFE, MOVES, digest
from tacit.privacy.log.lifecycle import Life
from tacit.privacy.log.rollouts import Rollouts
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.plans import read

Leaf = Mapping[str, Any]
_DIGEST = re.compile(r"[0-9a-f]{64}")
STATUSES = ("running", "waiting", "finished", "stopped", "refused", "failed")


@dataclass
class RunTrail:
    """What is known of one run so far.

    Attributes:
        leaf: its PLAN.
        plan: read from it; None if another tacit wrote it.
        claims: what a charge for each purpose has to claim.
        spending: up to the last release of a model; ``since`` are the charges after it.
        stated: where the last release is, and the epsilon beside it.
        evaluated: the last round whose evaluation was released.
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
    evaluated: int = 0
    counts: Leaf = field(default_factory=dict)
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
        self.life = Life()
        self.rollouts = Rollouts()
        self.custody = Custody()
        self.notes: list[str] = []
        # Leaves before the first KEY are a home's from before there was a tree.
        self.legacy = 0
        self._adopted = 0
        self._early: dict[str, list[tuple[int, Leaf]]] = {}

    def take(self, index: int, body: Leaf) -> Iterator[str]:
        """What is wrong with the next leaf."""
        kind, run = body["kind"], body["run"]
        if kind == "PLAN":
            yield from self._plan(index, body)
            return
        if kind in ("KEY", "POLICY"):
            return
        if kind == "RESTORE":
            yield from self._restore(index, body)
            return
        if kind in LIFE:
            yield from self._life(index, body)
            return
        if kind in CUSTODY:
            yield from self.custody.take(index, body)
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
        if self.legacy:
            self.notes.append(f"{self.legacy} leaves are from before the log was signed")
        self.notes += self.life.notes
        for name in self._early:
            yield None, f"run={name} was charged and never planned"
        for run in self.runs.values():
            yield from _stated(run)
            run.spending, run.since = run.whole(), []

    # Kinds

    def _life(self, index: int, body: Leaf) -> Iterator[str]:
        if body["kind"] == "GATE":
            yield from self.rollouts.gated(index, body)
        elif body["kind"] in MOVES:
            yield from self.rollouts.moved(body, self.life)
            self.rollouts.note(index, body)
        yield from self.life.take(index, body)

    def _restore(self, index: int, body: Leaf) -> Iterator[str]:
        size, known = body["size"], body["known"]
        if size != index:
            yield f"a backup of {size} leaves was put back, and there are {index}"
        if known is not None and not isinstance(known, int):
            raise MessageError(f"known={known!r} isn't a number of leaves")
        what = f"leaf {index}: the ledger was put back from a backup of its first {size} leaves; "
        if known == size:
            what += "no newer checkpoint was known"
        elif known is not None and known > size:
            what += f"{known - size} later ones are lost, and what they charged is in no figure"
        else:
            what += "whether there were more isn't known, and what those charged is in no figure"
        self.notes.append(what)

    def _plan(self, index: int, body: Leaf) -> Iterator[str]:
        name, adopted = body["run"], "adopted" in body
        _words(body, "run", "name", "population", "plan", "spec", "code")
        if name in self.runs:
            yield f"run={name} was planned twice"
            return
        if adopted:
            self._adopted += 1
            if index != self.legacy + self._adopted:
                yield f"run={name} is adopted after the ledger began"
        if digest(body["body"]) != body["plan"]:
            yield f"the plan of run={name} isn't the one of its digest"
        plan, claims = None, {}
        try:
            plan = read(body["body"])
            claims = plans.claims(plan)
        except ConfigError as error:
            if not adopted:
                yield f"the plan of run={name} can't be read: {error.message}"
            self.notes.append(f"run={name}: an older tacit's plan; its claims are taken as is")
        deltas = {"client": body["body"]["client_delta"], "record": body["body"]["record_delta"]}
        for delta in deltas.values():
            Accountant(delta)  # Raises for one that no epsilon is stated at.
        self.runs[name] = RunTrail(body, plan, claims, Spending(deltas))
        yield from self._begun(index, body, self.runs[name])
        yield from self.rollouts.planned(index, body, self.life)
        for early, leaf in self._early.pop(name, []):
            for problem in self.take(early, leaf):
                yield f"(leaf {early}) {problem}"

    def _begun(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        """Whether the version that a run begins with was released; what that cost counts."""
        initial, cause = body.get("initial"), body.get("cause")
        if cause is not None and self.life.automatic.get(cause) != body["name"]:
            yield f"run={body['run']} says that leaf {cause} asked for it, which is no fallback"
        if initial is None:
            return
        what = f"{initial['model']}@{initial['number']}"
        release, found = self.life.versions.get((initial["model"], initial["number"]), (-1, {}))
        if (release, found.get("artifact")) != (initial["release"], initial["artifact"]):
            yield f"run={body['run']} begins with {what}, which wasn't released as it says"
        if found:
            run.spending = Spending.after(self.runs[found["run"]].whole(), run.spending.deltas)

    def _charge(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        key = (body["round"], body["attempt"], body["purpose"])
        what = f"round {key[0]}, attempt {key[1]} ({key[2]})"
        if body["plan"] != run.leaf["plan"]:
            yield f"{what} is charged under another plan than the run's"
        if body["attempt"] != run.attempts[key[0], key[2]]:
            yield f"{what} isn't the next attempt"
        if body["round"] != run.round + 1:
            yield f"{what} is charged when round {run.round} was the last released"
        if key[2] != "evaluate" and run.leaf["run"] in self.rollouts.runs:
            yield f"{what} is charged in a rollout, which only evaluates"
        counted = body
        if run.plan is None:
            if index >= self.legacy:
                yield f"{what} is charged under a plan that can't be read"
            Spending(run.spending.deltas).add(body)  # Raises for what can't be added up.
        else:
            draws = run.draws[key[2]] + 1
            problems = list(plans.unlike(body, run.plan, run.claims, draws))
            yield from (f"{what} {problem}" for problem in problems)
            if problems:
                counted = plans.owed(body, run.plan, run.claims, draws)
        if body["participations"] < run.bounds.get(key[2], 0):
            yield f"{what} takes back participations that were charged"
        run.attempts[key[0], key[2]] += 1
        run.draws[key[2]] += 1
        run.charges += 1
        run.bounds[key[2]] = body["participations"]
        run.open[key] = index
        run.since.append(counted)

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
        if body["round"] != run.round + 1:
            yield f"{what} is released after round {run.round}"
        if body["run"] in self.rollouts.runs:
            yield from self.rollouts.released(index, body)
            yield from self._gone(index, body, run)
        elif "arms" in body:
            yield f"{what} releases arms, and its run isn't a rollout"
        elif "artifact" in body:
            yield from self._version(index, body, run)
        elif body["purpose"] == "train":
            yield f"{what} is released without a model"
        elif body["round"] <= run.evaluated:
            yield f"{what} is released a second time"
        else:
            run.evaluated, run.counts = body["round"], body["metrics"]

    def _version(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        """A release of a model."""
        if body["purpose"] != "train":
            yield f"a model is released under a charge to {body['purpose']}"
        _words(body, "name", "artifact")
        if not _DIGEST.fullmatch(body["artifact"]):
            raise MessageError(f"artifact={body['artifact']} isn't a digest")
        self.versions[body["name"]] += 1
        if body["name"] != run.leaf["name"] or body["number"] != self.versions[body["name"]]:
            yield f"{body['name']}@{body['number']} isn't the next version of {run.leaf['name']}"
        if run.plan is not None:
            yield from _metrics(body, run, run.plan)
        if index >= self.legacy:
            if body["parent"] != run.release:
                yield f"names leaf {body['parent']} as its parent, and not {run.release}"
            _words(body, "state", "report")
        self.life.released(index, body)
        run.release = index
        run.artifacts.append((index, body["artifact"]))
        yield from self._gone(index, body, run)

    def _gone(self, index: int, body: Leaf, run: RunTrail) -> Iterator[str]:
        """A round is over: what was charged for it is composed, and what is stated looked at."""
        run.round = body["round"]
        for leaf in run.since:
            run.spending.add(leaf)
        run.since = []
        if index >= self.legacy:
            yield from _risen(body["epsilon"], run.stated)
            run.stated = (index, body["epsilon"])
            if body["round"] & (body["round"] - 1) == 0:
                yield from (problem for _, problem in _stated(run))

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
            return
        canaries = Canaries(
            body["unit"], body["method"], body["canaries"], bytes.fromhex(body["secret"])
        )
        if body["commitment"] not in run.canaries or not canaries.opens(body["commitment"]):
            yield "an audit's result with canaries that weren't committed to beforehand"
        charged = body["charged"]
        due = run.whole().epsilon(body["unit"], "public", body["amplified"])
        if not close(charged, due) or body["delta"] != run.spending.deltas[body["unit"]]:
            yield f"an audit held against {charged}, and the run was charged {due}"
        if body["violated"] != (charged is not None and body["lower_bound"] > charged):
            yield f"violated={body['violated']} isn't what the audit's bound says"

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
                "kind": "rollout" if name in self.rollouts.runs else "training",
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
        return together.tables([(run.leaf["population"], run) for run in self.runs.values()])


def _stated(run: RunTrail) -> Iterator[tuple[int, str]]:
    """Whether the epsilon beside the last release is what the charges before it add up to."""
    if run.stated is None:
        return
    index, said = run.stated
    for name, value in run.spending.stated().items():
        if not close(said.get(name), value):
            yield index, f"states epsilon.{name}={said.get(name)}, and its charges are {value}"


def _metrics(body: Leaf, run: RunTrail, plan: PrivacyPlan) -> Iterator[str]:
    """What a model's release says of clients must have been released under a charge of its own."""
    if plan.evaluation is None:
        if body["evaluation"] == "federated":
            yield "states metrics of clients, and no evaluation was planned"
    elif not plans.evaluates(body["round"], plan):
        if body["metrics"]:
            yield "states metrics in a round that isn't evaluated"
    elif run.evaluated != body["round"] or run.counts != body["metrics"]:
        yield "states metrics that weren't released under a charge for them"


def _risen(said: Leaf, before: tuple[int, Leaf] | None) -> Iterator[str]:
    """Whether a release states all epsilons, none below the one that was stated before it."""
    if set(said) != set(STATED):
        yield f"states {sorted(set(said) ^ set(STATED))} too many or too few"
    for name, earlier in before[1].items() if before else ():
        now = said.get(name)
        if now is not None and (earlier is None or (now < earlier and not close(now, earlier))):
            yield f"states epsilon.{name}={now}, after {earlier}"


def _words(body: Leaf, *names: str) -> None:
    for name in names:
        if not isinstance(body[name], str):
            raise MessageError(f"{name}={body[name]!r} isn't text")


def close(a: float | None, b: float | None) -> bool:
    """Whether two epsilons are the same but for the round-off of two ways to compose."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=2e-4, abs_tol=1e-9)
