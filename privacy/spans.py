"""A population's charges by time, and what each span of its policy's window holds.

Guarantees: `Spent.ends` names every span that has to be looked at so that a charge breaks the
cap of no span, whatever the order in which charges came and the times that they name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tacit.privacy.events import Event
from tacit.privacy.ledger import ClaimKey
from tacit.privacy.policy import Policy

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Charge:
    """One charge: when, in which run, what it adds and which rows it claims anything in."""

    time: float
    run: str
    added: list[tuple[ClaimKey, Event | None]]
    claimed: frozenset[ClaimKey]


@dataclass
class Spent:
    """A population's charges by time, and those that one span of its policy's window holds."""

    charges: list[Charge] = field(default_factory=list)
    policy: Policy | None = None
    inside: Counter[Event] = field(default_factory=Counter)
    unclaimed: int = 0
    first: int = 0
    next: int = 0

    def watch(self, policy: Policy) -> None:
        """Counts under another policy from here on."""
        self.policy = policy
        self._restart()

    def add(self, charge: Charge) -> None:
        """Takes in a charge."""
        place = bisect_right(self.charges, charge.time, key=_time)
        self.charges.insert(place, charge)
        if place < self.next:
            self._restart()

    def ends(self, time: float) -> Iterator[float]:
        """Ends of the spans to look at for a charge at ``time``.

        Of those that hold it the fullest ends there, or with a charge that says to be later.
        """
        assert self.policy is not None
        yield time
        days = self.policy.window_days
        later = [] if days is None else self.charges[bisect_right(self.charges, time, key=_time) :]
        yield from (c.time for c in later if c.time - _DAY * (days or 0.0) < time)

    def move(self, end: float) -> None:
        """Counts the span that ends at a time; all charges where the policy has no window."""
        assert self.policy is not None
        days = self.policy.window_days
        if days is None:
            begin, end = float("-inf"), float("inf")
        else:
            begin = end - _DAY * days
        if self.next and self.charges[self.next - 1].time > end:
            self._restart()
        if self.first and self.charges[self.first - 1].time > begin:
            self._restart()
        while self.next < len(self.charges) and self.charges[self.next].time <= end:
            self._count(self.charges[self.next], 1)
            self.next += 1
        while self.first < self.next and self.charges[self.first].time <= begin:
            self._count(self.charges[self.first], -1)
            self.first += 1

    def _restart(self) -> None:
        self.first, self.next = 0, 0
        self.inside, self.unclaimed = Counter(), 0

    def _count(self, charge: Charge, sign: int) -> None:
        assert self.policy is not None
        self.unclaimed += sign * (self.policy.row not in charge.claimed)
        for key, event in charge.added:
            if key == self.policy.row and event is not None:
                self.inside[event.once()] += sign * event.count


def _time(charge: Charge) -> float:
    return charge.time
