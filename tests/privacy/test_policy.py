"""Terms of a policy, and the arithmetic of its Renyi filter against independent formulas."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import dp_accounting
import numpy as np
import pytest
import rfc8785
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy import policy as policies
from tacit.privacy.accountant import MINIMUM_DELTA
from tacit.privacy.discrete import renyi
from tacit.privacy.discrete.renyi import library_event
from tacit.privacy.errors import ConfigError, TacitError
from tacit.privacy.events import SampledDiscreteGaussian, SampledGaussian, SampledSkellam
from tacit.privacy.ledger import ClaimKey
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.policy import Policy, best_order, budget, divergence, spent

ALICE = str(SignerKey("alice", bytes(range(32))).verifier)
CAP: dict[str, Any] = {"epsilon": 3.0, "delta": 1e-5, "order": 8.0}
FULL = Policy(
    population="hospital",
    unit="client",
    amplified=False,
    **CAP,
    window_days=30.0,
    run_epsilon=1.5,
    separation_hours=12.0,
    review_epsilon=1.0,
    reviewers=(ALICE,),
)
TERMS = [
    FULL,
    Policy(population="p"),
    Policy(population="p", unit="record", **CAP),
    Policy(population="p", run_epsilon=2.0, delta=1e-5),
    Policy(population="p", review_epsilon=0.1, delta=0.5, reviewers=(ALICE,)),
    Policy(population="p", separation_hours=2.0),
    Policy(population="p", reviewers=(ALICE, ALICE)),
]
# Without any epsilon, but with a delta.
BARE: dict[str, Any] = dict.fromkeys(
    ("epsilon", "order", "window_days", "run_epsilon", "review_epsilon")
)
ORDERS = st.sampled_from([float(order) for order in renyi.ORDERS])
DELTAS = st.floats(-9.9, -0.1).map(lambda exponent: 10.0**exponent)


def constant(order: float, delta: float) -> float:
    """Canonne, Kamath, Steinke 2020, Proposition 12: what the conversion adds at one order."""
    return math.log((order - 1.0) / order) - (math.log(delta) + math.log(order)) / (order - 1.0)


# Terms


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"population": ""}, "population="),
        ({"unit": "user"}, "unit=user"),
        ({"unit": "Client"}, "unit=Client"),
        *[
            ({name: value}, f"{name}={value}")
            for name in (
                "epsilon",
                "window_days",
                "run_epsilon",
                "separation_hours",
                "review_epsilon",
            )
            for value in (0.0, -1.0, math.nan, math.inf)
        ],
        ({"delta": None}, "epsilon=3, run_epsilon=1.5, review_epsilon=1 and delta=None"),
        ({"order": None}, "epsilon=3.0 and order=None"),
        ({"epsilon": None}, "epsilon=None and order=8.0"),
        ({"epsilon": None, "order": None}, "window_days=30 needs"),
        *[
            ({**BARE, name: value, "delta": None}, f"{name}={value:g} and delta=None")
            for name, value in (("epsilon", 3.0), ("run_epsilon", 1.5), ("review_epsilon", 1.0))
        ],
        (BARE, "no epsilon and delta=1e-05"),
        ({**BARE, "run_epsilon": 1.5, "delta": 1.0}, "delta=1"),
        ({**BARE, "run_epsilon": 1.5, "delta": MINIMUM_DELTA / 2}, "delta=5e-11"),
        ({"unit": "record"}, "window_days=30 can't"),
        *[({"delta": value}, f"delta={value}") for value in (0.0, 1.0, -0.5, 2.0, math.nan)],
        ({"delta": MINIMUM_DELTA / 2}, "delta=5e-11"),
        *[
            ({"order": value}, f"order={value:g}")
            for value in (1.0, 0.5, -2.0, 2.05, 65.0, 1e9, math.nan, math.inf)
        ],
        ({"reviewers": ()}, "review_epsilon=1 "),
        ({"reviewers": ("alice",)}, "reviewer=alice"),
        ({"reviewers": (ALICE, ALICE[:-1])}, f"reviewer={ALICE[:-1]}"),
        ({"reviewers": ("bob" + ALICE.removeprefix("alice"),)}, "reviewer=bob"),
        ({"reviewers": ("",)}, "reviewer="),
        ({"epsilon": 1e-3, "delta": 1e-10, "order": 2.0}, "epsilon=0.001 allows nothing"),
    ],
)
def test_bad_terms_are_named_with_their_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        replace(FULL, **changes)
    assert says in refusal.value.message


@pytest.mark.parametrize("delta", [MINIMUM_DELTA, 0.5, 1 - 1e-9])
def test_deltas_up_to_the_edges_are_terms(delta: float) -> None:
    assert replace(FULL, delta=delta, epsilon=30.0).delta == delta


def test_a_cap_with_anything_left_to_spend_is_one() -> None:
    least = constant(8.0, 1e-5)
    replace(FULL, epsilon=least * 1.0001)
    with pytest.raises(ConfigError, match="allows nothing"):
        replace(FULL, epsilon=least * 0.9999)


@pytest.mark.parametrize("unit", ["client", "record"])
@pytest.mark.parametrize("amplified", [True, False])
def test_caps_are_on_what_the_public_sees(unit: str, amplified: bool) -> None:
    made = Policy(population="p", unit=unit, amplified=amplified)
    assert made.row == ClaimKey(unit, "public", amplified)


def test_a_runs_deltas_are_never_above_the_policys() -> None:
    runs = {"client": 0.9, "record": 1e-8}
    assert FULL.deltas(runs) == {"client": 1e-5, "record": 1e-8}
    # One that states no epsilon has none to hold a run to.
    assert Policy(population="p").deltas(runs) == runs


@pytest.mark.parametrize("policy", TERMS)
def test_terms_are_read_back_as_they_were_written(policy: Policy) -> None:
    written = rfc8785.dumps(policy.to_json())
    again = Policy.from_json(json.loads(written))
    assert again == policy
    assert rfc8785.dumps(again.to_json()) == written
    # Of one type each, whether JSON said 3 or 3.0.
    for value in asdict(again).values():
        assert value is None or isinstance(value, str | bool | float | tuple)


@pytest.mark.parametrize("name", [*asdict(FULL)])
def test_reading_is_strict_about_each_field(name: str) -> None:
    whole = FULL.to_json()
    lacking = {k: v for k, v in whole.items() if k != name}
    with pytest.raises(ConfigError, match="policy fields="):
        Policy.from_json(lacking)
    wrong: list[Any] = [{}, [1], [None], 10**400, -(10**400)]
    wrong += [1, 0] if name in ("population", "unit", "amplified", "reviewers") else ["3", True]
    if name in ("population", "unit", "amplified", "reviewers"):
        wrong.append(None)
    for value in wrong:
        with pytest.raises(ConfigError):
            Policy.from_json({**whole, name: value})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="colour"):
        Policy.from_json({**FULL.to_json(), "colour": "red"})


def test_reading_checks_the_terms() -> None:
    with pytest.raises(ConfigError, match=r"epsilon=-3\.0"):
        Policy.from_json({**FULL.to_json(), "epsilon": -3})


WORDS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none())
)


@settings(deadline=None, max_examples=150)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(asdict(FULL), WORDS)))
def test_whatever_is_read_gives_terms_or_an_error_of_ours(changes: dict[str, Any]) -> None:
    try:
        made = Policy.from_json({**FULL.to_json(), **changes})
    except TacitError:
        return
    assert Policy.from_json(made.to_json()) == made


# The filter's arithmetic


@settings(deadline=None, max_examples=200)
@given(st.floats(0.01, 50.0), DELTAS, ORDERS)
def test_a_budget_is_the_inverse_of_the_conversion(
    epsilon: float, delta: float, order: float
) -> None:
    most = budget(epsilon, delta, order)
    assert most == pytest.approx(epsilon - constant(order, delta), rel=1e-12, abs=1e-12)
    if most <= 0:
        return
    there = float(compute_epsilon([order], [most], delta)[0])
    # The library says 0 where the Kullback-Leibler bound already gives delta.
    trivial = delta**2 > -math.expm1(-most)
    assert there == (0.0 if trivial else pytest.approx(epsilon, rel=1e-9, abs=1e-12))
    assert spent(most, delta, order) == there
    if not trivial:
        assert spent(most * (1 + 1e-9) + 1e-9, delta, order) > epsilon


def test_an_infinite_divergence_is_an_infinite_epsilon() -> None:
    assert spent(math.inf, 1e-5, 8.0) == math.inf
    assert divergence(SampledGaussian(1e-200), 8.0) == math.inf


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 30.0), DELTAS)
def test_the_best_order_admits_most_gaussians(epsilon: float, delta: float) -> None:
    """Brute force: how much of rho, a Gaussian's divergence being rho alpha, fits at each."""
    fits = {float(a): (epsilon - constant(float(a), delta)) / a for a in renyi.ORDERS}
    chosen = best_order(epsilon, delta)
    assert fits[chosen] == pytest.approx(max(fits.values()), rel=1e-12)


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (3.0, 1e-5), (8.0, 1e-8)])
def test_the_best_order_admits_as_many_rounds_as_any(epsilon: float, delta: float) -> None:
    event = SampledGaussian(30.0)

    def rounds(order: float) -> int:
        return math.floor(budget(epsilon, delta, order) / divergence(event, order))

    assert rounds(best_order(epsilon, delta)) == max(rounds(float(a)) for a in renyi.ORDERS)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(-1.0, 1e-5), (0.0, 1e-5), (math.nan, 1e-5), (1.0, -1e-5), (1.0, 0.0), (1.0, 1.0)],
)
def test_the_best_order_of_nonsense_is_an_error(epsilon: float, delta: float) -> None:
    with pytest.raises(ConfigError, match=r"(epsilon|delta)="):
        best_order(epsilon, delta)


@pytest.mark.parametrize("order", [2.0, 3.0, 8.0, 32.0, 64.0, 256.0])
@pytest.mark.parametrize(("z", "rate"), [(1.0, 0.01), (0.7, 0.3), (4.0, 0.5), (1.2, 0.999)])
def test_a_sampled_gaussians_divergence_is_the_librarys(
    z: float, rate: float, order: float
) -> None:
    other = RdpAccountant([order], dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    gaussian = dp_accounting.GaussianDpEvent(z)
    other.compose(dp_accounting.PoissonSampledDpEvent(rate, gaussian), 7)
    (expected,) = other.rdp
    assert divergence(SampledGaussian(z, rate, 7), order) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [1.1, 1.5, 2.0, 7.3, 64.0, 1024.0])
@pytest.mark.parametrize("z", [0.3, 1.0, 25.0])
def test_a_full_gaussians_divergence_is_the_closed_form(z: float, order: float) -> None:
    assert divergence(SampledGaussian(z), order) == pytest.approx(order / (2 * z * z), rel=1e-12)
    five = divergence(SampledGaussian(z, 1.0, 5), order)
    assert five == 5 * divergence(SampledGaussian(z), order)


@pytest.mark.parametrize("order", [1.7, 4.5, 9.9])
def test_between_whole_orders_the_divergence_is_no_less_than_the_integral(order: float) -> None:
    """Both directions of the sampled Gaussian, integrated numerically."""
    z, rate = 1.1, 0.2
    x = np.linspace(-60.0, 60.0, 400_001)
    p = -(x**2) / (2 * z * z) - math.log(z * math.sqrt(2 * math.pi))
    q = p + (2 * x - 1) / (2 * z * z)
    m = np.logaddexp(math.log1p(-rate) + p, math.log(rate) + q)
    for a, b in ((m, p), (p, m)):
        integral = np.trapezoid(np.exp(order * a + (1 - order) * b), x)
        assert divergence(SampledGaussian(z, rate), order) >= math.log(integral) / (order - 1)


@pytest.mark.parametrize(
    "event",
    [
        SampledSkellam(1e4, 90.0, 700.0, 0.2, 11),
        SampledSkellam(1e4, 90.0, 700.0, 1.0, 11),
        SampledDiscreteGaussian(1e4, 90.0, 1e-12, 0.2, 11),
    ],
)
def test_integer_noise_has_the_divergence_of_its_curve(event: Any) -> None:
    for place in (0, 5, 40, 100, len(renyi.ORDERS) - 1):
        order = float(renyi.ORDERS[place])
        assert divergence(event, order) == 11 * float(renyi.curve(event.once())[place])


def test_skellams_divergence_is_near_and_above_the_gaussians() -> None:
    """Agarwal, Kairouz, Liu 2021: with much variance it tends to alpha l2^2 / (2 variance)."""
    for order in (2.0, 8.0, 32.0):
        gaussian = order * 90.0**2 / (2 * 1e6)
        found = divergence(SampledSkellam(1e6, 90.0, 700.0), order)
        assert gaussian < found < 1.01 * gaussian


@pytest.mark.parametrize(
    "events",
    [
        [SampledGaussian(1.0, 0.1, 50)],
        [SampledGaussian(1.0, 0.1, 20), SampledGaussian(2.0, 0.3, 20), SampledGaussian(9.0)],
    ],
)
def test_the_filters_epsilon_is_no_less_than_tight_accounting(
    events: list[SampledGaussian],
) -> None:
    """One fixed order is never below the best of all, nor below privacy loss distributions."""
    from dp_accounting.pld import PLDAccountant

    tight, best = PLDAccountant(), RdpAccountant()
    for event in events:
        for accountant in (tight, best):
            accountant.compose(library_event(event), event.count)
    for order in (2.0, 5.0, 9.0, 30.0):
        figure = spent(sum(divergence(e, order) for e in events), 1e-5, order)
        assert figure >= best.get_epsilon(1e-5) - 1e-9
        assert figure >= tight.get_epsilon(1e-5)


def test_leaves_times_are_read_in_utc() -> None:
    assert policies.seconds("1970-01-02T00:00:00Z") == 86400.0
    with pytest.raises(ValueError, match="Invalid isoformat"):
        policies.seconds("yesterday")
