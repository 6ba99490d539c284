"""From a bounded vector to integers and back: rotate, scale, round, check.

Guarantees: what `encode` returns has an L2 norm of at most `Lattice.l2`, checked on the
integers themselves where rounding is conditional (Kairouz, Liu, Steinke 2021,
arXiv:2102.06387, Algorithm 1), so no floating-point error can enlarge a client's
contribution. Where rounding is unconditional it depends on one dither alone, which is what
the record-level sensitivity rests on (`tacit.privacy.discrete.lattice`).
It doesn't add noise, and doesn't hide anything by itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.discrete.rotation import Real, rotate, unrotate
from tacit.privacy.mechanisms import MARGIN
from tacit.privacy.noise import Floats, KeyedStream

Integers = NDArray[np.int64]

# Each is accepted with probability above 0.86, so that zero is sent about never.
_ATTEMPTS = 100
_SINGLE = 2.0**16


def encode(
    vector: NDArray[np.floating], bound: float, lattice: Lattice, signs: bytes, key: bytes
) -> Integers:
    """A vector on the lattice, without vote and noise.

    Args:
        vector: shape [dimension]; scaled down here if its norm exceeds ``bound``, and zero if
            its norm isn't finite.
        bound: what ``lattice.norm`` stands for, in the vector's units.
        lattice: from the plan.
        signs: 32 bytes, the round's public rotation.
        key: 32 bytes, this client's own, of the dither; used once.

    Returns:
        Shape [`Lattice.coordinates`], int64.
    """
    if vector.shape != (lattice.dimension,):
        raise ValueError(f"a vector of shape {vector.shape}, not ({lattice.dimension},)")
    wide = vector.astype(np.float64)
    norm = math.sqrt(np.dot(wide, wide))
    if not math.isfinite(norm):
        wide, norm = np.zeros_like(wide), 0.0
    wide *= lattice.norm * MARGIN / max(norm, bound)
    # Single precision is enough where what it loses is far below what rounding may add.
    single = lattice.conditional and lattice.norm <= _SINGLE
    exact: Real = wide.astype(np.float32) if single else wide
    if lattice.rotated:
        exact = rotate(exact, signs)
    stream = KeyedStream(key)
    limit = math.floor(lattice.bound**2)
    for _ in range(_ATTEMPTS):
        whole = _dithered(exact, stream)
        if not lattice.conditional or _squared(whole) <= limit:
            return whole.astype(np.int64)
    return np.zeros(lattice.coordinates, dtype=np.int64)


def decode(total: Integers, bound: float, lattice: Lattice, signs: bytes) -> tuple[Floats, float]:
    """What a sum on the lattice stands for.

    Args:
        total: shape [`Lattice.length`], representatives around zero.
        bound: as in `encode`.
        lattice: from the plan.
        signs: as in `encode`.

    Returns:
        The sum, shape [dimension], and the sum of the votes of +-1/2 (0.0 without).
    """
    if total.shape != (lattice.length,):
        raise ValueError(f"a sum of shape {total.shape}, not ({lattice.length},)")
    values = total[: lattice.coordinates].astype(np.float64)
    values *= bound / (lattice.norm * MARGIN)
    if lattice.rotated:
        values = unrotate(values, signs, lattice.dimension)
    votes = float(total[-1]) / (2.0 * lattice.vote) if lattice.vote else 0.0
    return values, votes


def _dithered(values: Real, stream: KeyedStream) -> Floats:
    """floor(values + u), u uniform on [0, 1), as doubles."""
    if values.dtype == np.float32:
        single = stream.read(2 * values.size).view(np.uint16).astype(np.float32)
        single *= np.float32(2.0**-16)
        single += values
        return np.floor(single, out=single).astype(np.float64)
    double = stream.read(4 * values.size).view(np.uint32).astype(np.float64)
    double *= 2.0**-32
    double += values
    return np.floor(double, out=double)


def _squared(whole: Floats) -> float:
    """The squared norm of integers held in doubles: exact, as long as it is below 2^53.

    Limits are that large only without noise, or with so little that nothing is promised.
    """
    return float(np.dot(whole, whole))
