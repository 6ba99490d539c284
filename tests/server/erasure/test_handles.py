"""Handles: random to whoever has no seed, and erasable one client at a time."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgres import BOTH

from tacit.privacy.errors import ConfigError
from tacit.server.erasure import handles
from tacit.server.erasure.handles import CHILDREN, LEVELS, NUMBERS, Handles, Tree
from tacit.server.store import Store

ROOT = Tree({(0, 0): b"\x07" * 32})
NUMBER = st.integers(0, NUMBERS - 1)


def by_hand(seed: bytes, run: str, client: int) -> str:
    """The definition, in a straight line."""
    for level in range(LEVELS):
        which = (client >> 4 * (LEVELS - 1 - level)) & 15
        seed = hmac.new(seed, b"tacit handle seed v1" + bytes([which]), sha256).digest()
    return hmac.new(seed, b"tacit handle v1" + run.encode(), sha256).digest()[:16].hex()


@given(client=NUMBER, run=st.text(max_size=20))
def test_a_handle_is_what_the_definition_says(client: int, run: str) -> None:
    assert ROOT.handle(run, client) == by_hand(b"\x07" * 32, run, client)


@given(erased=st.lists(NUMBER, max_size=4, unique=True), others=st.lists(NUMBER, max_size=4))
def test_an_erased_client_has_none_and_the_others_keep_theirs(
    erased: list[int], others: list[int]
) -> None:
    tree = ROOT
    for client in erased:
        tree = tree.without(client)
    assert all(tree.handle("r", client) is None for client in erased)
    assert len(tree.seeds) <= max(1, len(erased) * LEVELS * (CHILDREN - 1))
    near = [client ^ bit for client in erased for bit in (1, 16, 2**31)]
    for client in set(others + near) - set(erased):
        assert tree.handle("r", client) == ROOT.handle("r", client)


def test_no_seed_that_is_left_is_above_an_erased_client() -> None:
    tree = ROOT.without(7).without(8)
    path = {(level, 7 // CHILDREN ** (LEVELS - level)) for level in range(LEVELS + 1)}
    path |= {(level, 8 // CHILDREN ** (LEVELS - level)) for level in range(LEVELS + 1)}
    assert not path & set(tree.seeds)
    assert tree.without(7) is tree
    for client in range(40):
        tree = tree.without(client)
    assert all(tree.handle("r", client) is None for client in range(40))
    assert tree.handle("r", 40) == ROOT.handle("r", 40)


def test_handles_differ_between_clients_and_runs() -> None:
    found = [ROOT.handle(run, client) for run in ("a", "b") for client in range(500)]
    assert len(set(found)) == 1000
    assert ROOT.clients("a", 500) == {handle: k for k, handle in enumerate(found[:500])}


@pytest.mark.parametrize("client", [-1, NUMBERS])
def test_numbers_have_a_range(client: int) -> None:
    with pytest.raises(ConfigError, match="client="):
        ROOT.without(client)


@BOTH
def test_seeds_are_a_populations_and_stay(store: Store) -> None:
    with store.database.writing() as c:
        first = Handles("people").of(c, "r", [1, 2])
        assert Handles("people").of(c, "r", [2, 1]) == first == sorted(first)
        assert not set(first) & set(Handles("others").of(c, "r", [1, 2]))
    with store.database.writing() as c:
        handles.erase(c, "people", 1)
        others = handles.load(c, "others")
    with store.database.reading() as c:
        tree = handles.load(c, "people")
        assert handles.load(c, "others").seeds == others.seeds
    assert tree.handle("r", 1) is None
    assert tree.handle("r", 2) in first


@BOTH
def test_who_was_never_drawn_can_be_erased(store: Store) -> None:
    with store.database.writing() as c:
        handles.erase(c, "people", 5)
        assert Handles("people").of(c, "r", [5]) == []
        assert len(Handles("people").of(c, "r", [4])) == 1


def test_numbers_of_older_cohorts_name_themselves() -> None:
    assert handles.named([3, 1], {}) == [3, 1]
    assert handles.named(["aa", "bb"], {"bb": 4}) == [4]
