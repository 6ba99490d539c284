"""Every limit of the API, each with a default and checked when it is set."""

from __future__ import annotations

from dataclasses import dataclass, field

from tacit.privacy import validate
from tacit.server.scoring.settings import Settings as Scoring

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may use. Times are in seconds.

    Attributes:
        rate, burst: requests of one token, a second and at once.
        strange_rate, strange_burst: the same of one address without a valid token.
        remembered: tokens and addresses whose rate is kept; above, the oldest is forgotten.
        body: bytes of a request.
        patience: until a request is there whole.
        session: that a cookie of the dashboard stands for its token.
        sessions: of one token at once; another ends the oldest.
        seal: between two looks for accesses that no leaf covers.
        seal_rows: accesses after which it isn't waited for.
    """

    rate: float = 50.0
    burst: float = 100.0
    strange_rate: float = 5.0
    strange_burst: float = 30.0
    remembered: int = 10_000
    body: int = 4 * MIB
    patience: float = 30.0
    session: float = 8 * 3600.0
    sessions: int = 16
    seal: float = 60.0
    seal_rows: int = 10_000

    def __post_init__(self) -> None:
        validate.limits("limits", self)


@dataclass(frozen=True, slots=True)
class Settings:
    """An API.

    Attributes:
        tls: whether callers reach it by TLS, here or at a proxy: cookies are for TLS then.
        limits: of its callers.
        scoring: how it answers for records.
    """

    tls: bool = False
    limits: Limits = field(default_factory=Limits)
    scoring: Scoring = field(default_factory=Scoring)
