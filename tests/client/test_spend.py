"""A client's own epsilon: never below the accountants', and close to theirs."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import BY_RECORDS, COUNTS, EVALUATION, RECORD, UPDATES, plan

from tacit.client import spend
from tacit.privacy.accountant import Accountant
from tacit.privacy.claims import Claim
from tacit.privacy.discrete import renyi
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import Event, SampledDiscreteGaussian, SampledGaussian, SampledSkellam

DELTA = 1e-5

rates = st.one_of(st.just(1.0), st.floats(1e-4, 1.0))
counts = st.integers(1, 3000)
gaussians = st.builds(SampledGaussian, st.floats(0.3, 100.0), rates, st.integers(1, 20))


@st.composite
def integer_noise(draw: st.DrawFn) -> Event:
    l2, z, rate = draw(st.floats(1.0, 1e5)), draw(st.floats(0.3, 50.0)), draw(rates)
    if draw(st.booleans()):
        l1 = draw(st.floats(1.0, 100.0)) * l2
        return SampledSkellam((z * l2) ** 2, l2, l1, rate)
    return SampledDiscreteGaussian((z * l2) ** 2, l2, draw(st.floats(0.0, 1e-3)), rate)


def figures(events: Counter[Event], delta: float) -> tuple[float, float]:
    accountant = Accountant(delta)
    for event, count in events.items():
        accountant.compose(event.times(count))
    return accountant.epsilon(), accountant.cross_check()


@settings(max_examples=150, deadline=None)
@given(st.one_of(gaussians, integer_noise()), counts, st.floats(1e-9, 0.1))
def test_one_event_is_what_the_renyi_curves_say(event: Event, count: int, delta: float) -> None:
    theirs = renyi.to_epsilon(renyi.curve(event.once()) * event.count * count, delta)
    own = spend.epsilon({event: count}, delta)
    # theirs is 0 outright where the divergence is tiny; a bound above it is one too.
    assert own >= theirs * (1 - 1e-9)
    if theirs > 0:
        assert own == pytest.approx(theirs, rel=1e-7, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(gaussians, integer_noise()), min_size=1, max_size=4))
def test_several_events_cost_no_less_than_renyi_divergences_composed(made: list[Event]) -> None:
    events = Counter(made)
    total = sum(renyi.curve(e.once()) * e.count * n for e, n in events.items())
    assert spend.epsilon(events, DELTA) >= renyi.to_epsilon(total, DELTA) * (1 - 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.6, 30.0), st.one_of(st.just(1.0), st.floats(0.01, 0.5)), st.integers(1, 200))
def test_gaussians_cost_no_less_than_the_exact_accountant_says(
    z: float, rate: float, count: int
) -> None:
    event: Event = SampledGaussian(z, rate)
    figure, check = figures(Counter({event: count}), DELTA)
    own = spend.epsilon({event: count}, DELTA)
    assert own >= figure * (1 - 1e-6)
    assert own <= check * (1 + 1e-6)


@pytest.mark.parametrize("rounds", [1, 10, 100])
@pytest.mark.parametrize("collusion", [0, 5])
@pytest.mark.parametrize("mechanism", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("z", [0.7, 1.2, 6.0])
def test_typical_plans_are_within_a_percent_of_the_cross_check(
    rounds: int, collusion: int, mechanism: str, z: float
) -> None:
    made = plan(z=z, mechanism=mechanism, collusion=collusion)
    event = spend.cost(made, "train", "client")
    assert event is not None
    figure, check = figures(Counter({event: rounds}), 1e-4)
    own = spend.epsilon({event: rounds}, 1e-4)
    assert figure * (1 - 1e-6) <= own <= check * 1.01


@pytest.mark.parametrize("rounds", [1, 10, 100])
@pytest.mark.parametrize("steps", [1, 8])
def test_records_in_dp_sgd_are_within_a_percent_of_the_cross_check(rounds: int, steps: int) -> None:
    event = spend.cost(plan(record=replace(RECORD, steps=steps)), "train", "record")
    assert event == SampledGaussian(0.8, 0.1, steps)
    figure, check = figures(Counter({event: rounds}), DELTA)
    assert figure * (1 - 1e-6) <= spend.epsilon({event: rounds}, DELTA) <= check * 1.01


def test_nothing_composed_is_free_and_next_to_no_noise_is_unbounded() -> None:
    assert spend.epsilon({}, DELTA) == 0
    assert spend.epsilon({SampledGaussian(1e-200): 1}, DELTA) == math.inf
    assert spend.epsilon({SampledGaussian(1e-200, 0.5): 1}, DELTA) == math.inf
    assert spend.epsilon({SampledSkellam(1e-300, 1e300, 1e300): 1}, DELTA) == math.inf
    with pytest.raises(ConfigError, match="delta"):
        spend.epsilon({SampledGaussian(1.0): 1}, 0.0)


# What counts


def row(made: list[Claim], unit: str, adversary: str, amplified: bool) -> Event | None:
    (found,) = [
        c.event for c in made if (c.unit, c.adversary, c.amplified) == (unit, adversary, amplified)
    ]
    return found


def test_a_client_counts_the_noise_that_colluders_leave_and_no_draw_of_the_cohort() -> None:
    made = plan()
    event = spend.cost(made, "train", "client")
    assert isinstance(event, SampledSkellam)
    assert event == row(made.training(), "client", "collusion", False)
    assert event.sampling_rate == 1
    assert event.variance == pytest.approx(UPDATES.variance * 20 / 25)
    alone = spend.cost(plan(collusion=0), "train", "client")
    assert isinstance(alone, SampledSkellam)
    assert alone.variance == pytest.approx(UPDATES.variance)


def test_vectors_that_are_seen_count_with_their_own_noise() -> None:
    for aggregation in ("plain", "shortcut"):
        event = spend.cost(plan(aggregation=aggregation), "train", "client")
        assert isinstance(event, SampledSkellam)
        assert event.variance == pytest.approx(UPDATES.variance / 300)


def test_evaluations_count_what_their_own_noise_makes() -> None:
    made = plan(evaluation=EVALUATION, counts=COUNTS, record=RECORD)
    event = spend.cost(made, "evaluate", "client")
    assert event == row(made.evaluating(), "client", "collusion", False)
    assert isinstance(event, SampledSkellam)
    assert event.l2 == COUNTS.l2
    assert spend.cost(made, "evaluate", "record") == SampledGaussian(0.8)
    assert spend.cost(plan(), "evaluate", "client") is None


def test_records_that_shares_of_noise_protect_count_with_what_colluders_leave() -> None:
    made = plan(**BY_RECORDS)
    event = spend.cost(made, "train", "record")
    assert event == row(made.training(), "record", "collusion", True)
    assert event is not None
    assert event.sampling_rate == RECORD.sampling_rate
    assert spend.cost(made, "train", "client") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_source": "seeded-simulation"},
        {
            "mechanism": "central",
            "aggregation": "plain",
            "rules": None,
            "updates": None,
            "relation": "add-or-remove-one",
        },
    ],
    ids=["a seed", "a trusted coordinator"],
)
def test_where_a_client_has_to_trust_nothing_is_counted_as_protected(
    changes: dict[str, Any],
) -> None:
    assert spend.cost(plan(**changes), "train", "client") is None


def test_other_purposes_are_refused() -> None:
    with pytest.raises(ConfigError, match="purpose=tune"):
        spend.cost(plan(), "tune", "client")


def test_a_device_has_no_accounting_library() -> None:
    code = (
        "import sys, tacit.client.ledger, tacit.client.floors\n"
        "heavy = {'torch', 'flwr', 'scipy', 'dp_accounting', 'opacus', 'sqlalchemy', 'hydra'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout.strip() == "[]"
