"""Privacy events: what a release did, in the terms an accountant computes with.

The ledger charges *events*, never epsilon: an event is a fact about a mechanism that was
run, epsilon is a view of it that anyone can recompute. The meaning of an event never
changes once a ledger holds it; a new mechanism gets a new event.

This module is also the allow-list: an event that isn't defined here can't be charged.

Guarantees: `SampledGaussian` describes exactly the mechanism of Mironov, Talwar and Zhang
2019 (arXiv:1908.10530): each unit is included independently with probability
``sampling_rate``, the sum of the included units' vectors, each of L2 norm at most ``clip``,
is released with noise N(0, (noise_multiplier * clip)^2 I), and this is done ``count`` times.
The neighbouring relation is add-or-remove one unit.
It doesn't guarantee that the mechanism was run; the code that charges it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dp_accounting

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
        return SampledGaussian(self.noise_multiplier, self.sampling_rate)

    def times(self, n: int) -> SampledGaussian:
        """This event composed ``n`` times with itself."""
        return SampledGaussian(self.noise_multiplier, self.sampling_rate, self.count * n)

    def dp_event(self) -> dp_accounting.DpEvent:
        """One run as a dp-accounting event; the caller composes ``count`` of them."""
        gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        if self.sampling_rate == 1.0:
            return gaussian
        return dp_accounting.PoissonSampledDpEvent(self.sampling_rate, gaussian)

    def to_json(self) -> dict[str, Any]:
        """The event as the ledger writes it."""
        return {
            "type": "sampled_gaussian",
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "count": self.count,
        }


def from_json(value: Mapping[str, Any]) -> SampledGaussian:
    """Reads an event back from a ledger leaf.

    Raises:
        AccountingError: the type isn't on the allow-list or a field is missing or unknown.
    """
    fields = dict(value)
    kind = fields.pop("type", None)
    if kind != "sampled_gaussian":
        raise AccountingError(
            f"event type={kind} can't be accounted for", "this tacit may be too old for the ledger"
        )
    if set(fields) != {"noise_multiplier", "sampling_rate", "count"}:
        raise AccountingError(f"event fields={sorted(fields)} aren't those of a sampled Gaussian")
    for name, value in fields.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (isinstance(value, float) and name != "count")):
            raise AccountingError(f"event {name}={value!r} isn't a number of the right kind")
    try:
        multiplier, rate = float(fields["noise_multiplier"]), float(fields["sampling_rate"])
    except OverflowError as error:
        raise AccountingError("an event's numbers are out of range") from error
    return SampledGaussian(multiplier, rate, fields["count"])


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
