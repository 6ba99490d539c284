"""The rotation is H D / sqrt(n), whatever way it is computed."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from scipy import linalg, stats

from tacit.privacy.discrete import rotation
from tacit.privacy.discrete.rotation import padded, public_seed, rotate, unrotate

SEED = bytes(range(32))


@pytest.mark.parametrize(
    ("dimension", "due"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1024, 1024), (1025, 2048)]
)
def test_padding_is_to_a_power_of_two(dimension: int, due: int) -> None:
    assert padded(dimension) == due


@pytest.mark.parametrize("bits", range(13))
def test_it_is_the_hadamard_matrix_of_scipy(bits: int) -> None:
    size = 1 << bits
    vector = np.random.default_rng(bits).normal(size=size)
    due = linalg.hadamard(size) @ (vector * rotation._signs(SEED, size)) / math.sqrt(size)
    assert np.allclose(rotate(vector, SEED), due, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimension", [1, 2, 3, 31, 33, 64, 100, 1000, 40_000])
def test_it_keeps_norms_and_angles_and_comes_back(dimension: int) -> None:
    generator = np.random.default_rng(dimension)
    one, two = generator.normal(size=(2, dimension))
    turned = [rotate(v, SEED) for v in (one, two)]
    assert turned[0].shape == (padded(dimension),)
    assert np.linalg.norm(turned[0]) == pytest.approx(np.linalg.norm(one), rel=1e-13)
    assert float(turned[0] @ turned[1]) == pytest.approx(float(one @ two), abs=1e-10)
    assert np.allclose(unrotate(turned[0], SEED, dimension), one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimension", [1, 3, 100, 40_000])
def test_single_precision_is_the_same_rotation(dimension: int) -> None:
    vector = np.random.default_rng(dimension).normal(size=dimension)
    single = rotate(vector.astype(np.float32), SEED)
    assert single.dtype == np.float32
    wide = rotate(vector, SEED)
    assert wide.dtype == np.float64
    assert np.linalg.norm(single - wide) <= 1e-5 * np.linalg.norm(wide)


def test_it_is_linear_and_leaves_its_argument() -> None:
    generator = np.random.default_rng(1)
    one, two = generator.normal(size=(2, 77))
    kept = one.copy()
    both = rotate(2 * one - 3 * two, SEED)
    assert np.allclose(both, 2 * rotate(one, SEED) - 3 * rotate(two, SEED), rtol=0, atol=1e-12)
    assert (one == kept).all()
    wide = rotate(one, SEED)
    again = wide.copy()
    unrotate(wide, SEED, 77)
    assert (wide == again).all()


def test_integers_of_a_hadamard_matrix_are_exact() -> None:
    # Powers of four: 1/sqrt(n) is exact, so a unit vector has entries of one size.
    for size in (4, 16, 64, 256, 1024):
        unit = np.zeros(size)
        unit[size // 3] = 1.0
        assert set(np.abs(rotate(unit, SEED)) * math.sqrt(size)) == {1.0} or np.allclose(
            np.abs(rotate(unit, SEED)) * math.sqrt(size), 1.0, rtol=1e-14, atol=0
        )


def test_it_spreads_a_unit_vector_evenly() -> None:
    for dimension in (100, 5000):
        unit = np.zeros(dimension)
        unit[dimension // 2] = 1.0
        flat = np.abs(rotate(unit, SEED))
        assert np.allclose(flat, 1 / math.sqrt(padded(dimension)), rtol=1e-12)


def test_coordinates_are_sub_gaussian_over_the_signs() -> None:
    # Lemma 28: variance c^2/d; beyond 6 deviations with probability 2 exp(-18). Fixed seeds.
    vector = np.ones(512) / math.sqrt(512)
    drawn = np.concatenate(
        [rotate(vector, hashlib.sha256(bytes([i])).digest()) for i in range(200)]
    ) * math.sqrt(512)
    assert np.var(drawn) == pytest.approx(1.0, rel=0.02)
    assert np.abs(drawn).max() < 6.0


def test_signs_are_fair_and_public() -> None:
    signs = rotation._signs(SEED, 100_000)
    assert set(np.unique(signs)) == {-1, 1}
    up = int((signs > 0).sum())
    assert stats.binomtest(up, 100_000).pvalue > 1e-7
    assert (rotation._signs(SEED, 999) == signs[:999]).all()
    assert (rotation._signs(bytes(32), 999) != signs[:999]).any()


def test_seeds_are_of_a_purpose_and_a_round() -> None:
    assert public_seed("train", 3) == hashlib.sha256(b"tacit rotation\x00train\x003").digest()
    seeds = {public_seed(p, n) for p in ("train", "evaluate") for n in range(50)}
    assert len(seeds) == 100
