"""The plan: what it claims for every combination of units, and what its digest covers."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.accountant import Accountant
from tacit.privacy.claims import Claim
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.errors import ConfigError
from tacit.privacy.events import SampledGaussian, collapse
from tacit.privacy.noise import SimulationSource
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.units import AdaptiveClip, ClientUnit, Evaluation, RecordUnit

CLIENT = ClientUnit(0.5, 1.2)
RECORD = RecordUnit(1.0, 0.8, 0.1, 1, 32.0)
EVALUATION = Evaluation(5, 100, 4.0, 3.0)
BASE: dict[str, Any] = {
    "population": 300,
    "sampling_rate": 0.2,
    "rounds": 60,
    "client": None,
    "record": None,
    "client_delta": 1e-4,
    "record_delta": 1e-5,
    "minimum_survivors": 25,
    "noise_source": "os-csprng",
}


def plan(**changes: Any) -> PrivacyPlan:
    return PrivacyPlan(**{**BASE, **changes})


def rows(claims: list[Claim]) -> dict[tuple[str, str, bool], tuple[SampledGaussian | None, str]]:
    """The claims as a table, refusing a row that is there twice."""
    table = {(c.unit, c.adversary, c.amplified): (c.event, c.per) for c in claims}
    assert len(table) == len(claims)
    return table


# Adaptive clipping


@given(st.floats(0.01, 100.0), st.floats(1.001, 1000.0))
def test_the_split_with_the_count_gives_back_the_whole(z: float, factor: float) -> None:
    # The count has sensitivity 1/2, hence noise multiplier 2 * count_noise.
    noise = z / 2 * factor
    unit = ClientUnit(1.0, z, AdaptiveClip(0.5, 0.2, noise))
    assert collapse([unit.update_noise_multiplier(), 2 * noise]) == pytest.approx(z, rel=1e-9)
    assert unit.update_noise_multiplier() > z


@given(st.floats(0.01, 100.0), st.floats(1e-6, 1.0))
def test_a_count_that_spends_the_whole_round_is_refused(z: float, share: float) -> None:
    with pytest.raises(ConfigError, match=r"count_noise=.*noise_multiplier/2"):
        ClientUnit(1.0, z, AdaptiveClip(0.5, 0.2, z / 2 * share))


def test_without_adaptive_clipping_or_noise_there_is_nothing_to_split() -> None:
    assert ClientUnit(1.0, 1.3).update_noise_multiplier() == 1.3
    adaptive = AdaptiveClip(0.5, 0.2, 1e-3)
    assert ClientUnit(1.0, 0.0, adaptive).update_noise_multiplier() == 0.0


# The summed claim


@pytest.mark.parametrize(("clients", "z", "clip"), [(4, 1.0, 1.0), (25, 0.8, 0.3)])
def test_the_summed_claim_is_the_noise_that_the_clients_add_up_to(
    clients: int, z: float, clip: float
) -> None:
    record = replace(RECORD, noise_multiplier=z, clip=clip)
    claimed = plan(record=record, minimum_survivors=clients).summed_noise()
    assert claimed is not None
    size = 40_000
    total = sum(z * clip * SimulationSource(1, "client", k).normal(size) for k in range(clients))
    # Sensitivity of the sum is one record's clip. Six standard deviations of the estimate.
    measured = float(np.sqrt(np.mean(np.square(total)))) / clip
    assert measured == pytest.approx(claimed, rel=6 / math.sqrt(2 * size))
    assert claimed == pytest.approx(collapse([z / math.sqrt(clients)]) * clients, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"record": replace(RECORD, steps=2)},
        {"client": CLIENT},
        {"client": ClientUnit(0.5, 0.0)},
        {"minimum_survivors": 0},
    ],
    ids=["steps", "client clip", "client clip without noise", "no minimum of survivors"],
)
def test_where_the_sum_is_no_gaussian_the_public_claim_is_the_local_one(
    changes: dict[str, Any],
) -> None:
    made = plan(**{"record": RECORD, **changes})
    assert made.summed_noise() is None
    table = rows(made.training())
    for amplified in (True, False):
        local = table["record", "local", amplified]
        assert local[1] == "participation"
        assert table["record", "public", amplified] == local
        assert table["record", "coordinator", amplified] == local


def test_the_summed_claim_is_for_the_public_only_and_once_a_participation() -> None:
    table = rows(plan(record=RECORD).training())
    z = math.sqrt(25) * 0.8
    # Only a round in which the record's client takes part depends on the record.
    assert table["record", "public", True] == (SampledGaussian(z, 0.1, 1), "participation")
    assert table["record", "public", False] == (SampledGaussian(z, 1.0, 1), "participation")
    for adversary in ("local", "coordinator"):
        assert table["record", adversary, True] == (SampledGaussian(0.8, 0.1, 1), "participation")
        assert table["record", adversary, False] == (SampledGaussian(0.8, 1.0, 1), "participation")


plans_with_records = st.builds(
    plan,
    record=st.builds(
        RecordUnit,
        clip=st.just(1.0),
        noise_multiplier=st.sampled_from([0.0]) | st.floats(0.5, 20.0),
        sampling_rate=st.sampled_from([1.0]) | st.floats(0.01, 1.0),
        steps=st.integers(1, 3),
        denominator=st.just(32.0),
    ),
    client=st.sampled_from([None, None, CLIENT, ClientUnit(0.5, 0.0)]),
    sampling_rate=st.floats(1e-3, 1.0),
    minimum_survivors=st.integers(0, 300),
    evaluation=st.sampled_from([None, EVALUATION]),
)


@given(plans_with_records)
def test_what_the_public_sees_is_never_claimed_above_what_one_submission_shows(
    made: PrivacyPlan,
) -> None:
    for claims in (made.training(), made.evaluating()):
        table = rows(claims)
        for amplified in (True, False) if claims else ():
            (public, per), (local, local_per) = (
                table["record", who, amplified] for who in ("public", "local")
            )
            # Composed as often, at the same rate, no more steps, and at least as much noise.
            assert per == local_per == "participation"
            assert (public is None) == (local is None)
            if public and local:
                assert public.sampling_rate == local.sampling_rate
                assert public.count <= local.count
                assert public.noise_multiplier >= local.noise_multiplier


@settings(deadline=None, max_examples=20)
@given(plans_with_records, st.integers(1, 30))
def test_nor_is_its_epsilon_above(made: PrivacyPlan, participations: int) -> None:
    table = rows(made.training())
    for amplified in (True, False):
        spent = []
        for who in ("public", "local"):
            event, accountant = table["record", who, amplified][0], Accountant(1e-5)
            if event is None:
                return
            accountant.compose(event.times(participations))
            spent.append(accountant.epsilon())
        assert spent[0] <= spent[1] * (1 + 1e-6)
        assert spent[0] < spent[1] or made.summed_noise() in (None, made.record.noise_multiplier)


def test_record_noise_of_zero_claims_nothing_however_many_clients_are_summed() -> None:
    table = rows(plan(record=replace(RECORD, noise_multiplier=0.0)).training())
    assert {event for event, _ in table.values()} == {None}


# What training claims

NONE = (None, "release")
NO_RECORD = {("record", who, a): None for who in ("local", "coordinator", "public") for a in (0, 1)}


def events_of(claims: list[Claim]) -> dict[tuple[str, str, bool], SampledGaussian | None]:
    return {key: event for key, (event, _) in rows(claims).items()}


def test_no_unit_claims_nothing_in_every_row() -> None:
    table = events_of(plan().training())
    assert set(table.values()) == {None}
    assert len(table) == 9


def test_client_unit_alone() -> None:
    table = events_of(plan(client=CLIENT).training())
    assert table == NO_RECORD | {
        ("client", "public", True): SampledGaussian(1.2, 0.2),
        ("client", "public", False): SampledGaussian(1.2, 1.0),
        ("client", "coordinator", False): None,
    }


def test_adaptive_clipping_is_claimed_as_one_event_for_update_and_count() -> None:
    unit = ClientUnit(0.5, 1.2, AdaptiveClip(0.5, 0.2, 5.0))
    assert events_of(plan(client=unit).training()) == events_of(plan(client=CLIENT).training())


def test_client_unit_without_noise_claims_nothing() -> None:
    assert set(events_of(plan(client=ClientUnit(0.5, 0.0)).training()).values()) == {None}


def test_both_units_together() -> None:
    record = replace(RECORD, steps=7)
    table = rows(plan(client=CLIENT, record=record).training())
    assert table["client", "public", True] == (SampledGaussian(1.2, 0.2), "release")
    assert table["client", "public", False] == (SampledGaussian(1.2, 1.0), "release")
    assert table["client", "coordinator", False] == NONE
    for who in ("local", "coordinator", "public"):
        assert table["record", who, True] == (SampledGaussian(0.8, 0.1, 7), "participation")
        assert table["record", who, False] == (SampledGaussian(0.8, 1.0, 7), "participation")


def test_the_coordinator_is_never_claimed_against_at_client_level() -> None:
    for claims in (
        plan(client=CLIENT, evaluation=EVALUATION).training(),
        plan(client=CLIENT, evaluation=EVALUATION).evaluating(),
    ):
        found = [c for c in claims if c.unit == "client" and c.adversary != "public"]
        assert [(c.adversary, c.event) for c in found] == [("coordinator", None)]


@pytest.mark.parametrize("client", [None, CLIENT])
@pytest.mark.parametrize("record", [None, RECORD, replace(RECORD, steps=3)])
@pytest.mark.parametrize("evaluation", [None, EVALUATION])
def test_unamplified_rows_count_on_no_sampling_and_every_row_is_explained(
    client: ClientUnit | None, record: RecordUnit | None, evaluation: Evaluation | None
) -> None:
    made = plan(client=client, record=record, evaluation=evaluation)
    keys = {(c.unit, c.adversary, c.amplified) for c in made.training()}
    for claim in made.training() + made.evaluating():
        assert claim.assumes
        assert (claim.unit, claim.adversary, claim.amplified) in keys
        if claim.event is None:
            assert "nothing is claimed" in claim.assumes
        elif not claim.amplified:
            assert claim.event.sampling_rate == 1.0
        elif claim.event.sampling_rate < 1.0:
            assert "secret" in claim.assumes


# What evaluation claims


def test_without_evaluation_nothing_is_released_by_it() -> None:
    assert plan(client=CLIENT, record=RECORD).evaluating() == []


def test_evaluation_has_its_own_noise_at_client_level() -> None:
    table = events_of(plan(evaluation=EVALUATION).evaluating())
    assert table == NO_RECORD | {
        ("client", "public", True): SampledGaussian(3.0, 0.2),
        ("client", "public", False): SampledGaussian(3.0, 1.0),
        ("client", "coordinator", False): None,
    }


def test_evaluation_at_record_level_is_a_full_rate_gaussian_of_the_records_noise() -> None:
    record = replace(RECORD, steps=7)
    table = rows(plan(record=record, evaluation=EVALUATION).evaluating())
    for who in ("local", "coordinator", "public"):
        for amplified in (True, False):
            # Neither drawn by record nor repeated for the steps of training.
            expected = (SampledGaussian(0.8, 1.0, 1), "participation")
            assert table["record", who, amplified] == expected


def test_evaluation_without_noise_claims_nothing_at_client_level() -> None:
    made = plan(client=CLIENT, evaluation=replace(EVALUATION, noise_multiplier=0.0))
    assert set(events_of(made.evaluating()).values()) == {None}


@given(
    correct=st.floats(0, 1),
    loss=st.floats(0, 1),
    records=st.integers(0, 50),
    cap=st.integers(1, 50),
)
def test_no_counts_of_a_client_are_longer_than_the_declared_sensitivity(
    correct: float, loss: float, records: int, cap: int
) -> None:
    share = min(records, cap) / cap
    assert math.hypot(correct * share, share, loss * share) <= Evaluation.SENSITIVITY + 1e-12


# Digest

RULES = Rules(25, 90, 0.1, 2)
UPDATES = Lattice(
    dimension=100,
    rotated=True,
    bits=20,
    norm=64.0,
    conditional=True,
    variance=1e4,
    vote=11,
)
COUNTS = Lattice(dimension=3, rotated=False, bits=32, norm=1024.0, conditional=False, variance=1e7)
FULL = plan(
    client=ClientUnit(0.5, 1.2, AdaptiveClip(0.5, 0.2, 5.0)),
    record=RECORD,
    evaluation=EVALUATION,
    mechanism="skellam",
    aggregation="secure",
    rules=RULES,
    relation="zero-out",
    updates=UPDATES,
    counts=COUNTS,
    projection=0.05,
)
WORDS = {
    "noise_source": "seeded-simulation",
    "mechanism": "another",
    "aggregation": "another",
    "relation": "replace-one",
    "sampling": "shuffled",
}


def changed(value: object, name: str) -> object:
    if name == "weight_cap":
        return 8
    if isinstance(value, str):
        return WORDS[name]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 0.75 + 0.01


def variants(node: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    found: list[tuple[tuple[str, ...], object]] = []
    for field in fields(node):
        value = getattr(node, field.name)
        here = (*path, field.name)
        if is_dataclass(value):
            found += [(here, None), *variants(value, here)]
        else:
            found.append((here, changed(value, field.name)))
    return found


def altered(node: Any, path: tuple[str, ...], value: object) -> Any:
    """A copy with one field changed, past validation: some fields have one legal value."""
    head, *rest = path
    new = altered(getattr(node, head), tuple(rest), value) if rest else value
    copy = object.__new__(type(node))
    for field in fields(node):
        object.__setattr__(copy, field.name, getattr(node, field.name))
    object.__setattr__(copy, head, new)
    return copy


@pytest.mark.parametrize(("path", "value"), variants(FULL), ids=lambda p: str(p))
def test_the_digest_changes_with_every_field(path: tuple[str, ...], value: object) -> None:
    assert altered(FULL, path, value).digest() != FULL.digest()


def test_the_walk_over_the_fields_reaches_all_of_them() -> None:
    paths = {path for path, _ in variants(FULL)}
    # 19 fields of the plan, 3 of the client unit, 3 of adaptive clipping, 5 of the record
    # unit, 4 of evaluation, 4 of the rules, 8 of each lattice. A new field comes to this test by
    # itself and to this count by hand.
    assert len(paths) == 54
    assert ("client", "adaptive", "count_noise") in paths
    assert ("updates", "variance") in paths


def test_no_two_changes_have_the_same_digest() -> None:
    digests = [altered(FULL, path, value).digest() for path, value in variants(FULL)]
    assert len({*digests, FULL.digest()}) == len(digests) + 1


def test_equal_plans_have_equal_digests() -> None:
    again = plan(
        client=ClientUnit(0.5, 1.2, AdaptiveClip(0.5, 0.2, 5.0)),
        record=RecordUnit(1.0, 0.8, 0.1, 1, 32.0),
        evaluation=Evaluation(5, 100, 4.0, 3.0),
        mechanism="skellam",
        aggregation="secure",
        rules=Rules(25, 90, 0.1, 2),
        relation="zero-out",
        updates=replace(UPDATES),
        counts=replace(COUNTS),
        projection=0.05,
    )
    assert again == FULL
    assert again.digest() == FULL.digest()
    # An integral float is the same number: a YAML file may say 32 or 32.0.
    assert plan(record=replace(RECORD, denominator=32)).digest() == plan(record=RECORD).digest()


# Validation

ABOVE_TEN = math.nextafter(10, 11)


def test_the_step_of_the_clip_may_be_up_to_ten() -> None:
    for rate in (5e-324, 0.2, 10, 10.0):
        assert AdaptiveClip(0.5, rate, 1.0).learning_rate == rate


def test_the_only_relation_and_sampling_that_is_accounted_for_may_be_named() -> None:
    assert plan(relation="add-or-remove-one", sampling="poisson") == plan()


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, noise_multiplier=0.0)])
def test_weighting_by_examples_is_refused_with_record_level_dp(record: RecordUnit) -> None:
    with pytest.raises(ConfigError, match="weighting=examples"):
        plan(record=record, weight_cap=100)
    assert plan(client=CLIENT, weight_cap=100).weight_cap == 100


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"population": 0}, "clients=0"),
        ({"sampling_rate": 0.0}, "cohort/clients=0.0"),
        ({"sampling_rate": 1.5}, "cohort/clients=1.5"),
        ({"rounds": 0}, "rounds=0"),
        ({"mechanism": "distributed"}, "mechanism=distributed"),
        ({"aggregation": "secure"}, "aggregation=secure"),
        ({"client_delta": 0.0}, "delta=0.0"),
        ({"record_delta": 1.0}, "delta=1.0"),
        ({"minimum_survivors": -1}, "minimum_survivors=-1"),
        ({"minimum_survivors": 301}, "minimum_survivors=301"),
        ({"noise_source": "torch"}, "noise_source=torch"),
        ({"weight_cap": 0}, "weighting.cap=0"),
        ({"relation": "replace-one"}, "relation=replace-one"),
        ({"relation": "substitute"}, "relation=substitute"),
        ({"relation": ""}, "relation="),
        ({"sampling": "shuffled"}, "sampling=shuffled"),
        ({"sampling": "without-replacement"}, "sampling=without-replacement"),
        ({"sampling": "Poisson"}, "sampling=Poisson"),
        ({"population": 300.0}, "clients=300.0"),
        ({"rounds": 2.5}, "rounds=2.5"),
        ({"rounds": math.nan}, "rounds=nan"),
        ({"rounds": True}, "rounds=True"),
        ({"minimum_survivors": 25.0}, "minimum_survivors=25.0"),
        ({"weight_cap": 8.0}, "weighting.cap=8.0"),
    ],
)
def test_an_impossible_plan_is_refused_by_name_and_value(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan(**changes)
    assert says in refusal.value.message


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ClientUnit(0.0, 1.0), "privacy.client.clip=0.0"),
        (lambda: ClientUnit(math.inf, 1.0), "privacy.client.clip=inf"),
        (lambda: ClientUnit(1.0, -0.1), "privacy.client.noise_multiplier=-0.1"),
        (lambda: ClientUnit(1.0, math.nan), "privacy.client.noise_multiplier=nan"),
        (lambda: AdaptiveClip(1.0, 0.2, 1.0), "privacy.client.quantile=1.0"),
        (lambda: AdaptiveClip(0.5, 0.0, 1.0), "privacy.client.quantile_learning_rate=0.0"),
        (lambda: AdaptiveClip(0.5, -0.1, 1.0), "privacy.client.quantile_learning_rate=-0.1"),
        (lambda: AdaptiveClip(0.5, 10.5, 1.0), "privacy.client.quantile_learning_rate=10.5"),
        (lambda: AdaptiveClip(0.5, ABOVE_TEN, 1.0), "privacy.client.quantile_learning_rate=10 "),
        (lambda: AdaptiveClip(0.5, math.inf, 1.0), "privacy.client.quantile_learning_rate=inf"),
        (lambda: AdaptiveClip(0.5, math.nan, 1.0), "privacy.client.quantile_learning_rate=nan"),
        (lambda: AdaptiveClip(0.5, 0.2, 0.0), "privacy.client.count_noise=0.0"),
        (lambda: replace(RECORD, clip=-1.0), "privacy.record.clip=-1.0"),
        (lambda: replace(RECORD, noise_multiplier=-1.0), "privacy.record.noise_multiplier=-1.0"),
        (lambda: replace(RECORD, sampling_rate=0.0), "privacy.record.sampling_rate=0.0"),
        (lambda: replace(RECORD, steps=0), "local.steps=0"),
        (lambda: replace(RECORD, steps=1.0), "local.steps=1.0"),
        (lambda: replace(RECORD, denominator=0.0), "privacy.record.denominator=0.0"),
        (lambda: replace(EVALUATION, every=0), "evaluation.every=0"),
        (lambda: replace(EVALUATION, cap=0), "evaluation.cap=0"),
        (lambda: replace(EVALUATION, cap=100.0), "evaluation.cap=100.0"),
        (lambda: replace(EVALUATION, every=True), "evaluation.every=True"),
        (lambda: replace(EVALUATION, loss_cap=0.0), "evaluation.loss_cap=0.0"),
        (lambda: replace(EVALUATION, noise_multiplier=-1.0), "evaluation.noise_multiplier=-1.0"),
    ],
)
def test_an_impossible_unit_is_refused_by_name_and_value(make: Any, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make()
    assert says in refusal.value.message


def test_each_unit_has_its_own_delta() -> None:
    assert plan().delta("client") == 1e-4
    assert plan().delta("record") == 1e-5
