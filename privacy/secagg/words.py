"""Integers modulo 2^b as arrays of machine words, and their bytes on the wire.

Guarantees: `from_integers` is the ring homomorphism from the integers onto Z/2^b, so sums of
words are the words of sums, and `centred` recovers a sum exactly if it lies in
[-2^(b-1), 2^(b-1)). One array of words has one encoding; `unpack` refuses every other.

It doesn't guarantee that a sum fits: that is for who chooses b, and a sum that doesn't wraps
without a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import ConfigError, MessageError

Array = NDArray[np.uint16] | NDArray[np.uint32]
Integers = NDArray[np.int64] | NDArray[np.int32]

BITS = (16, 20, 32)
_LOW20 = 0xFFFFF


@dataclass(frozen=True, slots=True)
class Words:
    """Z/2^b with its arrays and its encoding.

    Words of 16 and 32 bits fill their lane and wrap by themselves. Words of 20 bits live in
    lanes of 32: `add_into` and `subtract_from` let the lanes wrap modulo 2^32, which 2^20
    divides, and only `reduce` brings them back below 2^20. Every other method that takes
    words takes reduced ones, but for `centred`, which doesn't care.

    Attributes:
        bits: b, one of 16, 20 and 32.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError(f"bits={self.bits} must be one of 16, 20, 32")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The lanes' type: uint16 for 16 bits, uint32 otherwise; little-endian."""
        return np.dtype("<u2") if self.bits == 16 else np.dtype("<u4")

    @property
    def modulus(self) -> int:
        """2^b."""
        return 1 << self.bits

    def zeros(self, size: int) -> Array:
        """A total to start from: ``size`` words of zero."""
        return np.zeros(size, dtype=self.dtype)

    def from_integers(self, integers: Integers) -> Array:
        """The integers modulo 2^b, ``[n]`` to ``[n]``."""
        return self.reduce(integers.astype(self.dtype))

    def centred(self, words: Array) -> NDArray[np.int64]:
        """The representatives in [-2^(b-1), 2^(b-1)), ``[n]`` to ``[n]``."""
        if self.bits == 20:
            # The shift drops what is above 20 bits and leaves bit 19 where the sign is.
            return ((words << np.uint32(12)).view("<i4") >> np.int32(12)).astype(np.int64)
        return words.view("<i2" if self.bits == 16 else "<i4").astype(np.int64)

    def add_into(self, total: Array, words: Array) -> None:
        """``total += words`` in place; of 20 bits, modulo 2^32 until `reduce`."""
        self._check(total, words)
        np.add(total, words, out=total)

    def subtract_from(self, total: Array, words: Array) -> None:
        """``total -= words`` in place; of 20 bits, modulo 2^32 until `reduce`."""
        self._check(total, words)
        np.subtract(total, words, out=total)

    def reduce(self, total: Array) -> Array:
        """Brings lanes below 2^b, in place, and returns them; 16 and 32 bits already are."""
        if self.bits == 20:
            np.bitwise_and(total, np.uint32(_LOW20), out=total)
        return total

    def size_of(self, size: int) -> int:
        """How many bytes `pack` makes of ``size`` words."""
        return 5 * ((size + 1) // 2) if self.bits == 20 else size * self.bits // 8

    def pack(self, words: Array) -> bytes:
        """The words' encoding.

        Little-endian: 2 bytes a word of 16 bits, 4 of 32; of 20 bits two words in 5 bytes,
        the first in the low bits, an odd last word beside a zero.

        Args:
            words: ``[n]``, reduced.

        Returns:
            ``size_of(n)`` bytes.
        """
        if words.dtype != self.dtype or words.ndim != 1:
            raise ValueError(f"words of {self.bits} bits are [n] of {self.dtype}")
        return _pack20(words) if self.bits == 20 else words.tobytes()

    def unpack(self, data: bytes, size: int) -> Array:
        """Reads ``size`` words.

        Of 16 and 32 bits the array is a read-only view of ``data``.

        Raises:
            MessageError: ``data`` isn't the encoding of ``size`` words.
        """
        if len(data) != self.size_of(size):
            due = self.size_of(size)
            raise MessageError(f"{size} words of {self.bits} bits are {due} bytes, not {len(data)}")
        return _unpack20(data, size) if self.bits == 20 else np.frombuffer(data, dtype=self.dtype)

    def _check(self, total: Array, words: Array) -> None:
        if total.shape != words.shape or not total.dtype == words.dtype == self.dtype:
            raise ValueError(
                f"words of {self.bits} bits: {total.dtype}{list(total.shape)} and "
                f"{words.dtype}{list(words.shape)} don't match"
            )


def _pack20(words: Array) -> bytes:
    if words.size and int(words.max()) > _LOW20:
        raise ValueError("words of 20 bits are packed after reduce")
    # Eight words are 160 bits, which is five lanes of 32.
    padded = np.zeros(8 * ((words.size + 7) // 8), dtype="<u4")
    padded[: words.size] = words
    a, b, c, d, e, f, g, h = padded.reshape(-1, 8).T
    out = np.empty((a.size, 5), dtype="<u4")
    out[:, 0] = a | b << 20
    out[:, 1] = b >> 12 | c << 8 | d << 28
    out[:, 2] = d >> 4 | e << 16
    out[:, 3] = e >> 16 | f << 4 | g << 24
    out[:, 4] = g >> 8 | h << 12
    return out.tobytes()[: 5 * ((words.size + 1) // 2)]


def _unpack20(data: bytes, size: int) -> Array:
    padded = np.zeros(20 * ((len(data) + 19) // 20), dtype=np.uint8)
    padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    v, w, x, y, z = padded.view("<u4").reshape(-1, 5).T
    out = np.empty((v.size, 8), dtype="<u4")
    out[:, 0] = v
    out[:, 1] = v >> 20 | w << 12
    out[:, 2] = w >> 8
    out[:, 3] = w >> 28 | x << 4
    out[:, 4] = x >> 16 | y << 16
    out[:, 5] = y >> 4
    out[:, 6] = y >> 24 | z << 8
    out[:, 7] = z >> 12
    np.bitwise_and(out, np.uint32(_LOW20), out=out)
    words: NDArray[np.uint32] = out.reshape(-1)
    if words[size:].any():
        raise MessageError("words of 20 bits: the padding isn't zero")
    return words[:size]
