"""Noise in shares: what a plan claims against whom, and which plans there are."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from planned import (
    BY_RECORD,
    BY_RECORDS,
    CLIENT,
    COUNTS,
    EVALUATION,
    RECORD,
    RULES,
    UPDATES,
    lattice,
    plan,
)

from tacit.privacy import claims
from tacit.privacy.accountant import Accountant
from tacit.privacy.claims import Claim, SummedNoise
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.discrete.layers import Shares
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import Event, SampledDiscreteGaussian, SampledGaussian, SampledSkellam
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.units import AdaptiveClip, Evaluation, RecordUnit

CENTRAL = {"mechanism": "central", "aggregation": "plain", "rules": None, "updates": None}
EVALUATING = {**BY_RECORDS, "evaluation": EVALUATION}


def table(rows: list[Claim]) -> dict[tuple[str, str, bool], Claim]:
    found = {(c.unit, c.adversary, c.amplified): c for c in rows}
    assert len(found) == len(rows)
    return found


def same(event: Event | None, variance: float, l2: float, l1: float, rate: float) -> bool:
    """Whether it is that event, its variance at most the real one and barely less."""
    assert isinstance(event, SampledSkellam)
    assert variance * (1 - 1e-8) < event.variance <= variance
    return (event.l2, event.l1, event.sampling_rate, event.count) == (l2, l1, rate, 1)


# Clients


@pytest.mark.parametrize("record", [None, RECORD, replace(RECORD, noise_multiplier=0.0)])
def test_what_is_claimed_for_a_client_against_each_adversary(record: RecordUnit | None) -> None:
    rows = table(plan(record=record).training())
    v, l2, l1 = UPDATES.variance, UPDATES.l2, UPDATES.l1
    assert {key for key in rows if key[0] == "client"} == {
        ("client", "public", True),
        ("client", "public", False),
        ("client", "coordinator", False),
        ("client", "collusion", False),
        ("client", "local", False),
    }
    assert same(rows["client", "public", True].event, v, l2, l1, 0.2)
    assert same(rows["client", "public", False].event, v, l2, l1, 1.0)
    assert same(rows["client", "coordinator", False].event, v, l2, l1, 1.0)
    # 5 of the 25 that are in the smallest sum.
    assert same(rows["client", "collusion", False].event, v * 20 / 25, l2, l1, 1.0)
    # One share of at most as many as there are clients.
    assert same(rows["client", "local", False].event, v / 300, l2, l1, 1.0)
    assert {rows["client", "public", a].per for a in (True, False)} == {"release"}
    for who in ("coordinator", "collusion", "local"):
        # It sees the cohort, so only rounds in which the client takes part count.
        assert rows["client", who, False].per == "participation"


def test_the_smallest_share_that_a_client_adds_is_what_the_local_claim_says() -> None:
    local = table(plan().training())["client", "local", False].event
    assert isinstance(local, SampledSkellam)
    for clients in (25, 60, 90):
        shares = Shares("skellam", UPDATES.variance, clients, RULES.layers(clients), 1)
        assert shares.layer_variance(0) >= local.variance


def test_who_sees_vectors_is_claimed_no_more_than_one_share_against() -> None:
    rows = table(plan(aggregation="plain").training())
    assert ("client", "collusion", False) not in rows
    assert rows["client", "coordinator", False].event == rows["client", "local", False].event
    assert same(
        rows["client", "coordinator", False].event,
        UPDATES.variance / 300,
        UPDATES.l2,
        UPDATES.l1,
        1.0,
    )
    hidden = table(plan().training())
    for amplified in (True, False):
        key = ("client", "public", amplified)
        assert rows[key] == hidden[key]


def test_without_colluders_there_is_no_such_row() -> None:
    rows = table(plan(rules=replace(RULES, collusion=0)).training())
    assert ("client", "collusion", False) not in rows


def test_more_colluders_never_cost_less() -> None:
    spent = []
    for colluders in (1, 2, 5, 8):
        event = table(plan(rules=replace(RULES, collusion=colluders)).training())[
            "client", "collusion", False
        ].event
        assert event is not None
        accountant = Accountant(1e-4)
        accountant.compose(event)
        spent.append(accountant.epsilon())
    alone = Accountant(1e-4)
    whole = table(plan().training())["client", "coordinator", False].event
    assert whole is not None
    alone.compose(whole)
    assert [alone.epsilon(), *spent] == sorted({alone.epsilon(), *spent})


def test_noise_of_zero_claims_nothing_for_clients() -> None:
    unit = replace(CLIENT, noise_multiplier=0.0)
    made = plan(client=unit, updates=replace(UPDATES, variance=0.0))
    rows = [c for c in made.training() if c.unit == "client"]
    assert {c.event for c in rows} == {None}
    assert all("nothing is claimed" in c.assumes for c in rows)


def test_adaptive_clipping_is_one_event_with_the_vote_in_its_sensitivity() -> None:
    adaptive = AdaptiveClip(0.5, 0.2, 5.0)
    updates = lattice(count_noise=5.0)
    made = plan(client=replace(CLIENT, adaptive=adaptive), updates=updates)
    event = table(made.training())["client", "public", False].event
    assert updates.vote > 0
    assert same(event, updates.variance, math.hypot(updates.bound, updates.vote), updates.l1, 1.0)
    # The whole round's noise multiplier is what was asked for, or a hair more.
    assert 1.2 <= math.sqrt(updates.variance) / updates.l2 < 1.2 * 1.001


def test_records_in_clients_with_dp_sgd_keep_their_own_claims() -> None:
    rows = table(plan(record=replace(RECORD, steps=4)).training())
    for who in ("local", "coordinator", "public"):
        assert rows["record", who, True].event == SampledGaussian(0.8, 0.1, 4)
        assert rows["record", who, False].event == SampledGaussian(0.8, 1.0, 4)
    assert ("record", "collusion", True) not in rows


# Records alone


def test_what_is_claimed_for_a_record_that_shares_of_noise_protect() -> None:
    made = plan(**BY_RECORDS)
    rows = table(made.training())
    v, l2, l1 = BY_RECORD.variance, BY_RECORD.record_l2, BY_RECORD.record_l1
    assert l2 < BY_RECORD.l2
    parts = {"public": 1.0, "coordinator": 1.0, "collusion": 0.8, "local": 1 / 300}
    for who, part in parts.items():
        for amplified, rate in ((True, 0.1), (False, 1.0)):
            claim = rows["record", who, amplified]
            assert same(claim.event, v * part, l2, l1, rate)
            assert claim.per == "participation"
            assert ("secret" in claim.assumes) == amplified
    assert {c.event for c in made.training() if c.unit == "client"} == {None}
    assert made.noised_by_shares()
    assert not plan().noised_by_shares()
    plain = table(plan(**BY_RECORDS, aggregation="plain").training())
    assert plain["record", "coordinator", True].event == rows["record", "local", True].event
    assert ("record", "collusion", True) not in plain


def test_the_summed_noise_of_shares_is_that_of_the_lattice() -> None:
    made = plan(**BY_RECORDS)
    found = made.summed_noise()
    assert found == math.sqrt(BY_RECORD.variance) / BY_RECORD.record_l2
    # Sized for sqrt(60) times the record's multiplier.
    assert found == pytest.approx(0.8 * math.sqrt(60), rel=1e-6)
    assert plan(record=RECORD).summed_noise() is None


# Counts


def test_counts_have_their_own_lattice() -> None:
    made = plan(evaluation=EVALUATION, counts=COUNTS)
    rows = table(made.evaluating())
    v, l2, l1 = COUNTS.variance, COUNTS.l2, COUNTS.l1
    assert same(rows["client", "public", True].event, v, l2, l1, 0.2)
    assert same(rows["client", "coordinator", False].event, v, l2, l1, 1.0)
    assert same(rows["client", "collusion", False].event, v * 0.8, l2, l1, 1.0)
    assert math.sqrt(v) / l2 == pytest.approx(3.0, rel=1e-6)
    assert set(rows) == set(table(made.training()))
    assert plan().evaluating() == []


def test_counts_protect_records_where_shares_do() -> None:
    counts = replace(COUNTS, record_norm=COUNTS.norm / 100)
    made = plan(**BY_RECORDS, evaluation=EVALUATION, counts=counts)
    rows = table(made.evaluating())
    # Evaluation draws no records.
    for amplified in (True, False):
        assert same(
            rows["record", "public", amplified].event,
            counts.variance,
            counts.record_l2,
            counts.record_l1,
            1.0,
        )
    # Nothing is claimed for clients in training, so nothing is in the end.
    records = [{key for key in t if key[0] == "record"} for t in (rows, table(made.training()))]
    assert records[0] == records[1]


# Discrete Gaussians

WIDE = replace(UPDATES, variance=2.0**30, norm=2.0**13)


def test_discrete_gaussians_are_claimed_with_how_far_a_sum_is_from_one() -> None:
    updates = replace(WIDE, norm=2.0**10)
    made = plan(mechanism="discrete_gaussian", updates=updates)
    event = table(made.training())["client", "public", True].event
    assert isinstance(event, SampledDiscreteGaussian)
    assert (event.l2, event.sampling_rate) == (updates.l2, 0.2)
    smallest = made.smallest_share(updates)
    shares = 90 * (1 + RULES.layers(90))
    each = 10 * math.exp(-(math.pi**2) * smallest)
    assert event.closeness == pytest.approx(updates.length * shares * each, rel=1e-12)


@pytest.mark.parametrize("clients", [25, 40, 60, 90])
@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.3])
def test_no_share_or_layer_is_smaller_than_the_smallest(clients: int, dropout: float) -> None:
    rules = replace(RULES, dropout=dropout)
    made = plan(rules=rules)
    count = rules.layers(clients)
    shares = Shares("skellam", UPDATES.variance, clients, count, 1)
    least = min(shares.layer_variance(k) for k in range(count + 1))
    assert least >= made.smallest_share(UPDATES) * (1 - 1e-12)


def test_shares_that_are_too_narrow_for_discrete_gaussians_are_refused() -> None:
    # The smallest share is variance / 90^2.
    for variance, fits in ((9.01 * 8100, True), (8.99 * 8100, False), (0.0, True)):
        changes = {"mechanism": "discrete_gaussian", "client": replace(CLIENT, noise_multiplier=0)}
        updates = replace(UPDATES, variance=variance)
        if fits:
            assert plan(**changes, updates=updates).smallest_share(updates) in (
                pytest.approx(variance / 8100),
            )
            continue
        with pytest.raises(ConfigError, match="too small") as caught:
            plan(**changes, updates=updates)
        assert "skellam" in caught.value.hint


def test_a_central_plan_has_no_shares() -> None:
    central = plan(**CENTRAL)
    assert central.smallest_share(UPDATES) == 0.0
    assert not central.noised_by_shares()


# Which plans there are


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mechanism": "central"}, "aggregation=secure"),
        ({"mechanism": "central", "rules": None, "updates": None}, "aggregation=secure"),
        ({"mechanism": "central", "aggregation": "plain"}, "has no rules"),
        ({**CENTRAL, "updates": BY_RECORD}, "has no rules"),
        ({**CENTRAL, "rules": RULES}, "has no rules"),
        ({**CENTRAL, "counts": COUNTS}, "has no rules"),
        ({**CENTRAL, "projection": 0.05}, "has no rules"),
        ({"rules": None}, "needs rules"),
        ({"updates": None}, "needs rules"),
        ({"minimum_survivors": 24}, "minimum_survivors=24"),
        ({"client": None}, "updates that are bounded"),
        ({"client": None, "record": RECORD}, "updates that are bounded"),
        ({**BY_RECORDS, "projection": None}, "updates that are bounded"),
        ({"client": None, "record": RECORD, "projection": 0.05}, "updates that are bounded"),
        ({**BY_RECORDS, "projection": 0.0}, "updates that are bounded"),
        ({**BY_RECORDS, "projection": -0.05}, "updates that are bounded"),
        ({**BY_RECORDS, "record": None}, "updates that are bounded"),
        ({**BY_RECORDS, "record": replace(RECORD, steps=2)}, "updates that are bounded"),
        ({"population": 89}, "largest=90 of a cohort must be at most clients=89"),
        ({**EVALUATING, "counts": replace(COUNTS, record_norm=1e-3)}, "counts.record_norm=0.001"),
        ({"updates": replace(UPDATES, variance=UPDATES.variance * 0.99)}, "noise of deviation"),
        ({"client": replace(CLIENT, noise_multiplier=1.3)}, "noise of deviation"),
        ({"mechanism": "distributed"}, "mechanism=distributed"),
        ({"aggregation": "masked"}, "aggregation=masked"),
    ],
)
def test_a_plan_that_would_not_hold_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(**changes)
    assert says in caught.value.message


def test_no_draw_that_a_plan_names_lowers_the_noise_of_a_record() -> None:
    # As much noise as 25 survivors need; a rate of 1e-6 of 300 clients would ask for none.
    variance = 25 * (RECORD.noise_multiplier * BY_RECORD.record_l2) ** 2
    rare = {**BY_RECORDS, "sampling_rate": 1e-6}
    plan(**{**rare, "updates": replace(BY_RECORD, variance=variance)})
    for part in (0.97, 1e-6):
        with pytest.raises(ConfigError, match="noise of deviation"):
            plan(**{**rare, "updates": replace(BY_RECORD, variance=variance * part)})


@pytest.mark.parametrize("record_norm", [0.0, COUNTS.norm / EVALUATION.cap, 2 * COUNTS.norm])
def test_what_a_record_moves_counts_by_may_be_said_with_room(record_norm: float) -> None:
    plan(**{**EVALUATING, "counts": replace(COUNTS, record_norm=record_norm)})


def test_a_share_is_never_less_than_what_is_claimed_of_it() -> None:
    # Everybody in the cohort, seen one by one: the coordinator's claim is of one share.
    made = plan(population=90, aggregation="plain")
    event = table(made.training())["client", "coordinator", False].event
    assert isinstance(event, SampledSkellam)
    assert event.variance <= UPDATES.variance / RULES.largest


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Rules(25, 90, 0.1, 9), r"3 x secure.collusion=9"),
        (lambda: Rules(25, 90, 1 / 3, 0), "secure.dropout=0.333333"),
        (lambda: Rules(25, 90, -0.1, 0), "secure.dropout=-0.1"),
        (lambda: Rules(2, 90, 0.1, 0), "minimum_survivors=2"),
        (lambda: Rules(25, 24, 0.1, 0), "largest=24"),
        (lambda: Rules(25, 90, 0.1, -1), "secure.collusion=-1"),
    ],
)
def test_rules_that_would_not_hold_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert says in caught.value.message


def test_two_thirds_of_the_smallest_sum_have_to_be_honest() -> None:
    assert Rules(25, 90, 0.1, 8).collusion == 8


def test_a_plan_survives_json_with_its_digest() -> None:
    made = plan(**BY_RECORDS, evaluation=EVALUATION, counts=COUNTS)
    read = json.loads(json.dumps(made.to_json()))
    back = PrivacyPlan(
        **{
            **read,
            "record": RecordUnit(**read["record"]),
            "evaluation": Evaluation(**read["evaluation"]),
            "rules": Rules(**read["rules"]),
            "updates": Lattice(**read["updates"]),
            "counts": Lattice(**read["counts"]),
        }
    )
    assert back == made
    assert back.digest() == made.digest()
    assert plan().digest() != made.digest()


def test_every_row_says_what_it_counts_on() -> None:
    for changes in ({}, BY_RECORDS, {"aggregation": "plain"}, {"record": RECORD}):
        for claim in plan(**changes).training():
            assert claim.assumes
            assert (claim.event is None) == ("nothing is claimed" in claim.assumes)


def test_a_claim_of_no_part_of_the_noise_has_no_event() -> None:
    noise = SummedNoise("skellam", UPDATES, 1.0, 1)
    assert noise.event("client", 0.0) is None
    rows = claims.summed_client(noise, 0.2, True, 0.0, 300)
    assert len(rows) == 4
