"""The sampling scheme that runs is the one that is claimed: Poisson."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tacit.configs import build
from tacit.configs.planning import privacy_plan
from tacit.privacy import participation
from tacit.privacy.log import leaves
from tacit.privacy.noise import Floats, Randomness, SimulationSource, Source, SystemSource
from tacit.privacy.plan import PrivacyPlan
from tacit.server.cohort import Sampler, _at_least, flipped, skipped

CENTRAL = ("mechanism=central", "aggregation=plain")
# Of a test that draws from the operating system, and of all its kind together below 1e-6.
ALARM = 1e-10

Draw = Callable[[Source, int, float], list[int]]
SOURCES = pytest.mark.parametrize("source", [SystemSource(), SimulationSource(0)])
DRAWS = pytest.mark.parametrize("draw", [flipped, skipped])


class Scripted(SimulationSource):
    """Gives one number again and again, or counts what it was asked for."""

    def __init__(self, number: float | None = None) -> None:
        super().__init__(0)
        self.asked, self._number = 0, number

    def uniform(self, size: int) -> Floats:
        self.asked += size
        return super().uniform(size) if self._number is None else np.full(size, self._number)


def fits(observed: np.ndarray, expected: np.ndarray) -> bool:
    """Pearson's test with the cells of fewer than twenty expected put together."""
    rare = expected < 20
    seen = [*observed[~rare], observed[rare].sum()]
    due = [*expected[~rare], expected[rare].sum()]
    if due[-1] < 20:
        seen[-2:], due[-2:] = [sum(seen[-2:])], [sum(due[-2:])]
    return float(stats.chisquare(seen, due).pvalue) > ALARM


def plan(clients: int, cohort: float) -> PrivacyPlan:
    spec = build.compose(["experiment=none", *CENTRAL, f"clients={clients}", f"cohort={cohort}"])
    return privacy_plan(spec, 5, 10)


@pytest.mark.parametrize("seed", [None, 0])
def test_sizes_are_binomial_and_clients_alike(seed: int | None) -> None:
    clients, rate, draws = 50, 0.2, 4000
    sampler = Sampler(plan(clients, clients * rate), Randomness(seed))
    joined = np.zeros((draws, clients))
    for i in range(draws):
        joined[i, sampler.draw("train", i, 0)] = 1
    sizes = joined.sum(1).astype(int)
    # Fixed-size sampling would put all mass on one size; its p-value is 0.
    edges = np.arange(4, 17)
    observed = np.array([np.sum(sizes <= 4), *(np.sum(sizes == k) for k in edges[1:-1])])
    observed = np.append(observed, draws - observed.sum())
    expected = np.diff([0, *stats.binom.cdf(edges[:-1], clients, rate), 1]) * draws
    assert stats.chisquare(observed, expected).pvalue > 1e-6
    per_client = stats.chisquare(joined.sum(0)).pvalue
    assert per_client > 1e-6
    # Independence: pairs join together at rate^2.
    pairs = (joined[:, 0::2] * joined[:, 1::2]).sum()
    assert stats.binomtest(int(pairs), draws * clients // 2, rate**2).pvalue > 1e-6


@SOURCES
@DRAWS
@pytest.mark.parametrize(("population", "rate"), [(1, 0.3), (4, 0.3), (5, 0.5), (7, 0.02)])
def test_every_subset_has_the_probability_of_independent_coins(
    source: Source, draw: Draw, population: int, rate: float
) -> None:
    draws = 5_000
    seen = Counter(tuple(draw(source, population, rate)) for _ in range(draws))
    subsets = [
        c for k in range(population + 1) for c in itertools.combinations(range(population), k)
    ]
    due = [draws * rate ** len(s) * (1 - rate) ** (population - len(s)) for s in subsets]
    assert sum(seen[s] for s in subsets) == draws
    assert fits(np.array([seen[s] for s in subsets]), np.array(due))


@SOURCES
@pytest.mark.parametrize(
    ("population", "rate"), [(100_000, 5e-4), (3_000, 1 / 65), (300, 0.5), (1_000, 1e-4)]
)
def test_a_draw_that_skips_is_binomial_in_size_and_uniform_in_place(
    source: Source, population: int, rate: float
) -> None:
    draws = 2_000
    found = [np.array(skipped(source, population, rate), int) for _ in range(draws)]
    sizes = np.array([len(members) for members in found])
    width = sizes.max() + 1
    due = np.append(stats.binom.pmf(np.arange(width), population, rate), 0.0) * draws
    due[-1] = draws - due[:-1].sum()
    assert fits(np.append(np.bincount(sizes, minlength=width), 0), due)
    # The two halves of the population, which share a block or don't, are independent.
    left = np.array([np.sum(members < population // 2) for members in found])
    related = np.corrcoef(left, sizes - left)[0, 1]
    assert abs(related) * np.sqrt(draws) < stats.norm.isf(ALARM / 2)
    everybody = np.concatenate(found)
    places = np.bincount(everybody * 20 // population, minlength=20)
    assert stats.chisquare(places).pvalue > ALARM
    # As are a client and its neighbour: the pairs are counted, with their exact spread.
    pairs = sum(int(np.sum(np.diff(members) == 1)) for members in found)
    mean = draws * (population - 1) * rate**2
    shared = 2 * draws * (population - 2) * rate**3 * (1 - rate)
    assert abs(pairs - mean) < 7 * np.sqrt(mean * (1 - rate**2) + shared) + 7


@given(
    st.integers(1, 3_000),
    st.one_of(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True), st.floats(1e-6, 1e-2)),
    st.integers(0, 2**40),
)
def test_members_are_clients_in_ascending_order_once_each(
    population: int, rate: float, seed: int
) -> None:
    for draw in (flipped, skipped):
        members = draw(SimulationSource(seed), population, rate)
        assert members == sorted(set(members))
        assert all(type(k) is int and 0 <= k < population for k in members)


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 2.0**-60, 1e-15])
def test_next_to_no_rate_draws_next_to_nobody(rate: float) -> None:
    for draw in (flipped, skipped):
        assert draw(SimulationSource(0), 1000, rate) == []


@pytest.mark.parametrize("population", [1, 1000, 100_000])
def test_a_rate_of_one_draws_everybody(population: int) -> None:
    sampler = Sampler(plan(population, population), Randomness(None))
    assert sampler.draw("train", 1, 0) == list(range(population))


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 0.5, 0.7, 1e-3, 3e-16])
def test_a_coin_is_never_more_likely_than_the_rate(rate: float) -> None:
    steps = int(Fraction(rate) * 2**53)
    assert flipped(Scripted((steps - 1) * 2.0**-53), 1, rate) == [0]
    assert flipped(Scripted(steps * 2.0**-53), 1, rate) == []


@pytest.mark.parametrize(
    ("size", "rate"), [(1, 0.01), (2, 1 / 3), (64, 0.5), (128, 0.5), (512, 0.1), (4096, 1 / 64)]
)
def test_sizes_are_rounded_down_and_by_no_more_than_is_said(size: int, rate: float) -> None:
    table, p = _at_least(size, rate)[::-1], Fraction(rate)
    assert len(table) < 2**8
    unit, mass, tail = Fraction(1, 2**106), (1 - p) ** size, Fraction(1)
    for j, units in enumerate([*table, 0]):
        tail -= mass
        assert 0 <= tail - units * unit < 2 * unit
        mass *= p / (1 - p) * (size - j) / (j + 1)


@pytest.mark.parametrize("rate", [5e-5, 1e-5, 1e-9])
def test_sizes_of_a_large_block_are_those_of_scipy(rate: float) -> None:
    table = _at_least(2**20, rate)[::-1]
    assert len(table) < 2**8
    expected = stats.binom.sf(np.arange(len(table)), 2**20, rate)
    found = np.array(table, float) * 2.0**-106
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=2.0**-105)


@pytest.mark.parametrize("population", [10**5, 10**6, 10**9])
def test_a_draw_follows_the_cohort_and_not_the_population(population: int) -> None:
    source = Scripted()
    members = skipped(source, population, 500 / population)
    assert 300 < len(members) < 700
    assert source.asked < 2_000


def test_a_small_populations_seeds_draw_what_they_always_did() -> None:
    for number, rate in enumerate((0.2, 0.004)):
        sampler = Sampler(plan(5000, 5000 * rate), Randomness(3))
        coins = Randomness(3).source("cohort", "train", number, 0).uniform(5000)
        assert sampler.draw("train", number, 0) == list(np.flatnonzero(coins < rate))


def test_a_large_population_is_drawn_by_skipping() -> None:
    ours = plan(10**6, 50)
    source = Randomness(3).source("cohort", "train", 1, 0)
    drawn = Sampler(ours, Randomness(3)).draw("train", 1, 0)
    assert drawn == skipped(source, 10**6, ours.sampling_rate)
    assert drawn != flipped(source, 10**6, ours.sampling_rate)


def test_every_client_joins_when_the_cohort_is_everybody() -> None:
    assert Sampler(plan(7, 7), Randomness(None)).draw("train", 1, 0) == list(range(7))


def test_a_seed_repeats_a_draw_and_an_abort_does_not() -> None:
    a, b = (Sampler(plan(100, 50), Randomness(3)) for _ in range(2))
    assert a.draw("train", 1, 0) == b.draw("train", 1, 0)
    assert a.draw("train", 1, 0) != a.draw("train", 1, 1)
    assert a.draw("train", 1, 0) != a.draw("train", 2, 0)
    assert a.draw("train", 1, 0) != a.draw("evaluate", 1, 0)


def test_the_operating_systems_draws_do_not_repeat() -> None:
    draws = {tuple(Sampler(plan(100, 50), Randomness(None)).draw("t", 1, 0)) for _ in range(5)}
    assert len(draws) == 5


def test_participations_charged_do_not_depend_on_who_was_drawn() -> None:
    ours = plan(300, 60)
    one, other = Sampler(ours, Randomness(1)), Sampler(ours, Randomness(2))
    for i in range(30):
        upcoming = one.upcoming("train")
        charged = [s.note("train", s.draw("train", i, 0)) for s in (one, other)]
        assert charged == [participation.bound(i + 1, 0.2, 300)] * 2
        assert upcoming == charged[0]


def test_a_real_count_above_the_bound_is_charged() -> None:
    sampler = Sampler(plan(300, 3), Randomness(0))
    bound = participation.bound(20, 0.01, 300)
    for _ in range(20):
        charged = sampler.note("train", [5])
    assert charged == 20 > bound


def test_what_is_charged_is_the_most_of_any_client_whatever_the_purpose() -> None:
    sampler, random = Sampler(plan(50, 0.01), Randomness(0)), np.random.default_rng(0)
    counts = {"train": np.zeros(50, int), "evaluate": np.zeros(50, int)}
    draws = Counter[str]()
    for _ in range(200):
        purpose = ("train", "evaluate")[random.integers(2)]
        members = np.flatnonzero(random.random(50) < random.random() * 0.3).tolist()
        counts[purpose][members] += 1
        draws[purpose] += 1
        due = max(counts[purpose].max(), participation.bound(draws[purpose], 0.01 / 50, 50))
        assert sampler.note(purpose, members) == due
        assert sampler.upcoming(purpose) >= due


def test_a_commitment_opens_to_its_members_only() -> None:
    commitment, salt = Sampler.commit([1, 2, 3])
    assert leaves.commit(salt, [3, 2, 1]) == commitment
    assert leaves.commit(salt, [1, 2]) != commitment
    assert Sampler.commit([1, 2, 3])[0] != commitment
