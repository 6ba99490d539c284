"""From the options of ``tacit plan`` to a plan and what is said about it.

A plan is the one that `tacit.configs.planning` makes of the run's configuration, so that its
lattice, its rules and its smallest and largest cohort are those that the run would have.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from tacit.configs.build import compose
from tacit.configs.planning import privacy_plan
from tacit.configs.spec import RunSpec
from tacit.privacy import participation, validate
from tacit.privacy.accountant import version
from tacit.privacy.budget import planned
from tacit.privacy.errors import ConfigError
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.planner import (
    Family,
    Point,
    Question,
    alternatives,
    record_noise,
    solve,
)

# In the words of a run's configuration; "central" is one of them.
MECHANISMS = {
    "gaussian": "central",
    "central": "central",
    "skellam": "skellam",
    "discrete_gaussian": "discrete_gaussian",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options, checked against each other; their ranges are checked where they are used."""

    population: int
    cohort: float | None
    rounds: int | None
    epsilon: float | None
    noise_multiplier: float | None
    delta: float | None
    mechanism: str
    dimension: int | None
    bits: int | None
    minimum_survivors: int | None
    collusion: int | None
    dropout: float | None
    record_sampling_rate: float | None
    record_steps: int | None
    record_noise_multiplier: float | None
    record_epsilon: float | None
    record_delta: float | None

    def __post_init__(self) -> None:
        validate.one_of("mechanism", self.mechanism, MECHANISMS)
        self._check_shares()
        self._check_record()
        for name in ("delta", "record_delta"):
            value = getattr(self, name)
            if value is not None:
                validate.open_unit(name, value)

    @property
    def central(self) -> bool:
        """Whether the coordinator adds the noise."""
        return MECHANISMS[self.mechanism] == "central"

    @property
    def records(self) -> bool:
        """Whether record-level DP is planned too."""
        return self.record_sampling_rate is not None

    def _given(self, *names: str) -> list[str]:
        values = [(name, getattr(self, name)) for name in names]
        return [f"{name}={value:g}" for name, value in values if value is not None]

    def _check_shares(self) -> None:
        names = ("dimension", "bits", "minimum_survivors", "collusion", "dropout")
        given = self._given(*names)
        if self.central and given:
            raise ConfigError(
                f"{', '.join(given)}: mechanism={self.mechanism} adds no noise in shares, so "
                "there is nothing to collude against or to size",
                "use --mechanism skellam, or leave them out",
            )
        if self.central:
            return
        if self.dimension is None:
            raise ConfigError(
                f"mechanism={self.mechanism} needs --dimension",
                "the number of parameters that are trained: the noise depends on it",
            )
        validate.at_least("dimension", self.dimension, 1)

    def _check_record(self) -> None:
        noise = self._given("record_noise_multiplier", "record_epsilon")
        given = [*noise, *self._given("record_steps", "record_delta")]
        if not self.records:
            if given:
                raise ConfigError(f"{', '.join(given)} needs --record-sampling-rate")
            return
        if len(noise) != 1:
            raise ConfigError(
                f"{' and '.join(noise)} are both given"
                if noise
                else f"record_sampling_rate={self.record_sampling_rate:g} needs the noise",
                "give one of --record-noise-multiplier and --record-epsilon",
            )
        if self.record_noise_multiplier is not None:
            validate.positive("record_noise_multiplier", self.record_noise_multiplier)

    def overrides(self, point: Point, delta: float | None, noise: float | None) -> list[str]:
        """The settings of ``tacit simulate`` that make this plan.

        Args:
            point: of the plan.
            delta: of both units. A run's own default is a smaller one for records, whose number
                its task knows.
            noise: the record level's noise multiplier.
        """
        mechanism = MECHANISMS[self.mechanism]
        steps = 1 if self.record_steps is None else self.record_steps
        made: dict[str, object] = {
            "clients": self.population,
            "cohort": f"{point.cohort!r}".removesuffix(".0"),
            "rounds": point.rounds,
            "delta": delta,
            "mechanism": mechanism,
            "aggregation": "plain" if self.central else "secure",
            "minimum_survivors": self.minimum_survivors,
            "secure.bits": self.bits,
            "secure.dropout": self.dropout,
            "secure.collusion": self.collusion,
            "privacy.client": "flat",
            "privacy.client.noise_multiplier": point.noise_multiplier,
            "privacy.record": "dpsgd" if self.records else "none",
            "privacy.record.noise_multiplier": noise,
            "privacy.record.sampling_rate": self.record_sampling_rate,
            "local.steps": steps if self.records else None,
        }
        return [f"{key}={value}" for key, value in made.items() if value is not None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan that was found, and how to ask about its neighbours."""

    asked: Asked
    solved: str
    point: Point
    plan: PrivacyPlan
    family: Family
    rows: list[dict[str, Any]]
    record_noise: float | None

    def row(self, unit: str, adversary: str, amplified: bool) -> dict[str, Any]:
        """One row of the table."""
        key = (unit, adversary, amplified)
        return next(r for r in self.rows if (r["unit"], r["adversary"], r["amplified"]) == key)


def answered(asked: Asked) -> Answer:
    """The plan that was asked for.

    Raises:
        ConfigError: the options leave nothing open or too much, or no plan fits them.
    """
    question = Question(
        population=asked.population,
        epsilon=asked.epsilon,
        noise_multiplier=asked.noise_multiplier,
        rounds=asked.rounds,
        cohort=asked.cohort,
    )
    noise = asked.record_noise_multiplier
    start = Point(1.0, 1, float(asked.population))
    base = compose(
        ["experiment=none", *asked.overrides(start, asked.delta, 1.0 if asked.records else None)]
    )
    family = _family(asked, base, noise)
    point = solve(question, family)
    if asked.record_epsilon is not None:
        noise = record_noise(family(point), asked.record_epsilon)
        family = _family(asked, base, noise)
    found = family(point)
    rows = planned(found).table()
    return Answer(asked, question.asked, point, found, family, rows, noise)


def _family(asked: Asked, base: RunSpec, noise: float | None) -> Family:
    """The plan that a run of ``base`` would have with other numbers."""
    # What a noised sum of gradients is divided by costs no epsilon.
    record = replace(base.privacy.record, denominator=1.0, noise_multiplier=noise or 1.0)

    def made(point: Point) -> PrivacyPlan:
        client = replace(base.privacy.client, noise_multiplier=point.noise_multiplier)
        spec = replace(
            base,
            cohort=float(point.cohort),
            rounds=point.rounds,
            privacy=replace(base.privacy, client=client, record=record),
        )
        found = privacy_plan(spec, None, asked.dimension or 1)
        return replace(found, record_delta=asked.record_delta or found.client_delta)

    return made


def described(answer: Answer) -> dict[str, Any]:
    """The whole answer as one JSON document."""
    asked, point, plan = answer.asked, answer.point, answer.plan
    public = answer.row("client", "public", True)
    others = alternatives(point, asked.population, answer.family)
    document: dict[str, Any] = {
        "solved": answer.solved,
        "epsilon": _up(public["epsilon"]),
        "epsilon_unamplified": _up(answer.row("client", "public", False)["epsilon"]),
        "noise_multiplier": point.noise_multiplier,
        "rounds": point.rounds,
        "cohort": point.cohort,
        "population": asked.population,
        "sampling_rate": plan.sampling_rate,
        "delta": plan.client_delta,
        "mechanism": asked.mechanism,
        "accountant": version(),
        "method": public["method"],
        "cross_check": public["cross_check"],
        "rows": answer.rows,
        "alternatives": [
            {"change": a.change, **asdict(a.point), "epsilon": a.epsilon, "noise": a.noise}
            | ({"refused": a.refused} if a.refused else {})
            for a in others
        ],
        "overrides": asked.overrides(point, plan.client_delta, answer.record_noise),
    }
    return document | shares(plan) | _record(answer)


def _up(value: float | None) -> float | None:
    """A headline figure, rounded up to three decimals; the rows have the whole number."""
    return None if value is None else math.ceil(value * 1000.0) / 1000.0


def shares(plan: PrivacyPlan) -> dict[str, Any]:
    """What noise in shares adds to the document."""
    if plan.rules is None or plan.updates is None:
        return {}
    return {
        "dimension": plan.updates.dimension,
        "bits": plan.updates.bits,
        "noise_deviation": plan.updates.variance**0.5,
        "sensitivity": plan.updates.l2,
        "minimum_survivors": plan.rules.minimum,
        "largest_cohort": plan.rules.largest,
        "collusion": plan.rules.collusion,
        "dropout": plan.rules.dropout,
    }


def _record(answer: Answer) -> dict[str, Any]:
    """What record-level DP adds to the document."""
    plan = answer.plan
    if plan.record is None:
        return {}
    return {
        "record_epsilon": answer.row("record", "local", True)["epsilon"],
        "record_epsilon_unamplified": answer.row("record", "local", False)["epsilon"],
        "record_epsilon_public": answer.row("record", "public", True)["epsilon"],
        "record_noise_multiplier": plan.record.noise_multiplier,
        "record_sampling_rate": plan.record.sampling_rate,
        "record_steps": plan.record.steps,
        "record_delta": plan.record_delta,
        "record_participations": participation.bound(
            plan.rounds, plan.sampling_rate, plan.population
        ),
    }
