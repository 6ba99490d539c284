"""What a plan will have spent when it is done, and which plan spends no more than that.

What a run of a plan comes to is `tacit.privacy.budget.planned`: the claims of the plan itself,
composed by the accountant that composes a run's leaves. `solve` finds the one number among
epsilon, noise multiplier, rounds and cohort that was left open.

Guarantees: whatever `solve` and `record_noise` return was composed itself and is within the
target; a noise multiplier is a multiple of 1/10,000 and the next smaller one exceeds the
target, one round or one client more does too, as far as epsilon is monotone (the round-off of
the convolutions can shift that by one step of the last digit).
It doesn't guarantee what a run charges when a round fails: each attempt is charged again, and
that isn't in a plan. Nor does it hold where parameters are chosen in view of earlier releases.

A *family* is what a plan is when its numbers change; `tacit.cli.plan` makes one from a run's
configuration, so that a plan's lattice, rules and cohort are those of the run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from tacit.privacy import participation, search, validate
from tacit.privacy.accountant import Accountant
from tacit.privacy.budget import planned
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import SampledGaussian
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import ClientUnit

MOST_ROUNDS = 1_000_000
_NOISE = (0.8, 0.9, 1.1, 1.25, 1.5)


@dataclass(frozen=True, slots=True)
class Point:
    """The numbers of a plan that are traded against each other.

    Attributes:
        noise_multiplier: of the client level.
        rounds: training rounds.
        cohort: expected clients in a round.
    """

    noise_multiplier: float
    rounds: int
    cohort: float


Family = Callable[[Point], PrivacyPlan]
"""The plan at a point; raises `ConfigError` where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is given; the one of the last four that is None is asked for.

    Attributes:
        population: clients that may be drawn.
        epsilon: most that may be spent: client level, against the public, amplified.
        noise_multiplier: noise over sensitivity.
        rounds: training rounds.
        cohort: expected clients in a round.

    Raises:
        ConfigError: none is asked for, or more than one, or a number is out of range.
    """

    population: int
    epsilon: float | None = None
    noise_multiplier: float | None = None
    rounds: int | None = None
    cohort: float | None = None

    def __post_init__(self) -> None:
        validate.at_least("population", self.population, 1)
        for name in ("epsilon", "noise_multiplier"):
            value = getattr(self, name)
            if value is not None:
                validate.positive(name, value)
        if self.rounds is not None:
            validate.at_least("rounds", self.rounds, 1)
        if self.cohort is not None and not 0 < self.cohort <= self.population:
            raise ConfigError(
                f"cohort={self.cohort:g} must be in (0, population={self.population}]"
            )
        self._check_determined()

    def _check_determined(self) -> None:
        values = [(f"--{f.name.replace('_', '-')}", getattr(self, f.name)) for f in fields(self)]
        given = [f"{name}={value:g}" for name, value in values[1:] if value is not None]
        left = [name for name, value in values[1:] if value is None]
        if not left:
            raise ConfigError(
                f"{', '.join(given)} leave nothing to solve for",
                "leave out the one that is asked for; --epsilon, if you want to know it",
            )
        if len(left) > 1:
            raise ConfigError(
                f"{' and '.join(left)} can't both be solved for"
                if len(left) == 2
                else f"{', '.join(left)} can't all be solved for",
                "give --cohort and two of --epsilon, --noise-multiplier and --rounds, or all "
                "three and no --cohort",
            )

    @property
    def asked(self) -> str:
        """Which of the four is None."""
        names = ("epsilon", "noise_multiplier", "rounds", "cohort")
        return next(name for name in names if getattr(self, name) is None)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A neighbour of a plan.

    Attributes:
        change: in words.
        point: its numbers.
        epsilon: client level, against the public, amplified; None where nothing is claimed or
            there is no such plan.
        noise: of a round's average, as a multiple of the plan's, at the same clip.
        refused: why there is no such plan, or None.
    """

    change: str
    point: Point
    epsilon: float | None
    noise: float
    refused: str | None = None


def public_epsilon(plan: PrivacyPlan, amplified: bool = True) -> float | None:
    """Client level, against the public; None where nothing is claimed."""
    return planned(plan).epsilon("client", "public", amplified)


def solve(question: Question, family: Family) -> Point:
    """The point at which a plan spends ``question.epsilon``, or just less.

    Where epsilon itself is asked for, that is the point given.

    Args:
        question: leaves one number open.
        family: plans by their numbers.

    Raises:
        ConfigError: no plan in the family spends as little.

    Example:
        >>> from tacit.privacy.planner import central
        >>> asked = Question(population=300, epsilon=5.4, rounds=60, cohort=60)
        >>> solve(asked, central(300, delta=300**-1.1)).noise_multiplier
        1.1906
    """
    q = question
    point = Point(q.noise_multiplier or 1.0, q.rounds or 1, q.cohort or float(q.population))
    if q.epsilon is None:
        family(point)
        return point
    if q.noise_multiplier is None:
        over = _over(q.epsilon, lambda k: family(replace(point, noise_multiplier=k / search.STEPS)))
        return replace(point, noise_multiplier=search.least(over, f"epsilon={q.epsilon:g}"))
    if q.rounds is None:
        over = _over(q.epsilon, lambda n: family(replace(point, rounds=n)))
        most = search.most(over, MOST_ROUNDS + 1, "rounds", q.epsilon)
        if most > MOST_ROUNDS:
            raise ConfigError(
                f"epsilon={q.epsilon:g} isn't spent by rounds={MOST_ROUNDS}",
                "lower --epsilon or --noise-multiplier, or give --rounds",
            )
        return replace(point, rounds=most)
    over = _over(q.epsilon, lambda n: family(replace(point, cohort=float(n))))
    # A cohort that no plan has counts as affordable on the way, and is refused in the end.
    affordable = search.otherwise(over, -search.FAR)
    most = search.most(affordable, q.population, "cohort", q.epsilon)
    over(most)
    return replace(point, cohort=float(most))


def central(population: int, delta: float) -> Family:
    """Plans of ``mechanism=central`` with a fixed clip, without records.

    Args:
        population: clients that may be drawn.
        delta: of the client level.
    """

    def plan(point: Point) -> PrivacyPlan:
        return PrivacyPlan(
            population=population,
            sampling_rate=point.cohort / population,
            rounds=point.rounds,
            client=ClientUnit(1.0, point.noise_multiplier),
            record=None,
            client_delta=delta,
            record_delta=delta,
            minimum_survivors=0,
            noise_source="os-csprng",
        )

    return plan


def alternatives(point: Point, population: int, family: Family) -> list[Alternative]:
    """Half and twice the rounds and the cohort, and other noise, each with its epsilon."""
    z, n, c = point.noise_multiplier, point.rounds, point.cohort
    wanted = [("rounds / 2", replace(point, rounds=n // 2))] if n > 1 else []
    wanted.append(("rounds x 2", replace(point, rounds=2 * n)))
    if c > 1:
        wanted.append(("cohort / 2", replace(point, cohort=c / 2)))
    if 2 * c <= population:
        wanted.append(("cohort x 2", replace(point, cohort=2 * c)))
    wanted += [(f"noise x {f:g}", replace(point, noise_multiplier=round(f * z, 6))) for f in _NOISE]
    return [_alternative(change, other, point, family) for change, other in wanted]


def _alternative(change: str, other: Point, base: Point, family: Family) -> Alternative:
    noise = other.noise_multiplier * base.cohort / (base.noise_multiplier * other.cohort)
    try:
        return Alternative(change, other, public_epsilon(family(other)), noise)
    except ConfigError as error:
        return Alternative(change, other, None, noise, error.message)


def course(point: Point, rounds: Sequence[int], family: Family) -> list[tuple[int, float, float]]:
    """For the plans that stop earlier or later: rounds, epsilon, epsilon unamplified.

    Plans of which nothing is claimed are left out.
    """
    found = []
    for n in rounds:
        spent = planned(family(replace(point, rounds=n)))
        values = [spent.epsilon("client", "public", amplified) for amplified in (True, False)]
        if values[0] is not None and values[1] is not None:
            found.append((n, values[0], values[1]))
    return found


def record_noise(plan: PrivacyPlan, target: float) -> float:
    """Smallest record-level noise multiplier that keeps a record within ``target``.

    Against everybody: those who see its client's own vectors, amplified by the secrecy of the
    client's draws of records. Against the public it is then no more.

    Args:
        plan: with record-level DP, of whatever noise.
        target: epsilon at ``plan.record_delta``, > 0.

    Raises:
        ConfigError: the plan has no record level, or the target is out of reach.
    """
    validate.positive("record_epsilon", target)
    unit = plan.record
    if unit is None:
        raise ConfigError(f"record_epsilon={target:g} needs a plan with record-level DP")
    takes = participation.bound(plan.rounds, plan.sampling_rate, plan.population)
    rate, runs = unit.sampling_rate, unit.steps * takes

    def over(k: int) -> float:
        accountant = Accountant(plan.record_delta)
        accountant.compose(SampledGaussian(k / search.STEPS, rate, runs))
        return _compared(accountant.epsilon(), target)

    return search.least(functools.cache(over), f"record_epsilon={target:g}")


def _over(target: float, plan: Callable[[int], PrivacyPlan]) -> search.Over:
    return functools.cache(lambda n: _compared(public_epsilon(plan(n)), target))


def _compared(value: float | None, target: float) -> float:
    if value is None or not math.isfinite(value):
        return search.FAR
    if value == 0:
        return -search.FAR
    # Never 0, so that a search doesn't stop before it has seen both sides.
    return max(-search.FAR, min(search.FAR, math.log(value / target))) or -1e-12
