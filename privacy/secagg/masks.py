"""Masks: pseudorandom words that are a function of a 32-byte key.

Definition. The keystream of a key is cut into chunks of 128 KiB; chunk i is the keystream of
AES-256 in counter mode (NIST SP 800-38A) from the counter block ``i || 2``, i as 12 bytes and
2 as 4, both big-endian. That is the ciphertext of zeros under AES-256-GCM with nonce i (SP
800-38D, section 7.1), whose tag is thrown away: that implementation is the fastest at hand.
Word j is read, little-endian, from lane j of 2 bytes (16 bits) or 4 (20 and 32 bits); a word
of 20 bits is the low bits of its lane.

Guarantees: no counter block repeats within a key, so the words are as good as AES-256; and a
mask added and the same mask subtracted leave nothing.

It doesn't guarantee anything for a key that is used twice, or for two sizes of words: a key
is for one mask of one vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.privacy.secagg.words import Array, Words

KEY_BYTES = 32
# Part of the definition. The chunk, the zeros it encrypts and the words it is added to
# fit together into half a megabyte of cache.
CHUNK = 128 * 1024
_TAG = 16
_ZEROS = memoryview(bytes(CHUNK))


def expand(key: bytes, words: Words, size: int) -> Array:
    """The mask of a key: ``size`` words, reduced.

    Args:
        key: 32 bytes.
        words: the words' kind.
        size: how many.
    """
    mask = words.zeros(size)
    accumulate(mask, words, [key], [])
    return words.reduce(mask)


def accumulate(
    total: Array, words: Words, added: Sequence[bytes], subtracted: Sequence[bytes]
) -> None:
    """``total`` plus the masks of some keys minus those of others, in place.

    The loop is over chunks, and over keys within: a chunk of the total stays in the cache
    while every key's words are added, and nothing of the model's size is allocated. Words of
    20 bits are left for `Words.reduce`, as `Words.add_into` leaves them. One thread: two
    were no faster often enough to be worth it.

    Args:
        total: ``[n]`` words, contiguous.
        words: their kind.
        added: keys of 32 bytes whose masks are added.
        subtracted: keys of 32 bytes whose masks are subtracted.
    """
    if total.dtype != words.dtype or total.ndim != 1 or not total.flags.c_contiguous:
        raise ValueError(f"a total of {words.bits} bits is a contiguous [n] of {words.dtype}")
    plus, minus = [_cipher(key) for key in added], [_cipher(key) for key in subtracted]
    buffer = memoryview(bytearray(CHUNK + _TAG))
    width = CHUNK // words.dtype.itemsize
    for index, first in enumerate(range(0, total.size, width)):
        part = total[first : first + width]
        nonce = index.to_bytes(12, "big")
        zeros, out = _ZEROS[: part.nbytes], buffer[: part.nbytes + _TAG]
        stream: Array = np.frombuffer(buffer, dtype=words.dtype, count=part.size)
        for cipher in plus:
            cipher.encrypt_into(nonce, zeros, None, out)
            np.add(part, stream, out=part)
        for cipher in minus:
            cipher.encrypt_into(nonce, zeros, None, out)
            np.subtract(part, stream, out=part)


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a mask's key has {len(key)} bytes, not {KEY_BYTES}")
    return AESGCM(key)
