"""Whether a charge may be made, decided from the leaves before it and nothing else.

The coordinator asks within the transaction that would append the charge; the verifier asks
again for every charge in an exported log. So a refusal comes before anything is sent, two runs
can't both spend the last of a population's budget, and a reviewer sees that no charge was let
through that the policy of its day forbids.

A cap on a run, and what asks for its review, count what was spent on the version that it began
with, like every figure of it (`tacit.privacy.ancestry`). A population's counts each charge once.

Leaves' times needn't ascend: clocks are set back. A window is of the times that leaves name,
and the cap holds for every span of its length, those that begin before a charge included.

What a reviewer signs counts once and in one ledger: a leaf that says again what a leaf before
it said, or names another ledger, is refused, so nobody else can bring back an old policy or an
approval that was withdrawn.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tacit.privacy import policy as policies
from tacit.privacy import totals, validate
from tacit.privacy.budget import planned
from tacit.privacy.errors import BudgetError, ConfigError, MessageError
from tacit.privacy.ledger import Additions, Spending
from tacit.privacy.log import leaves
from tacit.privacy.log.notes import VerifierKey
from tacit.privacy.plans import read
from tacit.privacy.policy import Policy
from tacit.privacy.spans import Charge, Spent
from tacit.privacy.totals import Total

Leaf = Mapping[str, Any]


@dataclass
class _Run:
    """What matters of a run: whose data, under which plan, what its charges add up to."""

    population: str
    digest: str
    plan: Mapping[str, Any]
    trains: bool = True
    additions: Additions = field(default_factory=Additions)
    charges: list[Charge] = field(default_factory=list)
    base: Total = field(default_factory=Counter)
    total: Total = field(default_factory=Counter)
    counted: int = 0

    def deltas(self) -> dict[str, float]:
        """Of the plan."""
        return {unit: float(self.plan[f"{unit}_delta"]) for unit in ("client", "record")}

    def spending(self, charges: Sequence[Charge], policy: Policy) -> Spending:
        """What the run will have spent with these charges, at the policy's delta."""
        own = self.charged() + totals.of_charges(charges)
        return totals.spending(own, self.base, policy.deltas(self.deltas()))

    def charged(self) -> Total:
        """What it was charged so far."""
        self.total += totals.of_charges(self.charges[self.counted :])
        self.counted = len(self.charges)
        return self.total


class Governor:
    """Follows a ledger leaf by leaf and says what its policies allow."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._spent: dict[str, Spent] = {}
        self._approved: set[tuple[str, str]] = set()
        self._refused: set[tuple[str, str]] = set()
        self._origin = ""
        self._keys: set[bytes] = set()
        self._said: set[bytes] = set()
        self._early: dict[str, list[Leaf]] = {}
        self._released: dict[int, str] = {}
        self.frozen: dict[int, Leaf] = {}
        # Of before leaves were lost: runs that are over, and policies to be said anew.
        self._over: set[str] = set()
        self._stale: set[str] = set()

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
        if kind == "PLAN" and leaf["run"] not in self._runs:
            self._note_plan(leaf)
        elif kind == "CHARGE":
            self._note_charge(leaf)
        elif kind == "RELEASE" and "artifact" in leaf:
            self._released[index] = leaf["run"]
        elif kind == "KEY":
            self._origin = leaf["origin"]
            self._keys.add(VerifierKey.parse(leaf["key"]).public)
        elif kind == "POLICY":
            self._note_policy(leaf)
        elif kind == "APPROVAL":
            self._note_approval(leaf)
        elif kind == "AUDIT" and leaf.get("violated"):
            self.frozen[index] = leaf
        elif kind == "RESTORE" and leaf["known"] != leaf["size"]:
            self._over |= set(self._runs)
            self._stale |= {name for name, spent in self._spent.items() if spent.policy}

    def check_policy(self, leaf: Leaf) -> Policy:
        """The terms of a POLICY leaf.

        Raises:
            ConfigError: they aren't valid, or not signed by a reviewer of the policy before; or
                nobody could ever sign the next, as the ledger's own key is the reviewer.
        """
        made = Policy.from_json(leaf["policy"])
        for reviewer in made.reviewers:
            if VerifierKey.parse(reviewer).public in self._keys:
                raise ConfigError(f"reviewer={reviewer} is the ledger's own key")
        before = self.policy(made.population)
        reviewers = before.reviewers if before is not None else ()
        if reviewers or leaf.get("key") is not None:
            self._check_signature(leaf, reviewers)
        return made

    def check_approval(self, leaf: Leaf) -> None:
        """Raises `ConfigError` for an APPROVAL of nothing, or without a reviewer's signature."""
        run = self._runs.get(leaf["run"])
        if run is None:
            raise ConfigError(f"run={leaf['run']} isn't in the ledger")
        validate.one_of("verdict", leaf["verdict"], ("approved", "refused"))
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
        self._check_refused(run)
        if policy is None or policy.review_epsilon is None or place in self._approved:
            return None
        deltas = policy.deltas(known.deltas())
        plan = replace(
            read(known.plan), client_delta=deltas["client"], record_delta=deltas["record"]
        )
        planning = planned(plan, known.trains)
        if known.base:
            planning = totals.spending(totals.of_spending(planning), known.base, deltas)
        value = planning.epsilon(policy.unit, "public", policy.amplified)
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
        self._check_refused(run)
        known = self._runs[run]
        self._check_restored(run, known.population)
        spent = self._spent.get(known.population)
        if spent is None or spent.policy is None:
            return
        if not known.charges:
            self._check_first(run, spent, at)
        additions = known.additions.copy()
        asked = [_charge(additions, leaf, at) for leaf in charges]
        self._check_run(run, spent.policy, asked)
        if spent.policy.epsilon is not None:
            self._check_cap(spent, asked, at)

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

    def _check_restored(self, run: str, population: str) -> None:
        """Refuses what counts on charges that a restore from a backup may have lost."""
        if run in self._over:
            raise BudgetError(
                f"run={run} is from before the ledger was put back from a backup: what it charged "
                "since isn't known",
                "start a new run",
            )
        if population in self._stale:
            raise BudgetError(
                f"the policy of population={population} is from before the ledger was put back "
                "from a backup, which may lack charges",
                f"set it anew, less what they may have spent: tacit ledger policy {population}",
            )

    def _check_refused(self, run: str) -> None:
        if (run, self._runs[run].digest) in self._refused:
            raise BudgetError(f"a reviewer refused run={run}", "tacit ledger show says who")

    def _check_first(self, run: str, spent: Spent, at: str) -> None:
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

    def _check_run(self, run: str, policy: Policy, charges: Sequence[Charge]) -> None:
        """The run's own cap; and that nobody's yes is needed who wasn't asked.

        Rounds that fail are charged again, so a run can come to more than was planned.
        """
        known = self._runs[run]
        limits = {"run_epsilon": policy.run_epsilon}
        if (run, known.digest) not in self._approved:
            limits["review_epsilon"] = policy.review_epsilon
        if all(limit is None for limit in limits.values()):
            return
        total = known.spending(charges, policy).epsilon(policy.unit, "public", policy.amplified)
        for name, limit in limits.items():
            if limit is None or (total is not None and total <= limit):
                continue
            what = f"{name}={limit:g} of population={policy.population}"
            if total is None:
                what += f" can't be kept: no epsilon is claimed for the {policy.unit}"
                hint = "give the mechanism noise, or ask for another policy"
            else:
                what += f" would be exceeded: the charge brings the run to {total:.4f}"
                hint = "raise the noise, plan fewer rounds, or ask for another policy"
            if name == "review_epsilon":
                hint = f"tacit ledger approve {run} --key FILE"
            raise BudgetError(what, hint)

    def _check_cap(self, spent: Spent, charges: Sequence[Charge], at: str) -> None:
        policy = spent.policy
        assert policy is not None
        assert policy.epsilon is not None
        assert policy.delta is not None
        assert policy.order is not None
        added = Counter(
            {e: n for (key, e), n in totals.of_charges(charges).items() if e and key == policy.row}
        )
        unclaimed = any(policy.row not in charge.claimed for charge in charges)
        most = policies.budget(policy.epsilon, policy.delta, policy.order)
        for end in spent.ends(policies.seconds(at)):
            spent.move(end)
            if unclaimed or spent.unclaimed:
                raise BudgetError(
                    f"epsilon={policy.epsilon:g} of population={policy.population} can't be kept: "
                    f"a charge claims nothing for the {policy.unit}",
                    "give the mechanism noise, or ask for another policy",
                )
            inside = (spent.inside + added).items()
            # Summed exactly, so that whoever asks again in another order has the same.
            total = math.fsum(n * policies.divergence(e, policy.order) for e, n in inside)
            if total > most:
                raise _exceeded(policy, policies.spent(total, policy.delta, policy.order))

    def _note_plan(self, leaf: Leaf) -> None:
        trains, initial = "rollout" not in leaf, leaf.get("initial")
        made = _Run(leaf["population"], leaf["plan"], leaf["body"], trains)
        before = self._runs.get(self._released.get(initial["release"], "")) if initial else None
        if before is not None:
            made.base = before.base + before.charged()
        self._runs[leaf["run"]] = made
        for early in self._early.pop(leaf["run"], []):
            self._note_charge(early)

    def _note_charge(self, leaf: Leaf) -> None:
        run = self._runs.get(leaf["run"])
        if run is None:
            # Of a home from before there were PLAN leaves: its plan comes after.
            self._early.setdefault(leaf["run"], []).append(leaf)
            return
        made = _charge(run.additions, leaf, leaf["at"])
        run.charges.append(made)
        self._of(run.population).add(made)

    def _note_policy(self, leaf: Leaf) -> None:
        made = self.check_policy(leaf)
        self._said.add(_digest(leaf))
        self._of(made.population).watch(made)
        self._stale.discard(made.population)

    def _note_approval(self, leaf: Leaf) -> None:
        self.check_approval(leaf)
        self._said.add(_digest(leaf))
        place, approved = (leaf["run"], leaf["plan"]), leaf["verdict"] == "approved"
        if leaf["lifts"] is not None:
            if approved:
                self.frozen.pop(leaf["lifts"])
        elif approved:
            self._approved.add(place)
            self._refused.discard(place)
        else:
            self._refused.add(place)

    def _check_signature(self, leaf: Leaf, reviewers: Sequence[str]) -> None:
        """By one of ``reviewers``, or where there are none by anybody but the ledger."""
        named, hint = leaf.get("key"), f"reviewers: {', '.join(reviewers) or 'any'}"
        if reviewers and named not in reviewers:
            raise ConfigError(f"key={named} isn't a reviewer's", hint)
        try:
            key = VerifierKey.parse(str(named))
            signature = base64.b64decode(leaf.get("signature") or "", validate=True)
            valid = key.verify(signature, leaves.statement(leaf))
        except (MessageError, binascii.Error, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"the signature of key={named} can't be read", hint) from error
        if key.public in self._keys:
            raise ConfigError(f"key={named} is the ledger's own, not a reviewer's", hint)
        if not valid:
            raise ConfigError(f"the signature isn't that of key={named}")
        if leaf.get("ledger", self._origin) != self._origin:
            raise ConfigError(f"the signature is for ledger={leaf['ledger']}, not {self._origin}")
        if _digest(leaf) in self._said:
            raise ConfigError("the signature is that of a leaf before, said again")

    def _of(self, population: str) -> Spent:
        return self._spent.setdefault(population, Spent())


def _charge(additions: Additions, leaf: Leaf, at: str) -> Charge:
    claimed = additions.claimed(leaf)
    return Charge(policies.seconds(at), leaf["run"], additions.of(leaf), claimed)


def _exceeded(policy: Policy, value: float) -> BudgetError:
    window = "" if policy.window_days is None else f" in {policy.window_days:g} days"
    return BudgetError(
        f"epsilon={policy.epsilon:g} of population={policy.population} would be exceeded: "
        f"the charge brings all its runs to {value:.4f}{window}",
        "wait for the window, raise the noise, or ask for another policy",
    )


def _digest(leaf: Leaf) -> bytes:
    return hashlib.sha256(leaves.statement(leaf)).digest()
