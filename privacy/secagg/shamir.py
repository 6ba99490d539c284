"""Shamir's secret sharing over GF(65537), for many secrets of the same holders at once.

Guarantees: any ``threshold`` shares give the secret back, and fewer are uniform and
independent of it (Shamir 1979, "How to share a secret", CACM 22(11)), as far as `KeyedStream`
is uniform. All arithmetic is exact: products and sums are held in float64, where integers up
to 2^53 are, so that BLAS does the work.

A secret is bytes, two to a word; a word is below 65536 and its shares are at most 65536.
It doesn't guarantee that a share is a good one: a false one gives a false secret, which is
noticed only if a word comes out as 65536 (`to_bytes`) or by whoever knows what to expect. Nor
constant time: tables are looked up at points, which are public, but not at secrets.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.noise import KeyedStream

PRIME = 65537
_GENERATOR = 3
# t products below 2^32 are summed exactly in float64 if t * 2^32 <= 2^53.
_MOST_TERMS = 2**21
# Rows are turned into float64 this many elements at a time, to stay in the cache.
_BLOCK = 2**16


def to_words(secret: bytes) -> NDArray[np.uint16]:
    """The secret's words, little-endian: ``2 m`` bytes to ``[m]``."""
    if len(secret) % 2:
        raise ValueError(f"a secret has an even number of bytes, not {len(secret)}")
    return np.frombuffer(secret, dtype="<u2")


def to_bytes(words: NDArray[np.uint32]) -> bytes:
    """The secret of `reconstruct`'s words: ``[m]`` to ``2 m`` bytes.

    Raises:
        MessageError: a word is 65536, so the shares weren't of one secret.
    """
    if words.size and int(words.max()) >= PRIME - 1:
        raise MessageError("the shares of a secret don't belong together")
    return words.astype("<u2").tobytes()


def share(
    secrets: NDArray[np.uint16], threshold: int, points: NDArray[np.int64], key: bytes
) -> NDArray[np.uint32]:
    """Shares of ``m`` words for ``n`` holders.

    Each word is the constant of a polynomial of degree at most ``threshold - 1`` whose other
    coefficients, the leading one included, are uniform on the field.

    Args:
        secrets: ``[m]``.
        threshold: how many shares give the secrets back, from 1 to n.
        points: ``[n]``, where each holder evaluates; distinct, from 1 to 65536.
        key: 32 bytes that were never used and never will be.

    Returns:
        ``[n, m]``, from 0 to 65536.

    Raises:
        ConfigError: the threshold or the points are not as above.
    """
    if secrets.dtype != np.uint16 or secrets.ndim != 1:
        raise ValueError("secrets are [m] of uint16")
    logs = _logs_of(points)
    if not 1 <= threshold <= points.size:
        raise ConfigError(f"threshold={threshold} must be from 1 to {points.size}, the holders")
    _, power = _tables()
    # x^e for e below the threshold, from the logarithm of x.
    exponents = np.arange(threshold, dtype=np.int64)
    vandermonde = power[(logs[:, None] * exponents) & (PRIME - 2)].astype(np.float64)
    coefficients = np.empty((threshold, secrets.size), dtype=np.float64)
    coefficients[0] = secrets
    coefficients[1:] = _uniform(KeyedStream(key), (threshold - 1) * secrets.size).reshape(
        threshold - 1, secrets.size
    )
    return _reduced(vandermonde @ coefficients)


def weights(points: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lagrange's weights at 0: the secret is the sum of weight times share.

    The weight of x is the product of y / (y - x) over the other points y.

    Args:
        points: ``[t]``, distinct, from 1 to 65536.

    Returns:
        ``[t]``, whole numbers from 1 to 65536.

    Raises:
        ConfigError: the points are not as above.
    """
    logs = _logs_of(points)
    log, power = _tables()
    differences = log[(points[None, :] - points[:, None]) % PRIME]
    # The diagonal is log(0), which the table has as 0, like log(1).
    exponents = logs.sum() - logs - differences.sum(axis=1)
    found: NDArray[np.float64] = power[exponents & (PRIME - 2)].astype(np.float64)
    return found


def combine(
    weights: NDArray[np.float64], shares: NDArray[np.uint32] | NDArray[np.int64]
) -> NDArray[np.uint32]:
    """The secrets of shares that the same holders gave, whatever number of them.

    Exact: weights and shares are at most 2^16, so t products sum to at most t * 2^32, which
    is within float64's 2^53 whole numbers for t <= 2^21. A field this small has no more
    than 65536 holders, yet the bound is checked.

    Args:
        weights: ``[t]``, of the holders' points.
        shares: ``[t, M]``, from 0 to 65536.

    Returns:
        ``[M]``, from 0 to 65536.
    """
    terms, count = shares.shape
    if weights.shape != (terms,) or terms > _MOST_TERMS:
        raise ValueError(f"{weights.size} weights for {terms} shares, at most {_MOST_TERMS}")
    total = np.zeros(count, dtype=np.float64)
    step = max(1, _BLOCK // max(1, count))
    for first in range(0, terms, step):
        block = shares[first : first + step]
        if block.size and (int(block.max()) >= PRIME or int(block.min()) < 0):
            raise ValueError(f"a share is outside 0..{PRIME - 1}")
        total += weights[first : first + step] @ block.astype(np.float64)
    return _reduced(total)


def reconstruct(
    points: NDArray[np.int64], shares: NDArray[np.uint32] | NDArray[np.int64]
) -> NDArray[np.uint32]:
    """The secrets from exactly ``threshold`` shares of each.

    Args:
        points: ``[t]``, the points of the holders.
        shares: ``[t, m]``, a row each.

    Returns:
        ``[m]``, from 0 to 65536; a word of 65536 is no secret.

    Raises:
        ConfigError: the points aren't distinct or not from 1 to 65536.
    """
    return combine(weights(points), shares)


def packed_size(count: int) -> int:
    """Bytes of ``count`` packed shares."""
    return 2 * count + (count + 7) // 8


def pack_shares(shares: NDArray[np.uint32]) -> bytes:
    """One holder's shares in ``2 m + ceil(m / 8)`` bytes.

    The low 16 bits of each, little-endian, then a bit each, from the lowest, for 65536.

    Args:
        shares: ``[m]``, from 0 to 65536.
    """
    if shares.ndim != 1 or (shares.size and int(shares.max()) >= PRIME):
        raise ValueError(f"shares are [m] from 0 to {PRIME - 1}")
    return pack_all(shares[None, :])[0]


def pack_all(shares: NDArray[np.uint32]) -> list[bytes]:
    """`pack_shares` of every row of ``[n, m]``."""
    tops = np.packbits(shares == PRIME - 1, axis=1, bitorder="little")
    low = np.ascontiguousarray(shares.astype("<u2")).view(np.uint8)
    return [row.tobytes() for row in np.concatenate([low, tops], axis=1)]


def unpack_all(rows: NDArray[np.uint8], m: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """`unpack_shares` of every row of ``[n, 2 m + ceil(m / 8)]``.

    Returns:
        Shares ``[n, m]``, and for each row whether it is what `pack_shares` makes.
    """
    low = np.ascontiguousarray(rows[:, : 2 * m]).view("<u2")
    bits = np.unpackbits(np.ascontiguousarray(rows[:, 2 * m :]), axis=1, bitorder="little")
    tops = bits[:, :m]
    wrong = bits[:, m:].any(axis=1) | ((low != 0) & (tops == 1)).any(axis=1)
    return low.astype(np.uint32) + (tops.astype(np.uint32) << 16), ~wrong


def unpack_shares(data: bytes, m: int) -> NDArray[np.uint32]:
    """Reads ``m`` shares.

    Raises:
        MessageError: ``data`` isn't what `pack_shares` makes of ``m`` shares.
    """
    if len(data) != packed_size(m):
        raise MessageError(f"{m} shares are {packed_size(m)} bytes, not {len(data)}")
    shares, valid = unpack_all(np.frombuffer(data, dtype=np.uint8)[None, :], m)
    if not valid[0]:
        raise MessageError("packed shares: a bit is set that shouldn't be")
    return shares.reshape(m)


@functools.lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Logarithms ``[65537]`` to the base 3, with 0 for 0, and the powers of 3 ``[65536]``."""
    power = np.ones(PRIME - 1, dtype=np.int64)
    done = 1
    while done < PRIME - 1:
        power[done : 2 * done] = power[:done] * pow(_GENERATOR, done, PRIME) % PRIME
        done *= 2
    log = np.zeros(PRIME, dtype=np.int64)
    log[power] = np.arange(PRIME - 1)
    log.flags.writeable = power.flags.writeable = False
    return log, power


def _logs_of(points: NDArray[np.int64]) -> NDArray[np.int64]:
    if points.ndim != 1 or points.size == 0 or points.dtype != np.int64:
        raise ConfigError("points must be one row of int64")
    if int(points.min()) < 1 or int(points.max()) >= PRIME:
        raise ConfigError(f"points must be from 1 to {PRIME - 1}")
    if np.unique(points).size != points.size:
        raise ConfigError("points must be distinct")
    return _tables()[0][points]


def _uniform(stream: KeyedStream, size: int) -> NDArray[np.int64]:
    """Uniform on the field: 2^32 - 1 is 65535 times 65537, so one word in 2^32 is rejected."""
    drawn = np.empty(0, dtype="<u4")
    while drawn.size < size:
        more = stream.read(4 * (size - drawn.size)).view("<u4")
        drawn = np.concatenate([drawn, more[more != 2**32 - 1]])
    return (drawn % PRIME).astype(np.int64)


def _reduced(sums: NDArray[np.float64]) -> NDArray[np.uint32]:
    return (sums.astype(np.int64) % PRIME).astype(np.uint32)
