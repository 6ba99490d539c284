"""Samples: their law, sample by sample and by counts, and that they never change.

Keys are fixed, so nothing here is left to chance; every check of counts is shown to fail for
a law that is a little wrong.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from tacit.privacy.discrete.pmf import DiscreteGaussian, Law, Skellam, probabilities, survival
from tacit.privacy.discrete.table import Table, table
from tacit.privacy.errors import ConfigError

LAWS = [Skellam, DiscreteGaussian]
ALARM = 1e-7
SIZE = 10_000_000
KEY = bytes(range(32))


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


# Counts


def pooled(counts: np.ndarray, expected: np.ndarray, least: float) -> float:
    """The chi-square p-value with neighbouring bins joined until each expects ``least``."""
    starts, total = [0], 0.0
    for i, e in enumerate(expected.tolist()):
        if total >= least:
            starts.append(i)
            total = 0.0
        total += e
    if total < least:  # What is left over joins the last bin.
        starts.pop()
    bins = np.add.reduceat(expected, starts)
    assert bins.min() >= least
    # Rounding, and the 2^-175 beyond the weights: the test wants equal sums.
    bins *= counts.sum() / bins.sum()
    return float(stats.chisquare(np.add.reduceat(counts, starts), bins).pvalue)


def fits(x: np.ndarray, law: Law) -> bool:
    """Chi-square on every value and on about 50 wide bins, and the tails by binomial bounds."""
    half = probabilities(law)
    p = np.concatenate([half[:0:-1], half])
    reach = half.size - 1
    counts = np.bincount(x + reach, minlength=p.size)
    if counts.size != p.size:
        return False
    good = all(pooled(counts, p * x.size, least) > ALARM for least in (10.0, x.size / 50))
    for sigmas in (4, 5):
        low = math.ceil(sigmas * math.sqrt(law.variance))
        for beyond in (x >= low, x <= -low):
            tail = half[low:].sum()
            least, most = stats.binom.ppf([ALARM / 2, 1 - ALARM / 2], x.size, tail)
            good &= bool(least <= beyond.sum() <= most)
    return good


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("sigma", [0.5, 4.0, 40.0, 400.0, 3000.0])
def test_samples_have_their_law(kind: type, sigma: float) -> None:
    law = kind(sigma**2)
    x = table(law).sample(SIZE, key(f"law {sigma}"))
    assert fits(x, law)
    # The same check notices a percent of variance, a hundredth of sigma of bias, no far tail
    # and a value that is too frequent.
    assert not fits(x, kind(sigma**2 * 1.01))
    assert not fits(x, kind(sigma**2 / 1.01))
    assert not fits(x + max(1, round(sigma / 100)), law)
    assert not fits(np.where(x >= math.ceil(4 * sigma), 0, x), law)
    peak = np.flatnonzero(np.abs(x) <= 1)
    x[peak[: peak.size // 2]] = 0
    assert not fits(x, law)


@pytest.mark.parametrize("kind", LAWS)
def test_the_two_laws_are_told_apart(kind: type) -> None:
    x = table(kind(16.0)).sample(SIZE, key("apart"))
    other = next(law for law in LAWS if law is not kind)
    assert fits(x, kind(16.0))
    assert not fits(x, other(16.0))


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("sigma", [4.0, 40.0, 30_000.0])
def test_samples_are_symmetric(kind: type, sigma: float) -> None:
    x = table(kind(sigma**2)).sample(1_000_000, key("symmetry"))
    limit = stats.norm.isf(ALARM / 2)
    assert abs(np.sign(x).sum()) < limit * math.sqrt(x.size)
    assert abs(x.mean()) < limit * sigma / 1000
    # Third moment: normal enough to have variance 15.
    assert abs(((x / sigma) ** 3).mean()) < limit * math.sqrt(15) / 1000


@pytest.mark.parametrize("sigma", [4.0, 400.0, 30_000.0])
def test_samples_are_independent_of_neighbours_and_other_keys(sigma: float) -> None:
    drawn = table(Skellam(sigma**2)).sample(1_000_000, key("one"))
    other = table(Skellam(sigma**2)).sample(1_000_000, key("two"))
    limit = stats.norm.isf(ALARM / 2) / 1000 * 1.01
    pairs = [(drawn[:-lag], drawn[lag:]) for lag in (1, 2, 4, 8)] + [(drawn, other)]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < limit
        assert abs(np.corrcoef(np.abs(a), np.abs(b))[0, 1]) < limit


# Sample by sample


def stream(secret: bytes, size: int) -> bytes:
    return Cipher(algorithms.AES(secret), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def by_definition(law: Law, size: int, secret: bytes, word: int, guide: int) -> list[int]:
    """Inversion with 256-bit integers, one sample at a time.

    Args:
        law: which.
        size: how many.
        secret: the key.
        word: bits of a word, sign included.
        guide: bits of those that select a cell, sign included.
    """
    steps = survival(law.weights())

    def above(v: int) -> int:
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if v < steps[middle] else (low, middle)
        return low

    words, made = stream(secret, word // 8 * size), []
    tag = b"tacit/discrete/table/refine/1"
    fresh = stream(hashlib.sha256(tag + secret + bytes(8)).digest(), 8 * size)
    for i in range(size):
        w = int.from_bytes(words[word // 8 * i :][: word // 8], "little")
        sign, w = w >> (word - 1), w % 2 ** (word - 1)
        cell = w >> (word - guide)
        first, last = cell << (257 - guide), ((cell + 1) << (257 - guide)) - 1
        if cell and above(first) == above(last):
            magnitude = above(first)
        else:
            more, fresh = int.from_bytes(fresh[:8], "little"), fresh[8:]
            top = w << (65 - word) | more >> (word - 1)
            tag = b"tacit/discrete/table/decide/1"
            digest = hashlib.sha256(tag + secret + i.to_bytes(8, "big")).digest()
            magnitude = above(top << 192 | int.from_bytes(digest[:24], "big"))
        made.append(-magnitude if sign else magnitude)
    return made


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(
    ("sigma", "size", "word", "guide"),
    [
        (1e-3**0.5, 3000, 16, 16),
        (0.7, 3000, 16, 16),
        (4.0, 10_000, 16, 16),
        (100.0, 10_000, 16, 16),
        (100.01, 10_000, 32, 18),
        (2000.0, 10_000, 32, 18),
        (2000.01, 5000, 32, 20),
    ],
)
def test_samples_are_the_inversion_in_integers(
    kind: type, sigma: float, size: int, word: int, guide: int
) -> None:
    law = kind(sigma**2)
    expected = by_definition(law, size, KEY, word, guide)
    assert table(law).sample(size, KEY).tolist() == expected


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("sigma", [0.05, 0.7, 40.0, 300.0])
@pytest.mark.parametrize("depth", [0, 7, 16, 20, 24, 33])
def test_the_last_stage_agrees_with_the_second(kind: type, sigma: float, depth: int) -> None:
    # At depth 0 every sample that the guide leaves open is decided by all bits.
    law = kind(sigma**2)
    size = 20_000 if depth < 20 else 200_000
    expected = table(law).sample(size, KEY)
    assert (Table(law, depth).sample(size, KEY) == expected).all()


def test_the_last_stage_is_reached() -> None:
    # Of 64 bits no test sees a tie; of few, ties that weren't resolved would show.
    law = Skellam(1600.0)
    blunt = Table(law, 18)
    blunt._decide = lambda prefix, place, key: 0  # type: ignore[method-assign]
    assert (blunt.sample(100_000, KEY) != table(law).sample(100_000, KEY)).sum() > 10


class Chosen:
    """Makes a table read the bits of given fractions of 256 bits, each with a sign bit of 1."""

    def __init__(self, values: list[int], word: int) -> None:
        self.values = values
        tops = [v >> (257 - word) | 1 << (word - 1) for v in values]
        self.words = b"".join(t.to_bytes(word // 8, "little") for t in tops)
        # The bits that follow, then ones that no one should look at.
        fresh = [(v >> 192 << (word - 1)) % 2**64 | (2 ** (word - 1) - 1) for v in values]
        self.fresh = b"".join(f.to_bytes(8, "little") for f in fresh)

    def subkey(self, tag: bytes, key: bytes, place: int = 0) -> bytes:
        if b"refine" in tag:
            return b"refine"
        return (self.values[place] % 2**192).to_bytes(24, "big") + bytes(8)

    def stream(self, key: bytes) -> Chosen:
        self.data = self.fresh if key == b"refine" else self.words
        return self

    def read(self, size: int) -> np.ndarray:
        assert size == len(self.data)
        return np.frombuffer(self.data, dtype=np.uint8)


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(
    ("variance", "word"), [(1e-25, 16), (1e-3, 16), (16.0, 16), (150.0**2, 32), (2500.0**2, 32)]
)
def test_the_outcome_changes_at_the_very_last_bit(
    kind: type, variance: float, word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = survival(kind(variance).weights())
    some = range(1, len(steps) + 1, 1 + len(steps) // 500)
    # Every draw must need the second stage, for the chosen bits to be in step: S(k) - 1 and
    # S(k) are in a cell that S(k) crosses.
    values = [steps[k - 1] - off for k in some for off in (1, 0)]
    expected = [-(k - off) for k in some for off in (0, 1)]
    for v, e in zip(values, expected, strict=True):
        assert sum(s > v for s in steps) == -e
    chosen = Chosen(values, word)
    monkeypatch.setattr("tacit.privacy.discrete.table.KeyedStream", chosen.stream)
    monkeypatch.setattr("tacit.privacy.discrete.table._subkey", chosen.subkey)
    assert Table(kind(variance)).sample(len(values), KEY).tolist() == expected


# Determinism

# Six samples of each, and the first 48 bits of the SHA-256 of 100,000.
PINNED: dict[Law, tuple[list[int], str]] = {
    Skellam(2.5): ([-2, -1, 1, -1, 0, 0], "a548add6e8dd"),
    DiscreteGaussian(2.5): ([-2, -1, 1, -1, 0, 0], "21df65355a01"),
    Skellam(1600.0): ([-60, -32, 23, -19, -5, 8], "50e4b9ace098"),
    DiscreteGaussian(1600.0): ([-60, -32, 23, -19, -5, 8], "f99b5c635428"),
    Skellam(1234567.5): ([-892, -535, 234, -3231, -1011, -290], "237f7a2fc33c"),
    DiscreteGaussian(1234567.5): ([-892, -535, 234, -3231, -1011, -290], "8fb12ba559a9"),
    Skellam(900000000.0): ([-24094, -14458, 6331, -87241, -27291, -7836], "1d3caf324660"),
    DiscreteGaussian(900000000.0): ([-24094, -14458, 6331, -87241, -27291, -7836], "1d3caf324660"),
}


@pytest.mark.parametrize("law", PINNED, ids=str)
def test_a_key_means_the_same_samples_everywhere(law: Law) -> None:
    x = Table(law).sample(100_000, KEY)
    first, checksum = PINNED[law]
    assert x[:6].tolist() == first
    assert hashlib.sha256(x.astype("<i4").tobytes()).hexdigest()[:12] == checksum


def test_another_key_is_another_draw() -> None:
    made = table(Skellam(1e6))
    draws = [made.sample(10_000, key(str(i))) for i in range(5)]
    draws.append(made.sample(10_000, bytes(31) + b"\x01"))
    assert all((a != b).mean() > 0.99 for i, a in enumerate(draws) for b in draws[:i])
    assert (made.sample(10_000, key("0")) == draws[0]).all()


@pytest.mark.parametrize("size", [0, 1, 2, 7, 1300])
@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("sigma", [0.03, 4.0, 400.0])
def test_any_size_is_served(kind: type, sigma: float, size: int) -> None:
    drawn = table(kind(sigma**2)).sample(size, KEY)
    assert drawn.shape == (size,)
    assert drawn.dtype == np.int32
    assert drawn.flags.writeable
    again = table(kind(sigma**2)).sample(size, KEY)
    drawn += 1
    assert (again + 1 == drawn).all()


@pytest.mark.parametrize("kind", LAWS)
def test_vanishing_variances_draw_zeros(kind: type) -> None:
    assert not table(kind(1e-300)).sample(1_000_000, KEY).any()
    drawn = table(kind(1e-3)).sample(SIZE, KEY)
    share = 2 * probabilities(kind(1e-3))[1]
    least, most = stats.binom.ppf([ALARM / 2, 1 - ALARM / 2], SIZE, share)
    assert least <= (drawn != 0).sum() <= most
    assert np.abs(drawn).max() <= 2


# Housekeeping


def test_tables_are_kept() -> None:
    assert table(Skellam(3.0)) is table(Skellam(3.0))
    assert table(Skellam(3.0)) is not table(DiscreteGaussian(3.0))


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(
    ("sigma", "most"), [(4.0, 0.3e6), (100.0, 0.3e6), (1500.0, 1.2e6), (32_768.0, 7e6)]
)
def test_tables_are_small(kind: type, sigma: float, most: float) -> None:
    made = Table(kind(sigma**2))
    assert made.nbytes < most
    # What it holds is what it counts: no integers of Python's.
    held = [x for x in vars(made).values() if isinstance(x, np.ndarray)]
    assert sum(x.nbytes for x in held) == made.nbytes
    assert not any(isinstance(x, list | tuple | dict) for x in vars(made).values())


@pytest.mark.parametrize("size", [-1, 1.5, True])
def test_a_size_that_is_none_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"size={size}"):
        table(Skellam(4.0)).sample(size, KEY)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes, not 32"):
        table(Skellam(4.0)).sample(10, bytes(length))


@pytest.mark.parametrize("depth", [-1, 65])
def test_a_depth_out_of_range_is_refused(depth: int) -> None:
    with pytest.raises(ConfigError, match=f"depth={depth}"):
        Table(Skellam(4.0), depth)
