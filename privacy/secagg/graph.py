"""Who masks with whom and holds whose shares: the graph of clients, and how dense it must be.

Below 300 clients the graph is complete (Bonawitz et al. 2017); from 300 on each client has k
neighbours, the k/2 nearest on either side of a circle in random order: a Harary graph on a
random permutation, the random k-regular graph of Bell et al. 2020
(https://eprint.iacr.org/2020/704).

A client holds no share of its own secrets: its k neighbours do, and t of them give a secret
back. `choose` sees to it that, for every honest client with c corrupted neighbours,

    2 t > k + c.

An honest neighbour gives away a share of the client's own mask or one of its pairwise key,
never both; a corrupted one gives both. Both secrets take 2 t shares, and there are no more
than 2 c + (k - c) to be had: of each client at most one answer is ever known.

Guarantees, against a server and `corrupted` clients who collude: the condition holds for
every honest client for certain, or but for a probability of 2^-security_bits after 2^64 tries
at another seed (hypergeometric tails, a union over clients and tries; SHA-256 taken for a
random oracle).

It doesn't guarantee anything if clients are corrupted in view of the graph, if the seed isn't
a hash of what the server had committed to, or if more than `corrupted` are. A server that
picks who drops out after seeing the graph can cut it in two by dropping a stretch of k/2 at
two places, and learn two sums where one was meant. A client that refuses unless `side` of the
k/2 neighbours on each of its sides survive rules that out: see `Choice.side`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError
from tacit.privacy.noise import KeyedStream
from tacit.privacy.secagg import chances
from tacit.privacy.secagg.keys import derive

SPARSE_FROM = 300
SECURITY_BITS = 40.0
CORRECTNESS_BITS = 30.0
TRIES_BITS = 64.0
SEED_BYTES = 32
_TAG = "tacit.secagg.graph"

Order = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A graph's degree and the threshold of its shares, with what they achieve.

    Attributes:
        degree: k, the neighbours of a client; ``size - 1`` is the complete graph.
        threshold: t, how many of the k neighbours' shares give a secret back.
        security_bits: but for 2^-security_bits, after 2^64 tries at a seed, 2 t > k + c for
            every honest client, and the honest survivors are connected if clients drop out
            independently of the graph or heed `side`; infinite if certain.
        correctness_bits: but for 2^-correctness_bits every client has t neighbours, and
            `side` on either side, that don't drop out; at least 0.
        side: how many of the k/2 neighbours on each side (`sides`) must survive for a client
            to go on. One of them is honest, so that the next honest survivor on the circle is
            a neighbour, and so on round: honest survivors are connected whoever drops out, if
            all see the same survivors. 0 for the complete graph, which can't be cut.
    """

    degree: int
    threshold: int
    security_bits: float
    correctness_bits: float
    side: int = 0


def neighbours(position: int, size: int, degree: int, seed: bytes) -> list[int]:
    """The positions linked to ``position``, ascending; the relation is symmetric.

    Args:
        position: from 0 to ``size - 1``.
        size: how many clients there are.
        degree: even and below ``size - 1``, or ``size - 1``.
        seed: 32 public bytes; the permutation sorts the positions by 64-bit words, which are
            the `KeyedStream` of a hash of the seed.

    Raises:
        ConfigError: a value is not as above.
    """
    before, after = sides(position, size, degree, seed)
    return sorted(before + after)


def sides(position: int, size: int, degree: int, seed: bytes) -> tuple[list[int], list[int]]:
    """The neighbours before and after ``position`` on the circle, the nearest first.

    In the complete graph of an even size the one opposite counts as after. Arguments and
    errors are those of `neighbours`.
    """
    _check(size, degree, seed)
    if not 0 <= position < size:
        raise ConfigError(f"position={position} must be from 0 to {size - 1}")
    order, rank = _circle(size, seed)
    steps = np.arange(1, degree - degree // 2 + 1)
    before = order[(rank[position] - steps[: degree // 2]) % size]
    after = order[(rank[position] + steps) % size]
    return before.tolist(), after.tolist()


def adjacency(size: int, degree: int, seed: bytes) -> list[list[int]]:
    """`neighbours` of every position."""
    _check(size, degree, seed)
    order, rank = _circle(size, seed)
    half = degree // 2
    steps = np.concatenate([np.arange(-half, 0), np.arange(1, degree - half + 1)])
    linked = order[(rank[:, None] + steps) % size]
    linked.sort(axis=1)
    return [row.tolist() for row in linked]


def choose(size: int, corrupted: int, dropout: float) -> Choice:
    """The sparsest graph that keeps the promises of `Choice`; below 300 clients the complete.

    The threshold is always floor(2 k / 3) + 1 of k neighbours, for which c <= k/3 corrupted
    ones are certain to be harmless. From 300 on, k is the smallest even number with at least
    40 bits of security (after 2^64 tries) and 30 of correctness; if none below ``size - 1``
    has them, the graph is complete and its ``correctness_bits`` say what it achieves.

    Args:
        size: clients in the graph, at least 3.
        corrupted: how many of them may collude with the server.
        dropout: each client's chance of dropping out, independently, in [0, 1).

    Raises:
        ConfigError: a value is not as above, or more are corrupted than any graph bears.

    Example:
        >>> choose(100, 10, 0.1).degree, choose(100, 10, 0.1).threshold
        (99, 67)
        >>> choose(1000, 100, 0.1).degree, choose(1000, 100, 0.1).threshold
        (228, 153)
    """
    validate.at_least("size", size, 3)
    validate.at_least("corrupted", corrupted, 0)
    validate.half_open_unit("dropout", dropout)
    return _choose(size, corrupted, float(dropout))


@functools.lru_cache(maxsize=256)
def _choose(size: int, corrupted: int, dropout: float) -> Choice:
    if size >= SPARSE_FROM and corrupted < size:
        for degree in range(2, size - 1, 2):
            choice = _sparse(size, corrupted, dropout, degree)
            if choice is not None:
                return choice
    degree = size - 1
    threshold = _threshold(degree)
    if 2 * threshold <= degree + corrupted:
        most = 2 * threshold - degree - 1
        raise ConfigError(
            f"corrupted={corrupted} of size={size} clients is more than the {most} that secret "
            "sharing bears",
            f"assume at most {most} corrupted, or aggregate more clients",
        )
    failure = math.log2(size) + _dropped(degree - threshold + 1, degree, dropout)
    return Choice(degree, threshold, math.inf, max(0.0, -failure))


def _sparse(size: int, corrupted: int, dropout: float, degree: int) -> Choice | None:
    """The choice of this degree, or None if it breaks a promise; unions over clients."""
    threshold, half = _threshold(degree), degree // 2
    honest, clients = math.log2(size - corrupted), math.log2(size)
    outvoted = honest + _corrupted(2 * threshold - degree, size, corrupted, degree)
    if -outvoted - TRIES_BITS < SECURITY_BITS:
        return None
    # Nobody honest survives in the k/2 after a client. Corrupted ones are drawn without
    # replacement, for which the binomial is a bound (Hoeffding 1963, Theorem 4).
    rate = corrupted / (size - 1)
    cut = honest + half * _log2(rate + (1.0 - rate) * dropout)
    # Of the failures that are allowed, half may be sides that are all corrupted.
    side = _side(size, corrupted, half, -(SECURITY_BITS + TRIES_BITS + 1.0) - honest)
    fooled = honest + _corrupted(side, size, corrupted, half)
    security = -_log2_sum(outvoted, cut, fooled) - TRIES_BITS
    if side > half or security < SECURITY_BITS:
        return None
    correctness = -_log2_sum(
        clients + _dropped(degree - threshold + 1, degree, dropout),
        clients + 1.0 + _dropped(half - side + 1, half, dropout),
    )
    if correctness < CORRECTNESS_BITS:
        return None
    return Choice(degree, threshold, security, correctness, side)


def _side(size: int, corrupted: int, half: int, wanted: float) -> int:
    """The least number that so many corrupted among ``half`` have a log2-chance <= wanted."""
    logs = chances.hypergeometric(np.arange(half + 1), size - 1, corrupted, half)
    tails = np.logaddexp.accumulate(logs[::-1])[::-1] / math.log(2.0)
    return max(1, int(np.count_nonzero(tails > wanted)))


def _corrupted(least: int, size: int, corrupted: int, draws: int) -> float:
    """log2 of the chance of ``least`` or more corrupted among ``draws`` of a client's peers."""
    counts = np.arange(least, draws + 1)
    return _total(chances.hypergeometric(counts, size - 1, corrupted, draws))


def _dropped(least: int, peers: int, dropout: float) -> float:
    """log2 of the chance that ``least`` or more of ``peers`` drop out."""
    return _total(chances.binomial(np.arange(least, peers + 1), peers, dropout))


def _total(logs: NDArray[np.float64]) -> float:
    """log2 of a sum of chances."""
    return float(np.logaddexp.reduce(logs, initial=-math.inf)) / math.log(2.0)


def _log2(chance: float) -> float:
    return math.log2(chance) if chance > 0.0 else -math.inf


def _log2_sum(*logs: float) -> float:
    return float(np.logaddexp2.reduce(logs))


def _threshold(degree: int) -> int:
    return 2 * degree // 3 + 1


def _check(size: int, degree: int, seed: bytes) -> None:
    validate.at_least("size", size, 2)
    validate.at_least("degree", degree, 1)
    if degree != size - 1 and (degree % 2 or degree >= size):
        raise ConfigError(f"degree={degree} must be even and below size={size}, or size - 1")
    if len(seed) != SEED_BYTES:
        raise ConfigError(f"a graph's seed has {len(seed)} bytes, not {SEED_BYTES}")


@functools.lru_cache(maxsize=8)
def _circle(size: int, seed: bytes) -> tuple[Order, Order]:
    """Positions in the circle's order, and each position's place in it, both ``[size]``.

    Equal words keep the order of their positions; that two are equal has a chance of
    size^2 / 2^65, and then at most doubles that of any outcome.
    """
    # Hashed first: a seed may be picked by an adversary, and a cipher's key must not be.
    stream = KeyedStream(derive(_TAG, seed))
    order = np.argsort(stream.read(8 * size).view("<u8"), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(size)
    order.flags.writeable = rank.flags.writeable = False
    return order, rank
