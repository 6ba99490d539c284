"""`tacit.configs.planning`: the numbers that noise in shares needs, and their defaults."""

from __future__ import annotations

import functools
import math

import pytest
from scipy import stats

from tacit.configs import build
from tacit.configs.planning import privacy_plan
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.plan import PrivacyPlan

SMALL = (
    "experiment=none",
    "mechanism=skellam",
    "aggregation=secure",
    "clients=100",
    "cohort=30",
    "minimum_survivors=null",
    "rounds=5",
    "evaluation=none",
    "weighting=uniform",
    "privacy.client=flat",
    "privacy.client.noise_multiplier=1.5",
    "privacy.client.clip=0.25",
    "privacy.record=dpsgd",
    "privacy.record.noise_multiplier=0.7",
    "privacy.record.clip=2.0",
    "privacy.record.sampling_rate=0.5",
    "privacy.record.denominator=null",
    "local.steps=1",
    "local.epochs=null",
    "local.learning_rate=0.4",
    "secure.bits=null",
    "secure.dropout=0.1",
    "secure.collusion=0",
    "secure.projection=0.5",
)


@functools.cache
def composed(*overrides: str) -> RunSpec:
    return build.compose([*SMALL, *overrides])


def planned(*overrides: str, examples: int | None = 10, dimension: int = 1000) -> PrivacyPlan:
    return privacy_plan(composed(*overrides), examples, dimension)


def test_the_default_is_secure_aggregation_with_skellam_noise() -> None:
    spec = build.compose([])
    assert (spec.mechanism, spec.aggregation) == ("skellam", "secure")
    plan = privacy_plan(spec, 5, 1000)
    assert (plan.mechanism, plan.aggregation) == ("skellam", "secure")
    assert plan.rules is not None
    assert plan.updates is not None


def test_the_plan_says_what_the_spec_says() -> None:
    plan = planned("secure.dropout=0.2", "secure.collusion=2", "minimum_survivors=9")
    assert plan.rules is not None
    assert plan.updates is not None
    assert (plan.rules.minimum, plan.rules.dropout, plan.rules.collusion) == (9, 0.2, 2)
    assert plan.minimum_survivors == 9
    assert (plan.updates.dimension, plan.updates.rotated, plan.updates.conditional) == (
        1000,
        True,
        True,
    )
    assert plan.updates.record_norm == 0
    assert plan.projection is None
    assert plan.counts is None


@pytest.mark.parametrize("z", [0.3, 1.5, 4.0])
def test_the_lattice_carries_the_noise_that_was_asked_for(z: float) -> None:
    plan = planned(f"privacy.client.noise_multiplier={z}")
    assert plan.updates is not None
    assert math.sqrt(plan.updates.variance) / plan.updates.l2 == pytest.approx(z, rel=1e-9)


def test_central_needs_none_of_it() -> None:
    plan = planned("mechanism=central", "aggregation=plain")
    assert (plan.rules, plan.updates, plan.counts, plan.projection) == (None,) * 4


# Cohorts


@pytest.mark.parametrize(
    ("overrides", "minimum"),
    [
        ((), 10),
        (("cohort=31",), 11),
        (("cohort=20", "clients=20"), 18),
        (("cohort=20", "clients=20", "secure.dropout=0"), 20),
        (("cohort=20", "clients=20", "secure.dropout=0.33"), 14),
        (("cohort=4", "clients=4", "secure.dropout=0.3"), 4),
        (("secure.collusion=5",), 16),
        (("secure.collusion=3",), 10),
        (("minimum_survivors=6",), 6),
    ],
)
def test_the_fewest_survivors_by_default(overrides: tuple[str, ...], minimum: int) -> None:
    plan = planned(*overrides)
    assert plan.minimum_survivors == minimum
    assert plan.rules is not None
    assert plan.rules.minimum == minimum


@pytest.mark.parametrize(("clients", "cohort"), [(100, 30), (300, 60), (1000, 100), (50, 50)])
def test_a_cohort_larger_than_the_largest_is_all_but_never_drawn(clients: int, cohort: int) -> None:
    rules = planned(f"clients={clients}", f"cohort={cohort}").rules
    assert rules is not None
    drawn = stats.binom(clients, cohort / clients)
    assert drawn.sf(rules.largest) <= 1e-9
    assert rules.largest <= clients
    if cohort < clients:
        assert drawn.sf(rules.largest - 1) > 1e-9
    else:
        assert rules.largest == clients


@pytest.mark.parametrize(
    "overrides",
    [
        ("clients=50", "cohort=5"),
        ("clients=1000", "cohort=5"),
        ("minimum_survivors=29",),
        ("secure.collusion=9",),
        ("clients=300", "cohort=6"),
    ],
)
def test_a_cohort_that_would_often_be_too_small_is_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"cohort=.* is below minimum_survivors=") as caught:
        planned(*overrides)
    assert "mechanism=central" in caught.value.hint


def test_three_clients_hide_in_their_sum_only_if_it_is_said() -> None:
    with pytest.raises(ConfigError, match="minimum_survivors=4"):
        planned("clients=3", "cohort=3")
    assert planned("clients=3", "cohort=3", "minimum_survivors=3").rules.layers(3) == 0
    with pytest.raises(ConfigError, match="minimum_survivors=2"):
        planned("clients=3", "cohort=3", "minimum_survivors=2")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("secure.dropout=0.34", "secure.dropout=0.34 must be in [0, 1/3)"),
        ("secure.dropout=-0.1", "secure.dropout=-0.1 must be in [0, 1/3)"),
        ("secure.collusion=-1", "secure.collusion=-1"),
        ("secure.collusion=0.5", "secure.collusion=0.5 should be a whole number"),
        ("secure.bits=24", "secure.bits=24 must be 16, 20, 32 or null"),
        ("secure.projection=0", "secure.projection=0"),
        ("secure.dropuot=0.1", "secure.dropuot is not a setting"),
        ("mechanism=central", "aggregation=secure needs noise in shares"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(override)
    assert says in caught.value.message


def test_collusion_of_a_third_of_the_smallest_sum_is_refused() -> None:
    planned("minimum_survivors=10", "secure.collusion=3")
    with pytest.raises(ConfigError, match=r"3 x secure\.collusion=4"):
        planned("minimum_survivors=10", "secure.collusion=4")


# Words


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_bits_that_are_set_are_kept(bits: int) -> None:
    plan = planned(f"secure.bits={bits}", "privacy.client.noise_multiplier=1.0")
    assert plan.updates is not None
    assert plan.updates.bits == bits


def test_bits_by_default_are_the_fewest_that_cost_little() -> None:
    sizes = {}
    for dimension in (50, 10_000, 2_000_000):
        lattice = planned(dimension=dimension).updates
        assert lattice is not None
        sizes[dimension] = lattice.bits
        fewer = [b for b in (16, 20, 32) if b < lattice.bits]
        for bits in fewer:
            other = planned(f"secure.bits={bits}", dimension=dimension).updates
            assert other is not None
            assert other.bound / other.norm > 1.005
        if lattice.bits < 32:
            assert lattice.bound / lattice.norm <= 1.005
    assert sizes == dict(sorted(sizes.items(), key=lambda item: item[1]))


def test_a_sum_that_fits_no_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="don't fit words of 16 bits") as caught:
        planned("secure.bits=16", "privacy.client.noise_multiplier=5000")
    assert "secure.bits=32" in caught.value.hint


# Records alone


def test_without_a_client_unit_updates_are_projected_and_noised_for_records() -> None:
    plan = planned("privacy.client=none")
    assert plan.updates is not None
    assert plan.record is not None
    # Half of learning_rate x clip, what a batch of the expected size can reach.
    assert plan.projection == pytest.approx(0.5 * 0.4 * 2.0)
    # A record moves an update by learning_rate x clip / denominator, the denominator being 5.
    share = 0.4 * 2.0 / plan.record.denominator / plan.projection
    assert plan.updates.record_norm / plan.updates.norm == pytest.approx(share)
    assert not plan.updates.conditional
    # The noise that 30 clients would have added in DP-SGD, and no less for fewer survivors.
    found = plan.summed_noise()
    assert found == pytest.approx(0.7 * math.sqrt(30), rel=1e-9)
    assert plan.noised_by_shares()


@pytest.mark.parametrize(
    ("projection", "denominator", "share"), [(0.5, 5, 0.4), (2.0, 5, 0.1), (0.5, 1, 2.0)]
)
def test_a_record_moves_a_vector_at_most_across_the_ball(
    projection: float, denominator: float, share: float
) -> None:
    plan = planned(
        "privacy.client=none",
        f"secure.projection={projection}",
        f"privacy.record.denominator={denominator}",
    )
    assert plan.updates is not None
    assert plan.updates.record_norm / plan.updates.norm == pytest.approx(share)


@pytest.mark.parametrize(
    "overrides",
    [("local.steps=2",), ("privacy.record=none",), ("local.steps=null", "local.epochs=1")],
)
def test_updates_that_nothing_bounds_are_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="bounded") as caught:
        planned("privacy.client=none", *overrides)
    assert "mechanism=central" in caught.value.hint


# Counts


def test_counts_are_sized_for_the_evaluation() -> None:
    plan = planned("evaluation=federated", "evaluation.noise_multiplier=2.5", "evaluation.cap=50")
    assert plan.counts is not None
    assert (plan.counts.dimension, plan.counts.rotated, plan.counts.bits) == (3, False, 32)
    assert math.sqrt(plan.counts.variance) / plan.counts.l2 == pytest.approx(2.5, rel=1e-9)
    assert plan.counts.record_norm == 0
    # Rounding costs next to nothing of a record's count.
    assert plan.counts.norm / math.sqrt(3) / 50 > 10
    alone = planned(
        "privacy.client=none",
        "evaluation=federated",
        "evaluation.noise_multiplier=2.5",
        "evaluation.cap=50",
    )
    assert alone.counts is not None
    assert alone.counts.record_norm == pytest.approx(alone.counts.norm / 50)


def test_adaptive_clipping_has_its_vote_in_the_lattice() -> None:
    plan = planned("privacy.client=adaptive", "privacy.client.count_noise=3")
    assert plan.updates is not None
    z = math.sqrt(plan.updates.variance)
    assert plan.updates.vote > 0
    # The noise of the count is at least what was asked for.
    assert z / (2 * plan.updates.vote) >= 3 * (1 - 1e-9)
    assert z / plan.updates.l2 >= 1.5 * (1 - 1e-9)


def test_the_dimension_is_in_the_digest() -> None:
    assert planned(dimension=1000).digest() == planned(dimension=1000).digest()
    assert planned(dimension=1000).digest() != planned(dimension=1001).digest()
    central = ("mechanism=central", "aggregation=plain")
    assert planned(*central).digest() == planned(*central, dimension=7).digest()
