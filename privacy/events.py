"""Privacy events: what a release did, in the terms an accountant computes with.

The ledger charges *events*, never epsilon: an event is a fact about a mechanism that was
run, epsilon is a view of it that anyone can recompute. The meaning of an event never
changes once a ledger holds it; a new mechanism gets a new event.

This module is also the allow-list: an event that isn't defined here can't be charged.

Guarantees: `SampledGaussian` describes exactly the mechanism of Mironov, Talwar and Zhang
2019 (arXiv:1908.10530): each unit is included independently with probability
``sampling_rate``, the sum of the included units' vectors, each of L2 norm at most ``clip``,
is released with noise N(0, (noise_multiplier * clip)^2 I), and this is done ``count`` times.
`SampledSkellam` and `SampledDiscreteGaussian` describe the same on the integer lattice, in
its units and not in multiples of a clip: the included units' integer vectors are summed,
modulo anything or not, and integer noise with independent coordinates is added, whose law is
the same whether a unit is included or not. Which vector a unit contributes may be drawn at
random (stochastic rounding), as long as the bounds hold for every draw.
The neighbouring relation is add-or-remove one unit.
It doesn't guarantee that the mechanism was run; the code that charges it does.
A client that keeps its own ledger reads events too, so nothing here needs an accountant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tacit.privacy import validate
from tacit.privacy.errors import AccountingError


@dataclass(frozen=True, slots=True)
class SampledGaussian:
    """``count`` runs of the Poisson-sampled Gaussian mechanism.

    Attributes:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity, > 0.
        sampling_rate: probability that a unit takes part, in (0, 1]; 1 is no sampling.
        count: number of runs composed, >= 1.

    Example:
        >>> SampledGaussian(1.2, 0.2, 3).to_json()["count"]
        3
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        validate.positive("noise_multiplier", self.noise_multiplier)
        validate.rate("sampling_rate", self.sampling_rate)
        validate.at_least("count", self.count, 1)

    def once(self) -> SampledGaussian:
        """The same mechanism, run once."""
        return replace(self, count=1) if self.count > 1 else self

    def times(self, n: int) -> SampledGaussian:
        """This event composed ``n`` times with itself."""
        return SampledGaussian(self.noise_multiplier, self.sampling_rate, self.count * n)

    def to_json(self) -> dict[str, Any]:
        """The event as the ledger writes it."""
        return {
            "type": "sampled_gaussian",
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "count": self.count,
        }


@dataclass(frozen=True, slots=True)
class SampledSkellam:
    """``count`` runs of the Poisson-sampled Skellam mechanism.

    The noise of a coordinate is the difference of two independent Poisson variables of mean
    ``variance``/2 (Agarwal, Kairouz and Liu 2021, arXiv:2110.04995).

    Attributes:
        variance: of a coordinate's whole noise, in squared lattice units, > 0.
        l2: bound on the L2 norm of one unit's integer vector, > 0.
        l1: bound on its L1 norm, > 0.
        sampling_rate: probability that a unit takes part, in (0, 1]; 1 is no sampling.
        count: number of runs composed, >= 1.

    Example:
        >>> SampledSkellam(1e4, 100.0, 800.0, 0.2, 3).to_json()["count"]
        3
    """

    variance: float
    l2: float
    l1: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        validate.positive("variance", self.variance)
        validate.positive("l2", self.l2)
        validate.positive("l1", self.l1)
        validate.rate("sampling_rate", self.sampling_rate)
        validate.at_least("count", self.count, 1)

    def once(self) -> SampledSkellam:
        """The same mechanism, run once."""
        return replace(self, count=1) if self.count > 1 else self

    def times(self, n: int) -> SampledSkellam:
        """This event composed ``n`` times with itself."""
        return replace(self, count=self.count * n)

    def to_json(self) -> dict[str, Any]:
        """The event as the ledger writes it."""
        return {
            "type": "sampled_skellam",
            "variance": self.variance,
            "l2": self.l2,
            "l1": self.l1,
            "sampling_rate": self.sampling_rate,
            "count": self.count,
        }


@dataclass(frozen=True, slots=True)
class SampledDiscreteGaussian:
    """``count`` runs of the Poisson-sampled discrete Gaussian mechanism, or one close to it.

    The ideal noise of a coordinate has mass proportional to exp(-x^2 / (2 ``variance``)) at
    the integer x (Canonne, Kamath and Steinke 2020, arXiv:2004.00010). A sum of several such
    noises isn't one; how far it is off is part of the event.

    Attributes:
        variance: the parameter sigma^2 of the ideal noise, in squared lattice units, > 0.
        l2: bound on the L2 norm of one unit's integer vector, > 0.
        closeness: bound on abs(log(real mass / ideal mass)) of the whole noise vector,
            everywhere, >= 0; 0 is the ideal noise.
        sampling_rate: probability that a unit takes part, in (0, 1]; 1 is no sampling.
        count: number of runs composed, >= 1.

    Example:
        >>> SampledDiscreteGaussian(1e4, 100.0, 0.0, 0.2, 3).to_json()["count"]
        3
    """

    variance: float
    l2: float
    closeness: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        validate.positive("variance", self.variance)
        validate.positive("l2", self.l2)
        validate.nonnegative("closeness", self.closeness)
        validate.rate("sampling_rate", self.sampling_rate)
        validate.at_least("count", self.count, 1)

    def once(self) -> SampledDiscreteGaussian:
        """The same mechanism, run once."""
        return replace(self, count=1) if self.count > 1 else self

    def times(self, n: int) -> SampledDiscreteGaussian:
        """This event composed ``n`` times with itself."""
        return replace(self, count=self.count * n)

    def to_json(self) -> dict[str, Any]:
        """The event as the ledger writes it."""
        return {
            "type": "sampled_discrete_gaussian",
            "variance": self.variance,
            "l2": self.l2,
            "closeness": self.closeness,
            "sampling_rate": self.sampling_rate,
            "count": self.count,
        }


Event = SampledGaussian | SampledSkellam | SampledDiscreteGaussian

_KINDS: dict[str, type[Event]] = {
    "sampled_gaussian": SampledGaussian,
    "sampled_skellam": SampledSkellam,
    "sampled_discrete_gaussian": SampledDiscreteGaussian,
}


def from_json(value: Mapping[str, Any]) -> Event:
    """Reads an event back from a ledger leaf.

    Raises:
        AccountingError: the type isn't on the allow-list or a field is missing or unknown.
        ConfigError: a parameter is out of range.
    """
    body = dict(value)
    kind = body.pop("type", None)
    event = _KINDS.get(kind) if isinstance(kind, str) else None
    if event is None:
        raise AccountingError(
            f"event type={kind} can't be accounted for", "this tacit may be too old for the ledger"
        )
    if set(body) != {field.name for field in fields(event)}:
        raise AccountingError(f"event fields={sorted(body)} aren't those of a {kind}")
    for name, number in body.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not (whole or (isinstance(number, float) and name != "count")):
            raise AccountingError(f"event {name}={number!r} isn't a number of the right kind")
    try:
        parameters = {name: float(body[name]) for name in body if name != "count"}
    except OverflowError as error:
        raise AccountingError("an event's numbers are out of range") from error
    return event(**parameters, count=body["count"])


def collapse(noise_multipliers: Iterable[float]) -> float:
    """Noise multiplier of Gaussian mechanisms released together: ``(sum z_i^-2)^(-1/2)``.

    Exact for joint release on the same sample of units, since the concatenation of the
    sums, each scaled by its own noise, is one Gaussian mechanism (Andrew et al. 2021,
    arXiv:1905.03871, Theorem 1). PLD accountants refuse the nested composition itself.

    Example:
        >>> round(collapse([1.0, 1.0]), 6)
        0.707107
    """
    return 1.0 / math.sqrt(sum(z**-2 for z in noise_multipliers))
