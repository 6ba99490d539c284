"""How scoring answers: every limit, each with a default and checked when it is set."""

from __future__ import annotations

from dataclasses import dataclass

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """How a router answers.

    Attributes:
        budget: seconds until an answer.
        look: seconds between two looks at the ledger for moved aliases.
        canary: share of the champion's requests that the challenger answers.
        workers: threads that answer, and as many for fallbacks.
        pending: requests under way at once; more are refused.
        lag: requests that wait for a version beside the champion; more are dropped.
        records: of a request.
        numbers: of a request's records together.
    """

    budget: float = 0.1
    look: float = 0.05
    canary: float = 0.0
    workers: int = 2
    pending: int = 64
    lag: int = 64
    records: int = 256
    numbers: int = 65_536

    def __post_init__(self) -> None:
        for name in ("budget", "look"):
            validate.positive(name, getattr(self, name))
        for name in ("workers", "pending", "lag", "records", "numbers"):
            validate.at_least(name, getattr(self, name), 1)
        if not 0 <= self.canary <= 1:
            raise ConfigError(f"canary={self.canary} must be in [0, 1]")
