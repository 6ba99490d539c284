"""The planner against the ledger it foretells, and the solver against both sides of its answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy import participation, search
from tacit.privacy.accountant import epsilon
from tacit.privacy.budget import planned
from tacit.privacy.discrete.lattice import Need, sized
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import SampledGaussian
from tacit.privacy.ledger import replay
from tacit.privacy.log import leaves
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.planner import (
    Family,
    Point,
    Question,
    alternatives,
    central,
    course,
    public_epsilon,
    record_noise,
    solve,
)
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.units import ClientUnit, Evaluation, RecordUnit

BASE = central(300, 300**-1.1)(Point(1.2, 12, 60.0))
RECORDS = replace(BASE, record=RecordUnit(1.0, 0.9, 0.1, 3, 5.0), record_delta=1e-6)
EVALUATED = replace(RECORDS, evaluation=Evaluation(5, 10, 4.0, 3.0))


def shared(law: str = "skellam", bits: int = 16, dropout: float = 0.0) -> Family:
    """Noise in shares over 300 clients, two of which may collude."""

    def plan(point: Point) -> PrivacyPlan:
        minimum, largest = 20, 110
        need = Need(
            dimension=1000,
            rotated=True,
            clients=largest,
            noise_multiplier=point.noise_multiplier,
            conditional=True,
        )
        return PrivacyPlan(
            population=300,
            sampling_rate=point.cohort / 300,
            rounds=point.rounds,
            client=ClientUnit(1.0, point.noise_multiplier),
            record=None,
            client_delta=1e-5,
            record_delta=1e-5,
            minimum_survivors=minimum,
            noise_source="os-csprng",
            mechanism=law,
            aggregation="secure",
            rules=Rules(minimum, largest, dropout, 2),
            updates=sized(need, bits),
            relation="zero-out",
        )

    return plan


def ledger_of(plan: PrivacyPlan) -> list[dict[str, Any]]:
    """The charges of a run, one by one, with the bounds that `server.cohort.Sampler` charges."""
    found, evaluations = [], 0
    for n in range(1, plan.rounds + 1):
        every = plan.evaluation.every if plan.evaluation else plan.rounds + 1
        purposes: list[tuple[leaves.Purpose, list[Any], int]] = [("train", plan.training(), n)]
        if plan.evaluation and (n % every == 0 or n == plan.rounds):
            evaluations += 1
            purposes.append(("evaluate", plan.evaluating(), evaluations))
        found += [
            leaves.charge(
                run="r",
                round=n,
                attempt=0,
                purpose=purpose,
                plan_digest=plan.digest(),
                cohort="",
                claims=claims,
                participations=participation.bound(draws, plan.sampling_rate, plan.population),
                noise_source=plan.noise_source,
            )
            for purpose, claims, draws in purposes
        ]
    return found


# The same figures as a ledger's


@pytest.mark.parametrize(
    "plan",
    [
        BASE,
        replace(BASE, client=None, record=RecordUnit(1.0, 0.9, 0.1, 1, 5.0), minimum_survivors=50),
        RECORDS,
        EVALUATED,
        replace(EVALUATED, rounds=10),
        shared()(Point(1.5, 9, 60.0)),
        shared("discrete_gaussian", 32)(Point(1.5, 9, 60.0)),
    ],
    ids=["client", "sum", "records", "evaluated", "evaluated last", "skellam", "discrete"],
)
def test_what_a_plan_spends_is_what_its_ledger_comes_to(plan: PrivacyPlan) -> None:
    deltas = {"client": plan.client_delta, "record": plan.record_delta}
    charged, ahead = replay(ledger_of(plan), deltas).table(), planned(plan).table()
    assert len(charged) == len(ahead)
    for there, here in zip(charged, ahead, strict=True):
        assert set(there) == set(here)
        for name, value in there.items():
            # Round after round is a chain of convolutions, which rounds off differently.
            loose = isinstance(value, float)
            assert here[name] == (pytest.approx(value, rel=1e-6) if loose else value), name


@pytest.mark.parametrize(
    ("q", "z", "rounds", "quoted"),
    [
        (0.01, 1.0, 1_000, 2.125),
        (0.01, 1.0, 10_000, 6.907),
        (0.01, 1.0, 100_000, 27.673),
        (0.05, 0.7, 200, 12.117),
    ],
)
def test_known_figures(q: float, z: float, rounds: int, quoted: float) -> None:
    family = central(10_000, 1e-6)
    got = public_epsilon(family(Point(z, rounds, q * 10_000)))
    assert got is not None
    # Within half a percent and not below; the quoted figures are rounded to three decimals.
    assert quoted - 0.0005 <= got <= quoted * 1.005


def test_without_amplification_it_is_the_gaussian_of_all_rounds() -> None:
    got = public_epsilon(BASE, amplified=False)
    assert got == pytest.approx(epsilon([SampledGaussian(1.2, 1.0, 12)], 300**-1.1).value, rel=1e-9)
    full = central(300, 1e-5)(Point(3.0, 12, 300.0))
    assert public_epsilon(full) == pytest.approx(public_epsilon(full, amplified=False), rel=1e-9)


def test_a_plan_without_noise_claims_nothing() -> None:
    plan = replace(BASE, client=ClientUnit(1.0, 0.0))
    assert public_epsilon(plan) is None


# Solving


def test_epsilon_is_asked_for_at_the_point_that_is_given() -> None:
    asked = Question(population=300, noise_multiplier=1.2, rounds=12, cohort=60)
    assert solve(asked, central(300, 1e-5)) == Point(1.2, 12, 60)
    assert asked.asked == "epsilon"


def spent(family: Family, point: Point) -> float:
    value = public_epsilon(family(point))
    assert value is not None
    return value


@settings(deadline=None, max_examples=10)
@given(st.floats(0.3, 20.0), st.sampled_from([0.05, 0.3, 1.0]), st.integers(1, 300))
def test_the_smallest_noise_is_within_the_target_and_the_next_is_not(
    target: float, q: float, rounds: int
) -> None:
    family = central(1000, 1e-5)
    asked = Question(population=1000, epsilon=target, rounds=rounds, cohort=q * 1000)
    found = solve(asked, family)
    z = found.noise_multiplier
    assert z == round(z, 4)
    assert spent(family, found) <= target
    assert spent(family, replace(found, noise_multiplier=z - 1e-4)) > target


@settings(deadline=None, max_examples=10)
@given(st.floats(1.0, 20.0), st.floats(0.7, 5.0), st.sampled_from([0.05, 0.3, 1.0]))
def test_the_most_rounds_are_within_the_target_and_one_more_is_not(
    target: float, z: float, q: float
) -> None:
    family = central(1000, 1e-5)
    asked = Question(population=1000, epsilon=target, noise_multiplier=z, cohort=q * 1000)
    if spent(family, Point(z, 1, q * 1000)) > target:
        with pytest.raises(ConfigError, match="less than what rounds=1 spends"):
            solve(asked, family)
        return
    found = solve(asked, family)
    assert spent(family, found) <= target < spent(family, replace(found, rounds=found.rounds + 1))


@settings(deadline=None, max_examples=5)
@given(st.floats(1.0, 8.0), st.floats(0.8, 5.0), st.integers(1, 200))
def test_the_largest_cohort_is_within_the_target_and_one_more_is_not(
    target: float, z: float, rounds: int
) -> None:
    family = central(1000, 1e-5)
    found = solve(
        Question(population=1000, epsilon=target, noise_multiplier=z, rounds=rounds), family
    )
    assert spent(family, found) <= target
    if found.cohort < 1000:
        assert spent(family, replace(found, cohort=found.cohort + 1)) > target


def test_solving_for_each_number_comes_back_to_the_same_plan() -> None:
    family, point = central(2000, 1e-6), Point(1.0, 200, 40.0)
    target = spent(family, point)
    given_: dict[str, Any] = {
        "epsilon": target,
        "noise_multiplier": 1.0,
        "rounds": 200,
        "cohort": 40.0,
    }
    for name in ("noise_multiplier", "rounds", "cohort"):
        asked = Question(population=2000, **{**given_, name: None})
        assert asked.asked == name
        assert solve(asked, family) == point


@pytest.mark.parametrize("law", ["skellam", "discrete_gaussian"])
def test_integer_noise_is_solved_for_with_its_own_lattice(law: str) -> None:
    family = shared(law, 32)
    asked = Question(population=300, epsilon=3.0, rounds=20, cohort=60)
    found = solve(asked, family)
    assert spent(family, found) <= 3.0
    assert spent(family, replace(found, noise_multiplier=found.noise_multiplier - 1e-4)) > 3.0
    # The proof by Renyi divergences is coarser than the Gaussian's, so it takes more noise.
    gaussian = solve(asked, central(300, 1e-5))
    assert 1.0 < found.noise_multiplier / gaussian.noise_multiplier < 1.3


def test_noise_that_fits_no_word_is_refused_and_not_rounded() -> None:
    asked = Question(population=300, epsilon=0.05, rounds=1000, cohort=60)
    with pytest.raises(ConfigError, match="don't fit words of 16 bits"):
        solve(asked, shared(bits=16))
    assert spent(shared(bits=32), solve(asked, shared(bits=32))) <= 0.05


def test_shares_that_are_too_small_are_refused_where_they_are() -> None:
    family = shared("discrete_gaussian", 16, 0.1)
    with pytest.raises(ConfigError, match="shares of variance"):
        solve(Question(population=300, noise_multiplier=0.02, rounds=1, cohort=60), family)
    # Too little noise for any plan isn't in the way of a plan with more.
    found = solve(Question(population=300, epsilon=3.0, rounds=20, cohort=60), family)
    assert spent(family, found) <= 3.0


@pytest.mark.parametrize(("target", "words"), [(1e-9, "more than 10000"), (1e9, "less than 0.01")])
def test_a_target_no_sensible_noise_meets_is_refused(target: float, words: str) -> None:
    asked = Question(population=300, epsilon=target, rounds=10, cohort=300)
    with pytest.raises(ConfigError, match=words):
        solve(asked, central(300, 1e-5))


def test_rounds_without_end_are_refused() -> None:
    asked = Question(population=300, epsilon=1000.0, noise_multiplier=5000.0, cohort=300)
    with pytest.raises(ConfigError, match="isn't spent by rounds=1000000"):
        solve(asked, central(300, 1e-5))


# The question


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"population": 0, "epsilon": 1.0, "rounds": 1, "cohort": 1}, "population=0"),
        ({"epsilon": 0.0, "rounds": 1, "cohort": 1}, "epsilon=0.0 must be finite"),
        ({"epsilon": math.nan, "rounds": 1, "cohort": 1}, "epsilon=nan"),
        ({"noise_multiplier": -1.0, "rounds": 1, "cohort": 1}, "noise_multiplier=-1.0"),
        ({"noise_multiplier": 1.0, "rounds": 0, "cohort": 1}, "rounds=0 must be at least 1"),
        ({"noise_multiplier": 1.0, "rounds": 1, "cohort": 0}, r"cohort=0 must be in \(0, pop"),
        ({"noise_multiplier": 1.0, "rounds": 1, "cohort": 101}, "population=100"),
        ({"noise_multiplier": 1.0, "rounds": 1, "cohort": math.nan}, "cohort=nan"),
        ({"epsilon": 1.0}, "--noise-multiplier, --rounds, --cohort can't all"),
        ({"epsilon": 1.0, "cohort": 5}, "--noise-multiplier and --rounds can't both"),
        ({"cohort": 5, "rounds": 5}, "--epsilon and --noise-multiplier can't both"),
        (
            {"epsilon": 1.0, "noise_multiplier": 1.0, "rounds": 1, "cohort": 1},
            "--noise-multiplier=1, --rounds=1, --cohort=1 leave nothing",
        ),
    ],
)
def test_a_question_leaves_exactly_one_number_open(numbers: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Question(**{"population": 100, **numbers})


# Records


@pytest.mark.parametrize("target", [0.5, 3.0, 20.0])
def test_the_smallest_noise_for_records_is_within_the_target_and_the_next_is_not(
    target: float,
) -> None:
    z = record_noise(RECORDS, target)
    assert RECORDS.record is not None

    def local(noise: float) -> float:
        assert RECORDS.record is not None
        record = replace(RECORDS.record, noise_multiplier=noise)
        value = planned(replace(RECORDS, record=record)).epsilon("record", "local", True)
        assert value is not None
        return value

    assert local(z) <= target < local(z - 1e-4)
    assert z == round(z, 4)


def test_records_are_charged_at_the_bound_on_participations() -> None:
    takes = participation.bound(12, 0.2, 300)
    assert 12 * 0.2 < takes <= 12
    events = [SampledGaussian(0.9, 0.1, 3 * takes)]
    got = planned(RECORDS).epsilon("record", "local", True)
    assert got == pytest.approx(epsilon(events, 1e-6).value, rel=1e-9)


def test_noise_for_records_needs_records_and_a_target() -> None:
    with pytest.raises(ConfigError, match="needs a plan with record-level DP"):
        record_noise(BASE, 1.0)
    with pytest.raises(ConfigError, match="record_epsilon=-1"):
        record_noise(RECORDS, -1.0)


# Neighbours


def test_alternatives_are_plans_of_their_own() -> None:
    family, point = central(300, 1e-5), Point(1.2, 12, 60.0)
    found = {a.change: a for a in alternatives(point, 300, family)}
    for other in found.values():
        assert other.epsilon == public_epsilon(family(other.point))
        assert other.refused is None
        relative = (other.point.noise_multiplier / other.point.cohort) / (1.2 / 60)
        assert other.noise == pytest.approx(relative, rel=1e-9)
    base = spent(family, point)
    assert (found["rounds / 2"].epsilon or math.inf) < base < (found["rounds x 2"].epsilon or 0)
    assert (found["cohort / 2"].epsilon or math.inf) < base < (found["cohort x 2"].epsilon or 0)
    noises = [found[f"noise x {f:g}"].epsilon for f in (0.8, 0.9, 1.1, 1.25, 1.5)]
    assert noises == sorted(noises, key=lambda e: -(e or 0))


def test_alternatives_that_are_no_plans_say_why() -> None:
    family = shared()

    def narrow(point: Point) -> PrivacyPlan:
        if point.cohort < 50:
            raise ConfigError("cohort is too small", "raise it")
        return family(point)

    found = {a.change: a for a in alternatives(Point(1.2, 12, 60.0), 300, narrow)}
    assert found["cohort / 2"].epsilon is None
    assert found["cohort / 2"].refused == "cohort is too small"
    assert found["cohort x 2"].refused is None


def test_alternatives_stay_within_what_there_is() -> None:
    changes = [a.change for a in alternatives(Point(1.2, 1, 300.0), 300, central(300, 1e-5))]
    assert "rounds / 2" not in changes
    assert "cohort x 2" not in changes


def test_the_course_of_a_plan_rises_and_passes_through_it() -> None:
    family, point = central(300, 1e-5), Point(1.2, 12, 60.0)
    found = course(point, [1, 6, 12, 24], family)
    assert [n for n, _, _ in found] == [1, 6, 12, 24]
    assert found[2][1:] == (spent(family, point), public_epsilon(family(point), amplified=False))
    assert found == sorted(found, key=lambda p: p[1])
    assert all(amplified < unamplified for _, amplified, unamplified in found)
    quiet = replace(BASE, client=ClientUnit(1.0, 0.0))
    assert course(point, [1, 2], lambda point: quiet) == []


# The search alone


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_most_is_the_last_that_is_not_over(boundary: int, limit: int) -> None:
    asked = []

    def over(k: int) -> float:
        asked.append(k)
        assert 1 <= k <= limit
        return math.log(k / (boundary + 0.5))

    assert search.most(over, limit, "rounds", 1.0) == min(boundary, limit)
    assert len(set(asked)) < 60


@given(st.integers(101, 10**8 - 1), st.floats(0.1, 8.0))
def test_the_least_is_the_first_that_is_not_over(boundary: int, power: float) -> None:
    def over(k: int) -> float:
        value = power * math.log((boundary - 0.5) / k)
        return max(-search.FAR, min(search.FAR, value))

    assert search.least(over, "epsilon=1") == boundary / search.STEPS


@given(st.integers(300, 10**6), st.data())
def test_the_least_looks_past_plans_that_do_not_exist(boundary: int, data: st.DataObject) -> None:
    # Plans exist on an interval around what is looked for that holds one of the starts.
    low = data.draw(st.integers(200, min(boundary, search.STEPS)))
    high = data.draw(st.integers(max(boundary, search.STEPS), 10**7))

    def over(k: int) -> float:
        if not low <= k <= high:
            raise ConfigError("no plan")
        return math.log((boundary - 0.5) / k)

    assert search.least(over, "epsilon=1") == boundary / search.STEPS


def test_steps_between_which_nothing_changes_are_searched_too() -> None:
    def over(k: int) -> float:
        return 1.0 if k > 777 else -search.FAR

    assert search.most(over, 10**6, "rounds", 1.0) == 777
