"""Randomised Walsh-Hadamard rotation: spreads a vector's norm evenly over its coordinates.

Guarantees: `rotate` is orthonormal up to the round-off of its type (relative 1e-5 for single
precision, 1e-14 for double), and `unrotate` its inverse; the signs are a public function of
the round, so that both sides have them. After it, each coordinate of any vector of norm c is
sub-Gaussian with variance c^2/d over the signs (Kairouz, Liu, Steinke 2021, arXiv:2102.06387,
Lemma 28), which is what the range of a word is sized for.
It doesn't hide anything: the signs are known to all.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.noise import Floats, KeyedStream

_BLOCK = 32
Real = NDArray[np.float32] | NDArray[np.float64]


def public_seed(purpose: str, number: int) -> bytes:
    """The seed of a round's rotation, as everybody derives it.

    Args:
        purpose: "train" or "evaluate".
        number: of the round.
    """
    return hashlib.sha256(f"tacit rotation\x00{purpose}\x00{number}".encode()).digest()


def padded(dimension: int) -> int:
    """The power of two that a vector of this length is padded to."""
    return 1 << max(0, dimension - 1).bit_length()


def rotate(vector: Real, seed: bytes) -> Real:
    """H D x / sqrt(n), with D the signs of ``seed``.

    Args:
        vector: shape [d], single or double precision.
        seed: 32 bytes, public, another in each round.

    Returns:
        Shape [n], n the power of two not below d, of the same type.
    """
    wide = np.zeros(padded(vector.size), dtype=vector.dtype)
    wide[: vector.size] = vector
    wide[: vector.size] *= _signs(seed, vector.size)
    return _hadamard(wide)


def unrotate(vector: Floats, seed: bytes, dimension: int) -> Floats:
    """The inverse of `rotate`: shape [n] to shape [dimension]."""
    turned = _hadamard(vector)[:dimension].astype(np.float64)
    return turned * _signs(seed, dimension)


def _signs(seed: bytes, size: int) -> NDArray[np.int8]:
    bits = np.unpackbits(KeyedStream(seed).read((size + 7) // 8), count=size)
    signs: NDArray[np.int8] = 1 - 2 * bits.view(np.int8)
    return signs


@functools.cache
def _matrix(size: int, kind: str) -> NDArray[Any]:
    matrix: Floats = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / math.sqrt(size)).astype(kind)


def _hadamard(vector: Real) -> Real:
    """The orthonormal Walsh-Hadamard transform, as matrix products by H32.

    Each product transforms the last five bits of the index and turns them to the front, so
    after all of them every bit is transformed and in its place again.
    """
    left, kind = vector.size, vector.dtype.str
    while left > 1:
        size = min(_BLOCK, left)
        vector = (_matrix(size, kind) @ vector.reshape(-1, size).T).reshape(-1)
        left //= size
    return vector
