"""What the leaves of a ledger add up to; `tacit.privacy.log` is about the leaves themselves.

Everything a reviewer computes is computed from leaves alone, by `replay`.

Guarantees: `replay` composes every CHARGE, released or not, so a crash can over-count and
never under-count; a RELEASE without its CHARGE is an error.
It doesn't guarantee that leaves weren't removed or rewritten; that takes the signed tree
over them (`tacit.privacy.log.verify`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tacit.privacy import events
from tacit.privacy.accountant import Accountant, version
from tacit.privacy.errors import AccountingError
from tacit.privacy.log.leaves import KINDS, SPENDING

_IMPLIED = "implied by the client-level guarantee (group privacy of two)"


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """One row of the table a privacy engineer reads: unit, adversary, amplified or not."""

    unit: str
    adversary: str
    amplified: bool


STATED = {
    "client": ClaimKey("client", "public", True),
    "client_unamplified": ClaimKey("client", "public", False),
    "client_coordinator": ClaimKey("client", "coordinator", False),
    "client_collusion": ClaimKey("client", "collusion", False),
    "record": ClaimKey("record", "public", True),
    "record_unamplified": ClaimKey("record", "public", False),
    "record_coordinator": ClaimKey("record", "coordinator", True),
    "record_collusion": ClaimKey("record", "collusion", True),
    "record_local": ClaimKey("record", "local", True),
}
"""The figures beside every release, under their short names."""


Row = tuple[ClaimKey, events.Event | None, str, str]


class Additions:
    """What each charge of one run adds to each of its rows."""

    def __init__(self) -> None:
        self._takes: dict[tuple[ClaimKey, str, events.Event], int] = {}
        self._rows: frozenset[ClaimKey] | None = None
        self._last: tuple[list[dict[str, Any]], list[Row]] = ([], [])
        self._present: frozenset[ClaimKey] = frozenset()
        self._claimed: frozenset[ClaimKey] = frozenset()

    def copy(self) -> Additions:
        """The same past with its own future."""
        other = Additions()
        other._takes = dict(self._takes)
        other._rows, other._last = self._rows, self._last
        other._present, other._claimed = self._present, self._claimed
        return other

    def afresh(self) -> Additions:
        """The same rows, and nobody has taken part: the past of a run that goes on from another."""
        other = Additions()
        other._rows = self._rows
        return other

    def of(self, leaf: Mapping[str, Any]) -> list[tuple[ClaimKey, events.Event | None]]:
        """Events to compose, each with its row; None where a row isn't claimed any more.

        A row that some leaves have and others lack isn't claimed: what the others released
        isn't covered.
        """
        parsed = self.parsed(leaf)
        present = self._present
        known = present if self._rows is None else self._rows
        found: list[tuple[ClaimKey, events.Event | None]] = [(k, None) for k in known ^ present]
        self._rows = known | present
        for key, event, per, _ in parsed:
            if event is None or per == "release":
                found.append((key, event))
                continue
            # The leaf's bound covers all earlier participations: compose what it adds.
            place = (key, leaf["purpose"], event)
            seen, bound = self._takes.get(place, 0), leaf["participations"]
            if bound > seen:
                found.append((key, event.times(bound - seen)))
                self._takes[place] = bound
        return found

    def claimed(self, leaf: Mapping[str, Any]) -> frozenset[ClaimKey]:
        """The rows that a leaf claims anything in."""
        self.parsed(leaf)
        return self._claimed

    def parsed(self, leaf: Mapping[str, Any]) -> list[Row]:
        """The rows of a leaf; the same object as long as the claims are the same."""
        claims = leaf["claims"]
        if claims != self._last[0]:
            self._last = (claims, [_row(claim) for claim in claims])
            self._present = frozenset(key for key, *_ in self._last[1])
            self._claimed = frozenset(key for key, event, *_ in self._last[1] if event)
        return self._last[1]


def _row(claim: Mapping[str, Any]) -> Row:
    if claim["per"] not in ("release", "participation"):
        raise AccountingError(f"a claim per {claim['per']!r} can't be accounted for")
    event = None if claim["event"] is None else events.from_json(claim["event"])
    key = ClaimKey(claim["unit"], claim["adversary"], claim["amplified"])
    return key, event, claim["per"], claim["assumes"]


@dataclass
class Spending:
    """What a run has spent, claim by claim; a view of its CHARGE leaves.

    Args:
        deltas: delta for each unit.
    """

    deltas: dict[str, float]
    _releases: dict[ClaimKey, Accountant] = field(default_factory=dict)
    _additions: Additions = field(default_factory=Additions)
    _void: set[ClaimKey] = field(default_factory=set)
    _assumes: dict[ClaimKey, tuple[str, ...]] = field(default_factory=dict)
    _last: list[Row] | None = None
    _inherited: dict[ClaimKey, Counter[events.Event]] = field(default_factory=dict)

    @classmethod
    def after(cls, base: Spending, deltas: dict[str, float]) -> Spending:
        """What a run has spent when it begins with a model on which ``base`` was spent.

        Its releases depend on what that model was made from, so every figure of theirs composes
        both. A row that only one of the two has isn't claimed.
        """
        made = cls(deltas, _additions=base._additions.afresh(), _void=set(base._void))
        made._assumes = dict(base._assumes)
        for key, accountant in base._releases.items():
            made._releases[key] = Accountant(deltas[key.unit])
            made._inherited[key] = Counter()
            for event in accountant.events():
                made._releases[key].compose(event)
                made._inherited[key][event.once()] += event.count
        return made

    def copy(self) -> Spending:
        """The same past with its own future, to project a charge before making it."""
        return Spending(
            self.deltas,
            {k: a.copy() for k, a in self._releases.items()},
            self._additions.copy(),
            set(self._void),
            dict(self._assumes),
            _inherited=self._inherited,
        )

    def add(self, leaf: Mapping[str, Any]) -> None:
        """Composes one CHARGE leaf."""
        rows = self._additions.parsed(leaf)
        if rows is not self._last:
            self._last = rows
            for key, _, _, assumes in rows:
                said = self._assumes.get(key, ())
                if assumes not in said:
                    self._assumes[key] = (*said, assumes)
        for key, event in self._additions.of(leaf):
            accountant = self._releases.get(key)
            if accountant is None:
                accountant = self._releases[key] = Accountant(self.deltas[key.unit])
            if event is None:
                self._void.add(key)
            else:
                accountant.compose(event)

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

    def stated(self) -> dict[str, float | None]:
        """The figures that a release names, under their short names."""
        return {
            name: self.epsilon(key.unit, key.adversary, key.amplified)
            for name, key in STATED.items()
        }

    def rows(self) -> list[ClaimKey]:
        """The rows that any charge has."""
        return list(self._releases)

    def composed(self, key: ClaimKey) -> list[events.Event] | None:
        """The events that were charged to this run in a row; None where it isn't claimed.

        Without those that it began `after`: they were charged to another.
        """
        own = self._own(key)
        if own is None:
            return None
        before = self._inherited.get(key, Counter())
        counts = {e.once(): e.count - before[e.once()] for e in own.events()}
        return [event.times(count) for event, count in counts.items() if count]

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


def replay(
    leaves: Iterable[dict[str, Any]], deltas: dict[str, float], base: Spending | None = None
) -> Spending:
    """What a run's leaves add up to.

    Args:
        leaves: one run's, in ledger order.
        deltas: delta for each unit, from the plan.
        base: what was spent on the model that the run began with (`tacit.privacy.ancestry`).

    Raises:
        AccountingError: a leaf of an unknown kind, a second CHARGE for one attempt, or a
            RELEASE or ABANDON that doesn't close an open CHARGE under the same plan.
    """
    spending = Spending(deltas) if base is None else Spending.after(base, deltas)
    try:
        _replay(leaves, spending)
    except KeyError as error:
        raise AccountingError(f"a leaf lacks its {error}") from error
    return spending


def _replay(leaves: Iterable[dict[str, Any]], spending: Spending) -> None:
    charged: set[tuple[Any, ...]] = set()
    open_: dict[tuple[Any, ...], str] = {}
    for leaf in leaves:
        if leaf["kind"] in KINDS and leaf["kind"] not in SPENDING:
            continue
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
