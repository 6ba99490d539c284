"""Which faults a simulation has; `tacit.simulations.faults` says what each of them is."""

from __future__ import annotations

from dataclasses import dataclass

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

# The legs of a round, as `FaultsSpec.legs` names them.
LEGS = ("advertise", "share", "train", "evaluate", "confirm", "reveal")
KINDS = ("drop", "late", "duplicate", "corrupt", "equivocate")


@dataclass(frozen=True, slots=True)
class FaultsSpec:
    """What goes wrong on the way, each probability for one request at one leg.

    Attributes:
        drop: probability that a client is gone, for a leg and the rest of the round.
        late: probability that an answer comes when its leg is over.
        duplicate: probability that a request reaches a client twice.
        corrupt: probability that a bit of an answer is flipped.
        equivocate: probability that a client is told something else than the others.
        legs: where, such as "train+reveal"; "all" for every one.
    """

    drop: float
    late: float
    duplicate: float
    corrupt: float
    equivocate: float
    legs: str

    def __post_init__(self) -> None:
        for kind, value in zip(KINDS, self.chances, strict=True):
            validate.half_open_unit(f"faults.{kind}", value)
        if self.legs == "all":
            return
        named = self.legs.split("+")
        unknown = [leg for leg in named if leg not in LEGS]
        if unknown:
            raise ConfigError(
                f"faults.legs={self.legs}: {unknown[0]!r} is not a leg",
                f"use all, or some of {', '.join(LEGS)} joined by +",
            )
        if len(set(named)) != len(named):
            raise ConfigError(f"faults.legs={self.legs} names a leg twice")

    @property
    def active(self) -> bool:
        """Whether anything can go wrong."""
        return any(value > 0 for value in self.chances)

    @property
    def chances(self) -> tuple[float, ...]:
        """The probabilities, in the order of `KINDS`."""
        return (self.drop, self.late, self.duplicate, self.corrupt, self.equivocate)

    def at(self, leg: str) -> bool:
        """Whether a leg is among those where faults begin."""
        return self.legs == "all" or leg in self.legs.split("+")
