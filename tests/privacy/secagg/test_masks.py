"""Masks: the keystream as it is defined, and sums that cancel."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.privacy.secagg import masks
from tacit.privacy.secagg.words import BITS, Words

KEY = bytes(range(32))
each = pytest.mark.parametrize("b", BITS)


def keys(count: int, seed: int = 0) -> list[bytes]:
    return [hashlib.sha256(f"{seed} {i}".encode()).digest() for i in range(count)]


def portable(key: bytes, size: int) -> bytes:
    """The keystream by the definition: AES-256-CTR, chunk by chunk."""
    chunks = []
    for index in range(-(-size // masks.CHUNK)):
        block = index.to_bytes(12, "big") + (2).to_bytes(4, "big")
        chunks.append(
            Cipher(algorithms.AES(key), modes.CTR(block)).encryptor().update(bytes(masks.CHUNK))
        )
    return b"".join(chunks)[:size]


@each
@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 65537, 200_001])
def test_the_mask_is_counter_mode(b: int, size: int) -> None:
    words = Words(b)
    lanes = np.frombuffer(portable(KEY, size * words.dtype.itemsize), dtype=words.dtype)
    assert (masks.expand(KEY, words, size) == lanes.astype(np.int64) % words.modulus).all()


@pytest.mark.parametrize(
    ("b", "first", "digest"),
    [
        (
            16,
            "0ebcb5deb52c83bd08a8a935182c9199",
            "c7646abbf0bee1bfd620c44f65fcfafcfe26c6df273be1d820023b99ff173169",
        ),
        (
            20,
            "0ebc0500b52c030008a80900182c0100",
            "5ed16471dfa2b558631728bcaff297c6679de3b7f1804a7c40ef08f34d5a49e4",
        ),
        (
            32,
            "0ebcb5deb52c83bd08a8a935182c9199",
            "5fad2329648e85da18fd5de35cb0c02b4ed10aa0a97723b2af6c3511e67c69e2",
        ),
    ],
)
def test_golden_masks(b: int, first: str, digest: str) -> None:
    # The first bytes are those of `openssl enc -aes-256-ctr` from block 0...02.
    mask = masks.expand(KEY, Words(b), 100_001).tobytes()
    assert mask[:16].hex() == first
    assert hashlib.sha256(mask).hexdigest() == digest


def test_no_block_of_the_keystream_is_seen_twice() -> None:
    mask = masks.expand(KEY, Words(32), 5 * masks.CHUNK // 4).reshape(-1, 4)
    assert np.unique(mask, axis=0).shape == mask.shape


@each
def test_a_shorter_mask_is_the_start_of_a_longer_one(b: int) -> None:
    longer = masks.expand(KEY, Words(b), 140_000)
    for size in (1, 65_535, 65_536, 65_537, 139_999):
        assert (masks.expand(KEY, Words(b), size) == longer[:size]).all()


@settings(deadline=None, max_examples=40)
@given(
    b=st.sampled_from(BITS),
    plus=st.integers(0, 6),
    minus=st.integers(0, 6),
    size=st.sampled_from([0, 1, 100, 32_768, 32_769, 65_536, 70_001]),
)
def test_accumulating_is_adding_and_subtracting(b: int, plus: int, minus: int, size: int) -> None:
    words = Words(b)
    added, subtracted = keys(plus, 1), keys(minus, 2)
    start = np.random.default_rng(3).integers(0, words.modulus, size).astype(words.dtype)
    due = start.astype(np.int64)
    for key in added:
        due += masks.expand(key, words, size)
    for key in subtracted:
        due -= masks.expand(key, words, size)
    masks.accumulate(start, words, added, subtracted)
    assert (words.reduce(start) == due % words.modulus).all()


@settings(deadline=None, max_examples=40)
@given(b=st.sampled_from(BITS), places=st.lists(st.integers(0, 4), max_size=12), order=st.randoms())
def test_masks_cancel_however_the_keys_are_spread(b: int, places: list[int], order: object) -> None:
    # Each key is added by one client and subtracted by another; only the vectors are left.
    words, size = Words(b), 33_000
    vectors = np.random.default_rng(4).integers(-1000, 1000, (5, size))
    totals = [words.from_integers(v) for v in vectors]
    pool = keys(len(places))
    shuffled = list(pool)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    for client, total in enumerate(totals):
        added = [k for k, place in zip(pool, places, strict=True) if place == client]
        subtracted = [k for k, place in zip(shuffled, places, strict=True) if place == client]
        masks.accumulate(total, words, added, subtracted)
    whole = words.zeros(size)
    for total in totals:
        words.add_into(whole, total)
    assert (words.centred(whole) == vectors.sum(axis=0)).all()


def test_nothing_of_the_models_size_is_allocated() -> None:
    words = Words(16)
    total = words.zeros(4_000_000)
    tracemalloc.start()
    masks.accumulate(total, words, keys(2), keys(2, 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * masks.CHUNK


def test_masks_look_uniform_and_unrelated() -> None:
    first, second = (masks.expand(k, Words(16), 200_000) for k in keys(2))
    for drawn in (first, second, first - second):
        assert stats.chisquare(np.bincount(drawn >> 8, minlength=256)).pvalue > 1e-7
        assert stats.chisquare(np.bincount(drawn & 255, minlength=256)).pvalue > 1e-7


@each
def test_a_total_of_another_kind_is_refused(b: int) -> None:
    words = Words(b)
    other = np.zeros(4, dtype=np.uint32 if b == 16 else np.uint16)
    for total in (other, words.zeros(8)[::2], words.zeros(4).reshape(2, 2)):
        with pytest.raises(ValueError, match="contiguous"):
            masks.accumulate(total, words, [KEY], [])


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    total = Words(16).zeros(4)
    for added, subtracted in (([KEY, bytes(size)], []), ([KEY], [bytes(size)])):
        with pytest.raises(ValueError, match=f"{size} bytes"):
            masks.accumulate(total, Words(16), added, subtracted)
    assert not total.any(), "refused before anything was added"
