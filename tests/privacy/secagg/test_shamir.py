"""Secret sharing over GF(65537): exact arithmetic, any t of n, nothing from fewer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.noise import KeyedStream
from tacit.privacy.secagg import shamir

P = shamir.PRIME
KEY = bytes(range(32))
ALARM = 1e-7

elements = st.integers(0, P - 1)


def points_of(size: int) -> np.ndarray:
    return np.arange(1, size + 1, dtype=np.int64)


def slow_weights(points: list[int]) -> list[int]:
    found = []
    for x in points:
        weight = 1
        for y in points:
            if y != x:
                weight = weight * y * pow(y - x, -1, P) % P
        found.append(weight)
    return found


class Scripted:
    """A stream that gives the lanes it was told to."""

    def __init__(self, *lanes: int) -> None:
        self._data = np.array(lanes, dtype="<u4").view(np.uint8)

    def read(self, size: int) -> np.ndarray:
        out, self._data = self._data[:size], self._data[size:]
        return out


def test_the_field_is_one_and_three_generates_it() -> None:
    assert all(P % d for d in range(2, 257))
    log, power = shamir._tables()
    assert sorted(power.tolist()) == list(range(1, P))
    assert power[0] == 1
    assert power[1] == 3
    assert (power[log[1:]] == np.arange(1, P)).all()
    assert log[0] == 0


@given(x=st.integers(1, P - 1), e=st.integers(0, 70_000))
def test_powers_come_from_the_tables(x: int, e: int) -> None:
    log, power = shamir._tables()
    assert power[int(log[x]) * e % (P - 1)] == pow(x, e, P)


@given(points=st.lists(st.integers(1, P - 1), min_size=1, max_size=12, unique=True))
def test_weights_are_lagranges(points: list[int]) -> None:
    assert shamir.weights(np.array(points)).tolist() == slow_weights(points)


@given(data=st.data(), t=st.integers(1, 40), m=st.integers(0, 5))
def test_combining_is_exact(data: st.DataObject, t: int, m: int) -> None:
    rows = data.draw(st.lists(st.lists(elements, min_size=m, max_size=m), min_size=t, max_size=t))
    scale = data.draw(st.lists(elements, min_size=t, max_size=t))
    shares = np.array(rows, dtype=np.uint32).reshape(t, m)
    due = [sum(a * row[j] for a, row in zip(scale, rows, strict=True)) % P for j in range(m)]
    assert shamir.combine(np.array(scale, dtype=np.float64), shares).tolist() == due


def test_the_largest_sums_are_exact() -> None:
    # Every term is 2^32, as many as the field has holders; blocks of rows and of one row.
    for t, m in ((P - 1, 3), (70, 70_000)):
        shares = np.full((t, m), P - 1, dtype=np.uint32)
        found = shamir.combine(np.full(t, float(P - 1)), shares)
        assert (found == t * (P - 1) ** 2 % P).all()
    assert float(shamir._MOST_TERMS) * 2.0**32 == 2.0**53


def test_more_terms_than_float64_can_sum_are_refused() -> None:
    t = shamir._MOST_TERMS + 1
    with pytest.raises(ValueError, match="at most"):
        shamir.combine(np.ones(t), np.zeros((t, 0), dtype=np.uint32))


@settings(deadline=None)
@given(secret=st.binary(max_size=40), n=st.integers(1, 12), data=st.data())
def test_any_threshold_of_shares_gives_the_secret_back(
    secret: bytes, n: int, data: st.DataObject
) -> None:
    secret = secret[: len(secret) // 2 * 2]
    t = data.draw(st.integers(1, n))
    points = np.array(
        data.draw(st.lists(st.integers(1, P - 1), min_size=n, max_size=n, unique=True))
    )
    shares = shamir.share(
        shamir.to_words(secret), t, points, data.draw(st.binary(min_size=32, max_size=32))
    )
    assert shares.shape == (n, len(secret) // 2)
    held = data.draw(st.permutations(range(n)))[:t]
    found = shamir.reconstruct(points[held], shares[held])
    assert shamir.to_bytes(found) == secret
    assert (shamir.reconstruct(points, shares) == found).all()


def test_a_thousand_holders() -> None:
    points = np.random.default_rng(1).permutation(P - 1)[:1000].astype(np.int64) + 1
    secret = KeyedStream(KEY).read(128).tobytes()
    shares = shamir.share(shamir.to_words(secret), 667, points, KEY)
    held = np.random.default_rng(2).permutation(1000)[:667]
    assert shamir.to_bytes(shamir.reconstruct(points[held], shares[held])) == secret
    # One short is another secret: the points of 666 lie on a polynomial of too low a degree.
    assert (
        shamir.reconstruct(points[held[1:]], shares[held[1:]]) != np.frombuffer(secret, dtype="<u2")
    ).any()


def test_shares_are_the_polynomials_values() -> None:
    secrets = np.array([0, 1, 65535], dtype=np.uint16)
    points = np.array([1, 2, 300, 65536])
    coefficients = shamir._uniform(KeyedStream(KEY), 6).reshape(2, 3)
    shares = shamir.share(secrets, 3, points, KEY)
    for (i, x), j in itertools.product(enumerate(points.tolist()), range(3)):
        a, b = int(coefficients[0, j]), int(coefficients[1, j])
        assert shares[i, j] == (int(secrets[j]) + a * x + b * x * x) % P


@pytest.mark.parametrize("secret", [0, 1, 54321, 65535])
def test_one_share_of_two_is_exactly_uniform(secret: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every coefficient once: then every share takes every value once, whatever the secret.
    monkeypatch.setattr(shamir, "_uniform", lambda stream, size: np.arange(size))
    shares = shamir.share(np.full(P, secret, dtype=np.uint16), 2, np.array([1, 7, 65536]), KEY)
    for row in shares:
        assert (np.bincount(row, minlength=P) == 1).all()


@pytest.mark.parametrize("secret", [0, 40_000])
def test_two_shares_of_three_are_uniform_together(secret: int) -> None:
    words = np.full(200_000, secret, dtype=np.uint16)
    shares = shamir.share(words, 3, np.array([1, 2, 3]), KEY).astype(np.int64)
    for i, j in itertools.combinations(range(3), 2):
        cells = shares[i] * 16 // P * 16 + shares[j] * 16 // P
        assert stats.chisquare(np.bincount(cells, minlength=256)).pvalue > ALARM
    # The check has teeth: three shares determine the secret.
    cells = shares[0] * 8 // P * 64 + shares[1] * 8 // P * 8 + shares[2] * 8 // P
    assert stats.chisquare(np.bincount(cells, minlength=512)).pvalue < ALARM


def test_elements_are_drawn_by_rejection() -> None:
    assert (2**32 - 1) % P == 0
    top = 2**32 - 1
    drawn = shamir._uniform(Scripted(top, 5, P, top, top - 1, 2 * P + 9), 4)
    assert drawn.tolist() == [5, 0, P - 1, 9]
    assert shamir._uniform(Scripted(), 0).size == 0


@pytest.mark.parametrize("points", [[0, 1], [1, 1], [1, P], [-1, 2], [], [[1, 2]]])
def test_points_that_cannot_be_are_refused(points: list[int]) -> None:
    with pytest.raises(ConfigError, match="points"):
        shamir.share(np.zeros(1, dtype=np.uint16), 1, np.array(points), KEY)
    with pytest.raises(ConfigError, match="points"):
        shamir.weights(np.array(points))


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_a_threshold_out_of_reach_is_refused(threshold: int) -> None:
    with pytest.raises(ConfigError, match=f"threshold={threshold}"):
        shamir.share(np.zeros(1, dtype=np.uint16), threshold, points_of(3), KEY)


def test_arrays_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="uint16"):
        shamir.share(np.zeros(1, dtype=np.uint32), 1, points_of(3), KEY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights for"):
        shamir.combine(np.ones(2), np.zeros((3, 1), dtype=np.uint32))
    for value in (P, -1):
        with pytest.raises(ValueError, match="outside"):
            shamir.combine(np.ones(1), np.array([[value]], dtype=np.int64))


def test_words_and_bytes() -> None:
    assert shamir.to_words(b"\x01\x02\xff\xff").tolist() == [0x0201, 0xFFFF]
    assert shamir.to_bytes(np.array([0x0201, 0xFFFF], dtype=np.uint32)) == b"\x01\x02\xff\xff"
    assert shamir.to_bytes(np.zeros(0, dtype=np.uint32)) == b""
    with pytest.raises(ValueError, match="even"):
        shamir.to_words(b"abc")
    with pytest.raises(MessageError, match="belong together"):
        shamir.to_bytes(np.array([3, 65536], dtype=np.uint32))


@given(shares=st.lists(st.one_of(elements, st.just(P - 1)), max_size=40))
def test_packed_shares_come_back(shares: list[int]) -> None:
    data = shamir.pack_shares(np.array(shares, dtype=np.uint32))
    assert len(data) == 2 * len(shares) + (len(shares) + 7) // 8
    assert shamir.unpack_shares(data, len(shares)).tolist() == shares


@given(data=st.binary(min_size=7, max_size=7))
def test_shares_have_one_encoding(data: bytes) -> None:
    try:
        shares = shamir.unpack_shares(data, 3)
    except MessageError:
        return
    assert shares.max() < P
    assert shamir.pack_shares(shares) == data


@pytest.mark.parametrize(
    ("data", "m"),
    [
        (b"", 1),
        (bytes(4), 1),
        (bytes(2), 1),
        (bytes(2) + b"\x02", 1),
        (b"\x01\x00\x01", 1),
        (bytes(16) + b"\x00\x00", 8),
    ],
    ids=["empty", "long", "short", "padding", "over 65536", "extra byte of bits"],
)
def test_malformed_shares_are_refused(data: bytes, m: int) -> None:
    with pytest.raises(MessageError):
        shamir.unpack_shares(data, m)


def test_shares_out_of_the_field_are_not_packed() -> None:
    with pytest.raises(ValueError, match="0 to 65536"):
        shamir.pack_shares(np.array([P], dtype=np.uint32))
