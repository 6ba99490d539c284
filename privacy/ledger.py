"""Ledger leaves and what they add up to; storage is `tacit.server.store`'s.

A leaf is canonical JSON (RFC 8785), hashed as a leaf of an RFC 9162 Merkle tree, and never
changed. Everything a reviewer computes is computed from leaves alone, by `replay`.

Guarantees: `replay` composes every CHARGE, released or not, so a crash can over-count and
never under-count; a RELEASE without its CHARGE is an error. Who was drawn is only there as
a salted commitment.
It doesn't guarantee that leaves weren't removed or rewritten; that takes the signed tree
over them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import rfc8785

from tacit.privacy import events
from tacit.privacy.accountant import Accountant, version
from tacit.privacy.claims import Claim
from tacit.privacy.errors import AccountingError

Kind = Literal["CHARGE", "RELEASE", "ABANDON"]
Purpose = Literal["train", "evaluate"]


_IMPLIED = "implied by the client-level guarantee (group privacy of two)"


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """One row of the table a privacy engineer reads: unit, adversary, amplified or not."""

    unit: str
    adversary: str
    amplified: bool


def leaf_bytes(body: dict[str, Any]) -> bytes:
    """The leaf as it is hashed, stored and exported."""
    return rfc8785.dumps(body)


def leaf_hash(data: bytes) -> str:
    """RFC 9162 leaf hash, SHA-256(0x00 || leaf), in hex."""
    return hashlib.sha256(b"\x00" + data).hexdigest()


def commit(salt: bytes, members: Sequence[int]) -> str:
    """Commitment to a cohort: SHA-256 over a domain tag, a 32-byte salt and the members."""
    tag = b"tacit cohort commitment v1"
    return hashlib.sha256(tag + salt + rfc8785.dumps(sorted(members))).hexdigest()


def charge(
    *,
    run: str,
    round: int,
    attempt: int,
    purpose: Purpose,
    plan_digest: str,
    cohort: str,
    claims: Sequence[Claim],
    participations: int,
    noise_source: str,
) -> dict[str, Any]:
    """The leaf that must be durable before any client is instructed.

    Args:
        run: the run's id.
        round: the round, from 1.
        attempt: counts the charges for this round and purpose, from 0.
        purpose: what the clients are asked to do.
        plan_digest: of the privacy plan.
        cohort: commitment to the members.
        claims: what this release claims, from the plan.
        participations: bound on any client's participations for this purpose, so far.
        noise_source: where the noise comes from.
    """
    return {
        "kind": "CHARGE",
        "run": run,
        "round": round,
        "attempt": attempt,
        "purpose": purpose,
        "plan": plan_digest,
        "cohort": cohort,
        "participations": participations,
        "noise_source": noise_source,
        "claims": [
            {
                "unit": c.unit,
                "adversary": c.adversary,
                "amplified": c.amplified,
                "per": c.per,
                "event": c.event.to_json() if c.event else None,
                "assumes": c.assumes,
            }
            for c in claims
        ],
    }


@dataclass
class Spending:
    """What a run has spent, claim by claim; a view of its CHARGE leaves.

    Args:
        deltas: delta for each unit.
    """

    deltas: dict[str, float]
    _releases: dict[ClaimKey, Accountant] = field(default_factory=dict)
    _takes: dict[ClaimKey, dict[tuple[str, events.Event], int]] = field(default_factory=dict)
    _void: set[ClaimKey] = field(default_factory=set)
    _assumes: dict[ClaimKey, tuple[str, ...]] = field(default_factory=dict)
    _charges: int = 0

    def copy(self) -> Spending:
        """The same past with its own future, to project a charge before making it."""
        return Spending(
            self.deltas,
            {k: a.copy() for k, a in self._releases.items()},
            {k: dict(v) for k, v in self._takes.items()},
            set(self._void),
            dict(self._assumes),
            self._charges,
        )

    def add(self, leaf: dict[str, Any]) -> None:
        """Composes one CHARGE leaf.

        A row that some leaves have and others lack isn't claimed: what the others released
        isn't covered.
        """
        present = {ClaimKey(c["unit"], c["adversary"], c["amplified"]) for c in leaf["claims"]}
        known = set(self._releases)
        self._void |= (known - present) | (present - known if self._charges else set())
        self._charges += 1
        for claim in leaf["claims"]:
            key = ClaimKey(claim["unit"], claim["adversary"], claim["amplified"])
            said = self._assumes.get(key, ())
            if claim["assumes"] not in said:
                self._assumes[key] = (*said, claim["assumes"])
            accountant = self._releases.setdefault(key, Accountant(self.deltas[key.unit]))
            takes = self._takes.setdefault(key, {})
            if claim["per"] not in ("release", "participation"):
                raise AccountingError(f"a claim per {claim['per']!r} can't be accounted for")
            if claim["event"] is None:
                self._void.add(key)
                continue
            event = events.from_json(claim["event"])
            if claim["per"] == "release":
                accountant.compose(event)
                continue
            # The leaf's bound covers all earlier participations: compose what it adds.
            seen = takes.get((leaf["purpose"], event), 0)
            if leaf["participations"] > seen:
                accountant.compose(event.times(leaf["participations"] - seen))
                takes[leaf["purpose"], event] = leaf["participations"]

    def epsilon(self, unit: str, adversary: str, amplified: bool) -> float | None:
        """The figure for one row; None where nothing is claimed.

        A record's figure is the smaller of its own and what the client-level guarantee
        against the same adversary implies: a record is part of one client, so changing it
        substitutes that client's update for another within the clip.
        """
        key = ClaimKey(unit, adversary, amplified)
        own, client = self._own(key), self._implying(key)
        implied = None
        if client is not None:
            implied = self._releases[client].substituted(self.deltas["record"])
        known = [e for e in (own.epsilon() if own else None, implied) if e is not None]
        smallest = min(known, default=math.inf)
        return smallest if math.isfinite(smallest) else None

    def _implying(self, key: ClaimKey) -> ClaimKey | None:
        """The client-level row that a record-level one follows from."""
        if key.unit != "record":
            return None
        rows = [ClaimKey("client", key.adversary, a) for a in (key.amplified, False)]
        return next((row for row in rows if self._own(row)), None)

    def _own(self, key: ClaimKey) -> Accountant | None:
        return None if key in self._void else self._releases.get(key)

    def table(self) -> list[dict[str, Any]]:
        """Every row with figure, cross-check, delta and assumption."""
        rows = []
        for key in sorted(self._releases, key=repr):
            own, assumes = self._own(key), "; ".join(self._assumes[key])
            value = self.epsilon(key.unit, key.adversary, key.amplified)
            check = own.cross_check() if own else None
            client, method = self._implying(key), own.method if own else None
            if client and value is not None and (own is None or value < own.epsilon()):
                method = self._releases[client].method
                check = self._releases[client].substituted_cross_check(self.deltas["record"])
                assumes = "; ".join([_IMPLIED, *self._assumes[client]])
            rows.append(
                {
                    "unit": key.unit,
                    "adversary": key.adversary,
                    "amplified": key.amplified,
                    "epsilon": value,
                    "cross_check": check if check is not None and math.isfinite(check) else None,
                    "delta": self.deltas[key.unit],
                    "accountant": version() if value is not None else None,
                    "method": method if value is not None else None,
                    "assumes": assumes,
                }
            )
        return rows


def replay(leaves: Iterable[dict[str, Any]], deltas: dict[str, float]) -> Spending:
    """What a run's leaves add up to.

    Args:
        leaves: one run's, in ledger order.
        deltas: delta for each unit, from the plan.

    Raises:
        AccountingError: a leaf of an unknown kind, a second CHARGE for one attempt, or a
            RELEASE or ABANDON that doesn't close an open CHARGE under the same plan.
    """
    spending = Spending(deltas)
    try:
        _replay(leaves, spending)
    except KeyError as error:
        raise AccountingError(f"a leaf lacks its {error}") from error
    return spending


def _replay(leaves: Iterable[dict[str, Any]], spending: Spending) -> None:
    charged: set[tuple[Any, ...]] = set()
    open_: dict[tuple[Any, ...], str] = {}
    for leaf in leaves:
        key = (leaf["run"], leaf["round"], leaf["attempt"], leaf["purpose"])
        what = f"round={leaf['round']} attempt={leaf['attempt']} ({leaf['purpose']})"
        if leaf["kind"] == "CHARGE":
            if key in charged:
                raise AccountingError(f"{what} was charged twice")
            charged.add(key)
            open_[key] = leaf["plan"]
            spending.add(leaf)
        elif leaf["kind"] in ("RELEASE", "ABANDON"):
            plan = open_.pop(key, None)
            if plan is None:
                raise AccountingError(f"{what}: {leaf['kind']} without an open charge")
            if leaf["kind"] == "RELEASE" and leaf["plan"] != plan:
                raise AccountingError(f"{what} was released under another plan than charged")
        else:
            raise AccountingError(f"leaf kind={leaf['kind']!r} is unknown")
