"""From vectors to integers and back: unbiased, bounded, a function of one key."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.encoder import decode, encode
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.mechanisms import MARGIN

SIGNS = bytes(range(32))
each = pytest.mark.parametrize("conditional", [False, True])
turned = pytest.mark.parametrize("rotated", [False, True])


def lattice(
    dimension: int, norm: float, conditional: bool, rotated: bool, vote: int = 0
) -> Lattice:
    return Lattice(
        dimension=dimension,
        rotated=rotated,
        bits=32,
        norm=norm,
        conditional=conditional,
        variance=0.0,
        vote=vote,
    )


def key(i: int) -> bytes:
    return i.to_bytes(32, "big")


@each
@turned
@pytest.mark.parametrize("norm", [30.0, 5000.0, 200_000.0])
def test_decoding_is_unbiased(conditional: bool, rotated: bool, norm: float) -> None:
    # The mean over n dithers, each coordinate within 6 standard errors: fixed keys. Rounding
    # on condition has a bias of its own, which the paper's Proposition 26 bounds by far less.
    made, n = lattice(50, norm, conditional, rotated), 3000
    vector = np.random.default_rng(2).normal(size=50)
    vector *= 0.9 / np.linalg.norm(vector)
    total = sum(encode(vector, 1.0, made, SIGNS, key(i)) for i in range(n))
    assert isinstance(total, np.ndarray)
    mean = decode(total, 1.0, made, SIGNS)[0] / n
    error = 0.5 / (norm * math.sqrt(n))
    assert np.abs(mean - vector).max() < 6 * error


@each
@turned
@settings(deadline=None, max_examples=80)
@given(
    dimension=st.integers(1, 100),
    seed=st.integers(0, 2**32),
    length=st.floats(0.0, 1.0),
    bound=st.sampled_from([1e-10, 0.3, 1.0, 7e8]),
)
def test_what_is_decoded_is_near(
    conditional: bool, rotated: bool, dimension: int, seed: int, length: float, bound: float
) -> None:
    made = lattice(dimension, 10_000.0, conditional, rotated)
    vector = np.random.default_rng(seed).normal(size=dimension)
    vector *= length * bound / np.linalg.norm(vector)
    whole = encode(vector, bound, made, SIGNS, key(1))
    back, votes = decode(whole, bound, made, SIGNS)
    assert votes == 0.0
    # Each coordinate is off by less than one; so is what is cut off with the padding.
    step = bound / 10_000.0 * 1.001
    assert np.linalg.norm(back - vector) <= math.sqrt(made.coordinates) * step


@each
@turned
def test_decoding_is_linear(conditional: bool, rotated: bool) -> None:
    made = lattice(9, 500.0, conditional, rotated, vote=3)
    one, two = (
        np.append(encode(np.full(9, x), 1.0, made, SIGNS, key(7)), v)
        for x, v in ((0.1, 3), (-0.2, -3))
    )
    vectors = [decode(t, 1.0, made, SIGNS) for t in (one, two, one + two)]
    assert np.allclose(vectors[0][0] + vectors[1][0], vectors[2][0], rtol=0, atol=1e-12)
    assert [v for _, v in vectors] == [0.5, -0.5, 0.0]


@each
@turned
def test_larger_vectors_are_scaled_to_the_bound(conditional: bool, rotated: bool) -> None:
    made = lattice(40, 30_000.0, conditional, rotated)
    vector = np.random.default_rng(3).normal(size=40)
    unit = vector / np.linalg.norm(vector)
    for size in (1.0, 1.0001, 50.0, 1e30, 1e150):
        whole = encode(unit * size, 1.0, made, SIGNS, key(1))
        back = decode(whole, 1.0, made, SIGNS)[0]
        assert np.linalg.norm(back - unit) < 1e-3
        assert np.linalg.norm(whole) <= made.bound


def test_one_key_makes_one_vector() -> None:
    made = lattice(64, 20.0, False, True)
    vector = np.random.default_rng(4).normal(size=64) / 20
    again = [encode(vector, 1.0, made, SIGNS, key(i)) for i in (1, 1, 2)]
    assert (again[0] == again[1]).all()
    assert (again[0] != again[2]).any()
    assert (encode(vector, 1.0, made, key(5), key(1)) != again[0]).any()


@each
@turned
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_vector_given_is_left_as_it_was(conditional: bool, rotated: bool, kind: type) -> None:
    made = lattice(5, 20.0, conditional, rotated)
    vector = np.arange(5).astype(kind)
    encode(vector, 1.0, made, SIGNS, key(1))
    assert (vector == np.arange(5)).all()


@each
@turned
def test_zero_is_zero_without_dither_to_add(conditional: bool, rotated: bool) -> None:
    made = lattice(33, 20.0, conditional, rotated)
    for i in range(50):
        assert not encode(np.zeros(33), 1.0, made, SIGNS, key(i)).any()


@each
def test_vectors_that_are_not_finite_count_as_zero(conditional: bool) -> None:
    made = lattice(4, 20.0, conditional, True)
    for bad in (math.nan, math.inf, -math.inf, 1e200):
        with np.errstate(all="ignore"):
            whole = encode(np.array([1.0, bad, 0.0, 2.0]), 1.0, made, SIGNS, key(1))
        assert not whole.any()


def test_unconditional_rounding_is_the_dithers_alone() -> None:
    # floor(v + u): for one key, the same u whatever the vector.
    made = lattice(1000, 1000.0, False, False)
    base = encode(np.zeros(1000), 1.0, made, SIGNS, key(1))
    assert not base.any()
    unit = np.full(1000, 0.25 / 1000 / MARGIN)
    quarter, half = (encode(unit * f, 1.0, made, SIGNS, key(1)) for f in (1, 2))
    assert ((quarter == 1) <= (half == 1)).all()
    assert 150 < quarter.sum() < 350 < half.sum() < 650


def test_conditional_rounding_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a vector on the bound, some roundings are beyond it and are drawn again. Known: the
    # share that is refused is below 1 - exp(-2), and it isn't nothing.
    made = lattice(64, 12.0, True, False)
    vector = np.full(64, 1.0)
    real, calls = encoder._squared, []
    monkeypatch.setattr(encoder, "_squared", lambda w: calls.append(real(w)) or real(w))
    for i in range(400):
        encode(vector, 1.0, made, SIGNS, key(i))
    refused = sum(c > math.floor(made.bound**2) for c in calls)
    assert len(calls) == 400 + refused
    assert refused / len(calls) < 1 - math.exp(-2)


def test_when_no_rounding_fits_zero_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lattice(64, 12.0, True, False)
    monkeypatch.setattr(encoder, "_squared", lambda w: 1e9)
    whole = encode(np.full(64, 1.0), 1.0, made, SIGNS, key(1))
    assert np.linalg.norm(whole) <= made.bound


def test_squares_are_exact_below_2_53() -> None:
    whole = np.array([2.0**26, 2.0**26 - 1, -3.0, 1.0])
    assert encoder._squared(whole) == float(sum(int(x) ** 2 for x in whole))


def test_shapes_are_checked() -> None:
    made = lattice(4, 20.0, True, True, vote=1)
    for shape in ((3,), (5,), (4, 1), ()):
        with pytest.raises(ValueError, match="shape"):
            encode(np.zeros(shape), 1.0, made, SIGNS, key(1))
    for size in (4, 6):
        with pytest.raises(ValueError, match="shape"):
            decode(np.zeros(size, dtype=np.int64), 1.0, made, SIGNS)


def test_votes_are_halves() -> None:
    made = lattice(4, 20.0, True, False, vote=7)
    for yes, no in ((3, 0), (2, 5), (0, 4)):
        total = np.array([0, 0, 0, 0, 7 * (yes - no)])
        assert decode(total, 1.0, made, SIGNS)[1] == (yes - no) / 2
    assert (
        decode(np.zeros(4, dtype=np.int64), 1.0, dataclasses.replace(made, vote=0), SIGNS)[1] == 0
    )
