"""What was spent on the model that a run began with: part of what its own models cost.

A run may begin with a released version (``initial`` in its PLAN leaf). Its versions are functions
of that one and of what the run itself released, so by adaptive composition their epsilon is that
of all charges of both. Counted of the run before are *all* charges that it had made by the time
the new one was planned, whichever of its versions is begun with: never less than led to it.

Guarantees: figures from here only rise with what is counted; a row that one of the runs doesn't
claim isn't claimed. Charges for evaluations of versions in runs of their own lead to no model; they
are in what a population has spent together. Where what they showed decided with which version to
begin, or whether to, the figures are of a run that was decided on, and the deciding is there alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tacit.privacy.errors import MessageError
from tacit.privacy.ledger import Spending, replay

Leaf = Mapping[str, Any]


class Past(Protocol):
    """Where leaves are looked up."""

    def planned(self, run: str) -> tuple[int, Leaf]:
        """Index and body of a run's PLAN leaf.

        Raises:
            MessageError: it has none.
        """

    def spent(self, run: str, before: int) -> Sequence[dict[str, Any]]:
        """The CHARGE, RELEASE and ABANDON leaves of a run below an index."""

    def run_of(self, release: int) -> str:
        """The run of a RELEASE leaf."""


def base(past: Past, run: str) -> Spending | None:
    """What was spent on the model that a run began with; None if it began with none.

    Raises:
        MessageError: leaves that it rests on are missing or in another order than time's.
    """
    index, plan = past.planned(run)
    initial = plan.get("initial")
    if initial is None:
        return None
    if not 0 <= initial["release"] < index:
        raise MessageError(f"run={run} began with leaf {initial['release']}, which came after it")
    before = past.run_of(initial["release"])
    _, planned = past.planned(before)
    return replay(past.spent(before, index), deltas(planned), base(past, before))


def deltas(plan: Leaf) -> dict[str, float]:
    """The deltas that a PLAN leaf states its run's epsilons at."""
    return {unit: float(plan["body"][f"{unit}_delta"]) for unit in ("client", "record")}


class Leaves:
    """A `Past` in memory.

    Args:
        leaves: index and body, in order.
    """

    def __init__(self, leaves: Sequence[tuple[int, Leaf]]) -> None:
        self._leaves = leaves

    def planned(self, run: str) -> tuple[int, Leaf]:
        """See `Past`."""
        for index, body in self._leaves:
            if body["kind"] == "PLAN" and body["run"] == run:
                return index, body
        raise MessageError(f"run={run} has no PLAN leaf")

    def spent(self, run: str, before: int) -> list[dict[str, Any]]:
        """See `Past`."""
        kinds = ("CHARGE", "RELEASE", "ABANDON")
        return [
            dict(body)
            for index, body in self._leaves
            if index < before and body["run"] == run and body["kind"] in kinds
        ]

    def run_of(self, release: int) -> str:
        """See `Past`."""
        found = [body for index, body in self._leaves if index == release]
        if not found or found[0]["kind"] != "RELEASE":
            raise MessageError(f"leaf {release} is no RELEASE")
        return str(found[0]["run"])
