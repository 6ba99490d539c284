"""Claims: what one release promises, to which unit, against whom, by which event.

Units: **client**, all of one client's data; **record**, one training example. Relation: add
or remove one unit; zero-out for a client whose noise is added in shares (`tacit.privacy.plan`).

Adversaries: **public**, who sees every released version and metric; **coordinator**, who
sees what the clients send: every vector with ``aggregation=plain``, with secure aggregation
their noised sum; **collusion**, the coordinator with as many clients as the plan allows for,
whose shares of the noise it knows; **local**, anyone who sees one client's own vector, be it
that secure aggregation is broken.

Each function returns rows for one mechanism; `tacit.privacy.plan` puts them together. The
statements and their proofs are in `docs/privacy.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.events import (
    Event,
    SampledDiscreteGaussian,
    SampledGaussian,
    SampledSkellam,
)
from tacit.privacy.units import Unit

Adversary = Literal["public", "coordinator", "collusion", "local"]
Per = Literal["release", "participation"]
ADVERSARIES: tuple[Adversary, ...] = ("local", "coordinator", "public")

# Shares' variances are doubles; what they add up to is below the plan's by far less.
_ROUND_DOWN = 1.0 - 2.0**-30


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise of one release: to which unit, against whom, by which event.

    Attributes:
        unit: who is protected.
        adversary: against whom.
        amplified: whether the event counts on the secrecy of a draw.
        event: what an accountant composes; None where nothing is claimed.
        per: "release", composed once for each release, or "participation", composed as
            often as one client has taken part.
        assumes: in words, what has to be true.
    """

    unit: Unit
    adversary: Adversary
    amplified: bool
    event: Event | None
    per: Per
    assumes: str

    def to_json(self) -> dict[str, Any]:
        """The claim as a leaf writes it."""
        return {
            "unit": self.unit,
            "adversary": self.adversary,
            "amplified": self.amplified,
            "per": self.per,
            "event": self.event.to_json() if self.event else None,
            "assumes": self.assumes,
        }


@dataclass(frozen=True, slots=True)
class SummedNoise:
    """The discrete noise of a sum, in the terms of events.

    Attributes:
        law: "skellam" or "discrete_gaussian".
        lattice: sensitivities and the whole variance.
        smallest: variance of the smallest share or layer, and
        shares: how many of them there are at most; bounds how far a sum of discrete
            Gaussians is from one.
    """

    law: str
    lattice: Lattice
    smallest: float
    shares: int

    def event(self, unit: Unit, part: float = 1.0, rate: float = 1.0) -> Event | None:
        """One release with ``part`` of the noise, its unit sampled at ``rate``."""
        lattice = self.lattice
        variance = lattice.variance * part * _ROUND_DOWN
        if variance == 0:
            return None
        l2, l1 = lattice.l2, lattice.l1
        if unit == "record":
            l2, l1 = lattice.record_l2, lattice.record_l1
        if self.law == "skellam":
            return SampledSkellam(variance, l2, l1, rate)
        return SampledDiscreteGaussian(variance, l2, self._closeness(), rate)

    def _closeness(self) -> float:
        """Kairouz, Liu, Steinke 2021: 10 exp(-2 pi^2 / (1/s^2 + 1/t^2)) for each addition.

        The sum so far has at least the variance of the smallest part, so each exponent is at
        least pi^2 times that.
        """
        each = 10.0 * math.exp(-(math.pi**2) * self.smallest)
        return self.lattice.length * self.shares * each


def central_client(noise_multiplier: float, rate: float) -> list[Claim]:
    """The coordinator clips and adds the noise."""
    z = noise_multiplier
    plain = SampledGaussian(z) if z > 0 else None
    sampled = SampledGaussian(z, rate) if z > 0 else None
    return [
        Claim("client", "public", True, sampled, "release", HIDDEN_COHORT if z else NOTHING),
        Claim("client", "public", False, plain, "release", HONEST if z else NOTHING),
        Claim("client", "coordinator", False, None, "release", TRUSTED),
    ]


def local_record(
    adversary: Adversary,
    noise_multiplier: float,
    rate: float,
    steps: int,
    assumes: str,
) -> list[Claim]:
    """A client adds Gaussian noise itself: the amplified claim, and the one without."""
    if noise_multiplier == 0:
        return [
            Claim("record", adversary, a, None, "participation", NOTHING) for a in (True, False)
        ]
    sampled = SampledGaussian(noise_multiplier, rate, steps)
    plain = SampledGaussian(noise_multiplier, 1.0, steps)
    return [
        Claim("record", adversary, True, sampled, "participation", f"{assumes}; {HIDDEN_BATCH}"),
        Claim("record", adversary, False, plain, "participation", assumes),
    ]


def summed_client(
    noise: SummedNoise, rate: float, secure: bool, colluders: float, population: int
) -> list[Claim]:
    """Clients add the noise in shares.

    Args:
        noise: of the sum.
        rate: of the secret Poisson draw of the cohort.
        secure: whether nobody sees one client's vector.
        colluders: largest part of a sum's clients that collude with the coordinator.
        population: most clients among whom the noise is shared.
    """
    whole, own = noise.event("client"), noise.event("client", 1.0 / population)
    if whole is None:
        return [
            Claim("client", "public", True, None, "release", NOTHING),
            Claim("client", "public", False, None, "release", NOTHING),
            Claim("client", "coordinator", False, None, "release", NOTHING),
            Claim("client", "local", False, None, "participation", NOTHING),
        ]
    sampled = noise.event("client", rate=rate)
    rows = [
        Claim("client", "public", True, sampled, "release", f"{SHARES}; {HIDDEN_DRAW}"),
        Claim("client", "public", False, whole, "release", SHARES),
        Claim("client", "local", False, own, "participation", OWN_SHARE),
    ]
    if not secure:
        # It sees each vector, and the layers of noise that may be taken off.
        return [*rows, Claim("client", "coordinator", False, own, "participation", OWN_SHARE)]
    rows.append(Claim("client", "coordinator", False, whole, "participation", SECURE))
    if colluders > 0:
        left = noise.event("client", 1.0 - colluders)
        rows.append(Claim("client", "collusion", False, left, "participation", COLLUSION))
    return rows


def summed_record(
    noise: SummedNoise, rate: float, secure: bool, colluders: float, population: int
) -> list[Claim]:
    """As `summed_client`; the draw of records is the client's, hidden from everybody else."""
    rows: list[Claim] = []
    parts: list[tuple[Adversary, float | None, str]] = [
        ("local", 1.0 / population, OWN_SHARE),
        ("coordinator", 1.0 if secure else 1.0 / population, SECURE if secure else OWN_SHARE),
        ("public", 1.0, SHARES),
    ]
    if secure and colluders > 0:
        parts.append(("collusion", 1.0 - colluders, COLLUSION))
    for adversary, part, assumes in parts:
        for amplified in (True, False):
            event = noise.event("record", part or 0.0, rate if amplified else 1.0)
            said = NOTHING if event is None else assumes
            said = f"{said}; {HIDDEN_BATCH}" if amplified and event is not None else said
            rows.append(Claim("record", adversary, amplified, event, "participation", said))
    return rows


NOTHING = "nothing is claimed: no noise is added for this unit"
HIDDEN_COHORT = "the coordinator adds the noise and keeps the Poisson draw of the cohort secret"
HONEST = "the coordinator adds the noise; the cohort may be known"
TRUSTED = "nothing is claimed: the coordinator is trusted with each client's update"
HIDDEN_BATCH = "each client keeps its Poisson draw of records secret"
LOCAL = "the client runs DP-SGD as planned"
LOCAL_COUNTS = "the client adds its own noise to its counts"
SUMMED = "at least minimum_survivors clients run DP-SGD as planned and the public sees only sums"
SHARES = "the clients in the sum add their shares of the noise and don't publish them"
HIDDEN_DRAW = "the coordinator and the clients of a cohort keep its Poisson draw secret"
OWN_SHARE = "the client adds its own share of the noise; secure aggregation may be broken"
SECURE = "secure aggregation holds, and the clients in the sum add their shares of the noise"
SHORTCUT = "as with the masks that this simulation left out, so that who ran it saw each vector"
COLLUSION = "as for the coordinator, but with the planned number of clients on its side"
