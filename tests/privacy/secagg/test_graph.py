"""The graph: regular and symmetric, and as dense as its promises need."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.errors import ConfigError
from tacit.privacy.noise import KeyedStream
from tacit.privacy.secagg import graph
from tacit.privacy.secagg.graph import adjacency, choose, neighbours, sides
from tacit.privacy.secagg.keys import derive

SEED = bytes(range(32))

seeds = st.binary(min_size=32, max_size=32)


@st.composite
def sparse(draw: st.DrawFn) -> tuple[int, int, bytes]:
    size = draw(st.integers(4, 60))
    return size, 2 * draw(st.integers(1, (size - 2) // 2)), draw(seeds)


def components(linked: list[list[int]], alive: set[int]) -> int:
    count, left = 0, set(alive)
    while left:
        count, front = count + 1, [left.pop()]
        while front:
            found = [k for k in linked[front.pop()] if k in left]
            left.difference_update(found)
            front += found
    return count


# The graph


@settings(deadline=None)
@given(shape=sparse())
def test_the_graph_is_regular_and_symmetric(shape: tuple[int, int, bytes]) -> None:
    size, degree, seed = shape
    linked = adjacency(size, degree, seed)
    assert len(linked) == size
    for position, found in enumerate(linked):
        assert found == neighbours(position, size, degree, seed)
        assert found == sorted(set(found))
        assert len(found) == degree
        assert position not in found
        assert all(position in linked[k] for k in found)


@settings(deadline=None)
@given(shape=sparse())
def test_it_is_the_harary_graph_of_the_permutation(shape: tuple[int, int, bytes]) -> None:
    size, degree, seed = shape
    data = KeyedStream(derive("tacit.secagg.graph", seed)).read(8 * size).tobytes()
    order = sorted(range(size), key=lambda i: int.from_bytes(data[8 * i : 8 * i + 8], "little"))
    for place, position in enumerate(order):
        near = range(1, degree // 2 + 1)
        before, after = sides(position, size, degree, seed)
        assert before == [order[place - i] for i in near]
        assert after == [order[(place + i) % size] for i in near]


def test_golden_graph() -> None:
    assert adjacency(7, 2, SEED) == [[1, 2], [0, 3], [0, 6], [1, 4], [3, 5], [4, 6], [2, 5]]


@pytest.mark.parametrize("size", [2, 3, 4, 7, 20])
def test_the_complete_graph_links_all(size: int) -> None:
    linked = adjacency(size, size - 1, SEED)
    for position in range(size):
        others = [k for k in range(size) if k != position]
        assert linked[position] == others
        assert neighbours(position, size, size - 1, SEED) == others
        before, after = sides(position, size, size - 1, SEED)
        assert sorted(before + after) == others


def test_seeds_give_permutations_that_are_uniform() -> None:
    # Which of the (5 - 1)! / 2 = 12 cycles on five positions: each in a twelfth of 6,000 seeds.
    cycles: Counter[str] = Counter()
    for i in range(6000):
        cycles[str(adjacency(5, 2, hashlib.sha256(b"%d" % i).digest()))] += 1
    assert len(cycles) == 12
    assert max(abs(n - 500) for n in cycles.values()) < 6 * math.sqrt(6000 / 12 * 11 / 12)


@pytest.mark.parametrize(
    ("position", "size", "degree", "seed", "said"),
    [
        (0, 10, 3, SEED, "degree=3"),
        (0, 10, 10, SEED, "degree=10"),
        (0, 10, 0, SEED, "degree=0"),
        (0, 1, 0, SEED, "size=1"),
        (-1, 10, 4, SEED, "position=-1"),
        (10, 10, 4, SEED, "position=10"),
        (0, 10, 4, SEED[1:], "31 bytes"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(
    position: int, size: int, degree: int, seed: bytes, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        neighbours(position, size, degree, seed)


@settings(deadline=None)
@given(shape=sparse(), data=st.data())
def test_an_honest_survivor_on_every_side_is_enough_to_connect(
    shape: tuple[int, int, bytes], data: st.DataObject
) -> None:
    size, degree, seed = shape
    alive = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    reaching = all(alive & set(sides(k, size, degree, seed)[1]) for k in alive)
    if reaching:
        assert components(adjacency(size, degree, seed), alive) == 1


def test_a_cut_after_the_fact_is_seen_on_the_sides() -> None:
    size = 1000
    choice = choose(size, 50, 0.1)
    linked = adjacency(size, choice.degree, SEED)
    half = choice.degree // 2
    _, gap = sides(0, size, choice.degree, SEED)
    # The farthest of the first gap, then as much of the circle kept as dropped.
    kept = sides(gap[-1], size, choice.degree, SEED)[1]
    dropped = set(gap) | set(sides(kept[-1], size, choice.degree, SEED)[1])
    alive = set(range(size)) - dropped
    assert len(dropped) == 2 * half
    assert components(linked, alive) == 2
    alarmed = [
        k
        for k in alive
        if min(len(alive & set(s)) for s in sides(k, size, choice.degree, SEED)) < choice.side
    ]
    assert set(kept) <= set(alarmed), "all of the smaller part"


# The choice


def exact_corrupted(least: int, size: int, corrupted: int, draws: int) -> Fraction:
    """The chance of ``least`` or more corrupted among ``draws`` of the others."""
    ways = sum(
        math.comb(corrupted, i) * math.comb(size - 1 - corrupted, draws - i)
        for i in range(least, draws + 1)
    )
    return Fraction(ways, math.comb(size - 1, draws))


def exact_dropped(least: int, peers: int, dropout: Fraction) -> Fraction:
    return sum(
        (
            math.comb(peers, i) * dropout**i * (1 - dropout) ** (peers - i)
            for i in range(least, peers + 1)
        ),
        Fraction(0),
    )


def bits(chance: Fraction) -> float:
    if not chance:
        return math.inf
    # Numerator and denominator are far beyond a double's range.
    return math.log2(chance.denominator) - math.log2(chance.numerator)


def exact(size: int, corrupted: int, dropout: Fraction, degree: int) -> tuple[float, float, int]:
    """Security, correctness and side of a degree, in rational arithmetic."""
    t, half, honest = 2 * degree // 3 + 1, degree // 2, size - corrupted
    side = next(
        s
        for s in range(1, half + 2)
        if honest * exact_corrupted(s, size, corrupted, half) <= Fraction(1, 2**105)
    )
    rate = Fraction(corrupted, size - 1)
    failure = honest * (
        exact_corrupted(2 * t - degree, size, corrupted, degree)
        + (rate + (1 - rate) * dropout) ** half
        + exact_corrupted(side, size, corrupted, half)
    )
    failed = size * (
        exact_dropped(degree - t + 1, degree, dropout)
        + 2 * exact_dropped(half - side + 1, half, dropout)
    )
    return bits(failure) - 64, bits(failed), side if side <= half else -1


@pytest.mark.parametrize(
    ("size", "corrupted", "percent"), [(300, 15, 5), (300, 30, 10), (300, 60, 5), (1000, 50, 10)]
)
def test_the_degree_is_the_smallest_by_exact_arithmetic(
    size: int, corrupted: int, percent: int
) -> None:
    dropout = Fraction(percent, 100)
    choice = choose(size, corrupted, percent / 100)
    for degree in range(2, choice.degree, 2):
        security, correctness, side = exact(size, corrupted, dropout, degree)
        assert security < 40 or correctness < 30 or side < 0, degree
    security, correctness, side = exact(size, corrupted, dropout, choice.degree)
    assert min(security - 40, correctness - 30) >= 0
    assert choice.security_bits == pytest.approx(security, abs=1e-6)
    assert choice.correctness_bits == pytest.approx(correctness, abs=1e-6)
    assert choice.side == side
    assert choice.threshold == 2 * choice.degree // 3 + 1


@pytest.mark.parametrize(
    ("size", "corrupted", "dropout", "degree"),
    [
        (300, 30, 0.05, 98),
        (1000, 50, 0.05, 126),
        (1000, 100, 0.10, 228),
        (1000, 200, 0.10, 540),
        (5000, 250, 0.10, 174),
        (5000, 500, 0.05, 336),
    ],
)
def test_chosen_degrees(size: int, corrupted: int, dropout: float, degree: int) -> None:
    choice = choose(size, corrupted, dropout)
    assert choice.degree == degree
    assert choice.security_bits >= 40
    assert choice.correctness_bits >= 30


@pytest.mark.parametrize("size", range(3, 300))
def test_small_cohorts_are_complete_and_certain(size: int) -> None:
    choice = choose(size, size // 3, 0.05)
    holders = size - 1
    assert choice.degree == holders
    assert choice.threshold <= holders
    assert choice.security_bits == math.inf
    assert choice.side == 0
    # A third corrupted is borne; one more than borne is refused, with the number in the hint.
    most = 2 * choice.threshold - holders - 1
    assert most >= size // 3
    assert choose(size, most, 0.05).threshold == choice.threshold
    if most + 1 < size:
        with pytest.raises(ConfigError, match=f"corrupted={most + 1}.*at most {most}"):
            choose(size, most + 1, 0.05)


def test_no_share_of_two_answers_can_reach_the_threshold() -> None:
    # Every way to ask k holders, c of them corrupted, who answer twice.
    for size in range(3, 40):
        choice = choose(size, size // 3, 0.0)
        k, t, c = choice.degree, choice.threshold, size // 3
        assert not any(c + asked >= t and c + (k - c - asked) >= t for asked in range(k - c + 1))


def test_the_complete_graphs_correctness_is_exact() -> None:
    choice = choose(100, 10, 0.05)
    failed = 100 * exact_dropped(99 - 67 + 1, 99, Fraction(1, 20))
    assert (choice.degree, choice.threshold) == (99, 67)
    assert choice.correctness_bits == pytest.approx(bits(failed), abs=1e-6)
    assert choose(100, 10, 0.6).correctness_bits == 0.0
    assert choose(100, 10, 0.0).correctness_bits == math.inf


def test_chances_below_a_doubles_range_are_not_called_zero() -> None:
    choice = choose(1000, 10, 1e-9)
    assert 1000 < choose(1000, 300, 1e-9).correctness_bits < math.inf
    assert choice.correctness_bits < math.inf


def test_without_a_sparse_graph_the_complete_one_is_taken() -> None:
    # A third of 300 corrupted: only certainty will do, and the complete graph has it.
    choice = choose(300, 100, 0.05)
    assert (choice.degree, choice.threshold) == (299, 200)
    assert choice.security_bits == math.inf
    # So many drop that no graph is likely to survive it; the figure says so.
    assert choose(1000, 10, 0.4).degree == 999
    assert choose(1000, 10, 0.4).correctness_bits == 0.0


@pytest.mark.parametrize(
    ("size", "corrupted", "dropout", "said"),
    [
        (2, 0, 0.0, "size=2"),
        (10, -1, 0.0, "corrupted=-1"),
        (10, 1, 1.0, "dropout=1"),
        (10, 1, -0.1, "dropout=-0.1"),
        (10, 1, math.nan, "dropout=nan"),
        (10, 10, 0.1, "corrupted=10"),
        (300, 101, 0.1, "corrupted=101"),
        (300, 300, 0.1, "corrupted=300"),
        (1000, 1001, 0.1, "corrupted=1001"),
    ],
)
def test_assumptions_that_nothing_bears_are_refused(
    size: int, corrupted: int, dropout: float, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(size, corrupted, dropout)


def test_sparse_graphs_begin_at_300() -> None:
    assert graph.SPARSE_FROM == 300
    assert choose(299, 15, 0.05).degree == 298
    assert choose(300, 15, 0.05).degree == 68
