"""Charges as counts of events by row: what `tacit.privacy.governor` adds up quickly.

Guarantees: `spending` composes all of both totals, and claims no row that one of them lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tacit.privacy.accountant import Accountant
from tacit.privacy.events import Event
from tacit.privacy.ledger import Additions, ClaimKey, Spending
from tacit.privacy.spans import Charge

Total = Counter[tuple[ClaimKey, Event | None]]


def of_charges(charges: Sequence[Charge]) -> Total:
    """How often each event is added to each row; None makes the row void."""
    found = Total()
    for key, event in (pair for charge in charges for pair in charge.added):
        found[key, event.once() if event else None] += event.count if event else 1
    return found


def of_spending(spending: Spending) -> Total:
    """The same of what a run spent, or plans to."""
    found = Total()
    for key in spending.rows():
        events = spending.composed(key)
        for event in [None] if events is None else events:
            found[key, event.once() if event else None] += event.count if event else 1
    return found


def spending(own: Total, base: Total, deltas: dict[str, float]) -> Spending:
    """What a run spends, with what was spent on the version that it began with.

    Args:
        own: the run's.
        base: what came before; empty if it began with no version.
        deltas: by unit.
    """
    rows, void = dict[ClaimKey, Accountant](), set[ClaimKey]()
    if base:
        void = {key for key, _ in own} ^ {key for key, _ in base}
    for (key, event), count in (own + base).items():
        row = rows.setdefault(key, Accountant(deltas[key.unit]))
        if event is None:
            void.add(key)
        else:
            row.compose(event.times(count))
    return Spending(deltas, rows, Additions(), void)
