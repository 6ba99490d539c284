"""Budget policies: what they allow, what they refuse, and in which words."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tacit.privacy.budget import AllOf, EpsilonCap, caps
from tacit.privacy.claims import Claim
from tacit.privacy.errors import BudgetError, ConfigError
from tacit.privacy.events import SampledGaussian
from tacit.privacy.ledger import Spending
from tacit.privacy.log import leaves
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import ClientUnit, RecordUnit

CLIENT = ClientUnit(1.0, 1.2)
RECORD = RecordUnit(1.0, 0.8, 0.1, 5, 32.0)


def plan(client: ClientUnit | None, record: RecordUnit | None) -> PrivacyPlan:
    return PrivacyPlan(
        population=100,
        sampling_rate=0.2,
        rounds=10,
        client=client,
        record=record,
        client_delta=1e-5,
        record_delta=1e-5,
        minimum_survivors=5,
        noise_source="os-csprng",
    )


def spending(*claims: Claim) -> Spending:
    spent = Spending({"client": 1e-5, "record": 1e-5})
    leaf: dict[str, Any] = leaves.charge(
        run="r",
        round=1,
        attempt=0,
        purpose="train",
        plan_digest="p",
        cohort="c",
        claims=claims,
        participations=1,
        noise_source="os-csprng",
    )
    spent.add(leaf)
    return spent


def row(
    event: SampledGaussian | None,
    unit: str = "client",
    adversary: str = "public",
    amplified: bool = True,
) -> Claim:
    return Claim(unit, adversary, amplified, event, "release", "honest")  # type: ignore[arg-type]


EVENT = SampledGaussian(1.2, 0.2, 10)
SPENT = spending(row(EVENT))
EPSILON = SPENT.epsilon("client", "public", True)
assert EPSILON is not None


def test_a_cap_holds_up_to_its_limit_and_no_further() -> None:
    EpsilonCap("budget.epsilon", "client", EPSILON).check(SPENT)
    with pytest.raises(BudgetError):
        EpsilonCap("budget.epsilon", "client", math.nextafter(EPSILON, 0)).check(SPENT)


def test_a_refusal_names_the_setting_its_value_and_the_epsilon() -> None:
    with pytest.raises(BudgetError) as refusal:
        EpsilonCap("budget.epsilon", "client", 0.5).check(SPENT)
    assert "budget.epsilon=0.5" in refusal.value.message
    assert f"{EPSILON:.4f}" in refusal.value.message
    assert refusal.value.hint


@pytest.mark.parametrize(
    "spent",
    [
        spending(row(None)),
        spending(row(EVENT, unit="record")),
        spending(row(EVENT, adversary="coordinator")),
        spending(row(EVENT, amplified=False)),
        Spending({"client": 1e-5, "record": 1e-5}),
    ],
    ids=["void", "another unit", "another adversary", "not amplified", "nothing charged"],
)
def test_an_epsilon_that_is_not_claimed_is_no_epsilon_of_zero(spent: Spending) -> None:
    with pytest.raises(BudgetError, match=r"budget\.epsilon=1000 can't be kept"):
        EpsilonCap("budget.epsilon", "client", 1000.0).check(spent)


@pytest.mark.parametrize("delta", [1e-300, 1e-11])
def test_a_delta_too_small_for_the_accountant_is_never_charged(delta: float) -> None:
    spent = Spending({"client": delta})
    leaf = {
        "purpose": "train",
        "participations": 1,
        "claims": [
            {
                "unit": "client",
                "adversary": "public",
                "amplified": True,
                "per": "release",
                "event": EVENT.to_json(),
                "assumes": "honest",
            }
        ],
    }
    with pytest.raises(ConfigError, match=f"delta={delta:g}"):
        spent.add(leaf)
    with pytest.raises(BudgetError):
        EpsilonCap("budget.epsilon", "client", 1e300).check(spent)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_cap_that_is_no_positive_number_is_refused_by_its_setting(limit: float) -> None:
    with pytest.raises(ConfigError, match=f"budget.record_epsilon={limit}"):
        EpsilonCap("budget.record_epsilon", "record", limit)


# AllOf


class Recorder:
    """A policy that passes and says that it was asked."""

    def __init__(self) -> None:
        self.asked: list[Spending] = []

    def check(self, projected: Spending) -> None:
        self.asked.append(projected)


def test_all_of_asks_every_policy_about_the_same_spend() -> None:
    policies = [Recorder(), Recorder(), Recorder()]
    AllOf(policies).check(SPENT)
    assert [p.asked for p in policies] == [[SPENT]] * 3


@pytest.mark.parametrize("at", [0, 1, 2])
def test_all_of_refuses_if_any_policy_does(at: int) -> None:
    policies: list[Any] = [Recorder(), Recorder()]
    policies.insert(at, EpsilonCap("strict", "client", EPSILON / 2))
    with pytest.raises(BudgetError, match="strict="):
        AllOf(policies).check(SPENT)


def test_the_first_refusal_is_the_one_that_is_raised() -> None:
    low, lower = (EpsilonCap(n, "client", EPSILON / k) for n, k in (("first", 2), ("second", 3)))
    with pytest.raises(BudgetError, match="first="):
        AllOf([low, lower]).check(SPENT)


def test_all_of_nothing_allows_everything() -> None:
    AllOf([]).check(SPENT)


# From settings


@pytest.mark.parametrize(
    ("client", "record", "epsilon", "record_epsilon", "expected"),
    [
        (CLIENT, RECORD, None, None, []),
        (CLIENT, None, 3.0, None, [("budget.epsilon", "client", 3.0)]),
        (CLIENT, RECORD, 3.0, None, [("budget.epsilon", "client", 3.0)]),
        (None, RECORD, 3.0, None, [("budget.epsilon", "record", 3.0)]),
        (CLIENT, RECORD, None, 5.0, [("budget.record_epsilon", "record", 5.0)]),
        (
            CLIENT,
            RECORD,
            3.0,
            5.0,
            [("budget.epsilon", "client", 3.0), ("budget.record_epsilon", "record", 5.0)],
        ),
        (
            None,
            RECORD,
            3.0,
            5.0,
            [("budget.epsilon", "record", 3.0), ("budget.record_epsilon", "record", 5.0)],
        ),
    ],
)
def test_settings_cap_the_unit_that_the_plan_protects(
    client: ClientUnit | None,
    record: RecordUnit | None,
    epsilon: float | None,
    record_epsilon: float | None,
    expected: list[tuple[str, str, float]],
) -> None:
    made = caps(plan(client, record), epsilon, record_epsilon).policies
    assert [(p.name, p.unit, p.limit) for p in made] == expected


@pytest.mark.parametrize(
    ("client", "record", "epsilon", "record_epsilon", "says"),
    [
        (None, None, 3.0, None, "budget.epsilon=3"),
        (None, None, None, 3.0, "budget.record_epsilon=3"),
        (CLIENT, None, None, 3.0, "budget.record_epsilon=3"),
        (CLIENT, None, 1.0, 3.0, "budget.record_epsilon=3"),
        (CLIENT, None, -1.0, None, "budget.epsilon=-1"),
        (None, RECORD, None, 0.0, "budget.record_epsilon=0"),
    ],
)
def test_a_budget_for_an_unprotected_unit_or_of_no_size_is_a_config_error(
    client: ClientUnit | None,
    record: RecordUnit | None,
    epsilon: float | None,
    record_epsilon: float | None,
    says: str,
) -> None:
    with pytest.raises(ConfigError) as refusal:
        caps(plan(client, record), epsilon, record_epsilon)
    assert says in refusal.value.message


def test_the_caps_of_a_plan_stop_its_own_charges() -> None:
    made = plan(CLIENT, RECORD)
    spent = spending(*made.training())
    client, record = (spent.epsilon(u, "public", True) for u in ("client", "record"))
    caps(made, client, record).check(spent)
    with pytest.raises(BudgetError, match=r"budget\.epsilon="):
        caps(made, client * 0.99, record).check(spent)
    with pytest.raises(BudgetError, match=r"budget\.record_epsilon="):
        caps(made, client, record * 0.99).check(spent)


def test_a_records_cap_is_held_to_the_smaller_of_its_own_and_the_implied_epsilon() -> None:
    made = plan(replace(CLIENT, noise_multiplier=20.0), RECORD)
    spent = spending(*made.training())
    local, public = (spent.epsilon("record", who, True) for who in ("local", "public"))
    assert public < 0.5 * local
    caps(made, None, public).check(spent)
    with pytest.raises(BudgetError, match=r"budget\.record_epsilon="):
        caps(made, None, public * 0.999).check(spent)


def test_a_protected_unit_without_noise_cannot_keep_a_budget() -> None:
    made = plan(ClientUnit(1.0, 0.0), None)
    with pytest.raises(BudgetError, match="no epsilon is claimed"):
        caps(made, 1e6, None).check(spending(*made.training()))
