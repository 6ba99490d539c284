"""What the runs on one population spent together: the verifier's tables by population."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tacit.privacy.accountant import Accountant
from tacit.privacy.ledger import ClaimKey, Spending


class Charged(Protocol):
    """A run as `tacit.privacy.log.trail` knows it."""

    charges: int

    def whole(self) -> Spending:
        """All that was charged, released or not."""


def tables(runs: Sequence[tuple[str, Charged]]) -> list[dict[str, Any]]:
    """Of each population how many runs were charged, and their rows composed.

    Composed as if every run's plan had been fixed before the first began.

    Args:
        runs: each with its population.
    """
    names = dict.fromkeys(population for population, run in runs if run.charges)
    made = []
    for name in names:
        totals = [run.whole() for population, run in runs if population == name and run.charges]
        keys = sorted({key for total in totals for key in total.rows()}, key=repr)
        deltas = {key: min(total.deltas[key.unit] for total in totals) for key in keys}
        rows = [row(key, totals, deltas[key]) for key in keys]
        made.append({"population": name, "runs": len(totals), "rows": rows})
    return made


def row(key: ClaimKey, totals: Sequence[Spending], delta: float) -> dict[str, Any]:
    """One row over several runs; what one of them doesn't claim isn't claimed.

    Args:
        key: of the row.
        totals: what each run was charged.
        delta: at which epsilon is stated.
    """
    accountant = Accountant(delta)
    parts = [total.composed(key) for total in totals]
    for event in (e for part in parts if part is not None for e in part):
        accountant.compose(event)
    claimed = None not in parts
    return {
        "unit": key.unit,
        "adversary": key.adversary,
        "amplified": key.amplified,
        "epsilon": accountant.epsilon() if claimed else None,
        "delta": delta,
        "method": accountant.method if claimed else None,
    }
