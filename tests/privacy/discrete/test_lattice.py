"""The lattice: sums fit their words, and norms are bounded by what is claimed."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from tacit.privacy.discrete.encoder import encode
from tacit.privacy.discrete.lattice import (
    LARGEST_DEVIATION,
    TAIL,
    WORD_BITS,
    Lattice,
    Need,
    sized,
)
from tacit.privacy.errors import ConfigError

PLAIN = Lattice(dimension=5, rotated=True, bits=16, norm=100.0, conditional=False, variance=0.0)


@st.composite
def needs(draw: st.DrawFn) -> Need:
    conditional = draw(st.booleans())
    z = draw(st.sampled_from([0.0, 0.3, 1.0, 2.5, 8.0]))
    counted = conditional and draw(st.booleans())
    share = 0.0 if conditional else draw(st.sampled_from([0.0, 0.001, 0.1, 1.0]))
    return Need(
        dimension=draw(st.sampled_from([1, 2, 3, 10, 63, 64, 65, 1290, 100_000, 10_000_000])),
        rotated=draw(st.booleans()),
        clients=draw(st.integers(4, 2000)),
        noise_multiplier=z,
        conditional=conditional,
        record_share=share,
        count_noise=draw(st.floats(0.51, 50.0)) * max(z, 0.1) if counted else None,
    )


def least_deviation(need: Need, found: Lattice) -> float:
    return need.noise_multiplier * (found.record_l2 if need.record_share else found.l2)


# Its vote is rounded up to 1.
UP = Need(
    dimension=1,
    rotated=False,
    clients=330,
    noise_multiplier=0.3,
    conditional=True,
    count_noise=15.0,
)


@settings(deadline=None, max_examples=300)
@given(need=needs(), bits=st.sampled_from([None, *WORD_BITS]))
@example(need=UP, bits=16)
def test_a_sized_lattice_carries_its_noise_and_fits(need: Need, bits: int | None) -> None:
    try:
        found = sized(need, bits)
    except ConfigError:
        event("doesn't fit")
        return
    event(f"fits {found.bits}")
    assert bits is None or found.bits == bits
    deviation = math.sqrt(found.variance)
    assert found.norm == math.floor(found.norm) >= 1
    assert deviation <= LARGEST_DEVIATION
    # Never less noise than the plan says, over the sensitivity with the vote in it.
    assert deviation >= least_deviation(need, found) * (1 - 1e-12)
    assert (found.vote > 0) == (need.count_noise is not None)
    # In the worst case, all vectors alike: mean plus six standard deviations.
    most, n = 2 ** (found.bits - 1) - 1, need.clients
    mean = n * found.norm / (math.sqrt(found.coordinates) if found.rotated else 1.0)
    spread = math.sqrt(n / 4 + found.variance)
    if not found.rotated:
        assert mean + TAIL * spread <= most
    else:
        assert TAIL * math.hypot(mean, spread) <= most * (1 + 1e-12)
    assert n * found.vote + TAIL * deviation <= most


@settings(deadline=None, max_examples=100)
@given(need=needs(), bits=st.sampled_from(WORD_BITS))
def test_it_is_the_finest(need: Need, bits: int) -> None:
    # A norm a hundredth larger would be too large: for the words or for the sampler.
    assume(need.count_noise is None)
    try:
        found = sized(need, bits)
    except ConfigError:
        return
    assume(found.norm >= 1000)
    z, n, norm = need.noise_multiplier, need.clients, found.norm * 1.01
    larger = dataclasses.replace(
        found, norm=norm, record_norm=norm * need.record_share, variance=0.0
    )
    deviation = z * (larger.record_l2 if need.record_share else larger.bound)
    other = n / 4 + deviation**2
    if need.rotated:
        reached = TAIL * math.sqrt((n * norm) ** 2 / found.coordinates + other)
    else:
        reached = n * norm + TAIL * math.sqrt(other)
    assert reached > 2 ** (bits - 1) - 1 or deviation > LARGEST_DEVIATION or norm > 2**32


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(
    ("dimension", "clients", "bits"), [(3, 10, 16), (60, 40, 16), (600, 12, 20)]
)
def test_sums_fit_in_the_worst_aligned_case(
    rotated: bool, dimension: int, clients: int, bits: int
) -> None:
    # All clients send the one vector that is worst for a coordinate, with noise on top. The
    # chance of a wrap is 2 exp(-18) a coordinate; none is seen in a quarter of a million.
    need = Need(
        dimension=dimension,
        rotated=rotated,
        clients=clients,
        noise_multiplier=1.0,
        conditional=True,
    )
    found = sized(need, bits)
    most = 2 ** (bits - 1) - 1
    generator = np.random.default_rng(1)
    worst = np.zeros(dimension)
    worst[0] = 1.0
    rows = []
    for turn in range(20):
        # A vector along one row of the rotation: the worst there is, were the signs not drawn.
        whole = encode(worst, 1.0, found, bytes([turn]) * 32, bytes([turn + 1]) * 32)
        noise = generator.normal(0.0, math.sqrt(found.variance), found.coordinates)
        rows.append(np.abs(clients * whole + noise).max())
    assert max(rows) <= most
    assert max(rows) > most / 100, "and the words aren't wasted"


def test_without_bits_the_fewest_that_lose_little() -> None:
    for dimension in (10, 1000, 100_000, 3_000_000):
        need = Need(
            dimension=dimension, rotated=True, clients=60, noise_multiplier=1.0, conditional=True
        )
        found = sized(need, None)
        loss = {b: (f := sized(need, b)).bound / f.norm for b in WORD_BITS}
        good = [b for b in WORD_BITS if loss[b] <= 1.005]
        assert found.bits == (good[0] if good else 32)
        assert loss[16] >= loss[20] >= loss[32]


def test_what_does_not_fit_is_refused() -> None:
    need = Need(
        dimension=10, rotated=False, clients=2000, noise_multiplier=3000.0, conditional=True
    )
    with pytest.raises(ConfigError, match="don't fit words of 16 bits"):
        sized(need, 16)
    sized(need, 32)
    with pytest.raises(ConfigError, match="don't fit words of 32 bits"):
        sized(dataclasses.replace(need, noise_multiplier=1e6), 32)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dimension": 0}, "dimension=0"),
        ({"bits": 24}, "secure.bits=24"),
        ({"norm": 0.0}, "norm=0"),
        ({"norm": math.nan}, "norm=nan"),
        ({"norm": math.inf}, "norm=inf"),
        ({"record_norm": -1.0}, "record_norm=-1"),
        ({"vote": -1}, "vote=-1"),
        ({"variance": -1.0}, "variance=-1"),
        ({"variance": math.nan}, "variance=nan"),
        ({"variance": 2.0**30 * 1.001}, "at most 2\\^30"),
        ({"conditional": True, "record_norm": 1.0}, "conditional=True"),
    ],
)
def test_lattices_that_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(PLAIN, **changes)


# The bounds, against the paper's formulas


@given(
    dimension=st.integers(1, 5000),
    rotated=st.booleans(),
    norm=st.floats(1.0, 1e6),
    conditional=st.booleans(),
    vote=st.integers(0, 1000),
)
def test_bounds_are_the_propositions(
    dimension: int, rotated: bool, norm: float, conditional: bool, vote: int
) -> None:
    made = dataclasses.replace(
        PLAIN, dimension=dimension, rotated=rotated, norm=norm, conditional=conditional, vote=vote
    )
    d = made.coordinates
    assert d >= dimension
    assert d & (d - 1) == 0 if rotated else d == dimension
    assert made.length == d + (vote > 0)
    # Kairouz, Liu and Steinke 2021, Proposition 26, with beta = exp(-2).
    always = (norm + math.sqrt(d)) ** 2
    likely = norm**2 + d / 4 + math.sqrt(2 * 2.0) * (norm + math.sqrt(d) / 2)
    due = min(always, likely) if conditional else always
    assert made.bound**2 == pytest.approx(due, rel=1e-12)
    assert made.l2 == pytest.approx(math.sqrt(due + vote**2), rel=1e-12)
    assert made.l1 <= made.l2**2 * (1 + 1e-12)
    assert made.l1 <= math.sqrt(made.length) * made.l2 * (1 + 1e-12)


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_a_records_bound_is_never_above_its_clients(share: float) -> None:
    made = dataclasses.replace(PLAIN, record_norm=share * PLAIN.norm)
    slack = 1 + 2.0**-10  # for float round-off
    assert made.record_l2 <= made.l2 * slack
    assert made.record_l1 <= made.l1 * slack**2
    if share < 1:
        assert made.record_l2 >= share * PLAIN.norm + math.sqrt(8)


def test_a_record_without_a_bound_of_its_own_can_move_a_vector_across_the_ball() -> None:
    made = dataclasses.replace(PLAIN, record_norm=0.0)
    assert made.record_l2 == 2.0 * made.bound


# The bounds, against what `encode` makes


def squared(whole: np.ndarray) -> int:
    return sum(int(x) ** 2 for x in whole)


LIMIT = 1 + Fraction(1, 2**50)
HARD = st.sampled_from(
    [
        math.nan,
        math.inf,
        -math.inf,
        0.0,
        -0.0,
        5e-324,
        -1e-310,
        1e308,
        -1e308,
        1e-30,
        1.0,
        -1.0,
        0.5,
    ]
)


@settings(deadline=None, max_examples=200)
@given(
    values=st.lists(HARD | st.floats(width=32), min_size=1, max_size=40),
    norm=st.sampled_from([1.0, 2.0, 17.0, 1000.0, 65536.0, 3e6]),
    bound=st.sampled_from([1e-20, 0.1, 1.0, 3.0, 1e20]),
    conditional=st.booleans(),
    rotated=st.booleans(),
    key=st.binary(min_size=32, max_size=32),
)
def test_no_encoded_vector_exceeds_l2(
    values: list[float], norm: float, bound: float, conditional: bool, rotated: bool, key: bytes
) -> None:
    made = Lattice(
        dimension=len(values),
        rotated=rotated,
        bits=32,
        norm=norm,
        conditional=conditional,
        variance=0.0,
    )
    with np.errstate(all="ignore"):
        whole = encode(np.array(values), bound, made, bytes(32), key)
        finite = math.isfinite(float(np.dot(values, values)))
    assert whole.dtype == np.int64
    assert whole.shape == (made.coordinates,)
    assert squared(whole) <= Fraction(made.l2) ** 2 * LIMIT
    assert squared(whole) <= Fraction(made.bound) ** 2 * LIMIT
    if not finite:
        assert set(np.unique(whole)) <= {0}, "zero is on the lattice"


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    dimension=st.integers(1, 70),
    norm=st.sampled_from([1.0, 5.0, 300.0, 4000.0]),
    share=st.sampled_from([0.01, 0.1, 0.5]),
    rotated=st.booleans(),
    large=st.sampled_from([0.0, 0.5, 1.0, 1.0 + 1e-9, 3.0]),
    key=st.binary(min_size=32, max_size=32),
)
def test_a_records_contribution_moves_no_more_than_record_l2(
    seed: int, dimension: int, norm: float, share: float, rotated: bool, large: float, key: bytes
) -> None:
    # The same dither on both sides, and a record that points wherever it likes.
    made = Lattice(
        dimension=dimension,
        rotated=rotated,
        bits=32,
        norm=norm,
        conditional=False,
        variance=0.0,
        record_norm=share * norm,
    )
    generator = np.random.default_rng(seed)
    first = generator.normal(size=dimension)
    first *= large / np.linalg.norm(first)
    step = generator.normal(size=dimension) * generator.choice([0.0, 1.0], dimension, p=[0.4, 0.6])
    if np.linalg.norm(step):
        step *= share / np.linalg.norm(step)
    signs = bytes(range(32))
    one, two = (encode(v, 1.0, made, signs, key) for v in (first, first + step))
    assert squared(one - two) <= Fraction(made.record_l2) ** 2


def test_the_records_bound_is_nearly_reached() -> None:
    # Every coordinate is off by up to one: the bound has to be above the record's own norm.
    made = Lattice(
        dimension=64,
        rotated=False,
        bits=32,
        norm=1000.0,
        conditional=False,
        variance=0.0,
        record_norm=80.0,
    )
    found = 0.0
    for key in range(200):
        one = encode(np.zeros(64), 1.0, made, bytes(32), bytes([key]) * 32)
        two = encode(np.full(64, 0.08 / 8), 1.0, made, bytes(32), bytes([key]) * 32)
        found = max(found, math.sqrt(squared(one - two)))
    assert 80.0 <= found <= made.record_l2
