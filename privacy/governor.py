"""Whether a charge may be made, decided from the leaves before it and nothing else.

The coordinator asks within the transaction that would append the charge; the verifier asks
again for every charge in an exported log. So a refusal comes before anything is sent, two runs
can't both spend the last of a population's budget, and a reviewer sees that no charge was let
through that the policy of its day forbids.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tacit.privacy import policy as policies
from tacit.privacy.budget import planned
from tacit.privacy.errors import BudgetError, ConfigError, MessageError
from tacit.privacy.events import Event
from tacit.privacy.ledger import Additions, ClaimKey
from tacit.privacy.log import leaves
from tacit.privacy.log.notes import VerifierKey
from tacit.privacy.log.plans import read
from tacit.privacy.policy import Policy

Leaf = Mapping[str, Any]
Added = list[tuple[ClaimKey, Event | None]]


@dataclass
class _Run:
    """What matters of a run: whose data, under which plan, what its charges add."""

    population: str
    digest: str
    plan: Mapping[str, Any]
    additions: Additions = field(default_factory=Additions)
    charges: int = 0


@dataclass(frozen=True, slots=True)
class _Charge:
    """One charge: when, in which run, what it adds and which rows it claims anything in."""

    time: float
    run: str
    added: Added
    claimed: frozenset[ClaimKey]


@dataclass
class _Spent:
    """A population's charges, and those that its cap's window holds."""

    charges: list[_Charge] = field(default_factory=list)
    policy: Policy | None = None
    inside: Counter[Event] = field(default_factory=Counter)
    unclaimed: int = 0
    first: int = 0
    next: int = 0

    def watch(self, policy: Policy) -> None:
        """Counts under another policy from here on."""
        self.policy, self.first, self.next = policy, 0, 0
        self.inside, self.unclaimed = Counter(), 0

    def move(self, time: float) -> None:
        """Moves the window so that it ends at ``time``."""
        assert self.policy is not None
        for charge in self.charges[self.next :]:
            self._count(charge, 1)
        self.next = len(self.charges)
        if self.policy.window_days is None:
            return
        begin = time - 86400.0 * self.policy.window_days
        while self.first < self.next and self.charges[self.first].time <= begin:
            self._count(self.charges[self.first], -1)
            self.first += 1

    def _count(self, charge: _Charge, sign: int) -> None:
        assert self.policy is not None
        self.unclaimed += sign * (self.policy.row not in charge.claimed)
        for key, event in charge.added:
            if key == self.policy.row and event is not None:
                self.inside[event.once()] += sign * event.count


class Governor:
    """Follows a ledger leaf by leaf and says what its policies allow."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._spent: dict[str, _Spent] = {}
        self._approved: set[tuple[str, str]] = set()
        self._refused: set[tuple[str, str]] = set()
        self._keys: set[str] = set()
        self._early: dict[str, list[Leaf]] = {}
        self.frozen: dict[int, Leaf] = {}

    def knows(self, run: str) -> bool:
        """Whether a run has its PLAN leaf."""
        return run in self._runs

    def policy(self, population: str) -> Policy | None:
        """The policy in force for a population."""
        found = self._spent.get(population)
        return found.policy if found else None

    def note(self, index: int, leaf: Leaf) -> None:
        """Takes in the next leaf.

        Raises:
            ConfigError: a POLICY or APPROVAL that isn't valid; it then has no effect.
        """
        kind = leaf["kind"]
        if kind == "PLAN":
            self._runs[leaf["run"]] = _Run(leaf["population"], leaf["plan"], leaf["body"])
            for early in self._early.pop(leaf["run"], []):
                self._note_charge(early)
        elif kind == "CHARGE":
            self._note_charge(leaf)
        elif kind == "KEY":
            self._keys.add(leaf["key"])
        elif kind == "POLICY":
            self._note_policy(leaf)
        elif kind == "APPROVAL":
            self._note_approval(leaf)
        elif kind == "AUDIT" and leaf.get("violated"):
            self.frozen[index] = leaf

    def check_policy(self, leaf: Leaf) -> Policy:
        """The terms of a POLICY leaf.

        Raises:
            ConfigError: they aren't valid, or not signed by a reviewer of the policy before.
        """
        made = Policy.from_json(leaf["policy"])
        before = self.policy(made.population)
        if before is not None and before.reviewers:
            self._check_signature(leaf, before.reviewers)
        return made

    def check_approval(self, leaf: Leaf) -> None:
        """Raises `ConfigError` for an APPROVAL of nothing, or without a reviewer's signature."""
        run = self._runs.get(leaf["run"])
        if run is None:
            raise ConfigError(f"run={leaf['run']} isn't in the ledger")
        policy = self.policy(run.population)
        if leaf["lifts"] is not None:
            audit = self.frozen.get(leaf["lifts"])
            if audit is None or audit["run"] != leaf["run"]:
                raise ConfigError(
                    f"leaf {leaf['lifts']} is no audit of run={leaf['run']} that freezes anything"
                )
        if leaf["lifts"] is None and (policy is None or not policy.reviewers):
            raise ConfigError(f"population={run.population} has no policy that asks for a review")
        if leaf["plan"] != run.digest:
            raise ConfigError(f"the approval isn't of the plan of run={leaf['run']}")
        self._check_signature(leaf, policy.reviewers if policy else ())

    def awaits_review(self, run: str) -> str | None:
        """Why a run may not begin before a reviewer said yes; None if it may.

        Raises:
            BudgetError: a reviewer said no.
        """
        known = self._runs[run]
        policy, place = self.policy(known.population), (run, known.digest)
        if place in self._refused:
            raise BudgetError(f"a reviewer refused run={run}", "tacit ledger show says who")
        if policy is None or policy.review_epsilon is None or place in self._approved:
            return None
        value = planned(read(known.plan)).epsilon(policy.unit, "public", policy.amplified)
        if value is not None and value <= policy.review_epsilon:
            return None
        figure = "no epsilon is claimed" if value is None else f"epsilon {value:.4f} is planned"
        return f"{figure}, and population={known.population} asks for a review above " + (
            f"review_epsilon={policy.review_epsilon:g}"
        )

    def check(self, run: str, charges: Sequence[Leaf], at: str) -> None:
        """Asks for charges of one run that would be appended at a time.

        Raises:
            BudgetError: the policy that refuses them.
        """
        self.check_frozen()
        known = self._runs[run]
        spent = self._spent.get(known.population)
        if spent is None or spent.policy is None:
            return
        if known.charges == 0:
            self._check_first(run, spent, at)
        if spent.policy.epsilon is not None:
            additions = known.additions.copy()
            self._check_cap(spent, [_charge(additions, leaf, at) for leaf in charges], at)

    def check_frozen(self) -> None:
        """Raises `BudgetError` if an audit found more than was charged, and nobody lifted it."""
        if not self.frozen:
            return
        index, leaf = next(iter(self.frozen.items()))
        raise BudgetError(
            f"the audit at leaf {index} found an epsilon of at least {leaf['lower_bound']:.3f} "
            f"where {leaf['charged']:.3f} was charged; nothing is released until that is explained",
            f"tacit ledger approve {leaf['run']} --lifts {index} --key FILE goes on",
        )

    def _check_first(self, run: str, spent: _Spent, at: str) -> None:
        policy = spent.policy
        assert policy is not None
        waits = self.awaits_review(run)
        if waits is not None:
            raise BudgetError(f"run={run}: {waits}", f"tacit ledger approve {run} --key FILE")
        if policy.separation_hours is None:
            return
        others = [charge.time for charge in spent.charges if charge.run != run]
        hours = (policies.seconds(at) - max(others)) / 3600 if others else float("inf")
        if hours < policy.separation_hours:
            raise BudgetError(
                f"separation_hours={policy.separation_hours:g} of population="
                f"{policy.population}: another run was charged {max(0.0, hours):.1f} hours ago",
                "wait, or ask for another policy",
            )

    def _check_cap(self, spent: _Spent, charges: Sequence[_Charge], at: str) -> None:
        policy = spent.policy
        assert policy is not None
        assert policy.epsilon is not None
        assert policy.delta is not None
        assert policy.order is not None
        spent.move(policies.seconds(at))
        if spent.unclaimed or any(policy.row not in charge.claimed for charge in charges):
            raise BudgetError(
                f"epsilon={policy.epsilon:g} of population={policy.population} can't be kept: a "
                f"charge claims nothing for the {policy.unit}",
                "give the mechanism noise, or ask for another policy",
            )
        inside = Counter(spent.inside)
        for key, event in (pair for charge in charges for pair in charge.added):
            if key == policy.row and event is not None:
                inside[event.once()] += event.count
        total = sum(n * policies.divergence(e, policy.order) for e, n in inside.items() if n)
        if total > policies.budget(policy.epsilon, policy.delta, policy.order):
            value = policies.spent(total, policy.delta, policy.order)
            window = "" if policy.window_days is None else f" in {policy.window_days:g} days"
            raise BudgetError(
                f"epsilon={policy.epsilon:g} of population={policy.population} would be exceeded: "
                f"the charge brings all its runs to {value:.4f}{window}",
                "wait for the window, raise the noise, or ask for another policy",
            )

    def _note_charge(self, leaf: Leaf) -> None:
        run = self._runs.get(leaf["run"])
        if run is None:
            # Of a home from before there were PLAN leaves: its plan comes after.
            self._early.setdefault(leaf["run"], []).append(leaf)
            return
        run.charges += 1
        self._of(run.population).charges.append(_charge(run.additions, leaf, leaf["at"]))

    def _note_policy(self, leaf: Leaf) -> None:
        made = self.check_policy(leaf)
        self._of(made.population).watch(made)

    def _note_approval(self, leaf: Leaf) -> None:
        self.check_approval(leaf)
        place = (leaf["run"], leaf["plan"])
        if leaf["verdict"] == "refused":
            self._refused.add(place)
        elif leaf["lifts"] is not None:
            self.frozen.pop(leaf["lifts"])
        else:
            self._approved.add(place)
            self._refused.discard(place)

    def _check_signature(self, leaf: Leaf, reviewers: Sequence[str]) -> None:
        key = leaf["key"]
        if key in self._keys or (reviewers and key not in reviewers):
            raise ConfigError(f"key={key} isn't a reviewer's", f"reviewers: {', '.join(reviewers)}")
        try:
            signature = base64.b64decode(leaf["signature"] or "", validate=True)
            valid = VerifierKey.parse(key).verify(signature, leaves.statement(leaf))
        except (MessageError, binascii.Error, TypeError) as error:
            raise ConfigError(f"the signature of key={key} can't be read") from error
        if not valid:
            raise ConfigError(f"the signature isn't that of key={key}")

    def _of(self, population: str) -> _Spent:
        return self._spent.setdefault(population, _Spent())


def _charge(additions: Additions, leaf: Leaf, at: str) -> _Charge:
    claimed = additions.claimed(leaf)
    return _Charge(policies.seconds(at), leaf["run"], additions.of(leaf), claimed)
