"""Words modulo 2^b: a ring, and one encoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.secagg.words import BITS, Words

bits = st.sampled_from(BITS)
integers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40)
each = pytest.mark.parametrize("b", BITS)


def some(words: Words, size: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, words.modulus, size)
    return drawn.astype(words.dtype)


@each
def test_lanes(b: int) -> None:
    words = Words(b)
    assert words.modulus == 2**b
    assert words.dtype == (np.uint16 if b == 16 else np.uint32)
    assert words.zeros(3).tolist() == [0, 0, 0]
    assert words.zeros(3).dtype == words.dtype


@pytest.mark.parametrize("b", [0, 8, 24, 64, -16])
def test_other_sizes_are_refused(b: int) -> None:
    with pytest.raises(ConfigError, match=f"bits={b}"):
        Words(b)


@given(b=bits, values=integers)
def test_integers_become_residues(b: int, values: list[int]) -> None:
    words = Words(b).from_integers(np.array(values, dtype=np.int64))
    assert words.dtype == Words(b).dtype
    assert words.tolist() == [v % 2**b for v in values]


@given(b=bits, values=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40))
def test_integers_of_32_bits_become_residues(b: int, values: list[int]) -> None:
    words = Words(b).from_integers(np.array(values, dtype=np.int32))
    assert words.tolist() == [v % 2**b for v in values]


@given(b=bits, values=integers)
def test_centred_is_the_nearest_representative(b: int, values: list[int]) -> None:
    words = Words(b)
    centred = words.centred(words.from_integers(np.array(values, dtype=np.int64)))
    assert centred.dtype == np.int64
    half = 2 ** (b - 1)
    assert centred.tolist() == [(v + half) % 2**b - half for v in values]


@each
def test_the_ends_of_the_range(b: int) -> None:
    words, half = Words(b), 2 ** (b - 1)
    ends = np.array([-half, -1, 0, 1, half - 1], dtype=np.int64)
    assert (words.centred(words.from_integers(ends)) == ends).all()
    assert words.centred(words.from_integers(np.array([half]))).tolist() == [-half]


@given(b=bits, rows=st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=60))
def test_sums_wrap_and_come_out_exact(b: int, rows: list[tuple[bool, int]]) -> None:
    words = Words(b)
    total, due = words.zeros(5), np.zeros(5, dtype=np.int64)
    for plus, seed in rows:
        values = np.random.default_rng(seed).integers(-(2**40), 2**40, 5)
        (words.add_into if plus else words.subtract_from)(total, words.from_integers(values))
        due += values if plus else -values
    half = 2 ** (b - 1)
    assert words.centred(total).tolist() == [(v + half) % 2**b - half for v in due.tolist()]
    reduced = words.reduce(total)
    assert reduced is total
    assert total.tolist() == [v % 2**b for v in due.tolist()]


def test_lanes_of_20_bits_wrap_at_32_until_reduced() -> None:
    words = Words(20)
    total = words.zeros(1)
    words.subtract_from(total, words.from_integers(np.array([1])))
    assert total.tolist() == [2**32 - 1]
    assert words.centred(total).tolist() == [-1]
    words.reduce(total)
    assert total.tolist() == [2**20 - 1]


@each
def test_arrays_that_do_not_match_are_refused(b: int) -> None:
    words = Words(b)
    other = np.zeros(3, dtype=np.uint32 if b == 16 else np.uint16)
    for operation in (words.add_into, words.subtract_from):
        for wrong in (words.zeros(1), words.zeros(4), other):
            with pytest.raises(ValueError, match="don't match"):
                operation(words.zeros(3), wrong)


@given(b=bits, size=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_packed_words_come_back(b: int, size: int, seed: int) -> None:
    words = Words(b)
    drawn = some(words, size, seed)
    data = words.pack(drawn)
    assert len(data) == words.size_of(size)
    found = words.unpack(data, size)
    assert found.dtype == words.dtype
    assert (found == drawn).all()


@given(b=bits, size=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_the_encoding_is_one_little_endian_number(b: int, size: int, seed: int) -> None:
    words = Words(b)
    drawn = some(words, size, seed)
    number = sum(int(w) << (b * i) for i, w in enumerate(drawn))
    assert int.from_bytes(words.pack(drawn), "little") == number


def test_golden_encodings() -> None:
    given = np.array([0x12345, 0xABCDE, 0xFFFFF])
    assert Words(16).pack(Words(16).from_integers(given)).hex() == "4523debcffff"
    assert Words(20).pack(Words(20).from_integers(given)).hex() == "4523e1cdabffff0f0000"
    assert Words(32).pack(Words(32).from_integers(given)).hex() == "45230100debc0a00ffff0f00"


@pytest.mark.parametrize(("b", "sizes"), [(16, [0, 2, 4, 6]), (20, [0, 5, 5, 10]), (32, [0, 4, 8])])
def test_sizes(b: int, sizes: list[int]) -> None:
    assert [Words(b).size_of(n) for n in range(len(sizes))] == sizes


@each
@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9])
def test_a_wrong_length_is_refused(b: int, size: int) -> None:
    words = Words(b)
    data = words.pack(some(words, size))
    for wrong in (data + b"\x00", data[:-1], data * 2):
        if len(wrong) != len(data):
            with pytest.raises(MessageError, match=f"words of {b} bits"):
                words.unpack(wrong, size)


@pytest.mark.parametrize("size", [1, 3, 7, 9])
def test_padding_that_is_not_zero_is_refused(size: int) -> None:
    words = Words(20)
    data = words.pack(words.zeros(size))
    for bit in range(20):
        number = int.from_bytes(data, "little") | 1 << (20 * size + bit)
        with pytest.raises(MessageError, match="padding"):
            words.unpack(number.to_bytes(len(data), "little"), size)


@given(data=st.binary(min_size=15, max_size=15), size=st.integers(5, 6))
def test_words_of_20_bits_have_one_encoding(data: bytes, size: int) -> None:
    words = Words(20)
    try:
        found = words.unpack(data, size)
    except MessageError:
        assert size == 5
        return
    assert words.pack(found) == data


def test_words_that_are_not_reduced_are_not_packed() -> None:
    with pytest.raises(ValueError, match="reduce"):
        Words(20).pack(np.array([2**20], dtype=np.uint32))
    with pytest.raises(ValueError, match="uint16"):
        Words(16).pack(np.zeros(2, dtype=np.uint32))


@each
def test_a_large_array_comes_back(b: int) -> None:
    words = Words(b)
    drawn = some(words, 2**18 + 3)
    assert (words.unpack(words.pack(drawn), drawn.size) == drawn).all()
