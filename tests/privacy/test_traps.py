"""Where an accounting library misleads whoever trusts it, and what tacit does instead.

Each test shows the library's behaviour, so that an upgrade that changes it is noticed, and
that tacit's figure isn't affected. What other modules test already, by name of the test:

* in `test_accountant`, that GDP's closed form under-counts and that no count is ignored:
  `test_the_gdp_limit_under_counts_and_ours_does_not`, `test_a_count_is_never_ignored`;
* in `test_events`, the allow-list: `test_an_event_off_the_allow_list_is_refused`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from tacit.privacy import ledger
from tacit.privacy.accountant import Accountant, epsilon
from tacit.privacy.discrete.renyi import library_event
from tacit.privacy.errors import AccountingError, ConfigError
from tacit.privacy.events import SampledGaussian, collapse, from_json
from tacit.privacy.log import leaves
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.planner import Point, central, public_epsilon
from tacit.privacy.units import AdaptiveClip, ClientUnit
from tacit.server.cohort import Sampler

Relation = dp_accounting.NeighboringRelation
ORDERS = list(range(2, 65))
PLAN = central(10_000, 1e-6)(Point(1.0, 1000, 100.0))


def accountants(
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
) -> Sequence[dp_accounting.PrivacyAccountant]:
    return RdpAccountant(ORDERS, relation), PLDAccountant(relation)


# 1. RDP under REPLACE_ONE forgets that a sum moves by two clips


@pytest.mark.parametrize(("z", "delta"), [(2.0, 1e-5), (5.0, 1e-6)])
def test_rdp_under_replace_one_forgets_the_factor_of_two(z: float, delta: float) -> None:
    figures = []
    for relation in (Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE):
        for library in accountants(relation):
            library.compose(dp_accounting.GaussianDpEvent(z))
            figures.append(library.get_epsilon(delta))
    added, _, replaced, true = figures
    assert replaced == added, "RDP knows the relation now"
    assert replaced < true, "the example no longer shows the trap"
    # Substituting is two steps of the one relation that tacit composes under.
    ours = Accountant(delta)
    ours.compose(SampledGaussian(z))
    assert ours.substituted(delta) >= dp_accounting.get_epsilon_gaussian(z / 2, delta)
    assert ours.substituted(delta) >= true * (1 - 1e-3)


def test_no_plan_is_about_replacing() -> None:
    assert PLAN.relation == "add-or-remove-one"
    with pytest.raises(ConfigError, match="relation=replace-one"):
        replace(PLAN, relation="replace-one")


# 2. A count that is ignored


def test_the_library_ignores_the_count_of_some_events() -> None:
    event = dp_accounting.RandomizedResponseDpEvent(0.5, 2)
    many, once = (PLDAccountant(Relation.REPLACE_ONE) for _ in range(2))
    many.compose(event, 10)
    once.compose(event)
    assert many.get_epsilon(1e-6) == once.get_epsilon(1e-6), "the library composes it now"
    in_turn = PLDAccountant(Relation.REPLACE_ONE)
    for _ in range(10):
        in_turn.compose(event)
    assert in_turn.get_epsilon(1e-6) > 5 * once.get_epsilon(1e-6)


@pytest.mark.parametrize("kind", ["randomized_response", "RandomizedResponseDpEvent"])
def test_such_an_event_can_not_be_charged(kind: str) -> None:
    with pytest.raises(AccountingError, match="can't be accounted for"):
        from_json({"type": kind, "noise_parameter": 0.5, "num_buckets": 2, "count": 10})


@pytest.mark.parametrize("q", [0.1, 1.0])
def test_where_the_library_does_compose_the_counts_agree(q: float) -> None:
    event = SampledGaussian(2.0, q, 30)
    library = PLDAccountant(value_discretization_interval=1e-4)
    library.compose(library_event(event), event.count)
    assert epsilon([event], 1e-5).value == pytest.approx(library.get_epsilon(1e-5), rel=2e-3)


# 3. Composed events inside a sampled one


def test_pld_refuses_a_sampled_composition_which_is_one_gaussian() -> None:
    q, pair = 0.1, (1.5, 5.0)
    nested = dp_accounting.PoissonSampledDpEvent(
        q, dp_accounting.ComposedDpEvent([dp_accounting.GaussianDpEvent(z) for z in pair])
    )
    with pytest.raises(dp_accounting.UnsupportedEventError):
        PLDAccountant().compose(nested)
    # As two sampled releases it isn't the same: each would have a sample of its own.
    apart = epsilon([SampledGaussian(z, q) for z in pair], 1e-5).value
    together = epsilon([SampledGaussian(collapse(pair), q)], 1e-5).value
    assert apart != pytest.approx(together, rel=1e-2)
    # Update and count of adaptive clipping are charged as the one they are.
    unit = ClientUnit(1.0, 1.2, AdaptiveClip(0.5, 0.2, 6.0))
    parts = (unit.update_noise_multiplier(), 2 * 6.0)
    assert collapse(parts) == pytest.approx(1.2, rel=1e-12)
    assert replace(PLAN, client=unit).training()[0].event == SampledGaussian(1.2, 0.01)


# 4. Sampling around zero-concentrated DP


def test_a_sampled_zcdp_event_is_refused_and_integer_noise_does_not_need_it() -> None:
    rho = 1 / (2 * 2.0**2)
    for library in accountants():
        with pytest.raises(dp_accounting.UnsupportedEventError):
            library.compose(dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.ZCDpEvent(rho)))
    # Unsampled it composes, as if nobody's draw were secret.
    unsampled = RdpAccountant(ORDERS)
    unsampled.compose(dp_accounting.ZCDpEvent(rho), 30)
    event = from_json(
        {
            "type": "sampled_discrete_gaussian",
            "variance": 1e8,
            "l2": 5e3,
            "closeness": 0.0,
            "sampling_rate": 0.1,
            "count": 30,
        }
    )
    amplified, gaussian = epsilon([event], 1e-5), epsilon([SampledGaussian(2.0, 0.1, 30)], 1e-5)
    assert gaussian.value <= amplified.value <= 1.25 * gaussian.value
    assert amplified.value < unsampled.get_epsilon(1e-5) / 3


# 5. The expected batch as a hard cap


def test_a_cap_at_the_expected_cohort_would_cost_six_times_the_epsilon() -> None:
    capped = PLDAccountant(value_discretization_interval=1e-3)
    capped.compose(
        dp_accounting.TruncatedSubsampledGaussianDpEvent(
            dataset_size=10_000,
            sampling_probability=0.01,
            truncated_batch_size=100,
            noise_multiplier=1.0,
        ),
        1000,
    )
    ours = public_epsilon(PLAN)
    assert ours == pytest.approx(2.125, rel=5e-3)
    assert capped.get_epsilon(1e-6) == pytest.approx(12.58, rel=5e-3)


def test_cohorts_are_poisson_draws_that_nothing_cuts_off() -> None:
    sampler = Sampler(PLAN, Randomness(0))
    sizes = np.array([len(sampler.draw("train", n, 0)) for n in range(200)])
    # Mean 100 and standard deviation 10: half are above the mean, and some by far.
    assert (sizes > 100).sum() > 50
    assert sizes.max() > 115
    assert abs(sizes.mean() - 100) < 6
    with pytest.raises(ConfigError, match="sampling=truncated"):
        replace(PLAN, sampling="truncated")


# 6. The central limit of GDP is in test_accountant; 7. the allow-list


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.SampledWithoutReplacementDpEvent(100, 10, dp_accounting.GaussianDpEvent(1.0)),
        dp_accounting.SingleEpochTreeAggregationDpEvent(1.0, [8]),
        dp_accounting.ZCDpEvent(0.5),
        dp_accounting.NonPrivateDpEvent(),
        dp_accounting.NoOpDpEvent(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_the_library_composes_somehow_can_not_be_charged(event: dp_accounting.DpEvent) -> None:
    with pytest.raises(AccountingError, match="can't be accounted for"):
        from_json({"type": type(event).__name__})


# 8. Parameters that are chosen on the way


def test_the_library_takes_parameters_chosen_in_view_of_releases() -> None:
    # It can't know better: the next multiplier may depend on what came out before.
    for library in accountants():
        library.compose(dp_accounting.GaussianDpEvent(2.0))
        seen = library.get_epsilon(1e-5)
        library.compose(dp_accounting.GaussianDpEvent(20.0 / seen))
        assert math.isfinite(library.get_epsilon(1e-5))


def test_a_plan_is_fixed_before_the_first_release() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.sampling_rate = 0.5  # type: ignore[misc]
    assert PLAN.client is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.client.noise_multiplier = 0.1  # type: ignore[misc]
    others = [
        replace(PLAN, sampling_rate=0.02),
        replace(PLAN, rounds=1001),
        replace(PLAN, client=replace(PLAN.client, noise_multiplier=0.9)),
    ]
    assert PLAN.digest() not in {plan.digest() for plan in others}


def charged(plan: PrivacyPlan, round: int) -> leaves.Body:
    return leaves.charge(
        run="r",
        round=round,
        attempt=0,
        purpose="train",
        plan_digest=plan.digest(),
        cohort="",
        claims=plan.training(),
        participations=round,
        noise_source=plan.noise_source,
    )


def test_a_release_under_another_plan_than_was_charged_does_not_replay() -> None:
    body = charged(PLAN, 1)
    release = {**body, "kind": "RELEASE", "plan": replace(PLAN, rounds=5).digest()}
    with pytest.raises(AccountingError, match="another plan"):
        ledger.replay([body, release], {"client": 1e-6, "record": 1e-6})


def test_the_one_parameter_that_adapts_is_no_parameter_of_the_event() -> None:
    # The clip follows noised counts; noise scales with it, so the multiplier stays the plan's.
    unit = ClientUnit(1.0, 1.2, AdaptiveClip(0.5, 0.2, 6.0))
    events = {
        replace(PLAN, client=replace(unit, clip=clip)).training()[0].event
        for clip in (0.01, 1.0, 100.0)
    }
    assert events == {SampledGaussian(1.2, 0.01)}
