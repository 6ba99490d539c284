"""A session's cohort, as both sides derive it from the roster and the rules."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import ConfigError, MessageError, RoundError
from tacit.privacy.secagg import graph
from tacit.privacy.secagg.cohort import (
    KEY_WORDS,
    SEED_WORDS,
    SMALLEST,
    Cohort,
    Rules,
    cohort,
    missing,
)
from tacit.privacy.secagg.messages import Entry, pack_roster

RULES = Rules(4, 1000, 0.25, 1)


def roster(size: int, first: int = 0, step: int = 1) -> bytes:
    return pack_roster(
        Entry(first + step * i, os.urandom(32), os.urandom(32), bytes(64)) for i in range(size)
    )


# Rules


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ((2, 10, 0.1, 0), "minimum_survivors=2"),
        ((0, 10, 0.1, 0), "minimum_survivors=0"),
        ((4.0, 10, 0.1, 0), "minimum_survivors=4.0"),
        ((5, 4, 0.1, 0), "largest=4"),
        ((4, 10, 1 / 3, 0), "secure.dropout=0.333333"),
        ((4, 10, -0.1, 0), "secure.dropout=-0.1"),
        ((4, 10, math.nan, 0), "secure.dropout=nan"),
        ((4, 10, 0.1, -1), "secure.collusion=-1"),
        ((6, 10, 0.1, 2), "more than 3 x secure.collusion=2"),
    ],
)
def test_rules_that_are_refused(values: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Rules(*values)


@given(
    minimum=st.integers(SMALLEST, 60),
    dropout=st.floats(0, 0.333),
    clients=st.integers(0, 400),
)
def test_layers_leave_the_minimum(minimum: int, dropout: float, clients: int) -> None:
    rules = Rules(minimum, 400, dropout, 0)
    count = rules.layers(clients)
    assert 0 <= count <= max(0, clients - minimum)
    assert count <= clients * dropout
    # Fewer members never need a layer that nobody dealt.
    assert rules.layers(clients + 1) >= count
    # No fewer than planned for, but where a share's threshold or the quorum needs more clients.
    least = max(minimum, rules.quorum(clients), 2 * (clients - 1) // 3 + 2)
    if clients - least >= clients * dropout:
        assert count == math.floor(clients * dropout)


@given(size=st.integers(SMALLEST, 5000))
def test_a_quorum_is_more_than_two_thirds(size: int) -> None:
    quorum = RULES.quorum(size)
    assert 3 * quorum > 2 * size >= 3 * (quorum - 1)


@pytest.mark.parametrize("size", [*range(4, 40), 100, 299])
def test_threshold_of_the_complete_graph(size: int) -> None:
    collusion = (size - 1) // 3
    made = Rules(size, 1000, 0.3, collusion).choice(size)
    assert made.degree == size - 1
    # Both kinds of share from the colluding, one from the rest: not enough for both secrets.
    assert 2 * made.threshold > 2 * collusion + (made.degree - collusion)
    assert made.threshold <= made.degree


def test_three_clients_are_the_fewest() -> None:
    rules = Rules(SMALLEST, 3, 0.3, 0)
    made = rules.choice(3)
    # Even if one of the two holders is corrupted, both secrets of a client can't be had.
    assert 2 * made.threshold > made.degree + 1
    # Nobody may drop out: each share and each signature is needed.
    assert made.threshold == made.degree
    assert (rules.layers(3), rules.survivors(3), rules.quorum(3)) == (0, 3, 3)
    with pytest.raises(ConfigError, match="minimum_survivors=2"):
        Rules(2, 3, 0.3, 0)


# The cohort


@pytest.mark.parametrize(("first", "step"), [(0, 1), (5, 7), (2**31, 3)])
def test_everybody_exchanges_shares_in_a_complete_graph(first: int, step: int) -> None:
    made = Cohort(roster(9, first, step), RULES)
    for k in made.clients:
        assert made.neighbours(k) == [j for j in made.clients if j != k]
    points = {made.point(k) for k in made.clients}
    assert points == set(range(1, 10))


@pytest.mark.parametrize("size", [9, 301, 350])
def test_places_are_where_a_dealer_has_its_holders(size: int) -> None:
    made = Cohort(roster(size, 10, 3), Rules(100, 1000, 0.1, 3) if size > 9 else RULES)
    assert (made.choice.side > 0) == (size > 9)
    for dealer in made.clients[:20]:
        around = made.neighbours(dealer)
        assert around == sorted(around)
        assert len(around) == made.choice.degree
        for holder in around:
            assert around[made.place(holder, dealer)] == holder
            assert dealer in made.neighbours(holder), "the relation is symmetric"


def test_the_graph_is_of_this_roster() -> None:
    rules = Rules(100, 1000, 0.1, 3)
    one, two = Cohort(roster(301), rules), Cohort(roster(301), rules)
    assert one.digest != two.digest
    assert [one.neighbours(k) for k in range(301)] != [two.neighbours(k) for k in range(301)]


def test_pieces_cover_a_share() -> None:
    made = Cohort(roster(12), RULES)
    assert made.layers == 3
    spans = list(made.pieces.values())
    assert [s.stop - s.start for s in spans] == [KEY_WORDS] * 2 + [SEED_WORDS] * 3
    assert [s.start for s in spans] == [0, *(s.stop for s in spans[:-1])]
    assert made.words == spans[-1].stop
    assert 2 * KEY_WORDS == 32


@given(size=st.integers(4, 40), members=st.integers(4, 40), dropped=st.integers(0, 12))
def test_key_and_self_mask_are_never_revealed_both(size: int, members: int, dropped: int) -> None:
    members = min(members, size)
    made = cohort(ROSTERS[size], Rules(4, 1000, 0.3, 0))
    tolerated = made.rules.layers(members)
    dropped = min(dropped, tolerated)
    alive, dead = made.revealed(True, dropped, members), made.revealed(False, dropped, members)
    assert dead == [0]
    assert alive[0] == 1
    assert set(alive) <= set(made.pieces)
    # The layer revealed is the first surplus one; none if all were needed.
    assert alive[1:] == ([2 + dropped] if dropped < tolerated else [])


ROSTERS = {size: roster(size) for size in range(4, 41)}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 11])
def test_sizes_that_the_rules_do_not_allow(size: int) -> None:
    with pytest.raises(RoundError, match=f"a roster of {size} clients isn't between minimum=4"):
        Cohort(roster(size), Rules(4, 10, 0.1, 1))


def test_a_malformed_roster() -> None:
    for wrong in (roster(5)[:-1], roster(5) + roster(1), roster(5)[132:] + roster(1)):
        with pytest.raises(MessageError):
            Cohort(wrong, RULES)


def test_cohorts_are_made_once() -> None:
    entries = roster(5)
    assert cohort(entries, RULES) is cohort(bytes(entries), Rules(4, 1000, 0.25, 1))
    assert cohort(entries, RULES) is not cohort(entries, Rules(4, 1000, 0.2, 1))


def test_enough_around() -> None:
    made = Cohort(roster(304), Rules(100, 1000, 0.1, 3))
    side, half = made.choice.side, made.choice.degree // 2
    assert 0 < side < half
    before, after = graph.sides(made.position[7], 304, made.choice.degree, made.digest)
    for gone in (before, after):
        for left in (0, side - 1, side, half):
            dead = {made.clients[i] for i in gone[left:]}
            alive = [k for k in made.clients if k not in dead]
            assert made.enough_around(7, alive) == (left >= side)
    assert Cohort(roster(9), RULES).enough_around(0, [])


def test_missing() -> None:
    assert missing([3, 1, 2], [1, 5]) == [3, 2]
    assert missing([], [1]) == []
