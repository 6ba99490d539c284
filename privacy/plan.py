"""The privacy plan: everything about a run that its guarantee depends on, fixed beforehand.

A mechanism's parameters travel only inside a `PrivacyPlan`. Its digest is in every message
and every charge; a client refuses a round whose digest isn't the plan's it agreed to.

Units (never mixed, `tacit.privacy.units`): **client**, all of one client's data; **record**,
one training example. Neighbouring relation: add or remove one unit; for clients that add noise
in shares "zero-out", one client's vector against a zero vector in its place, since who takes
part is known to the cohort (Kairouz, Liu, Steinke 2021, section 2).

``mechanism=central`` trusts the coordinator: it clips and adds the client-level noise, so
against itself nothing at client level is claimed. ``skellam`` and ``discrete_gaussian`` have
each client add a share of integer noise to its encoded vector; with ``aggregation=secure``
nobody sees more than their sum.

What a plan claims for each release is computed by `PrivacyPlan.training` and
`PrivacyPlan.evaluating`, from the plan alone; the statements and their proofs are in
`docs/privacy.md`.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import rfc8785

from tacit.privacy import claims, validate
from tacit.privacy.claims import Claim, SummedNoise
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.errors import ConfigError
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.units import ClientUnit, Evaluation, RecordUnit, Unit

LAWS = ("skellam", "discrete_gaussian")
MECHANISMS = ("central", *LAWS)
AGGREGATIONS = ("plain", "secure", "shortcut")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """A run's whole privacy mechanism, frozen and digestible.

    Attributes:
        population: clients that may be drawn.
        sampling_rate: probability with which each joins a cohort (Poisson sampling).
        rounds: training rounds planned.
        mechanism: "central", where the coordinator adds the client-level noise, or the law
            of the noise that clients add in shares: "skellam" or "discrete_gaussian".
        aggregation: "plain" shows each vector to the coordinator, "secure" only their sum.
            "shortcut" is a simulation's: the sum that "secure" makes, without the masks.
        client: client-level DP, or None.
        record: record-level DP, or None.
        client_delta: delta of client-level epsilons.
        record_delta: delta of record-level epsilons.
        weight_cap: None for uniform weights; else a client's update is scaled, after
            clipping, by min(examples, cap) / cap <= 1, which leaves the sensitivity alone.
        minimum_survivors: fewest accepted updates with which a sum is released.
        evaluation: federated evaluation, or None.
        noise_source: "os-csprng", or "seeded-simulation" which protects nobody.
        rules: of a cohort that adds noise in shares; None for "central".
        updates: how an update becomes integers; None for "central".
        counts: the same for the counts of a federated evaluation.
        projection: L2 bound to which updates are projected where no client-level clip
            bounds them, so that they fit the words; None otherwise.
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
    rules: Rules | None = None
    updates: Lattice | None = None
    counts: Lattice | None = None
    projection: float | None = None
    relation: str = "add-or-remove-one"
    sampling: str = "poisson"

    def __post_init__(self) -> None:
        validate.at_least("clients", self.population, 1)
        validate.rate("cohort/clients", self.sampling_rate)
        validate.at_least("rounds", self.rounds, 1)
        validate.one_of("mechanism", self.mechanism, MECHANISMS)
        validate.one_of("aggregation", self.aggregation, AGGREGATIONS)
        validate.one_of("relation", self.relation, ("add-or-remove-one", "zero-out"))
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
        if self.mechanism in LAWS:
            self._check_shares()
        elif self.aggregation != "plain":
            raise ConfigError(
                f"aggregation={self.aggregation} needs noise in shares, and "
                f"mechanism={self.mechanism} adds it where vectors are seen",
                "use mechanism=skellam, or aggregation=plain",
            )
        elif any((self.rules, self.updates, self.counts, self.projection)):
            # Else records would seem protected by shares of noise, and none would be added.
            raise ConfigError(f"mechanism={self.mechanism} has no rules, lattices or projection")

    def _check_shares(self) -> None:
        """Rules, lattices and units fit one another, and claim no more than is added."""
        if self.rules is None or self.updates is None:
            raise ConfigError(f"mechanism={self.mechanism} needs rules and a lattice")
        if (self.evaluation is None) != (self.counts is None):
            raise ConfigError(
                f"mechanism={self.mechanism} needs a lattice for its evaluation's counts"
            )
        if self.rules.minimum != self.minimum_survivors:
            raise ConfigError(f"minimum_survivors={self.minimum_survivors} isn't the rules'")
        if self.relation != "zero-out":
            raise ConfigError(
                f"relation={self.relation} isn't the one of noise in shares", "it is zero-out"
            )
        if self.rules.largest > self.population:
            # A share is at least one of `largest`, and claimed to be one of ``population``.
            raise ConfigError(
                f"largest={self.rules.largest} of a cohort must be at most "
                f"clients={self.population}"
            )
        self._check_noise(self.rules, self.updates)
        if self.client is None and self.counts is not None and self.evaluation is not None:
            self._check_counts(self.counts, self.evaluation)

    def _check_noise(self, rules: Rules, updates: Lattice) -> None:
        """Updates are bounded, with at least the noise that the units' multipliers stand for."""
        bounded = updates.record_norm > 0 and self.projection is not None and self.projection > 0
        one_step = self.record is not None and self.record.steps == 1
        if self.client is None and not (bounded and one_step):
            raise ConfigError(
                f"mechanism={self.mechanism} needs updates that are bounded",
                "use privacy.client=flat, or one local step of DP-SGD (local.steps=1), or "
                "mechanism=central aggregation=plain",
            )
        deviation = math.sqrt(updates.variance)
        least = updates.l2 * self.client.noise_multiplier if self.client else 0.0
        if self.client is None and self.record is not None:
            # With cohorts of too few in 2% of the rounds at most, as plans are made, their mean
            # is at least 98% of the fewest (Markov): no rate makes a noise multiplier mean less.
            cohort = max(self.sampling_rate * self.population, 0.98 * rules.minimum)
            least = math.sqrt(cohort) * self.record.noise_multiplier * updates.record_l2
        if deviation < least * (1 - 1e-9):
            raise ConfigError(f"noise of deviation={deviation:g} must be at least {least:g}")
        smallest = self.smallest_share(updates)
        if self.mechanism == "discrete_gaussian" and 0 < smallest < 9:
            raise ConfigError(
                f"shares of variance={smallest:.3g} are too small: a sum of discrete Gaussians "
                "is only one if each is wide",
                "use mechanism=skellam, secure.dropout=0, or secure.bits=32",
            )

    def _check_counts(self, counts: Lattice, evaluation: Evaluation) -> None:
        """One record moves the counts by no more than the lattice says; 0 says the whole ball."""
        least = counts.norm / evaluation.cap
        if 0 < counts.record_norm < least * (1 - 1e-9):
            raise ConfigError(
                f"counts.record_norm={counts.record_norm:g} must be at least {least:g}, what one "
                f"of evaluation.cap={evaluation.cap} records moves them by"
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

        With noise in shares it is added after the projection, which doesn't enlarge what a
        record contributes, and its sum is the same for any number of survivors.
        """
        if self.record is None or self.client is not None or self.record.steps != 1:
            return None
        if self.updates is not None:
            return math.sqrt(self.updates.variance) / self.updates.record_l2
        if self.minimum_survivors < 1:
            return None
        return math.sqrt(self.minimum_survivors) * self.record.noise_multiplier

    def noised_by_shares(self) -> bool:
        """Whether a record is protected by the shares of noise, not by noise in DP-SGD."""
        return self.client is None and self.updates is not None

    def smallest_share(self, lattice: Lattice) -> float:
        """Variance of the smallest share or layer that any client adds."""
        if self.rules is None:
            return 0.0
        most = self.rules.largest
        return lattice.variance / (most * most if self.rules.dropout else most)

    def training(self) -> list[Claim]:
        """What one training round claims; a unit without DP is there with no event."""
        return self._said(self._training())

    def _training(self) -> list[Claim]:
        unit = self.record
        z = unit.noise_multiplier if unit else 0.0
        rate, steps = (unit.sampling_rate, unit.steps) if unit else (1.0, 1)
        if self.updates is None:
            level = self.client.noise_multiplier if self.client else 0.0
            rows = claims.central_client(level, self.sampling_rate)
        elif self.client is None:
            return [
                *claims.summed_client(self._summed(_silent(self.updates)), 1.0, *self._who()),
                *claims.summed_record(self._summed(self.updates), rate, *self._who()),
            ]
        else:
            rows = claims.summed_client(
                self._summed(self.updates), self.sampling_rate, *self._who()
            )
        rows += claims.local_record("local", z, rate, steps, claims.LOCAL)
        rows += claims.local_record("coordinator", z, rate, steps, claims.LOCAL)
        summed = self.summed_noise()
        if summed:
            # Only rounds in which the record's client takes part depend on it.
            return rows + claims.local_record("public", summed, rate, 1, claims.SUMMED)
        return rows + claims.local_record("public", z, rate, steps, claims.LOCAL)

    def evaluating(self) -> list[Claim]:
        """What one federated evaluation claims.

        At record level each client adds its own noise of ``record.noise_multiplier`` times
        the record-level sensitivity, without sampling, so the local claim holds there too;
        where records are protected by shares of noise, those of the counts protect them.
        """
        return self._said(self._evaluating())

    def _evaluating(self) -> list[Claim]:
        if self.evaluation is None:
            return []
        if self.counts is None:
            rows = claims.central_client(self.evaluation.noise_multiplier, self.sampling_rate)
        else:
            rows = claims.summed_client(self._summed(self.counts), self.sampling_rate, *self._who())
            if self.noised_by_shares():
                return rows + claims.summed_record(self._summed(self.counts), 1.0, *self._who())
        z = self.record.noise_multiplier if self.record else 0.0
        for adversary in claims.ADVERSARIES:
            rows += claims.local_record(adversary, z, 1.0, 1, claims.LOCAL_COUNTS)
        return rows

    def _said(self, rows: list[Claim]) -> list[Claim]:
        """The rows, with what a simulation's shortcut takes for granted."""
        if self.aggregation != "shortcut":
            return rows
        hidden = ("coordinator", "collusion")
        return [
            replace(row, assumes=f"{claims.SHORTCUT}; {row.assumes}")
            if row.adversary in hidden and row.event is not None
            else row
            for row in rows
        ]

    def _summed(self, lattice: Lattice) -> SummedNoise:
        assert self.rules is not None
        # A share and as many layers as may drop, of each client.
        shares = self.rules.largest * (1 + self.rules.layers(self.rules.largest))
        return SummedNoise(self.mechanism, lattice, self.smallest_share(lattice), shares)

    def _who(self) -> tuple[bool, float, int]:
        """Whether nobody sees one vector, the largest part that colludes, the population."""
        assert self.rules is not None
        part = self.rules.collusion / self.rules.minimum
        return self.aggregation != "plain", part, self.population


def _silent(lattice: Lattice) -> Lattice:
    """The lattice with no noise: nothing is claimed for this unit."""
    return replace(lattice, variance=0.0)


@functools.lru_cache(maxsize=64)
def _digest(plan: PrivacyPlan) -> str:
    return hashlib.sha256(rfc8785.dumps(asdict(plan))).hexdigest()
