"""A client's limits over its lifetime, and the view of what it has spent of them.

`tacit.client.ledger` keeps the record and enforces the limits; `tacit.client.floors` reads
them from a client's own file.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError
from tacit.privacy.units import Unit

UNITS: tuple[Unit, ...] = ("client", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """A client's limits over its lifetime; None and 0 are no limit.

    Attributes:
        rounds: most participations, each session's vector counted.
        epsilon: most for all of this client's data, at ``delta``, which it needs.
        delta: see there.
        record_epsilon: most for one of its records, at ``record_delta``, which it needs.
        record_delta: see there.
        separation: seconds that have to pass between participations of different rounds.

    Raises:
        ConfigError: a value is out of range, or an epsilon has no delta.
    """

    rounds: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    record_epsilon: float | None = None
    record_delta: float | None = None
    separation: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds is not None:
            validate.at_least("floors.rounds", self.rounds, 0)
        validate.nonnegative("floors.separation", self.separation)
        for prefix in ("", "record_"):
            cap, delta = getattr(self, f"{prefix}epsilon"), getattr(self, f"{prefix}delta")
            if cap is not None:
                validate.nonnegative(f"floors.{prefix}epsilon", cap)
                if delta is None:
                    raise ConfigError(
                        f"floors.{prefix}epsilon={cap:g} needs floors.{prefix}delta",
                        "an epsilon says nothing without its delta",
                    )
            if delta is not None:
                validate.open_unit(f"floors.{prefix}delta", delta)

    def of(self, unit: Unit) -> tuple[float | None, float | None]:
        """Largest epsilon of a unit and its delta."""
        if unit == "client":
            return self.epsilon, self.delta
        return self.record_epsilon, self.record_delta


@dataclass(frozen=True, slots=True)
class UnitSpent:
    """What was spent of one unit.

    Attributes:
        epsilon: the figure; infinity where a charged plan claims nothing for the unit, None
            where nothing says at which delta.
        delta: at which: the cap's, else the smallest of the charged plans'.
        cap: the client's limit, or None.
    """

    epsilon: float | None
    delta: float | None
    cap: float | None

    def to_json(self) -> dict[str, Any]:
        """As a document; an infinite epsilon is "unbounded"."""
        endless = self.epsilon is not None and math.isinf(self.epsilon)
        return {**asdict(self), "epsilon": "unbounded" if endless else self.epsilon}


@dataclass(frozen=True, slots=True)
class Spent:
    """A view of a ledger.

    Attributes:
        participations: charged.
        rounds: different ones, over all runs.
        refused: how often, by reason.
        last: Unix seconds of the last charge, or None.
        client: spent of all of this client's data.
        record: spent of any one of its records.
        caps: the limits that hold.
    """

    participations: int
    rounds: int
    refused: dict[str, int]
    last: float | None
    client: UnitSpent
    record: UnitSpent
    caps: Caps

    def to_json(self) -> dict[str, Any]:
        """As a document, for people and for ``tacit-edge status``."""
        return {
            "participations": self.participations,
            "rounds": self.rounds,
            "refused": self.refused,
            "last": self.last,
            "client": self.client.to_json(),
            "record": self.record.to_json(),
            "caps": asdict(self.caps),
        }
