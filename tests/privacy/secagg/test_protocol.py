"""Whole sessions: the sum is exact whoever drops, or there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from masking import Session

from tacit.privacy.errors import RoundError
from tacit.privacy.secagg import cohort as cohorts
from tacit.privacy.secagg import graph, shamir
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.words import BITS

LEGS = ("advertise", "share", "mask", "confirm", "reveal")


@st.composite
def dropouts(draw: st.DrawFn) -> tuple[int, Rules, list[set[int]]]:
    """A cohort, its rules, and who drops out at each of the five exchanges."""
    size = draw(st.integers(4, 12))
    minimum = draw(st.integers(4, size))
    collusion = draw(st.integers(0, (minimum - 1) // 3))
    rules = Rules(minimum, 12, draw(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.33])), collusion)
    order = draw(st.permutations(range(size)))
    gone, left = [], size
    for _ in LEGS:
        count = draw(st.integers(0, max(0, min(3, left - 4))))
        gone.append(set(order[left - count : left]))
        left -= count
    return size, rules, gone


def first_refusal(size: int, rules: Rules, gone: list[set[int]]) -> str | None:
    """The exchange that ends the session, from the rules alone; a complete graph."""
    a, b, c, d, e = (len(k) for k in gone)
    roster = size - a
    threshold, quorum, members = 2 * (roster - 1) // 3 + 1, 2 * roster // 3 + 1, roster - b
    # What may drop is capped by what the members could still unmask with.
    enough = max(rules.minimum, 2 * members // 3 + 1, 2 * (members - 1) // 3 + 2)
    tolerated = max(0, min(int(members * rules.dropout), members - enough))
    if roster < rules.minimum:
        return "advertise"
    if members < max(rules.minimum, threshold, quorum):
        return "share"
    if roster - b - c < rules.minimum or c > tolerated:
        return "mask"
    if roster - b - c - d < quorum:
        return "confirm"
    # Whoever reveals holds no share of its own.
    if roster - b - c - d - e - 1 < threshold:
        return "reveal"
    return None


def play(session: Session, gone: list[set[int]]) -> str | None:
    """Runs the legs; the name of the one that is refused."""
    for leg, absent in zip(LEGS, gone, strict=True):
        try:
            getattr(session, leg)(absent)
        except RoundError:
            return leg
    return None


def assert_hidden(session: Session) -> None:
    """The session is over, gives no sum, and what it added up isn't one."""
    with pytest.raises(RoundError):
        session.server.total()
    with pytest.raises(RoundError):
        session.server.total()
    held = session.words.centred(session.words.reduce(session.server._sum.copy()))
    if session.server._in_sum and session.length >= 8:
        assert (held != session.plain(session.server._in_sum)).any()


@settings(deadline=None, max_examples=120)
@given(plan=dropouts(), length=st.integers(1, 70), bits=st.sampled_from(BITS), noisy=st.booleans())
def test_the_sum_is_exact_or_refused(
    plan: tuple[int, Rules, list[set[int]]], length: int, bits: int, noisy: bool
) -> None:
    size, rules, gone = plan
    session = Session(size, length=length, bits=bits, rules=rules, noisy=noisy)
    refusal = first_refusal(size, rules, gone)
    event(f"ends: {refusal}")
    found = play(session, gone)
    if refusal == "reveal":
        assert found is None, "too few shares are noticed when the masks come off"
        assert_hidden(session)
    elif refusal is not None:
        assert found == refusal
        assert_hidden(session)
    else:
        assert found is None
        session.finish()


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(4, 12),
    dropped=st.integers(0, 3),
    length=st.integers(1, 70),
    bits=st.sampled_from(BITS),
)
def test_every_number_of_layers_comes_off(size: int, dropped: int, length: int, bits: int) -> None:
    rules = Rules(4, 12, 0.33, 0)
    while first_refusal(size, rules, [set(), set(), set(range(dropped)), set(), set()]):
        dropped -= 1
    session = Session(size, length=length, bits=bits, rules=rules, noisy=True)
    play(session, [set(), set(), set(range(dropped)), set(), set()])
    session.finish()


@settings(deadline=None, max_examples=30)
@given(
    bits=st.sampled_from(BITS),
    length=st.integers(1, 70),
    dropped=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_vectors_may_be_any_words(bits: int, length: int, dropped: int, seed: int) -> None:
    session = Session(8, bits=bits, length=length, rules=Rules(4, 12, 0.3, 1))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    generator = np.random.default_rng(seed)
    session.vectors = {k: generator.integers(low, high, length) for k in range(8)}
    play(session, [set(), set(), set(range(dropped)), set(), set()])
    total, _, _ = session.server.total()
    assert ((total - session.plain()) % 2**bits == 0).all()
    assert low <= total.min()
    assert total.max() < high


# The boundary of each exchange: the most that may drop, and one more.


@pytest.mark.parametrize("size", [7, 10, 12])
@pytest.mark.parametrize("leg", range(5))
def test_one_more_than_is_allowed_ends_the_session(leg: int, size: int) -> None:
    rules, most = Rules(4, 20, 0.3, 1), 0

    def gone(count: int) -> list[set[int]]:
        return [set(range(count)) if at == leg else set() for at in range(5)]

    while first_refusal(size, rules, gone(most + 1)) is None:
        most += 1
    assert most >= 1, "or the test is void"
    session = Session(size, rules=rules, noisy=True)
    assert play(session, gone(most)) is None
    session.finish()
    session = Session(size, rules=rules, noisy=True)
    play(session, gone(most + 1))
    assert_hidden(session)


def arrays(thing: object, seen: set[int]) -> list[np.ndarray]:
    """Every array that is reachable from an object's own fields."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return [thing]
    inside: list[object] = []
    if isinstance(thing, dict):
        inside = list(thing.values())
    elif isinstance(thing, list | tuple | set):
        inside = list(thing)
    elif type(thing).__module__.startswith("tacit."):
        names = [*getattr(thing, "__slots__", ()), *getattr(thing, "__dict__", {})]
        inside = [getattr(thing, name) for name in names if hasattr(thing, name)]
    return [found for part in inside for found in arrays(part, seen)]


def test_a_share_too_few_and_nothing_the_server_holds_is_the_sum() -> None:
    session = Session(10, length=32, rules=Rules(4, 20, 0.3, 1))
    threshold = 7
    # Seven reveal: of each of those seven there are six shares.
    play(session, [set(), set(), set(), set(), {7, 8, 9}])
    server = session.server
    before = server._sum.copy()
    with pytest.raises(RoundError, match=f"6 shares of client 0 were revealed; {threshold}"):
        server.total()
    assert (server._sum == before).all(), "no mask was taken off"
    held = [a for a in arrays(server, set()) if a.shape == (32,)]
    assert any(a is server._sum for a in held)
    for array in held:
        for who in (server.survivors, *([k] for k in server.survivors)):
            assert (session.words.centred(array) != session.plain(who)).any()
    # Shares that were revealed don't give a self-mask: with six, Lagrange finds another.
    holders = [p for p in server._pieces.values() if 0 in p.of]
    assert len(holders) == threshold - 1
    points = np.array([server.cohort.point(p.holder) for p in holders])
    rows = np.stack([p.of[0][:16] for p in holders])
    guessed = shamir.reconstruct(points, rows)
    server._phase = "reveal"
    server.revealed(session.answers["reveal"][7])
    full = [p for p in server._pieces.values() if 0 in p.of]
    points = np.array([server.cohort.point(p.holder) for p in full])
    right = shamir.reconstruct(points, np.stack([p.of[0][:16] for p in full]))
    assert (guessed != right).sum() > 12


def test_shares_of_a_self_mask_short_of_the_threshold_fit_every_secret() -> None:
    # With t - 1 points any secret has a polynomial: so the six shares above say nothing.
    points = np.arange(1, 8)
    secret = np.arange(16, dtype=np.uint16)
    shares = shamir.share(secret, 7, points, bytes(range(32)))
    for other in (secret[::-1].copy(), np.full(16, 65535, dtype=np.uint16)):
        weights = shamir.weights(points)
        pairs = zip(weights[:-1], shares[:-1], strict=True)
        last = other.astype(object) - sum(int(w) * s.astype(object) for w, s in pairs)
        inverse = pow(int(weights[-1]), -1, shamir.PRIME)
        row = np.array([int(x) * inverse % shamir.PRIME for x in last], dtype=np.uint32)
        assert (shamir.reconstruct(points, np.stack([*shares[:-1], row])) == other).all()


def test_sums_of_two_sessions_of_the_same_clients() -> None:
    first = Session(6)
    play(first, [set()] * 5)
    first.finish()
    for changes in ({"round": 2}, {"round": 2, "attempt": 1}, {"round": 2, "purpose": "evaluate"}):
        later = Session(6, earlier=first, **changes)
        play(later, [set()] * 5)
        later.finish()


def test_clients_have_any_numbers() -> None:
    session = Session(6)
    numbers = [3, 70_000, 17, 2**32 - 1, 255, 65_536]
    session.vaults = dict.fromkeys(numbers, session.vaults[0])
    session.clients = {k: session.client(k) for k in numbers}
    session.server._asked = set(numbers)
    session.vectors = dict(zip(numbers, session.vectors.values(), strict=True))
    play(session, [{17}, set(), set(), set(), set()])
    session.finish()
    assert session.server.survivors == sorted(set(numbers) - {17})


# The sparse graph


def sparse(monkeypatch: pytest.MonkeyPatch, side: int = 3) -> None:
    """A graph of 12 neighbours and threshold 9, however few the clients."""
    made = graph.Choice(12, 9, 40.0, 30.0, side)
    monkeypatch.setattr(graph, "choose", lambda size, corrupted, dropout: made)
    cohorts.cohort.cache_clear()


def circle(session: Session) -> list[int]:
    """The clients of a roster in the order of the circle."""
    made = session.server.cohort
    order, _ = graph._circle(made.size, made.digest)
    return [made.clients[i] for i in order]


@pytest.fixture(autouse=True)
def _fresh() -> object:
    yield
    cohorts.cohort.cache_clear()


@pytest.mark.parametrize("dropped", [0, 1, 4])
def test_a_sparse_session_is_exact(monkeypatch: pytest.MonkeyPatch, dropped: int) -> None:
    sparse(monkeypatch)
    session = Session(40, rules=Rules(4, 100, 0.2, 1), bits=20, length=33, noisy=True)
    session.advertise({39})
    assert len(session.server.cohort.neighbours(5)) == 12
    # Not neighbours of one another, so that every secret keeps its threshold.
    ring = circle(session)
    session.share({ring[0]})
    session.mask({ring[8 * i + 5] for i in range(dropped)})
    session.confirm({ring[2]})
    session.reveal()
    assert len(session.server.survivors) == 38 - dropped
    session.finish()


def test_a_sparse_session_short_of_neighbours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse(monkeypatch, side=2)
    session = Session(40, rules=Rules(4, 100, 0.2, 1))
    session.advertise()
    ring = circle(session)
    session.share()
    # The one between them has 8 neighbours that survive, and 9 are needed.
    session.mask({ring[i] for i in (1, 2, 4, 5)})
    session.confirm()
    session.reveal()
    with pytest.raises(RoundError, match="8 shares of client"):
        session.server.total()
    assert_hidden(session)


def test_a_cut_in_the_circle_is_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Six in a row gone: who stands before them has nobody after it, and won't sign.
    sparse(monkeypatch)
    session = Session(40, rules=Rules(4, 100, 0.3, 1))
    session.advertise()
    ring = circle(session)
    session.share()
    survivors = session.mask(set(ring[10:16]))
    for beside in (ring[9], ring[16], ring[7], ring[18]):
        with pytest.raises(RoundError, match="too few of this client's neighbours"):
            session.clients[beside].confirm(survivors)
    session.clients[ring[6]].confirm(survivors)
    session.clients[ring[19]].confirm(survivors)


@pytest.mark.slow
def test_three_hundred_clients() -> None:
    rules = Rules(100, 400, 0.05, 3)
    session = Session(304, rules=rules, length=16, noisy=True)
    session.advertise({7})
    assert session.server.cohort.choice.degree < 298
    session.share({11, 200})
    session.mask({3, 299, 150, 151})
    session.confirm({20})
    session.reveal({21})
    session.finish()
