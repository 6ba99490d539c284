"""The metrics, in a registry of their own: counts and times of all clients together.

Every label's values are listed here. A word that isn't becomes "other", so neither a client's
text nor a typing error makes a series.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

OTHER = "other"
ROUNDS = frozenset({"released", "shortfall", "refused", "failed"})
KINDS = frozenset(
    {
        "query",
        "query.advertise",
        "query.share",
        "train",
        "evaluate",
        "query.confirm",
        "query.reveal",
    }
)
REPLIES = frozenset(
    {"answered", "error", "no_reply", "refused", "forged", "malformed", "late", "duplicate"}
)
CHECK_INS = frozenset({"accepted", "retry", "ineligible", "draining", "full"})
# A device's own (`Refusal.Reason` of edge.proto), then the gateway's.
REASONS = frozenset(
    {
        "rounds",
        "epsilon",
        "separation",
        "floor",
        "plan",
        "unsigned",
        "unsupported",
        "protocol",
        "malformed",
        "ineligible",
        "failed",
        "unspecified",
        "token",
        "certificate",
        "expired",
        "revoked",
        "unknown",
        "version",
        "oversized",
        "rate",
        "full",
        "draining",
        "late",
        "duplicate",
        "forged",
    }
)
UNITS = frozenset({"client", "record"})
ADVERSARIES = frozenset({"public", "coordinator", "collusion", "local"})
DIRECTIONS = frozenset({"in", "out"})

_LEG_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_ROUND_SECONDS = (1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


def known(word: str, words: Iterable[str]) -> str:
    """A word as a label's value: in lower case, with underscores, or "other".

    >>> known("NO REPLY", REPLIES), known("10.0.0.1", REPLIES)
    ('no_reply', 'other')
    """
    plain = word.lower().replace(" ", "_").replace("-", "_")
    return plain if plain in words else OTHER


class Meters:
    """All metrics of one process.

    Attributes:
        registry: what is scraped.
        devices: gauge of open streams.
        leaves: gauge of the ledger's leaves.
        ready: gauge of `tacit.server.telemetry.ready`.
    """

    def __init__(self) -> None:
        # Each counter would say when it began, as a series more.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        r = self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=r)
        build = Gauge("tacit_build_info", "Always 1.", ["version"], registry=r)
        build.labels(version("tacit")).set(1)
        self._rounds = Counter(
            "tacit_rounds", "Rounds, by how they ended.", ["outcome"], registry=r
        )
        self._round = Histogram(
            "tacit_round_seconds",
            "Wall time of a released round.",
            buckets=_ROUND_SECONDS,
            registry=r,
        )
        self._accepted = Gauge(
            "tacit_round_accepted", "Vectors in the last released sum.", registry=r
        )
        self._legs = Histogram(
            "tacit_leg_seconds", "Wall time of a leg.", ["kind"], buckets=_LEG_SECONDS, registry=r
        )
        self._asked = Counter(
            "tacit_leg_asked", "Requests of ended legs, without resends.", ["kind"], registry=r
        )
        self._answered = Counter(
            "tacit_leg_answered", "Answers of ended legs that were taken.", ["kind"], registry=r
        )
        self._replies = Counter(
            "tacit_replies", "What came of the requests.", ["kind", "outcome"], registry=r
        )
        self._resends = Counter("tacit_resends", "Requests sent again.", ["kind"], registry=r)
        self._epsilon = Gauge(
            "tacit_epsilon",
            "Charged so far by the run that is under way, at its delta.",
            ["unit", "adversary", "amplified"],
            registry=r,
        )
        self._budget = Gauge(
            "tacit_budget_remaining", "Epsilon that the run's own cap leaves.", ["unit"], registry=r
        )
        self.devices = Gauge("tacit_devices_connected", "Devices with an open stream.", registry=r)
        self._check_ins = Counter(
            "tacit_check_ins", "Devices' check-ins, by the answer.", ["outcome"], registry=r
        )
        self._refusals = Counter(
            "tacit_refusals", "Refusals by devices and of devices.", ["reason"], registry=r
        )
        self._bytes = Counter(
            "tacit_bytes", "Bytes of the gateway's messages.", ["direction"], registry=r
        )
        self.leaves = Gauge("tacit_ledger_leaves", "Leaves of the ledger.", registry=r)
        self.ready = Gauge("tacit_ready", "Whether the gateway takes clients.", registry=r)
        self._begin()

    def _begin(self) -> None:
        """Every known series, so that a rate is there before the first of its kind."""
        for metric, words in (
            (self._rounds, ROUNDS),
            (self._check_ins, CHECK_INS),
            (self._refusals, {*REASONS, OTHER}),
            (self._bytes, DIRECTIONS),
        ):
            for word in sorted(words):
                metric.labels(word)

    def round(self, seconds: float, accepted: int, outcome: str) -> None:
        """See `tacit.server.telemetry.round`."""
        self._rounds.labels(known(outcome, ROUNDS)).inc()
        if outcome == "released":
            self._round.observe(seconds)
            self._accepted.set(accepted)

    def epsilon(self, unit: str, adversary: str, value: float | None, amplified: bool) -> None:
        """See `tacit.server.telemetry.epsilon`."""
        words = known(unit, UNITS), known(adversary, ADVERSARIES), "yes" if amplified else "no"
        self._epsilon.labels(*words).set(math.nan if value is None else value)

    def budget(self, unit: str, remaining: float) -> None:
        """See `tacit.server.telemetry.budget`."""
        self._budget.labels(known(unit, UNITS)).set(remaining)

    def leg(self, kind: str, seconds: float, asked: int, answered: int) -> None:
        """See `tacit.server.telemetry.leg`."""
        word = known(kind, KINDS)
        self._legs.labels(word).observe(seconds)
        self._asked.labels(word).inc(asked)
        self._answered.labels(word).inc(answered)

    def replies(self, kind: str, outcome: str, count: int) -> None:
        """Replies of one leg."""
        self._replies.labels(known(kind, KINDS), known(outcome, REPLIES)).inc(count)

    def resent(self, kind: str, count: int) -> None:
        """See `tacit.server.telemetry.resent`."""
        self._resends.labels(known(kind, KINDS)).inc(count)

    def check_in(self, outcome: str) -> None:
        """See `tacit.server.telemetry.check_in`."""
        self._check_ins.labels(known(outcome, CHECK_INS)).inc()

    def refusal(self, reason: str) -> None:
        """See `tacit.server.telemetry.refusal`."""
        self._refusals.labels(known(reason, REASONS)).inc()

    def bytes_moved(self, direction: str, count: int) -> None:
        """See `tacit.server.telemetry.bytes_moved`."""
        self._bytes.labels(known(direction, DIRECTIONS)).inc(count)
