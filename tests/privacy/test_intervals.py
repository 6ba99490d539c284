"""Intervals cover what they say, on seeded simulations that could show that they don't."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.configs import build
from tacit.configs.planning import privacy_plan
from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.intervals import (
    Counts,
    deviation,
    fieller,
    interval,
    metrics,
    noise_interval,
    spread_interval,
)
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import Evaluation

TRIALS = 2000


def released(
    rng: np.random.Generator, windows: int, ratio: float, spread: float, noise: float
) -> list[Counts]:
    """Counts of cohorts whose size and quality vary, noised."""
    found = []
    for _ in range(windows):
        examples = 60 + spread * rng.normal()
        correct = ratio * examples + spread * rng.normal()
        e = noise * rng.normal(size=3)
        found.append(Counts(correct + e[0], examples + e[1], 0.1 * examples + e[2]))
    return found


def least(nominal: float) -> float:
    """Below this the coverage of so many trials is no accident (four deviations)."""
    return nominal - 4 * math.sqrt(nominal * (1 - nominal) / TRIALS)


def covered(found: list[tuple[float | None, float | None]], truth: float) -> float:
    inside = [low is None or high is None or low <= truth <= high for low, high in found]
    return sum(inside) / len(inside)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("noise", [2.0, 12.0, 90.0])
def test_noise_alone_is_covered_exactly(noise: float, confidence: float) -> None:
    """Fieller's set is exact for normal noise: neither below nominal nor, bounded, far above."""
    rng, found = np.random.default_rng(1), []
    for _ in range(TRIALS):
        windows = released(rng, 3, 0.8, 0.0, noise)
        made = noise_interval(windows, "accuracy", noise, confidence)
        found.append((made.low, made.high))
    coverage = covered(found, 0.8)
    assert coverage >= least(confidence)
    if noise < 10:
        assert coverage <= confidence + 1 - least(1 - 0.02)
    # With a denominator that isn't clearly off zero nothing is bounded.
    unbounded = sum(low is None for low, _ in found) / TRIALS
    assert unbounded > 0.3 if noise == 90.0 else unbounded < 0.01


@pytest.mark.parametrize("windows", [2, 5])
@pytest.mark.parametrize(("spread", "noise"), [(6.0, 0.0), (6.0, 6.0), (0.5, 6.0)])
def test_the_interval_covers_noise_and_the_draw_of_cohorts(
    windows: int, spread: float, noise: float
) -> None:
    rng, found, alone = np.random.default_rng(2), [], []
    for _ in range(TRIALS):
        counts = released(rng, windows, 0.8, spread, noise)
        made = interval(counts, "accuracy", noise, 0.9)
        found.append((made.low, made.high))
        only = noise_interval(counts, "accuracy", noise, 0.9)
        alone.append((only.low, only.high))
    assert covered(found, 0.8) >= least(0.9)
    if noise < spread:
        # Why both are asked: the noise alone doesn't know of the draw.
        assert covered(alone, 0.8) < least(0.9)


COUNTS = st.builds(Counts, st.floats(0, 100), st.floats(1, 100), st.floats(0, 100))


@settings(max_examples=200, deadline=None)
@given(
    windows=st.lists(COUNTS, min_size=2, max_size=6),
    noise=st.floats(0.01, 50),
    more=st.floats(1.0, 10),
    metric=st.sampled_from(["accuracy", "loss"]),
)
def test_more_noise_never_narrows(
    windows: list[Counts], noise: float, more: float, metric: str
) -> None:
    def width(deviation: float, confidence: float) -> float:
        made = interval(windows, metric, deviation, confidence)
        return math.inf if made.low is None or made.high is None else made.high - made.low

    one = width(noise, 0.9)
    assert width(noise * more, 0.9) >= one * (1 - 1e-9)
    assert width(noise, 0.99) >= one * (1 - 1e-9)
    for part in (
        noise_interval(windows, metric, noise, 0.9),
        spread_interval(windows, metric, 0.9),
    ):
        assert part.low is None or part.high is None or part.high - part.low <= one * (1 + 1e-9)


def test_fieller_is_the_textbooks() -> None:
    """All r with (top - r bottom)^2 <= q^2 Var: the ends of the interval lie on its edge."""
    made = fieller(40.0, 50.0, 9.0, 4.0, 1.5, 1.96)
    assert made.estimate == 0.8
    assert made.low is not None
    assert made.high is not None
    for r in (made.low, made.high):
        edge = 1.96**2 * (9.0 - 2 * r * 1.5 + r * r * 4.0)
        assert (40.0 - r * 50.0) ** 2 == pytest.approx(edge)
    assert made.low < 0.8 < made.high
    assert fieller(1.0, 0.0, 1.0, 1.0, 0.0, 1.96).bounded is False
    assert fieller(1.0, -5.0, 0.1, 0.1, 0.0, 1.96).bounded is False
    assert fieller(1.0, 2.0, 1.0, 1.1, 0.0, 1.96).bounded is False
    assert fieller(4.0, 5.0, 0.0, 0.0, 0.0, 1.96) == fieller(4.0, 5.0, 0.0, 0.0, 0.0, 9.0)


def test_one_window_has_no_spread() -> None:
    one = [Counts(40.0, 50.0, 1.0)]
    assert not spread_interval(one, "accuracy", 0.9).bounded
    assert not interval(one, "accuracy", 0.1, 0.9).bounded
    assert noise_interval(one, "accuracy", 0.1, 0.9).bounded
    assert not interval([], "accuracy", 0.1, 0.9).bounded


@pytest.mark.parametrize(
    "bad", [None, [1, 2], [1, 2, "3"], [1, 2, True], [1, 2, 1e999], [1, 2, 3, 4]]
)
def test_what_are_no_counts_is_refused(bad: object) -> None:
    with pytest.raises(MessageError):
        Counts.from_json(bad)


# The noise that there is


def plan(*overrides: str) -> PrivacyPlan:
    base = ["experiment=none", "clients=100", "cohort=40", "evaluation=federated"]
    return privacy_plan(build.compose([*base, *overrides]), 10, 50)


CENTRAL = ["mechanism=central", "aggregation=plain"]


def test_the_deviation_is_the_plans() -> None:
    alone = plan(*CENTRAL, "privacy.record=none", "evaluation.noise_multiplier=2")
    assert deviation(alone, 0.5) == pytest.approx(2 * math.sqrt(3))
    none = plan(*CENTRAL, "privacy.record=none", "evaluation.noise_multiplier=0")
    assert deviation(none, 0.5) == 0.0
    both = plan(*CENTRAL, "evaluation.noise_multiplier=2", "evaluation.cap=4")
    assert both.record is not None
    own = both.record.noise_multiplier * math.sqrt(3) / 4
    # As many clients as a tenth of a cohort may have, and no fewer than it is expected to.
    assert 12 + 4 * own**2 < deviation(both, 0.1) ** 2 < 12 + 40 * own**2
    assert deviation(both, 0.1) < deviation(both, 1.0)
    with pytest.raises(ConfigError):
        deviation(plan(*CENTRAL, "evaluation=none"), 1.0)


def test_shares_of_noise_add_up_to_the_plans() -> None:
    """As the lattice has it: its variance in units of the counts, and a little for rounding."""
    made = plan("privacy.record=none", "evaluation.noise_multiplier=2")
    assert made.counts is not None
    unit = math.sqrt(3) / made.counts.norm
    least = math.sqrt(made.counts.variance) * unit
    assert least < deviation(made, 0.5) < least * 1.01
    assert least == pytest.approx(2 * math.sqrt(3), rel=0.02)


def test_metrics_are_the_counts_and_in_range() -> None:
    how = Evaluation(1, 10, 4.0, 1.0)
    found = metrics(Counts(40.0, 50.0, 5.0), how)
    assert (found["accuracy"], found["loss"]) == (0.8, 0.4)
    assert metrics(Counts(-3.0, -2.0, 9.0), how) == {
        "accuracy": 0.0,
        "loss": 4.0,
        "accuracy_noise": 1.0,
    }
