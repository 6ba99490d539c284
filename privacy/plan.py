"""The privacy plan: everything about a run that its guarantee depends on, fixed beforehand.

A mechanism's parameters travel only inside a `PrivacyPlan`. Its digest is in every message
and every charge; a client refuses a round whose digest isn't the plan's it agreed to.

Units (never mixed): **client**, all of one client's data; **record**, one training example.
Neighbouring relation for both: add or remove one unit.

Adversaries: **public**, who sees every released version and metric; **coordinator**, who
sees every submitted vector in the mechanisms that trust it; **local**, anyone who sees one
client's submitted vector. ``mechanism=central`` trusts the coordinator: it clips and adds
the client-level noise, so against itself nothing at client level is claimed.

What a plan claims for each release is computed by `PrivacyPlan.training` and
`PrivacyPlan.evaluating`, from the plan alone; the statements and their proofs are in
`docs/privacy.md`.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import rfc8785

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import SampledGaussian

Unit = Literal["client", "record"]
Adversary = Literal["public", "coordinator", "local"]
ADVERSARIES: tuple[Adversary, ...] = ("local", "coordinator", "public")
MECHANISMS = ("central",)
AGGREGATIONS = ("plain",)


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """Adaptive clipping to a quantile of the updates' norms (Andrew et al. 2021).

    The clients' bits [norm <= clip], shifted to +-1/2, are summed with noise of standard
    deviation ``count_noise``; the clip moves by exp(-learning_rate * (fraction - quantile)).

    Attributes:
        quantile: target fraction of updates that aren't clipped, in (0, 1).
        learning_rate: step of the geometric update, in (0, 10].
        count_noise: standard deviation of the noise on the count, in clients, > 0.
    """

    quantile: float
    learning_rate: float
    count_noise: float

    def __post_init__(self) -> None:
        validate.open_unit("privacy.client.quantile", self.quantile)
        validate.positive("privacy.client.quantile_learning_rate", self.learning_rate)
        if self.learning_rate > 10:
            raise ConfigError(
                f"privacy.client.quantile_learning_rate={self.learning_rate:g} must be at most 10"
            )
        validate.positive("privacy.client.count_noise", self.count_noise)


@dataclass(frozen=True, slots=True)
class ClientUnit:
    """Client-level DP: each update is clipped as a whole, noise is added to the sum.

    Attributes:
        clip: L2 bound of one client's update; the first one where clipping is adaptive.
        noise_multiplier: noise over sensitivity of everything a training round releases
            together (with adaptive clipping, the update sum and the count); >= 0, where 0
            claims nothing.
        adaptive: None for a fixed clip.
    """

    clip: float
    noise_multiplier: float
    adaptive: AdaptiveClip | None = None

    def __post_init__(self) -> None:
        validate.positive("privacy.client.clip", self.clip)
        validate.nonnegative("privacy.client.noise_multiplier", self.noise_multiplier)
        if self.adaptive and self.noise_multiplier > 0:
            least = self.noise_multiplier / 2
            if self.adaptive.count_noise <= least:
                raise ConfigError(
                    f"privacy.client.count_noise={self.adaptive.count_noise} must be greater "
                    f"than noise_multiplier/2={least:g}",
                    "else the count alone would spend more than the round may",
                )

    def update_noise_multiplier(self) -> float:
        """Noise multiplier of the update sum alone, so that with the count it is the whole.

        Andrew et al. 2021, Theorem 1: z_update = (z^-2 - (2 sigma_b)^-2)^(-1/2); the count
        has sensitivity 1/2.
        """
        z = self.noise_multiplier
        if self.adaptive is None or z == 0:
            return z
        return 1.0 / math.sqrt(z**-2 - (2.0 * self.adaptive.count_noise) ** -2)


@dataclass(frozen=True, slots=True)
class RecordUnit:
    """Record-level DP: DP-SGD inside each client (Abadi et al. 2016).

    Attributes:
        clip: L2 bound of one record's gradient.
        noise_multiplier: noise over ``clip`` on the sum of one step; >= 0, where 0 claims
            nothing.
        sampling_rate: probability that a record is in a step's batch, drawn by the client.
        steps: steps in one participation.
        denominator: what the noised sum is divided by; the same for all clients, because a
            client's size is itself private under add-or-remove.
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    denominator: float

    def __post_init__(self) -> None:
        validate.positive("privacy.record.clip", self.clip)
        validate.nonnegative("privacy.record.noise_multiplier", self.noise_multiplier)
        validate.rate("privacy.record.sampling_rate", self.sampling_rate)
        validate.at_least("local.steps", self.steps, 1)
        validate.positive("privacy.record.denominator", self.denominator)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Federated evaluation: clipped counts of each client, noised and summed.

    A client submits (correct, examples, loss) / cap over at most ``cap`` of its records,
    the loss of a record clipped to [0, 1] after division by ``loss_cap``: L2 norm at most
    sqrt(3) for a client and sqrt(3)/cap for a record.

    Attributes:
        every: evaluate after every so many training rounds, and after the last.
        cap: most records of one client that count.
        loss_cap: loss of one record above which it counts as this much.
        noise_multiplier: noise over the client-level sensitivity sqrt(3).
    """

    every: int
    cap: int
    loss_cap: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        validate.at_least("evaluation.every", self.every, 1)
        validate.at_least("evaluation.cap", self.cap, 1)
        validate.positive("evaluation.loss_cap", self.loss_cap)
        validate.nonnegative("evaluation.noise_multiplier", self.noise_multiplier)

    SENSITIVITY = math.sqrt(3.0)


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise of one release: to which unit, against whom, by which event.

    Attributes:
        unit: who is protected.
        adversary: against whom.
        amplified: whether the event counts on the secrecy of the cohort draw.
        event: what an accountant composes; None where nothing is claimed.
        per: "release", composed once for each release, or "participation", composed as
            often as one client has taken part.
        assumes: in words, what has to be true.
    """

    unit: Unit
    adversary: Adversary
    amplified: bool
    event: SampledGaussian | None
    per: Literal["release", "participation"]
    assumes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """A run's whole privacy mechanism, frozen and digestible.

    Attributes:
        population: clients that may be drawn.
        sampling_rate: probability with which each joins a cohort (Poisson sampling).
        rounds: training rounds planned.
        mechanism: who adds the client-level noise; "central" is the coordinator.
        aggregation: how updates are summed; "plain" shows each to the coordinator.
        client: client-level DP, or None.
        record: record-level DP, or None.
        client_delta: delta of client-level epsilons.
        record_delta: delta of record-level epsilons.
        weight_cap: None for uniform weights; else a client's update is scaled, after
            clipping, by min(examples, cap) / cap <= 1, which leaves the sensitivity alone.
        minimum_survivors: fewest accepted updates with which a sum is released.
        evaluation: federated evaluation, or None.
        noise_source: "os-csprng", or "seeded-simulation" which protects nobody.
    """

    population: int
    sampling_rate: float
    rounds: int
    client: ClientUnit | None
    record: RecordUnit | None
    client_delta: float
    record_delta: float
    minimum_survivors: int
    noise_source: str
    mechanism: str = "central"
    aggregation: str = "plain"
    weight_cap: int | None = None
    evaluation: Evaluation | None = None
    relation: str = "add-or-remove-one"
    sampling: str = "poisson"

    def __post_init__(self) -> None:
        validate.at_least("clients", self.population, 1)
        validate.rate("cohort/clients", self.sampling_rate)
        validate.at_least("rounds", self.rounds, 1)
        validate.one_of("mechanism", self.mechanism, MECHANISMS)
        validate.one_of("aggregation", self.aggregation, AGGREGATIONS)
        validate.one_of("relation", self.relation, ("add-or-remove-one",))
        validate.one_of("sampling", self.sampling, ("poisson",))
        validate.open_unit("delta", self.client_delta)
        validate.open_unit("delta", self.record_delta)
        validate.at_least("minimum_survivors", self.minimum_survivors, 0)
        validate.one_of("noise_source", self.noise_source, ("os-csprng", "seeded-simulation"))
        if self.minimum_survivors > self.population:
            raise ConfigError(
                f"minimum_survivors={self.minimum_survivors} must be at most "
                f"clients={self.population}"
            )
        if self.weight_cap is not None:
            validate.at_least("weighting.cap", self.weight_cap, 1)
            if self.record is not None:
                raise ConfigError(
                    "weighting=examples can't be combined with privacy.record: a client's weight "
                    "would reveal how many records it has",
                    "use weighting=uniform, or privacy.record=none",
                )

    def digest(self) -> str:
        """SHA-256 of the plan in canonical JSON (RFC 8785), in hex."""
        return _digest(self)

    def to_json(self) -> dict[str, Any]:
        """The plan as a ledger leaf carries it."""
        return asdict(self)

    def delta(self, unit: Unit) -> float:
        """The delta at which ``unit``'s epsilon is stated."""
        return self.client_delta if unit == "client" else self.record_delta

    def summed_noise(self) -> float | None:
        """Noise multiplier of one record in the *sum* of a round, or None.

        Where the update of a client is linear in its one noised gradient (one step, no
        client-level clip, uniform weights, equal denominators), the released sum over n
        clients is the Poisson-sampled sum of all records' clipped gradients plus n
        independent Gaussians: the Gaussian mechanism with multiplier sqrt(n) * z at the
        fewest survivors. With more steps or a clip of the update that isn't so, and the
        only claim against the public is the local one.
        """
        if self.record is None or self.client is not None:
            return None
        if self.record.steps != 1 or self.minimum_survivors < 1:
            return None
        return math.sqrt(self.minimum_survivors) * self.record.noise_multiplier

    def training(self) -> list[Claim]:
        """What one training round claims; a unit without DP is there with no event."""
        claims = _client(self.client.noise_multiplier if self.client else 0.0, self.sampling_rate)
        unit = self.record
        z = unit.noise_multiplier if unit else 0.0
        rate, steps = (unit.sampling_rate, unit.steps) if unit else (1.0, 1)
        claims += _record("local", z, rate, steps, _LOCAL)
        claims += _record("coordinator", z, rate, steps, _LOCAL)
        summed = self.summed_noise()
        if summed:
            # Only rounds in which the record's client takes part depend on it.
            claims += _record("public", summed, rate, 1, _SUMMED)
        else:
            claims += _record("public", z, rate, steps, _LOCAL)
        return claims

    def evaluating(self) -> list[Claim]:
        """What one federated evaluation claims.

        At record level each client adds its own noise of ``record.noise_multiplier`` times
        the record-level sensitivity, without sampling, so the local claim holds there too.
        """
        if self.evaluation is None:
            return []
        claims = _client(self.evaluation.noise_multiplier, self.sampling_rate)
        z = self.record.noise_multiplier if self.record else 0.0
        for adversary in ADVERSARIES:
            claims += _record(adversary, z, 1.0, 1, _LOCAL_COUNTS)
        return claims


@functools.lru_cache(maxsize=64)
def _digest(plan: PrivacyPlan) -> str:
    return hashlib.sha256(rfc8785.dumps(asdict(plan))).hexdigest()


def _client(noise_multiplier: float, rate: float) -> list[Claim]:
    z = noise_multiplier
    plain = SampledGaussian(z) if z > 0 else None
    sampled = SampledGaussian(z, rate) if z > 0 else None
    return [
        Claim("client", "public", True, sampled, "release", _HIDDEN_COHORT if z else _NOTHING),
        Claim("client", "public", False, plain, "release", _HONEST if z else _NOTHING),
        Claim("client", "coordinator", False, None, "release", _TRUSTED),
    ]


def _record(
    adversary: Adversary,
    noise_multiplier: float,
    rate: float,
    steps: int,
    assumes: str,
) -> list[Claim]:
    """The amplified claim and the one against who knows which records were drawn."""
    per: Literal["participation"] = "participation"
    if noise_multiplier == 0:
        return [Claim("record", adversary, a, None, per, _NOTHING) for a in (True, False)]
    sampled = SampledGaussian(noise_multiplier, rate, steps)
    plain = SampledGaussian(noise_multiplier, 1.0, steps)
    return [
        Claim("record", adversary, True, sampled, per, f"{assumes}; {_HIDDEN_BATCH}"),
        Claim("record", adversary, False, plain, per, assumes),
    ]


_NOTHING = "nothing is claimed: no noise is added for this unit"
_HIDDEN_COHORT = "the coordinator adds the noise and keeps the Poisson draw of the cohort secret"
_HONEST = "the coordinator adds the noise; the cohort may be known"
_TRUSTED = "nothing is claimed: the coordinator is trusted with each client's update"
_HIDDEN_BATCH = "each client keeps its Poisson draw of records secret"
_LOCAL = "the client runs DP-SGD as planned"
_LOCAL_COUNTS = "the client adds its own noise to its counts"
_SUMMED = "at least minimum_survivors clients run DP-SGD as planned and the public sees only sums"
