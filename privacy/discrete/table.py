"""Samples of a symmetric law on the integers by inversion, from a table, with lazy bits.

Guarantees: a sample is a sign bit and #{k >= 1: V < S(k)}, where V is a fraction of 256 uniform
bits and S(k) is P(|X| >= k) of `pmf.survival`, rounded down to 256 bits. No floating point is
involved anywhere, so the same law, size and key give the same numbers on every machine. The
rounding moves N 2^-256 < 2^-237 of the mass and the law under it is within 2^-135 of the named
one (see `tacit.privacy.discrete.pmf`, which also cuts the tail at P(|X| > N) < 2^-175): taken
together a sample is within 2^-134 of the law in statistical distance, and m samples within
m 2^-134, if the bits are uniform. They are AES-256-CTR keystream and SHA-256 output.

Bits of V are read when they are needed: the first 15, 17 or 19 select a cell of a guide table,
which mostly lies between two neighbouring S(k). Where it doesn't, V is completed to 64 bits and
compared with the top 64 bits of S(k); where these are equal, fewer than once in 2^45 samples,
all 256 bits decide, with the whole S made anew.

A key is for one draw: two draws with one key share their bits, whatever their laws and sizes.

It doesn't guarantee constant time: how long a draw takes depends a little on the values drawn.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import validate
from tacit.privacy.discrete.pmf import FRACTION_BITS, Law, survival
from tacit.privacy.errors import ConfigError
from tacit.privacy.noise import KeyedStream

_REFINE = b"tacit/discrete/table/refine/1"
_DECIDE = b"tacit/discrete/table/decide/1"
_PREFIX = 64
# Samples at a time, for the cache: it changes no sample.
_PIECE = 1 << 16

_Words = NDArray[np.unsignedinteger[Any]]
_Signed = NDArray[np.signedinteger[Any]]


class Table:
    """Draws from one law; use `table`, which keeps them.

    Memory: 0.3 MB up to a variance of 100^2, 1.2 MB up to 2000^2, 7 MB at the largest.

    Args:
        law: which.
        depth: how many of its 64 bits the second stage looks at. Fewer leave more samples to
            the third stage and change none; for tests.
    """

    def __init__(self, law: Law, depth: int = _PREFIX) -> None:
        if not 0 <= depth <= _PREFIX:
            raise ConfigError(f"depth={depth} must be from 0 to {_PREFIX}")
        self.law = law
        self._skip = np.uint64(_PREFIX - depth)
        prefixes = survival(law.weights(), _PREFIX)
        tops = np.array(prefixes, dtype=np.uint64)
        bits = _guide_bits(law.variance)
        self._guide = _guide(tops, bits)
        # Words are of 16 bits where that is enough for the guide.
        self._word = np.dtype("<u2" if bits == 16 else "<u4")
        self._drop = 8 * self._word.itemsize - bits
        # In rising order for searchsorted, with a 0 below: S(k) < 2^-64 for all that's left.
        self._rising = np.concatenate([np.zeros(1, np.uint64), tops[::-1]]) >> self._skip

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self._guide.nbytes + self._rising.nbytes

    def sample(self, size: int, key: bytes) -> NDArray[np.int32]:
        """Independent samples: a pure function of the law, ``size`` and ``key``.

        Args:
            size: how many, at least 0.
            key: 32 bytes, for this draw alone.

        Returns:
            Shape (size,).

        Raises:
            ConfigError: ``size`` is negative or not an int.
            ValueError: ``key`` isn't 32 bytes long.
        """
        validate.at_least("size", size, 0)
        stream, drawn = KeyedStream(key), np.empty(size, dtype=np.int32)
        words, places = [], []
        for start in range(0, size, _PIECE):
            piece = drawn[start : start + _PIECE]
            read = stream.read(self._word.itemsize * piece.size).view(self._word)
            cells = (read >> self._drop if self._drop else read).astype(np.intp)
            # No cell is out of range; only this mode writes to `out` without a copy.
            self._guide.take(cells, out=piece, mode="clip")
            unsure = np.flatnonzero(piece & 1)
            words.append(read[unsure])
            places.append(unsure + start)
            piece >>= 1
        if size:
            self._refine(drawn, np.concatenate(words), np.concatenate(places), key)
        return drawn

    def _refine(self, drawn: NDArray[np.int32], words: _Words, places: _Signed, key: bytes) -> None:
        """Completes ``drawn`` at ``places``, where the words' cells don't decide."""
        if not places.size:
            return
        used = 8 * self._word.itemsize - 1
        fresh = KeyedStream(_subkey(_REFINE, key)).read(8 * words.size).view("<u8")
        # The word without its sign, then fresh bits.
        prefix = (words.astype(np.uint64) << np.uint64(_PREFIX - used)) | (fresh >> np.uint64(used))
        seen = prefix >> self._skip
        # The guide had the least magnitude of the cell. self._rising[~m] is S(m + 1). Most cells
        # are crossed by one S(k) only.
        least = np.abs(drawn[places])
        magnitude = least + (seen < self._rising[~least])
        more = np.flatnonzero(seen < self._rising[~magnitude])
        magnitude[more] = self._rising.size - self._rising.searchsorted(seen[more], side="right")
        for tie in np.flatnonzero(self._rising[~magnitude] == seen):
            magnitude[tie] = self._decide(int(prefix[tie]), int(places[tie]), key)
        drawn[places] = np.where(words >> np.uint16(used), -magnitude, magnitude)

    def _decide(self, prefix: int, place: int, key: bytes) -> int:
        """The magnitude from all bits of V, of which ``prefix`` is the first 64."""
        digest = _subkey(_DECIDE, key, place)
        rest = FRACTION_BITS - _PREFIX
        value = (prefix << rest) | int.from_bytes(digest[: rest // 8], "big")
        exact = _exact(self.law)
        # S falls: bisect for the first k with S(k) <= V.
        low, high = 0, len(exact)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if value < exact[middle] else (low, middle)
        return low


@functools.lru_cache(maxsize=512)
def table(law: Law) -> Table:
    """The table of a law, made once and kept with the 512 last used.

    Making it takes 1 to 4 ms up to a variance of 400^2, 10 ms at 1500^2, 0.3 s at 30,000^2. The
    512 take 0.6 GB at most while variances stay below 2000^2, and 3.6 GB if all are the largest.
    """
    return Table(law)


# Few: the largest are of some 30 MB, and hardly any draw asks for one.
@functools.lru_cache(maxsize=2)
def _exact(law: Law) -> list[int]:
    return survival(law.weights())


def _subkey(tag: bytes, key: bytes, place: int = 0) -> bytes:
    return hashlib.sha256(tag + key + place.to_bytes(8, "big")).digest()


def _guide_bits(variance: float) -> int:
    """Of sign and cell: so many that few samples need more, so few that the cache holds it."""
    if variance <= 100.0**2:
        return 16
    return 18 if variance <= 2000.0**2 else 20


def _guide(tops: NDArray[np.uint64], bits: int) -> NDArray[np.int32]:
    """For each sign and cell of V: twice the sample, plus 1 where the cell doesn't decide.

    Args:
        tops: S(k) in steps of 2^-64, falling.
        bits: sign bit included.

    Returns:
        Shape (2^bits,).
    """
    half = 1 << (bits - 1)
    cells = (tops >> np.uint64(_PREFIX + 1 - bits)).astype(np.intp)
    crossings = np.bincount(cells, minlength=half)
    magnitude = tops.size - np.cumsum(crossings)
    unsure = crossings > 0
    # All S(k) below 2^-64 are in the first cell.
    unsure[0] = True
    guide = np.concatenate([2 * magnitude + unsure, -2 * magnitude + unsure]).astype(np.int32)
    guide.setflags(write=False)
    return guide
