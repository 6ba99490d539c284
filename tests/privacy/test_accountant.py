"""The accountant against oracles that share none of its code, and against itself.

`hockey_stick` and `gaussian_delta` are closed forms; prv-accountant is Microsoft's (Gopi et
al. 2021), with its own discretisation and an interval around its figure; dp-accounting's
optimistic PLD is a lower bound on the true epsilon.
"""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from tacit.privacy.accountant import Accountant, _interval, epsilon
from tacit.privacy.discrete.renyi import library_event
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import (
    Event,
    SampledDiscreteGaussian,
    SampledGaussian,
    SampledSkellam,
    collapse,
)

ADD_OR_REMOVE = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE


def figure(delta: float, *events: Event) -> float:
    """The figure alone; the cross-check costs time that most tests don't need."""
    accountant = Accountant(delta)
    for event in events:
        accountant.compose(event)
    return accountant.epsilon()


def distribution(
    event: SampledGaussian, interval: float, *, optimistic: bool = False
) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        event.noise_multiplier,
        value_discretization_interval=interval,
        sampling_prob=event.sampling_rate,
        pessimistic_estimate=not optimistic,
        use_connect_dots=not optimistic,
        neighboring_relation=ADD_OR_REMOVE,
    ).self_compose(event.count)


def gaussian_delta(z: float, e: float) -> float:
    """Balle and Wang 2018, Theorem 8, for sensitivity 1."""
    return float(ndtr(0.5 / z - e * z) - math.exp(e + log_ndtr(-0.5 / z - e * z)))


def hockey_stick(z: float, q: float, e: float) -> float:
    """Exact delta of one run of the sampled Gaussian, the worse of add and remove."""
    # The likelihood ratio 1 - q + q exp((2x - 1) / 2z^2) crosses e^eps at x = cut.
    cut = z * z * math.log((math.exp(e) - 1 + q) / q) + 0.5
    keep, drop = ndtr(-cut / z), ndtr((1 - cut) / z)
    remove = (1 - q) * keep + q * drop - math.exp(e) * keep
    ratio = (math.exp(-e) - 1 + q) / q
    add = 0.0
    if ratio > 0:
        cut = z * z * math.log(ratio) + 0.5
        keep, drop = ndtr(cut / z), ndtr((cut - 1) / z)
        add = keep - math.exp(e) * ((1 - q) * keep + q * drop)
    return float(max(remove, add))


# One run, and full rate: closed forms


@pytest.mark.parametrize("z", [0.1, 0.5, 1.0, 3.0, 30.0, 200.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("count", [1, 17, 1000])
def test_full_rate_is_the_analytic_gaussian(z: float, delta: float, count: int) -> None:
    total = z / math.sqrt(count)
    got = figure(delta, SampledGaussian(z, 1.0, count))
    if gaussian_delta(total, 0.0) <= delta:
        assert got == 0.0
        return
    top = 1.0
    while gaussian_delta(total, top) > delta:
        top *= 2
    true = brentq(lambda e: gaussian_delta(total, e) - delta, 0.0, top, xtol=1e-13, rtol=1e-14)
    # Rounded up by one part in 10^6, so the round-off of either side can't take it below.
    assert true * (1 + 0.9e-6) <= got <= true * (1 + 1.1e-6)


@pytest.mark.parametrize(
    ("q", "z", "delta"),
    [(0.01, 1.0, 1e-6), (0.3, 0.6, 1e-5), (0.9, 2.0, 1e-5), (0.5, 1.0, 1e-9), (0.05, 0.5, 1e-7)],
)
def test_one_sampled_run_is_the_exact_hockey_stick(q: float, z: float, delta: float) -> None:
    got = figure(delta, SampledGaussian(z, q))
    assert hockey_stick(z, q, got) <= delta, "below the true epsilon"
    assert hockey_stick(z, q, got * 0.999) > delta, "looser than 0.1%"


# Composition: an independent implementation


@pytest.mark.parametrize(
    ("q", "z", "count", "delta"),
    [
        (0.01, 1.0, 100, 1e-5),
        (0.01, 1.0, 10000, 1e-6),
        (0.01, 4.0, 1000, 1e-6),
        (0.001, 1.0, 1000, 1e-6),
        (0.05, 0.7, 200, 1e-6),
        (0.1, 1.0, 100, 1e-5),
        (0.2, 1.2, 60, 300**-1.1),
        (0.5, 2.0, 100, 1e-6),
        (0.5, 8.0, 400, 1e-5),
        (0.5, 0.5, 10, 1e-6),
        (0.9, 1.0, 10, 1e-6),
    ],
)
def test_within_one_percent_of_prv_and_not_below_its_lower_bound(
    q: float, z: float, count: int, delta: float
) -> None:
    oracle = PRVAccountant(
        prvs=[PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=z)],
        max_self_compositions=[count],
        eps_error=0.01,
        delta_error=delta / 1000,
    )
    low, estimate, _ = oracle.compute_epsilon(delta=delta, num_self_compositions=[count])
    got = figure(delta, SampledGaussian(z, q, count))
    assert got >= low
    assert got == pytest.approx(estimate, rel=0.01)


@pytest.mark.parametrize(
    ("q", "z", "count", "delta"),
    [
        (0.01, 1.0, 1000, 1e-6),
        (0.05, 0.7, 200, 1e-6),
        (0.2, 1.2, 60, 1e-5),
        (0.5, 2.0, 300, 1e-6),
        (0.9, 1.0, 10, 1e-6),
        (0.1, 1.0, 1, 1e-6),
        (0.2, 30.0, 100, 1e-5),
    ],
)
def test_above_the_optimistic_pld_and_close_to_it(
    q: float, z: float, count: int, delta: float
) -> None:
    event = SampledGaussian(z, q, count)
    floor = distribution(event, 1e-4, optimistic=True).get_epsilon_for_delta(delta)
    # The optimistic figure on a grid of 1e-4 is itself up to a few percent low.
    assert floor > 0
    assert floor <= figure(delta, event) <= floor * 1.05


@pytest.mark.parametrize(
    ("q", "z", "count", "delta", "quoted"),
    [
        (0.01, 1.0, 1000, 1e-6, 2.125),
        (0.01, 1.0, 10000, 1e-6, 6.907),
        (0.05, 0.7, 200, 1e-6, 12.117),
    ],
)
def test_known_figures(q: float, z: float, count: int, delta: float, quoted: float) -> None:
    got = figure(delta, SampledGaussian(z, q, count))
    assert got == pytest.approx(quoted, rel=5e-3)
    assert got > quoted - 1e-3, "the quoted figure is rounded to 1e-3"


def test_the_gdp_limit_under_counts_and_ours_does_not() -> None:
    q, z, count, delta = 0.05, 0.7, 200, 1e-6
    # Bu et al. 2020: mu = q sqrt(T (exp(1/z^2) - 1)), what Opacus's GDPAccountant reports.
    mu = q * math.sqrt(count * math.expm1(z**-2))
    limit = brentq(lambda e: gaussian_delta(1 / mu, e) - delta, 0.0, 100.0)
    event = SampledGaussian(z, q, count)
    floor = distribution(event, 1e-4, optimistic=True).get_epsilon_for_delta(delta)
    assert limit < 0.95 * floor, "the example no longer shows the trap"
    assert figure(delta, event) >= floor


# Discretisation


@pytest.mark.parametrize(
    ("q", "z", "count", "delta", "finest"),
    [
        # Tiny rates: one run's loss is far below a grid of 1e-3 or 1e-4.
        (1e-6, 1.0, 10**6, 1e-8, 1e-5),
        (1e-5, 1.0, 10000, 1e-8, 1e-5),
        (1e-4, 2.0, 1000, 1e-7, 1e-5),
        (1e-3, 2.0, 1000, 1e-6, 1e-5),
        (0.01, 4.0, 1000, 1e-6, 1e-5),
        (0.01, 1.0, 1, 1e-6, 1e-4),
        (0.01, 1.0, 1000, 1e-6, 1e-4),
        (0.05, 0.7, 200, 1e-6, 1e-4),
        (0.1, 1.0, 100, 1e-5, 1e-4),
        (0.2, 30.0, 100, 1e-5, 1e-4),
        (0.5, 2.0, 1000, 1e-6, 1e-4),
        (0.5, 20.0, 10000, 1e-6, 1e-4),
        (0.9, 1.0, 10, 1e-6, 1e-4),
    ],
)
def test_the_chosen_grid_costs_less_than_a_fifth_of_a_percent(
    q: float, z: float, count: int, delta: float, finest: float
) -> None:
    event = SampledGaussian(z, q, count)
    fine = distribution(event, finest).get_epsilon_for_delta(delta)
    assert fine > 0
    assert fine * (1 - 1e-6) <= figure(delta, event) <= fine * 1.002


@given(st.floats(1e-9, 1.0), st.floats(1e-2, 1e3))
def test_the_grid_stays_between_its_limits(q: float, z: float) -> None:
    grid = _interval(SampledGaussian(z, q))
    assert grid >= 1e-5
    # Never coarser than the losses of one run, nor than a thousandth of their mean.
    assert grid <= max(1e-5, q / z / 40)
    assert grid <= max(3e-3, 1e-3 / z**2)


# The library's traps


@pytest.mark.parametrize("q", [0.1, 1.0])
def test_a_count_is_never_ignored(q: float) -> None:
    many, once = Accountant(1e-5), Accountant(1e-5)
    many.compose(SampledGaussian(2.0, q, 30))
    for _ in range(30):
        once.compose(SampledGaussian(2.0, q))
    assert many.epsilon() == pytest.approx(once.epsilon(), rel=1e-9)
    assert many.cross_check() == pytest.approx(once.cross_check(), rel=1e-9)
    single = epsilon([SampledGaussian(2.0, q)], 1e-5)
    assert many.epsilon() > 2 * single.value
    assert many.cross_check() > 1.5 * single.cross_check


def test_gaussians_released_together_are_accounted_though_pld_refuses_nesting() -> None:
    # Two Gaussians on the same sample are one sampled Gaussian. The library's RDP accountant
    # takes the nested event and its PLD accountant doesn't; the collapsed one must agree.
    q, pair = 0.1, (1.5, 5.0)
    together = figure(1e-5, SampledGaussian(collapse(pair), q, 40))
    nested = dp_accounting.PoissonSampledDpEvent(
        q, dp_accounting.ComposedDpEvent([dp_accounting.GaussianDpEvent(z) for z in pair])
    )
    rdp = dp_accounting.rdp.RdpAccountant(list(range(2, 65)), ADD_OR_REMOVE)
    rdp.compose(nested, 40)
    assert 0.8 * rdp.get_epsilon(1e-5) < together < rdp.get_epsilon(1e-5)


# Mixed events


def test_mixed_events_equal_the_librarys_composition() -> None:
    delta = 1e-5
    events = [
        SampledGaussian(1.1, 0.05, 100),
        SampledGaussian(3.0, 0.2, 20),
        SampledGaussian(8.0, 1.0, 5),
    ]
    accountant = PLDAccountant(ADD_OR_REMOVE, value_discretization_interval=1e-4)
    accountant.compose(
        dp_accounting.ComposedDpEvent(
            [dp_accounting.SelfComposedDpEvent(library_event(e), e.count) for e in events]
        )
    )
    library = accountant.get_epsilon(delta)
    parts = [distribution(e, 1e-4, optimistic=True) for e in events]
    floor = parts[0].compose(parts[1]).compose(parts[2]).get_epsilon_for_delta(delta)
    got = figure(delta, *events)
    assert got >= floor
    assert library * (1 - 1e-6) <= got <= library * 1.002
    assert got > max(figure(delta, e) for e in events)


def test_the_order_of_events_does_not_matter() -> None:
    a, b, c = SampledGaussian(1.0, 0.1, 10), SampledGaussian(2.0, 0.3, 5), SampledGaussian(6.0)
    assert figure(1e-5, a, b, c) == pytest.approx(figure(1e-5, c, b, a), rel=1e-9)


def test_full_rate_events_are_collapsed_exactly() -> None:
    zs = [3.0, 5.0, 9.0]
    apart = figure(1e-5, *(SampledGaussian(z) for z in zs))
    assert apart == pytest.approx(figure(1e-5, SampledGaussian(collapse(zs))), rel=1e-9)


# Asked after every round


def test_asking_after_every_event_gives_the_figure_of_asking_once() -> None:
    step, delta = SampledGaussian(1.0, 0.05), 1e-6
    running = Accountant(delta)
    for n in range(1, 201):
        running.compose(step)
        shown = running.epsilon()
        if n in (1, 2, 50, 200):
            assert shown == pytest.approx(figure(delta, step.times(n)), rel=1e-6)


@pytest.mark.slow
def test_at_the_smallest_delta_asking_after_every_event_does_not_drift() -> None:
    # A chain of 2000 convolutions without a fresh start is 2e-4 off here.
    step, delta = SampledGaussian(1.0, 0.01), 1e-10
    running = Accountant(delta)
    for n in range(1, 2001):
        running.compose(step)
        shown = running.epsilon()
        if n in (63, 127, 700, 1983):
            assert shown == pytest.approx(figure(delta, step.times(n)), rel=5e-5)
    assert running.epsilon() == pytest.approx(figure(delta, step.times(2000)), rel=1e-5)


def test_asking_after_strides_and_mixtures_gives_the_figure_of_asking_once() -> None:
    a, b, delta = SampledGaussian(1.2, 0.1), SampledGaussian(4.0, 0.3), 1e-6
    running, taken = Accountant(delta), {a: 0, b: 0}
    for event, n in [(a, 1), (b, 3), (a, 4), (a, 50), (b, 2), (a, 1)]:
        running.compose(event.times(n))
        taken[event] += n
        now = [e.times(k) for e, k in taken.items() if k]
        assert running.epsilon() == pytest.approx(figure(delta, *now), rel=1e-6)


def test_copies_share_a_past_and_no_future() -> None:
    step = SampledGaussian(1.5, 0.1)
    first = Accountant(1e-5)
    first.compose(step.times(10))
    before = first.epsilon()
    second = first.copy()
    assert second.epsilon() == before
    second.compose(step.times(5))
    second.compose(SampledGaussian(3.0, 0.2))
    after = second.epsilon()
    assert after > before
    assert first.epsilon() == pytest.approx(before, rel=1e-9)
    first.compose(SampledGaussian(0.9, 0.1))
    first.epsilon()
    assert second.epsilon() == pytest.approx(after, rel=1e-9)
    expected = figure(1e-5, step.times(15), SampledGaussian(3.0, 0.2))
    assert second.epsilon() == pytest.approx(expected, rel=1e-6)


# Substituting one unit's data

MIXTURES = {
    "strong Gaussian": [SampledGaussian(8.0)],
    "Gaussian": [SampledGaussian(2.0)],
    "weak Gaussian": [SampledGaussian(1.0)],
    "Gaussians": [SampledGaussian(9.0, 1.0, 12), SampledGaussian(5.0)],
    "sampled": [SampledGaussian(1.2, 0.1, 60)],
    "rarely sampled": [SampledGaussian(1.0, 0.01, 1000)],
    "mixed": [SampledGaussian(1.5, 0.05, 100), SampledGaussian(8.0, 1.0, 5)],
}
mixtures = pytest.mark.parametrize("events", MIXTURES.values(), ids=MIXTURES)
substitution_deltas = pytest.mark.parametrize("delta", [1e-3, 1e-5, 2.5e-7])


def composed(events: list[SampledGaussian]) -> Accountant:
    accountant = Accountant(1e-5)
    for event in events:
        accountant.compose(event)
    return accountant


def by_the_library(events: list[SampledGaussian]) -> PLDAccountant:
    accountant = PLDAccountant(ADD_OR_REMOVE, value_discretization_interval=1e-4)
    for event in events:
        accountant.compose(library_event(event), event.count)
    return accountant


@mixtures
@substitution_deltas
def test_substitution_is_sound_by_group_privacy_of_two(
    events: list[SampledGaussian], delta: float
) -> None:
    got = composed(events).substituted(delta)
    assert math.isfinite(got)
    # (2e, (1 + exp(e)) d): the largest d that e leaves room for, and whether e holds there.
    one = got / 2
    room = delta / (1 + math.exp(one))
    assert (1 + math.exp(one)) * room <= delta * (1 + 1e-12)
    assert by_the_library(events).get_epsilon(room) <= one


@mixtures
@substitution_deltas
def test_substitution_loses_no_more_than_the_step_of_its_search(
    events: list[SampledGaussian], delta: float
) -> None:
    library = by_the_library(events)

    def excess(exponent: float) -> float:
        return math.log1p(math.exp(library.get_epsilon(10**exponent))) + exponent * math.log(10)

    best = brentq(lambda x: excess(x) - math.log(delta), -12.0, math.log10(delta), xtol=1e-6)
    got = composed(events).substituted(delta)
    assert 2 * library.get_epsilon(10**best) * 0.998 <= got
    assert got <= 2 * library.get_epsilon(10 ** (best - 0.25)) * 1.002


@mixtures
@substitution_deltas
def test_substitution_costs_more_than_twice_adding_or_removing(
    events: list[SampledGaussian], delta: float
) -> None:
    # Twice the epsilon already, at a delta that is smaller still.
    assert composed(events).substituted(delta) > 2 * figure(delta, *events) > 0


@pytest.mark.parametrize("z", [0.8, 1.0, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("count", [1, 4])
@substitution_deltas
def test_substitution_is_never_below_the_exact_value_of_a_gaussian(
    z: float, count: int, delta: float
) -> None:
    # Substituting moves the sum by twice the clip: exactly a Gaussian with half the multiplier.
    total = z * math.sqrt(count) / 2
    got = composed([SampledGaussian(z * count, 1.0, count)]).substituted(delta)
    if math.isfinite(got):
        assert gaussian_delta(total, got) <= delta
    assert got >= dp_accounting.get_epsilon_gaussian(total, delta)


@mixtures
@substitution_deltas
def test_the_cross_check_of_a_substitution_is_above_it(
    events: list[SampledGaussian], delta: float
) -> None:
    accountant = composed(events)
    assert accountant.substituted(delta) < accountant.substituted_cross_check(delta)


def test_a_substitution_falls_with_delta_and_does_not_depend_on_the_accountants_own() -> None:
    event = SampledGaussian(1.5, 0.1, 50)
    figures = [composed([event]).substituted(d) for d in (1e-9, 1e-7, 1e-5, 1e-3)]
    assert figures == sorted(figures, reverse=True)
    assert len(set(figures)) == 4
    other = Accountant(1e-3)
    other.compose(event)
    assert other.substituted(1e-5) == figures[2]
    other.epsilon()
    assert other.substituted(1e-5) == figures[2]


def test_a_substitution_that_fits_no_delta_costs_infinity() -> None:
    for z, delta in ((0.3, 1e-5), (1e-3, 1e-5), (1.0, 1e-10), (1000.0, 1e-10)):
        accountant = composed([SampledGaussian(z)])
        assert accountant.substituted(delta) == math.inf
        assert accountant.substituted_cross_check(delta) == math.inf


# Shape of the figure


def test_nothing_composed_is_nothing_spent() -> None:
    nothing = Accountant(1e-5)
    assert (nothing.epsilon(), nothing.cross_check()) == (0.0, 0.0)
    assert (nothing.substituted(1e-5), nothing.substituted_cross_check(1e-5)) == (0.0, 0.0)
    assert epsilon([], 1e-5).value == 0.0


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([0.05, 0.3, 1.0]))
def test_epsilon_grows_with_count(n: int, more: int, q: float) -> None:
    event = SampledGaussian(2.0, q)
    assert figure(1e-5, event.times(n)) < figure(1e-5, event.times(n + more))


@settings(deadline=None, max_examples=15)
@given(st.floats(0.6, 6.0), st.floats(1.02, 2.0), st.sampled_from([0.1, 0.5, 1.0]))
def test_epsilon_falls_with_noise(z: float, factor: float, q: float) -> None:
    less, more = (figure(1e-5, SampledGaussian(m, q, 20)) for m in (z, z * factor))
    assert more < less


@settings(deadline=None, max_examples=15)
@given(st.floats(0.05, 0.9), st.floats(1.02, 1.1))
def test_epsilon_grows_with_the_sampling_rate(q: float, factor: float) -> None:
    low, high = (figure(1e-5, SampledGaussian(1.5, r, 20)) for r in (q, min(1.0, q * factor)))
    assert low < high


def test_full_rate_is_the_limit_of_sampling() -> None:
    assert figure(1e-6, SampledGaussian(3.0, 1 - 1e-12, 10)) == pytest.approx(
        figure(1e-6, SampledGaussian(3.0, 1.0, 10)), rel=1e-4
    )


def test_epsilon_falls_with_delta() -> None:
    figures = [figure(d, SampledGaussian(1.0, 0.1, 50)) for d in (1e-9, 1e-6, 1e-3)]
    assert figures == sorted(figures, reverse=True)
    assert len(set(figures)) == 3


# RDP beside it


@pytest.mark.parametrize(
    ("q", "z", "count"),
    [(0.01, 1.0, 1000), (0.05, 0.7, 200), (0.2, 1.2, 60), (0.5, 4.0, 50), (1.0, 5.0, 10)],
)
def test_rdp_is_above_pld_and_within_a_sane_factor(q: float, z: float, count: int) -> None:
    result = epsilon([SampledGaussian(z, q, count)], 1e-5)
    assert result.value < result.cross_check < 1.5 * result.value


def test_rdp_of_a_full_rate_gaussian_is_its_formula() -> None:
    z, count, delta = 5.0, 10, 1e-5
    # Canonne, Kamath and Steinke 2020, Proposition 12, over integer orders.
    formula = min(
        count * a / (2 * z * z) + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1)
        for a in range(2, 65)
    )
    got = epsilon([SampledGaussian(z, 1.0, count)], delta).cross_check
    assert got == pytest.approx(formula, rel=1e-6)


def test_a_result_says_what_it_was_computed_from() -> None:
    result = epsilon([SampledGaussian(1.0, 0.1, 3)], 1e-5)
    assert result.delta == 1e-5
    assert result.accountant.startswith("dp-accounting 0.")
    assert result.method == "pld"


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 1.5, math.nan])
def test_a_delta_outside_the_open_unit_interval_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta="):
        Accountant(delta)


@pytest.mark.parametrize("delta", [math.nextafter(1e-10, 0), 1e-11, 1e-300, 5e-324])
def test_a_delta_too_small_for_the_convolutions_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="must be at least 1e-10"):
        Accountant(delta)
    with pytest.raises(ConfigError, match="must be at least 1e-10"):
        epsilon([SampledGaussian(1.0, 0.1)], delta)
    assert Accountant(1e-10).delta == 1e-10


# Integer noise: RDP makes the figure


def fine(z: float, q: float = 1.0, count: int = 1) -> list[Event]:
    """Integer noise so fine that it is nearly the Gaussian of this multiplier."""
    variance = 1e7
    l2 = math.sqrt(variance) / z
    l1 = min(math.sqrt(1e5) * l2, l2**2)
    return [
        SampledSkellam(variance, l2, l1, q, count),
        SampledDiscreteGaussian(variance, l2, 0.0, q, count),
    ]


RUNS = [
    (0.2, 1.2, 60, 300**-1.1),
    (0.1, 1.43, 60, 1e-5),
    (0.01, 1.0, 1000, 1e-5),
    (0.1, 4.0, 1000, 1e-6),
    (1.0, 3.0, 20, 1e-5),
    (1.0, 30.0, 1, 1e-9),
]
runs = pytest.mark.parametrize(("q", "z", "count", "delta"), RUNS)


@runs
def test_integer_noise_is_never_below_the_gaussians_pld_and_no_more_than_its_rdp(
    q: float, z: float, count: int, delta: float
) -> None:
    gaussian = epsilon([SampledGaussian(z, q, count)], delta)
    for event in fine(z, q, count):
        result = epsilon([event], delta)
        print(f"{type(event).__name__} q={q} z={z} T={count}: {result}, pld {gaussian.value:.4f}")
        assert result.method == "rdp"
        assert gaussian.value <= result.value <= 1.25 * gaussian.value
        # Ours has more orders than the cross-check of the Gaussian, theirs the exact variance.
        assert 0.97 * gaussian.cross_check <= result.value <= 1.001 * gaussian.cross_check
        assert result.value <= result.cross_check
        assert result.accountant.startswith("dp-accounting 0.")


@pytest.mark.parametrize(
    ("q", "z", "count", "delta", "quoted", "multiplier", "target"),
    [
        (0.2, 1.2, 60, 300**-1.1, 6.4403, 1.3224, 5.3282),
        (0.1, 1.43, 60, 1e-5, 3.3449, 1.5428, 2.9735),
    ],
)
def test_what_integer_noise_costs_in_rdp(
    q: float, z: float, count: int, delta: float, quoted: float, multiplier: float, target: float
) -> None:
    for event in fine(z, q, count):
        assert figure(delta, event) == pytest.approx(quoted, abs=2e-4)
    # The multiplier with which it reaches what PLD gives the Gaussian with z.
    for event in fine(multiplier, q, count):
        assert figure(delta, event) == pytest.approx(target, abs=2e-3)


@runs
def test_sampled_integer_noise_has_a_cross_check_of_its_own(
    q: float, z: float, count: int, delta: float
) -> None:
    for event in fine(z, q, count):
        result = epsilon([event], delta)
        if q == 1.0:
            assert result.cross_check == result.value
        else:
            assert result.value <= result.cross_check < 2.5 * result.value


def test_coarse_noise_costs_more_than_fine() -> None:
    fine_, coarse = (
        [figure(1e-5, SampledSkellam(v, math.sqrt(v) / 2, v / 4, 0.1, 50)) for v in variances]
        for variances in ([1e7, 1e5], [100.0, 16.0])
    )
    assert fine_[0] <= fine_[1] < coarse[0] < coarse[1]
    close, far = (
        figure(1e-5, SampledDiscreteGaussian(1e4, 50.0, kappa, 0.1, 50)) for kappa in (0.0, 1e-3)
    )
    # 50 runs, each up to 3 kappa in divergence.
    assert close + 50 * 2e-3 <= far <= close + 50 * 3.001e-3


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([0.05, 0.3, 1.0]))
def test_epsilon_of_integer_noise_grows_with_count(n: int, more: int, q: float) -> None:
    for event in fine(2.0, q):
        assert figure(1e-5, event.times(n)) < figure(1e-5, event.times(n + more))


def test_one_discrete_event_makes_it_rdp_for_good() -> None:
    skellam, discrete = fine(3.0, 0.1)
    accountant = Accountant(1e-5)
    assert accountant.method == "pld"
    accountant.compose(SampledGaussian(3.0, 0.1, 10))
    assert accountant.method == "pld"
    before = accountant.epsilon()
    other = accountant.copy()
    other.compose(discrete)
    assert (accountant.method, other.method) == ("pld", "rdp")
    assert accountant.epsilon() == before < other.epsilon()
    other.compose(SampledGaussian(3.0, 0.1, 10))
    other.compose(skellam)
    assert other.method == "rdp"
    assert other.result().method == "rdp"


@pytest.mark.parametrize("q", [0.1, 1.0])
def test_gaussian_and_discrete_events_compose_as_gaussians_would(q: float) -> None:
    alike = figure(1e-5, *(e.times(20) for e in fine(3.0, q)), SampledGaussian(3.0, q, 20))
    discrete = figure(1e-5, *(e.times(30) for e in fine(3.0, q)))
    # At full rate a Skellam has chords between integers where the others are exact.
    assert alike == pytest.approx(discrete, rel=1e-3)
    gaussian = epsilon([SampledGaussian(3.0, q, 60)], 1e-5)
    assert gaussian.value <= alike <= gaussian.cross_check * 1.001


def test_a_mixture_costs_more_than_each_part_and_its_order_does_not_matter() -> None:
    skellam, discrete = SampledSkellam(1e4, 40.0, 900.0, 0.1, 20), fine(4.0)[1]
    gaussian = SampledGaussian(2.0, 0.3, 5)
    together = figure(1e-5, skellam, gaussian, discrete)
    assert together == pytest.approx(figure(1e-5, discrete, skellam, gaussian), rel=1e-12)
    for pair in ((skellam, gaussian), (skellam, discrete), (gaussian, discrete)):
        assert figure(1e-5, *pair) < together
    result = epsilon([skellam, gaussian, discrete], 1e-5)
    assert result.value == together <= result.cross_check


def test_asking_after_every_discrete_event_gives_the_figure_of_asking_once() -> None:
    for step in fine(1.0, 0.05):
        running = Accountant(1e-6)
        for n in range(1, 2001):
            running.compose(step)
            shown = running.epsilon()
            if n in (1, 2, 50, 2000):
                assert shown == pytest.approx(figure(1e-6, step.times(n)), rel=1e-12)


@runs
def test_substituting_under_integer_noise_is_group_privacy_of_two(
    q: float, z: float, count: int, delta: float
) -> None:
    for event in fine(z, q, count):
        accountant = Accountant(1e-5)
        accountant.compose(event)
        gaussian = Accountant(1e-5)
        gaussian.compose(SampledGaussian(z, q, count))
        got = accountant.substituted(delta)
        assert gaussian.substituted(delta) <= got <= accountant.substituted_cross_check(delta)
        if math.isfinite(got):
            room = delta / (1 + math.exp(got / 2))
            assert figure(max(room, 1e-10), event) <= got / 2
            assert got > 2 * figure(delta, event)


def test_next_to_no_integer_noise_costs_infinity() -> None:
    for event in (SampledSkellam(1e-300, 1e9, 1e18, 0.5), SampledDiscreteGaussian(1.0, 1e200, 0.0)):
        result = epsilon([event], 1e-5)
        assert (result.value, result.cross_check) == (math.inf, math.inf)
