"""The ledger's leaves: their bytes, their hashes, and what they add up to."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.accountant import Accountant
from tacit.privacy.claims import Claim
from tacit.privacy.errors import AccountingError
from tacit.privacy.events import SampledGaussian
from tacit.privacy.ledger import Spending, replay
from tacit.privacy.log import leaves
from tacit.privacy.log.leaves import commit, leaf_bytes
from tacit.privacy.log.merkle import leaf_hash
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import ClientUnit, Evaluation, RecordUnit

DELTAS = {"client": 1e-4, "record": 1e-5}
CLIENT = SampledGaussian(2.0, 0.2)
RECORD = SampledGaussian(3.0, 0.1, 4)


def claim(
    event: SampledGaussian | None = CLIENT,
    per: str = "release",
    unit: str = "client",
    adversary: str = "public",
    assumes: str = "honest",
) -> Claim:
    return Claim(unit, adversary, True, event, per, assumes)  # type: ignore[arg-type]


def record(event: SampledGaussian | None = RECORD) -> Claim:
    return claim(event, "participation", "record", "local")


def charge(round: int, claims: Sequence[Claim], **changes: Any) -> dict[str, Any]:
    leaf = leaves.charge(
        run="run-a",
        round=round,
        attempt=0,
        purpose="train",
        plan_digest="p",
        cohort="c",
        claims=claims,
        participations=1,
        noise_source="os-csprng",
    )
    return {**leaf, **changes}


def release(round: int, **changes: Any) -> dict[str, Any]:
    body = {"kind": "RELEASE", "run": "run-a", "round": round, "attempt": 0, "purpose": "train"}
    return {**body, "plan": "p", **changes}


def abandon(round: int, **changes: Any) -> dict[str, Any]:
    # As the store writes it: without the plan.
    body = release(round, kind="ABANDON", reason="crash", **changes)
    del body["plan"]
    return body


def figure(delta: float, *events: SampledGaussian) -> float:
    accountant = Accountant(delta)
    for event in events:
        accountant.compose(event)
    return accountant.epsilon()


def client_epsilon(leaves: list[dict[str, Any]]) -> float | None:
    return replay(leaves, DELTAS).epsilon("client", "public", True)


def record_epsilon(leaves: list[dict[str, Any]]) -> float | None:
    return replay(leaves, DELTAS).epsilon("record", "local", True)


# Replay


def test_replay_composes_every_charge_of_a_claim() -> None:
    leaves = [leaf for n in range(1, 6) for leaf in (charge(n, [claim()]), release(n))]
    assert client_epsilon(leaves) == pytest.approx(figure(1e-4, CLIENT.times(5)), rel=1e-9)


def test_a_release_adds_nothing_and_its_absence_saves_nothing() -> None:
    charges = [charge(n, [claim()]) for n in (1, 2, 3)]
    released = [charges[0], release(1), charges[1], release(2), charges[2], release(3)]
    abandoned = [leaf for n in (1, 2, 3) for leaf in (charges[n - 1], abandon(n))]
    assert client_epsilon(charges) == client_epsilon(released) == client_epsilon(abandoned)


def test_abandoned_charges_stand() -> None:
    kept = [charge(1, [claim()]), release(1)]
    retried = [
        charge(1, [claim()]),
        abandon(1),
        charge(1, [claim()], attempt=1),
        abandon(1, attempt=1),
        charge(1, [claim()], attempt=2),
        release(1, attempt=2),
    ]
    assert client_epsilon(retried) == pytest.approx(figure(1e-4, CLIENT.times(3)), rel=1e-9)
    assert client_epsilon(retried) > client_epsilon(kept)


def test_the_same_charge_twice_counts_twice_where_it_is_added() -> None:
    spent = Spending(DELTAS)
    for _ in range(2):
        spent.add(charge(1, [claim()]))
    expected = figure(1e-4, CLIENT.times(2))
    assert spent.epsilon("client", "public", True) == pytest.approx(expected, rel=1e-9)


ONE = charge(1, [claim()])


@pytest.mark.parametrize(
    "leaves",
    [
        [ONE, ONE],
        [ONE, release(1), ONE],
        [ONE, abandon(1), ONE],
        [ONE, abandon(1), charge(1, [claim()], attempt=1), ONE],
        [ONE, charge(2, [claim()]), charge(1, [record()], participations=9)],
        [ONE, charge(1, [claim()], plan="q")],
        [ONE, charge(1, [claim()], cohort="d")],
    ],
    ids=["open", "released", "abandoned", "retried", "other claims", "other plan", "other cohort"],
)
def test_a_second_charge_for_one_attempt_is_an_error(leaves: list[dict[str, Any]]) -> None:
    with pytest.raises(AccountingError, match=r"round=1 attempt=0 \(train\) was charged twice"):
        replay(leaves, DELTAS)


def test_charges_that_differ_in_run_round_attempt_or_purpose_are_all_composed() -> None:
    leaves = [
        ONE,
        charge(2, [claim()]),
        charge(1, [claim()], attempt=1),
        charge(1, [claim()], purpose="evaluate"),
        charge(1, [claim()], run="run-b"),
    ]
    assert client_epsilon(leaves) == pytest.approx(figure(1e-4, CLIENT.times(5)), rel=1e-9)


@pytest.mark.parametrize("close", [release, abandon])
@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        ([], {}, []),
        ([ONE], {"round": 2}, []),
        ([ONE], {"attempt": 1}, []),
        ([ONE], {"purpose": "evaluate"}, []),
        ([ONE], {"run": "run-b"}, []),
        ([], {}, [ONE]),
        ([ONE, release(1), charge(2, [claim()])], {"round": 3}, []),
        ([ONE, release(1)], {}, []),
        ([ONE, abandon(1)], {}, []),
        ([ONE, release(1), charge(1, [claim()], attempt=1)], {}, []),
    ],
    ids=[
        "no charge",
        "another round",
        "another attempt",
        "another purpose",
        "another run",
        "too early",
        "later",
        "released before",
        "abandoned before",
        "closed before and charged again",
    ],
)
def test_what_closes_no_open_charge_is_an_error(
    close: Callable[..., dict[str, Any]],
    before: list[dict[str, Any]],
    changes: dict[str, Any],
    after: list[dict[str, Any]],
) -> None:
    leaf = {**close(1), **changes}
    with pytest.raises(AccountingError, match=f"{leaf['kind']} without an open charge"):
        replay([*before, leaf, *after], DELTAS)


def test_charges_may_be_closed_in_any_order_or_stay_open() -> None:
    charges = [charge(n, [claim()]) for n in (1, 2, 3)]
    evaluated = charge(1, [claim()], purpose="evaluate")
    leaves = [*charges, evaluated, release(3), release(1, purpose="evaluate"), abandon(1)]
    assert client_epsilon(leaves) == pytest.approx(figure(1e-4, CLIENT.times(4)), rel=1e-9)


def test_a_release_under_another_plan_than_its_charge_is_an_error() -> None:
    with pytest.raises(AccountingError, match="released under another plan than charged"):
        replay([ONE, release(1, plan="q")], DELTAS)
    # Each release under the plan of its own charge.
    two = charge(2, [claim()], plan="q")
    replay([ONE, two, release(2, plan="q"), release(1)], DELTAS)
    with pytest.raises(AccountingError, match="released under another plan than charged"):
        replay([ONE, two, release(2)], DELTAS)


@pytest.mark.parametrize("kind", ["REFUND", "charge", "", None, 1])
@pytest.mark.parametrize("before", [[], [ONE]], ids=["first", "after its charge"])
def test_a_leaf_of_an_unknown_kind_is_an_error(kind: object, before: list[dict[str, Any]]) -> None:
    with pytest.raises(AccountingError, match="is unknown"):
        replay([*before, release(1, kind=kind)], DELTAS)


@pytest.mark.parametrize("name", ["kind", "run", "round", "attempt", "purpose", "plan"])
@pytest.mark.parametrize("leaf", [ONE, release(1)], ids=["charge", "release"])
def test_a_leaf_that_does_not_say_what_it_is_about_stops_the_replay(
    leaf: dict[str, Any], name: str
) -> None:
    before = [] if leaf is ONE else [ONE]
    replay([*before, leaf], DELTAS)
    with pytest.raises((KeyError, AccountingError)):
        replay([*before, {k: v for k, v in leaf.items() if k != name}], DELTAS)


@pytest.mark.parametrize("per", ["round", "Release", "", None])
def test_a_claim_per_something_unknown_stops_the_replay(per: Any) -> None:
    with pytest.raises(AccountingError, match="a claim per"):
        replay([charge(1, [claim(per=per)])], DELTAS)


def test_an_event_off_the_allow_list_stops_the_replay() -> None:
    leaf = charge(1, [claim()])
    leaf["claims"][0]["event"]["type"] = "laplace"
    with pytest.raises(AccountingError):
        replay([leaf], DELTAS)


def test_no_leaves_claim_nothing() -> None:
    assert client_epsilon([]) is None
    assert replay([], DELTAS).table() == []


def test_replay_leaves_the_leaves_as_they_were() -> None:
    leaves = [charge(1, [claim(), record()]), release(1)]
    before = copy.deepcopy(leaves)
    replay(leaves, DELTAS)
    assert leaves == before


def test_leaves_read_back_from_their_bytes_add_up_to_the_same() -> None:
    leaves = [charge(n, [claim(), record()], participations=n) for n in (1, 2, 3)]
    stored = [json.loads(leaf_bytes(leaf)) for leaf in leaves]
    assert client_epsilon(stored) == client_epsilon(leaves)
    assert record_epsilon(stored) == record_epsilon(leaves)


# Participations


def test_the_largest_bound_is_composed_and_not_the_sum_of_bounds() -> None:
    bounds = [2, 3, 3, 5, 6]
    leaves = [charge(n, [record()], participations=b) for n, b in enumerate(bounds, 1)]
    got = record_epsilon(leaves)
    assert got == pytest.approx(figure(1e-5, RECORD.times(6)), rel=1e-9)
    assert got < figure(1e-5, RECORD.times(sum(bounds)))


def test_a_bound_that_falls_takes_nothing_back() -> None:
    leaves = [charge(n, [record()], participations=b) for n, b in enumerate([4, 2, 4], 1)]
    assert record_epsilon(leaves) == pytest.approx(figure(1e-5, RECORD.times(4)), rel=1e-9)


def test_each_purpose_has_its_own_participations() -> None:
    counts = SampledGaussian(3.0, 1.0)
    leaves = [
        charge(1, [record()], participations=3),
        charge(1, [record(counts)], participations=2, purpose="evaluate"),
        charge(2, [record()], participations=4),
        charge(2, [record(counts)], participations=3, purpose="evaluate"),
    ]
    expected = figure(1e-5, RECORD.times(4), counts.times(3))
    assert record_epsilon(leaves) == pytest.approx(expected, rel=1e-9)


def test_the_same_event_for_another_purpose_is_another_participation() -> None:
    leaves = [
        charge(1, [record()], participations=3),
        charge(1, [record()], participations=2, purpose="evaluate"),
    ]
    assert record_epsilon(leaves) == pytest.approx(figure(1e-5, RECORD.times(5)), rel=1e-9)


def test_a_changed_event_is_composed_beside_the_old_one() -> None:
    other = SampledGaussian(4.0, 0.1, 4)
    leaves = [
        charge(1, [record()], participations=3),
        charge(2, [record(other)], participations=4),
    ]
    # Sound though loose: the new bound covers the old participations too.
    expected = figure(1e-5, RECORD.times(3), other.times(4))
    assert record_epsilon(leaves) == pytest.approx(expected, rel=1e-9)


def test_participations_do_not_multiply_what_is_claimed_per_release() -> None:
    leaves = [charge(n, [claim()], participations=7) for n in (1, 2)]
    assert client_epsilon(leaves) == pytest.approx(figure(1e-4, CLIENT.times(2)), rel=1e-9)


# Rows


def test_rows_are_never_mixed() -> None:
    rows = [
        claim(SampledGaussian(2.0, 0.2)),
        Claim("client", "public", False, SampledGaussian(2.0), "release", "a"),
        Claim("record", "public", True, SampledGaussian(9.0, 0.1), "release", "b"),
        Claim("record", "local", True, SampledGaussian(3.0, 0.1), "release", "c"),
    ]
    spent = replay([charge(1, rows)], DELTAS)
    for row in rows:
        expected = figure(DELTAS[row.unit], row.event)
        got = spent.epsilon(row.unit, row.adversary, row.amplified)
        assert got == pytest.approx(expected, rel=1e-9)
    assert spent.epsilon("client", "local", True) is None


@pytest.mark.parametrize("when", [1, 2, 3])
def test_one_claim_without_an_event_voids_its_row_for_ever(when: int) -> None:
    leaves = [
        charge(n, [claim(None if n == when else CLIENT), record()], participations=n)
        for n in (1, 2, 3)
    ]
    spent = replay(leaves, DELTAS)
    assert spent.epsilon("client", "public", True) is None
    # The other row stands.
    assert spent.epsilon("record", "local", True) is not None
    rows = {row["unit"]: row for row in spent.table()}
    assert rows["client"]["epsilon"] is None
    assert rows["client"]["cross_check"] is None
    assert spent.copy().epsilon("client", "public", True) is None


@pytest.mark.parametrize("lacking", [1, 2, 3])
@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_a_row_that_some_charges_lack_is_not_claimed(lacking: int, purpose: str) -> None:
    # Whether it comes late, goes away, or is missing once: what that charge released isn't
    # covered by the others.
    leaves = [
        charge(n, [record()] if n == lacking else [claim(), record()], participations=n)
        for n in (1, 2, 3)
    ]
    leaves[lacking - 1]["purpose"] = purpose
    spent = replay(leaves, DELTAS)
    assert spent.epsilon("client", "public", True) is None
    assert spent.copy().epsilon("client", "public", True) is None
    assert spent.epsilon("record", "local", True) is not None
    rows = {row["unit"]: row for row in spent.table()}
    assert (rows["client"]["epsilon"], rows["client"]["cross_check"]) == (None, None)
    assert rows["client"]["accountant"] is None
    # Nor do later charges that have it bring it back.
    spent.add(charge(4, [claim(), record()], participations=4))
    assert spent.epsilon("client", "public", True) is None


def test_a_charge_that_claims_nothing_at_all_voids_every_row() -> None:
    for found in ([ONE, charge(2, [])], [charge(2, []), ONE]):
        spent = replay(found, DELTAS)
        assert spent.epsilon("client", "public", True) is None
        assert [row["epsilon"] for row in spent.table()] == [None]


def test_a_projection_that_lacks_a_row_voids_it_in_the_projection_alone() -> None:
    spent = replay([ONE], DELTAS)
    projected = spent.copy()
    projected.add(charge(2, [record()]))
    assert projected.epsilon("client", "public", True) is None
    assert projected.epsilon("record", "local", True) is None
    assert spent.epsilon("client", "public", True) is not None


def test_every_assumption_of_a_row_is_shown_once_and_in_order() -> None:
    said = ["a", "b", "a", "c; d", "b"]
    leaves = [charge(n, [claim(assumes=s), record()]) for n, s in enumerate(said, 1)]
    spent = replay(leaves, DELTAS)
    for view in (spent, spent.copy()):
        rows = {row["unit"]: row for row in view.table()}
        assert rows["client"]["assumes"] == "a; b; c; d"
        assert rows["record"]["assumes"] == "honest"
    projected = spent.copy()
    projected.add(charge(9, [claim(assumes="e"), record()]))
    assert {r["assumes"] for r in projected.table()} == {"a; b; c; d; e", "honest"}
    assert {r["assumes"] for r in spent.table()} == {"a; b; c; d", "honest"}


def test_the_assumption_of_a_claim_without_an_event_is_shown_too() -> None:
    leaves = [charge(1, [claim()]), charge(2, [claim(None, assumes="nothing")])]
    assert [r["assumes"] for r in replay(leaves, DELTAS).table()] == ["honest; nothing"]


# What the client-level guarantee implies for a record

STRONG = SampledGaussian(20.0, 0.2)
WEAK = SampledGaussian(0.6, 0.1, 4)
IMPLIED = "implied by the client-level guarantee (group privacy of two)"


def substituted(*events: SampledGaussian) -> tuple[float, float]:
    accountant = Accountant(1e-3)
    for event in events:
        accountant.compose(event)
    return accountant.substituted(1e-5), accountant.substituted_cross_check(1e-5)


def published(event: SampledGaussian | None, assumes: str = "own") -> Claim:
    return claim(event, "participation", "record", "public", assumes)


def record_row(spent: Spending) -> dict[str, Any]:
    (row,) = [r for r in spent.table() if (r["unit"], r["adversary"]) == ("record", "public")]
    return row


def test_a_record_is_protected_against_the_public_by_the_smaller_of_two_figures() -> None:
    for client, own in ((STRONG, WEAK), (CLIENT, RECORD)):
        leaves = [charge(n, [claim(client), published(own)], participations=n) for n in (1, 2)]
        spent = replay(leaves, DELTAS)
        figures = (figure(1e-5, own.times(2)), substituted(client.times(2))[0])
        assert figures[0] != pytest.approx(figures[1], rel=0.1)
        assert spent.epsilon("record", "public", True) == pytest.approx(min(figures), rel=1e-6)
        assert spent.copy().epsilon("record", "public", True) == pytest.approx(min(figures), 1e-6)
        # The client's own is at the client's delta and as it was.
        expected = figure(1e-4, client.times(2))
        assert spent.epsilon("client", "public", True) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("own", [WEAK, None], ids=["weak", "none"])
def test_the_table_says_where_an_implied_figure_comes_from(own: SampledGaussian | None) -> None:
    leaves = [
        charge(1, [claim(STRONG, assumes="a"), published(own)]),
        charge(2, [claim(STRONG, assumes="b"), published(own)], participations=2),
    ]
    row, expected = record_row(replay(leaves, DELTAS)), substituted(STRONG.times(2))
    assert row["epsilon"] == pytest.approx(expected[0], rel=1e-6)
    assert row["cross_check"] == pytest.approx(expected[1], rel=1e-6)
    assert row["epsilon"] < row["cross_check"]
    assert row["assumes"] == f"{IMPLIED}; a; b"
    assert row["delta"] == 1e-5
    assert row["accountant"].startswith("dp-accounting ")


def test_the_table_keeps_a_records_own_figure_where_that_is_smaller() -> None:
    row = record_row(replay([charge(1, [claim(CLIENT), published(RECORD)])], DELTAS))
    assert row["epsilon"] == pytest.approx(figure(1e-5, RECORD), rel=1e-9)
    assert row["assumes"] == "own"


def test_a_row_of_the_record_that_was_voided_is_still_implied() -> None:
    for second in ([claim(STRONG), published(None)], [claim(STRONG)]):
        leaves = [charge(1, [claim(STRONG), published(RECORD)]), charge(2, second)]
        row = record_row(replay(leaves, DELTAS))
        assert row["epsilon"] == pytest.approx(substituted(STRONG.times(2))[0], rel=1e-6)
        assert row["assumes"].startswith(IMPLIED)


@pytest.mark.parametrize("adversary", ["local", "coordinator"])
def test_nothing_is_implied_against_who_sees_single_updates(adversary: str) -> None:
    rows = [claim(STRONG), claim(WEAK, "participation", "record", adversary)]
    spent = replay([charge(1, rows)], DELTAS)
    assert spent.epsilon("record", adversary, True) == pytest.approx(figure(1e-5, WEAK), rel=1e-9)
    rows[1] = claim(None, "participation", "record", adversary)
    assert replay([charge(1, rows)], DELTAS).epsilon("record", adversary, True) is None
    assert IMPLIED not in str(spent.table())


def test_nothing_is_implied_by_a_client_level_guarantee_that_does_not_stand() -> None:
    for broken in ([claim(None), published(WEAK)], [published(WEAK)]):
        leaves = [
            charge(1, [claim(STRONG), published(WEAK)]),
            charge(2, broken, participations=2),
        ]
        row = record_row(replay(leaves, DELTAS))
        assert row["epsilon"] == pytest.approx(figure(1e-5, WEAK.times(2)), rel=1e-6)
        assert row["assumes"] == "own"


def test_amplified_and_plain_guarantees_imply_each_their_own() -> None:
    plain = SampledGaussian(20.0)
    rows = [
        claim(STRONG),
        Claim("client", "public", False, plain, "release", "plain"),
        published(WEAK),
        Claim("record", "public", False, WEAK, "participation", "own"),
    ]
    spent = replay([charge(1, rows)], DELTAS)
    for amplified, event in ((True, STRONG), (False, plain)):
        expected = substituted(event)[0]
        assert spent.epsilon("record", "public", amplified) == pytest.approx(expected, rel=1e-9)
    only = replay([charge(1, [claim(STRONG), rows[3]])], DELTAS)
    own = figure(1e-5, WEAK)
    assert only.epsilon("record", "public", False) == pytest.approx(own, rel=1e-9)


@pytest.mark.parametrize("z", [0.3, 1e-3])
def test_an_infinite_figure_is_no_claim(z: float) -> None:
    client = SampledGaussian(z)
    assert substituted(client) == (math.inf, math.inf)
    spent = replay([charge(1, [claim(client), published(None)])], DELTAS)
    assert spent.epsilon("record", "public", True) is None
    row = record_row(spent)
    assert (row["epsilon"], row["cross_check"], row["accountant"]) == (None, None, None)
    assert row["assumes"] == "own"
    # And takes nothing from the record's own.
    spent = replay([charge(1, [claim(client), published(RECORD)])], DELTAS)
    assert spent.epsilon("record", "public", True) == pytest.approx(figure(1e-5, RECORD), rel=1e-9)
    assert record_row(spent)["assumes"] == "own"


def test_no_cell_of_the_table_is_infinite() -> None:
    # RDP is looser, so it can fail to fit into the delta where PLD fits.
    client = SampledGaussian(0.604)
    value, check = substituted(client)
    assert value < check == math.inf
    row = record_row(replay([charge(1, [claim(client), published(None)])], DELTAS))
    assert row["epsilon"] == pytest.approx(value, rel=1e-9)
    assert row["cross_check"] is None
    json.dumps(row, allow_nan=False)


def test_the_table_shows_each_row_with_its_delta_and_cross_check() -> None:
    spent = replay([charge(1, [claim(), record()], participations=2)], DELTAS)
    table = {(r["unit"], r["adversary"], r["amplified"]): r for r in spent.table()}
    assert set(table) == {("client", "public", True), ("record", "local", True)}
    for row in table.values():
        assert row["delta"] == DELTAS[row["unit"]]
        assert row["epsilon"] == spent.epsilon(row["unit"], row["adversary"], row["amplified"])
        assert row["epsilon"] < row["cross_check"]
        assert row["assumes"] == "honest"
        assert row["accountant"].startswith("dp-accounting ")


def test_a_projection_does_not_touch_what_was_spent() -> None:
    spent = replay([charge(1, [claim(), record()], participations=1)], DELTAS)
    before = spent.table()
    projected = spent.copy()
    projected.add(charge(2, [claim(), record()], participations=5))
    projected.add(charge(3, [claim(None), record()], participations=5))
    assert projected.epsilon("record", "local", True) > spent.epsilon("record", "local", True)
    assert projected.epsilon("client", "public", True) is None
    assert spent.table() == before
    # Nor do later charges reach the projection.
    held = projected.epsilon("record", "local", True)
    spent.add(charge(2, [claim(), record()], participations=9))
    assert projected.epsilon("record", "local", True) == pytest.approx(held, rel=1e-9)


def test_adding_after_a_projection_is_replaying_all() -> None:
    leaves = [charge(n, [claim(), record()], participations=n) for n in range(1, 8)]
    live = Spending(DELTAS)
    for leaf in leaves:
        projected = live.copy()
        projected.add(leaf)
        expected = projected.epsilon("client", "public", True)
        live.add(leaf)
        assert live.epsilon("client", "public", True) == pytest.approx(expected, rel=1e-9)
    assert live.epsilon("client", "public", True) == pytest.approx(client_epsilon(leaves), rel=1e-6)
    assert live.epsilon("record", "local", True) == pytest.approx(record_epsilon(leaves), rel=1e-6)


def test_a_plans_charges_add_up_to_the_plans_promise() -> None:
    plan = PrivacyPlan(
        population=300,
        sampling_rate=0.2,
        rounds=10,
        client=ClientUnit(0.5, 1.2),
        record=RecordUnit(1.0, 2.0, 0.1, 3, 32.0),
        client_delta=1e-4,
        record_delta=1e-5,
        minimum_survivors=10,
        noise_source="os-csprng",
        evaluation=Evaluation(5, 100, 4.0, 5.0),
    )
    leaves = []
    for n in range(1, 11):
        leaves.append(charge(n, plan.training(), participations=min(n, 8)))
        if n % 5 == 0:
            leaves.append(charge(n, plan.evaluating(), participations=n // 5, purpose="evaluate"))
    spent = replay(leaves, DELTAS)
    for amplified, q, r in ((True, 0.2, 0.1), (False, 1.0, 1.0)):
        client = figure(1e-4, SampledGaussian(1.2, q, 10), SampledGaussian(5.0, q, 2))
        local = figure(1e-5, SampledGaussian(2.0, r, 3 * 8), SampledGaussian(2.0, 1.0, 2))
        assert spent.epsilon("client", "public", amplified) == pytest.approx(client, rel=1e-6)
        for who in ("local", "coordinator", "public"):
            assert spent.epsilon("record", who, amplified) == pytest.approx(local, rel=1e-6)
    assert spent.epsilon("client", "coordinator", False) is None


# Bytes


def test_a_charge_says_all_that_a_reviewer_recomputes_from() -> None:
    leaf = charge(3, [claim()], participations=2)
    assert leaf == {
        "kind": "CHARGE",
        "run": "run-a",
        "round": 3,
        "attempt": 0,
        "purpose": "train",
        "plan": "p",
        "cohort": "c",
        "participations": 2,
        "noise_source": "os-csprng",
        "claims": [
            {
                "unit": "client",
                "adversary": "public",
                "amplified": True,
                "per": "release",
                "event": {
                    "type": "sampled_gaussian",
                    "noise_multiplier": 2.0,
                    "sampling_rate": 0.2,
                    "count": 1,
                },
                "assumes": "honest",
            }
        ],
    }


def shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        items = [(k, shuffled(v, random)) for k, v in value.items()]
        random.shuffle(items)
        return dict(items)
    return [shuffled(v, random) for v in value] if isinstance(value, list) else value


@given(st.randoms())
def test_the_order_of_keys_does_not_change_a_leaf(random: Any) -> None:
    leaf = charge(1, [claim(), record()])
    assert leaf_bytes(shuffled(leaf, random)) == leaf_bytes(leaf)


def test_the_order_of_claims_and_any_value_do_change_a_leaf() -> None:
    leaf = charge(1, [claim(), record()])
    others = [charge(1, [record(), claim()])] + [
        {**leaf, key: "changed" if isinstance(value, str) else 99} for key, value in leaf.items()
    ]
    hashes = {leaf_hash(leaf_bytes(body)) for body in [leaf, *others]}
    assert len(hashes) == len(others) + 1


def test_a_leaf_survives_its_bytes() -> None:
    leaf = charge(1, [claim(assumes="naïve — 1e-7"), record()])
    assert json.loads(leaf_bytes(leaf)) == leaf
    assert leaf_bytes(json.loads(leaf_bytes(leaf))) == leaf_bytes(leaf)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # Leaf hashes of Certificate Transparency's reference tests.
        ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        ("00", "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"),
        ("10", "0298d122906dcfc10892cb53a73992fc5b9f493ea4c9badb27b791b4127a7fe7"),
    ],
)
def test_leaf_hashes_are_those_of_rfc_9162(data: str, expected: str) -> None:
    assert leaf_hash(bytes.fromhex(data)).hex() == expected


def test_a_leaf_is_not_hashed_as_a_node_or_bare() -> None:
    data = leaf_bytes(charge(1, [claim()]))
    hashed = leaf_hash(data)
    assert hashed == hashlib.sha256(bytes([0]) + data).digest()
    assert hashed != hashlib.sha256(data).digest()
    assert hashed != hashlib.sha256(b"\x01" + data).digest()


# Commitments

SALT = bytes(range(32))
members = st.lists(st.integers(0, 10**6), unique=True, max_size=20)


@given(members, members, st.binary(min_size=32, max_size=32))
def test_a_commitment_binds_to_its_members_and_salt(
    one: list[int], other: list[int], salt: bytes
) -> None:
    assert (commit(salt, one) == commit(salt, other)) == (sorted(one) == sorted(other))
    assert (commit(salt, one) == commit(SALT, one)) == (salt == SALT)


@given(members, st.randoms())
def test_a_commitment_does_not_tell_the_order_of_the_draw(chosen: list[int], random: Any) -> None:
    again = list(chosen)
    random.shuffle(again)
    assert commit(SALT, again) == commit(SALT, chosen)


def test_digits_cannot_move_between_members() -> None:
    sets = ([1, 23], [12, 3], [123], [1, 2, 3], [], [0])
    assert len({commit(SALT, s) for s in sets}) == len(sets)


def test_a_commitment_hides_a_cohort_that_could_be_guessed() -> None:
    # With few clients every cohort can be tried; only the salt stands in the way.
    one_client = [[], [0]]
    guesses = {commit(bytes(32), m) for m in one_client}
    assert commit(SALT, [0]) not in guesses
    # And it is no bare hash of the members.
    assert commit(SALT, [0]) != hashlib.sha256(b"[0]").hexdigest()
    assert len(commit(SALT, [])) == len(commit(SALT, list(range(1000)))) == 64
