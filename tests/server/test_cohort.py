"""The sampling scheme that runs is the one that is claimed: Poisson."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tacit.configs import build
from tacit.configs.planning import privacy_plan
from tacit.privacy import participation
from tacit.privacy.log import leaves
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.server.cohort import Sampler

CENTRAL = ("mechanism=central", "aggregation=plain")


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


def test_a_commitment_opens_to_its_members_only() -> None:
    commitment, salt = Sampler.commit([1, 2, 3])
    assert leaves.commit(salt, [3, 2, 1]) == commitment
    assert leaves.commit(salt, [1, 2]) != commitment
    assert Sampler.commit([1, 2, 3])[0] != commitment
