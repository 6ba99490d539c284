"""What may be spent on a population: the terms of a POLICY leaf.

Caps over a population compose every charge of every run and model that touched it. Which runs
there are, and with which parameters, is decided as results come in, so a privacy loss
distribution composed after the fact proves nothing. A **Renyi filter** does: with the order
alpha and the budget B fixed beforehand, charges are admitted while the sum of their Renyi
divergences of order alpha stays within B, whatever made each of them be asked for (Feldman and
Zrnic 2021, "Individual privacy accounting via a Renyi filter", arXiv:2008.11193, Theorem 3.1 and
section 4; Lecuyer 2021, arXiv:2103.01379). That runs go on at the same time changes nothing
(Haney et al. 2023, arXiv:2309.05901). What was released then is (alpha, B)-RDP, and
(epsilon, delta)-DP with the epsilon of Canonne, Kamath and Steinke 2020, Proposition 12. The
order is part of the policy for that reason: choosing the best one afterwards isn't covered by
the theorem. With a window it holds for what each span releases, given all that came before it.

Unit and relation are those of the rows that are summed (`tacit.privacy.claims`).
It doesn't guarantee that two populations of different names don't overlap, nor the figure of a
policy whose own terms were chosen in view of what had been released.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
from dp_accounting.rdp import compute_epsilon

from tacit.privacy import validate
from tacit.privacy.accountant import MINIMUM_DELTA
from tacit.privacy.discrete import renyi
from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.events import Event
from tacit.privacy.ledger import ClaimKey
from tacit.privacy.log.notes import VerifierKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be spent on one population; None asks nothing.

    Attributes:
        population: its name.
        unit: "client" or "record": whose epsilon the caps below are on.
        amplified: whether the secrecy of draws is counted on.
        epsilon: cap on what all runs together spend against the public.
        delta: at which all epsilons here are stated. A run whose own is larger is held to this.
        window_days: the cap holds for every span of so many days; None for all time.
        order: of the Renyi filter, > 1; fixed with the policy.
        run_epsilon: cap on one run, with what was spent on the version that it began with.
        separation_hours: least time between the last charge of any other run and the first of
            one.
        review_epsilon: a run planned to come to more, with what was spent on the version that it
            began with, waits for a reviewer.
        reviewers: their keys, as C2SP signed notes write them. If there are any, only one of
            them can change the policy.
    """

    population: str
    unit: str = "client"
    amplified: bool = True
    epsilon: float | None = None
    delta: float | None = None
    window_days: float | None = None
    order: float | None = None
    run_epsilon: float | None = None
    separation_hours: float | None = None
    review_epsilon: float | None = None
    reviewers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.population:
            raise ConfigError("population= must not be empty")
        validate.one_of("unit", self.unit, ("client", "record"))
        for name in ("epsilon", "window_days", "run_epsilon", "separation_hours", "review_epsilon"):
            value = getattr(self, name)
            if value is not None:
                validate.positive(name, value)
        self._check_cap()
        if self.review_epsilon is not None and not self.reviewers:
            raise ConfigError(
                f"review_epsilon={self.review_epsilon:g} needs a reviewer's key",
                "tacit ledger keygen makes one",
            )
        for text in self.reviewers:
            try:
                VerifierKey.parse(text)
            except MessageError as error:
                raise ConfigError(f"reviewer={text} isn't a key: {error}") from error

    def _check_cap(self) -> None:
        caps = ("epsilon", "run_epsilon", "review_epsilon")
        given = [f"{name}={getattr(self, name):g}" for name in caps if getattr(self, name)]
        if bool(given) != (self.delta is not None):
            raise ConfigError(
                f"{', '.join(given) or 'no epsilon'} and delta={self.delta} go together",
                "an epsilon says nothing without its delta",
            )
        if (self.epsilon is None) != (self.order is None):
            raise ConfigError(f"epsilon={self.epsilon} and order={self.order} go together")
        if self.window_days is not None and self.epsilon is None:
            raise ConfigError(f"window_days={self.window_days:g} needs an epsilon to cap")
        if self.window_days is not None and self.unit == "record":
            raise ConfigError(
                f"window_days={self.window_days:g} can't be combined with unit=record: a bound on "
                "a client's participations since the first round says nothing of those in a window",
                "cap the client, or leave window_days out",
            )
        if self.delta is not None:
            validate.open_unit("delta", self.delta)
            if self.delta < MINIMUM_DELTA:
                raise ConfigError(f"delta={self.delta:g} must be at least {MINIMUM_DELTA:g}")
        if self.order is not None and self.order not in renyi.ORDERS:
            raise ConfigError(f"order={self.order:g} must be one of the accountant's orders")
        if self.epsilon is None or self.delta is None or self.order is None:
            return
        if budget(self.epsilon, self.delta, self.order) <= 0:
            raise ConfigError(
                f"epsilon={self.epsilon:g} allows nothing at delta={self.delta:g} and "
                f"order={self.order:g}: no charge at all converts to less",
                "raise epsilon or delta",
            )

    def deltas(self, of: Mapping[str, float]) -> dict[str, float]:
        """A run's deltas, none above the policy's."""
        most = 1.0 if self.delta is None else self.delta
        return {unit: min(delta, most) for unit, delta in of.items()}

    @property
    def row(self) -> ClaimKey:
        """The row of a charge that caps are on."""
        return ClaimKey(self.unit, "public", self.amplified)

    def to_json(self) -> dict[str, Any]:
        """The terms, as a leaf writes them."""
        return {**asdict(self), "reviewers": list(self.reviewers)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Policy:
        """Reads a leaf's terms.

        Raises:
            ConfigError: a field is missing, unknown or out of range.
        """
        names = {field.name for field in fields(cls)}
        if set(value) != names:
            raise ConfigError(f"policy fields={sorted(value)} aren't {sorted(names)}")
        numbers = names - {"population", "unit", "amplified", "reviewers"}
        for name in numbers:
            found = value[name]
            if isinstance(found, bool) or not isinstance(found, int | float | None):
                raise ConfigError(f"{name}={found!r} should be a number")
            if isinstance(found, int) and abs(found) > 2**53:
                raise ConfigError(f"{name} is out of range")
        if not isinstance(value["amplified"], bool) or not isinstance(value["reviewers"], list):
            raise ConfigError("amplified and reviewers should be true or false, and a list")
        if not all(isinstance(x, str) for x in (value["population"], *value["reviewers"])):
            raise ConfigError("population and reviewers should be words")
        # JSON has one kind of number: 8.0 is written as 8.
        given = {n: None if value[n] is None else float(value[n]) for n in numbers}
        return cls(**{**value, **given, "reviewers": tuple(value["reviewers"])})


def best_order(epsilon: float, delta: float) -> float:
    """The order at which a filter admits most of a Gaussian's charges.

    A Gaussian's divergence is rho alpha; the order with the largest rho that still converts to
    ``epsilon`` is taken, once, before anything is spent.

    Raises:
        ConfigError: that isn't an epsilon and a delta.
    """
    validate.positive("epsilon", epsilon)
    validate.open_unit("delta", delta)
    allowed = [budget(epsilon, delta, float(a)) / a for a in renyi.ORDERS]
    return float(renyi.ORDERS[int(np.argmax(allowed))])


@functools.lru_cache(maxsize=4096)
def budget(epsilon: float, delta: float, order: float) -> float:
    """Largest Renyi divergence of this order that converts to at most ``epsilon`` at ``delta``."""
    # The conversion adds a constant to the divergence, but is cut off at 0: ask far above it.
    far = 64.0
    return epsilon - (_converted(far, order, delta) - far)


def spent(divergence: float, delta: float, order: float) -> float:
    """The epsilon of a divergence, at the filter's order."""
    return _converted(divergence, order, delta) if math.isfinite(divergence) else math.inf


def _converted(divergence: float, order: float, delta: float) -> float:
    return float(compute_epsilon([order], [divergence], delta)[0])


def divergence(event: Event, order: float) -> float:
    """Renyi divergence of one run of an event at one of the accountant's orders."""
    return float(renyi.curve(event.once())[_place(order)]) * event.count


@functools.lru_cache(maxsize=256)
def _place(order: float) -> int:
    return int(np.flatnonzero(order == renyi.ORDERS)[0])


def seconds(at: str) -> float:
    """A leaf's time as seconds since 1970."""
    return datetime.fromisoformat(at).timestamp()
