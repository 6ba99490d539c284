"""`tacit.client.update`: what leaves a client is bounded, weighted and carries its vote."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client.update import prepare
from tacit.configs.planning import privacy_plan
from tacit.configs.spec import RunSpec
from tacit.privacy.plan import PrivacyPlan

Spec = Callable[..., RunSpec]
FLAT = ("privacy.client=flat", "privacy.client.clip=1.0", "privacy.record=none")
WEIGHTED = ("weighting=examples", "weighting.cap=10")


@pytest.fixture(scope="module")
def plan(spec_of: Spec) -> Callable[..., PrivacyPlan]:
    return lambda *overrides: privacy_plan(spec_of(*overrides), 10, 10)


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_without_client_level_dp_the_update_is_sent_as_it_is(
    plan: Callable[..., PrivacyPlan],
) -> None:
    sent, vote = prepare(vector(3, 4), 7, 0.0, plan("privacy.client=none"))
    np.testing.assert_array_equal(sent, vector(3, 4))
    assert vote.shape == (0,)


def test_a_long_update_is_scaled_to_the_bound_and_a_short_one_kept(
    plan: Callable[..., PrivacyPlan],
) -> None:
    sent, vote = prepare(vector(3, 4), 7, 2.0, plan(*FLAT))
    np.testing.assert_allclose(sent, vector(1.2, 1.6), rtol=2e-6)
    assert sent.dtype == np.float32
    assert vote.shape == (0,)
    sent, _ = prepare(vector(3, 4), 7, 5.1, plan(*FLAT))
    np.testing.assert_array_equal(sent, vector(3, 4))


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=50),
    bound=st.floats(1e-3, 1e3),
    records=st.integers(0, 30),
    weighted=st.booleans(),
)
def test_what_is_sent_is_never_longer_than_the_bound(
    plan: Callable[..., PrivacyPlan],
    values: list[float],
    bound: float,
    records: int,
    weighted: bool,
) -> None:
    own = plan(*FLAT, *WEIGHTED) if weighted else plan(*FLAT)
    sent, _ = prepare(vector(*values), records, bound, own)
    assert np.linalg.norm(sent.astype(np.float64)) <= bound


@pytest.mark.parametrize(
    ("records", "weight"), [(0, 0.0), (1, 0.1), (5, 0.5), (10, 1.0), (11, 1.0), (10**6, 1.0)]
)
@pytest.mark.parametrize("client", ["flat", "none"])
def test_the_weight_is_the_share_of_the_cap_and_comes_after_the_clip(
    plan: Callable[..., PrivacyPlan], client: str, records: int, weight: float
) -> None:
    own = plan(*FLAT, *WEIGHTED, f"privacy.client={client}")
    sent, _ = prepare(vector(3, 4), records, 1.0, own)
    length = 1.0 if client == "flat" else 5.0
    assert np.linalg.norm(sent) == pytest.approx(weight * length, rel=1e-5)


def test_uniform_weights_dont_show_the_number_of_records(
    plan: Callable[..., PrivacyPlan],
) -> None:
    own = plan(*FLAT)
    few, many = (prepare(vector(3, 4), n, 1.0, own)[0] for n in (0, 10**6))
    np.testing.assert_array_equal(few, many)


@pytest.mark.parametrize(
    ("values", "vote"), [((3, 4), -0.5), ((0.3, 0.4), 0.5), ((0, 0), 0.5), ((0.6, 0.8), None)]
)
def test_the_adaptive_vote_says_whether_the_update_was_short(
    plan: Callable[..., PrivacyPlan], values: tuple[float, ...], vote: float | None
) -> None:
    own = plan("privacy.client=adaptive")
    _, got = prepare(vector(*values), 7, 1.0, own)
    assert got.shape == (1,)
    assert got.dtype == np.float32
    # An update right at the bound may count either way, but not as anything else.
    assert got[0] in ((vote,) if vote is not None else (0.5, -0.5))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("client", ["flat", "adaptive"])
def test_an_update_that_isnt_finite_passes_unchanged_and_votes_as_too_long(
    plan: Callable[..., PrivacyPlan], client: str, odd: float
) -> None:
    update = vector(1, odd, 2)
    sent, vote = prepare(update, 7, 1.0, plan(f"privacy.client={client}"))
    np.testing.assert_array_equal(sent, update)
    assert vote.tolist() == ([-0.5] if client == "adaptive" else [])


def test_the_update_that_is_given_isnt_changed(plan: Callable[..., PrivacyPlan]) -> None:
    update = vector(3, 4)
    prepare(update, 7, 1.0, plan(*FLAT))
    np.testing.assert_array_equal(update, vector(3, 4))
