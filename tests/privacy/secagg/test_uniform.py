"""What the coordinator holds before masks come off looks uniform; the tests that say so can fail.

Keys are fresh every time. Each figure is a chi-square's p-value that should be above 1e-9, and
there are fewer than a hundred: a false alarm in ten million runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from masking import Session
from scipy import stats

from tacit.privacy.errors import RoundError
from tacit.privacy.secagg import masks
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.words import Array, Words

ALARM = 1e-9
LENGTH = 2_000_000
REAL = masks.accumulate


def pvalues(words: Array, bits: int) -> list[float]:
    """Of the low byte, of the high byte, of whole words of 16 bits, of neighbours' differences."""
    high = (words >> (bits - 8)) & 255
    tests = [(words & 255, 256), (high, 256), (words & 65535, 65536)]
    # A position that isn't masked shows in every word of its place.
    tests += [((words[lane::8] & 255), 256) for lane in range(8)]
    difference = (words[1:].astype(np.int64) - words[:-1]) % 65536
    tests.append((difference, 65536))
    made = []
    for values, cells in tests:
        counts = np.bincount(values.astype(np.int64), minlength=cells)
        made.append(float(stats.chisquare(counts).pvalue))
    return made


def constant(bits: int, length: int = LENGTH, size: int = 5) -> Session:
    """A session whose vectors are all of one and the same word."""
    session = Session(size, length=length, bits=bits, rules=Rules(4, 20, 0.25, 1)).until("mask")
    session.vectors = {k: np.full(length, 7, dtype=np.int64) for k in session.clients}
    return session


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_a_masked_vector_is_uniform(bits: int) -> None:
    session = constant(bits)
    answer = session.masked(0)
    vector = session.words.unpack(answer.words, LENGTH)
    assert min(pvalues(vector, bits)) > ALARM


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_the_accumulated_sum_is_uniform(bits: int) -> None:
    session = constant(bits)
    session.mask()
    held = session.words.reduce(session.server._sum.copy())
    assert min(pvalues(held, bits)) > ALARM


def test_two_masked_vectors_and_their_sum_and_difference_are_uniform() -> None:
    session = constant(16)
    first, second = (session.words.unpack(session.masked(k).words, LENGTH) for k in (0, 1))
    for made in (first + second, first - second):
        assert min(pvalues(made, 16)) > ALARM


def test_one_clients_vectors_of_two_sessions_are_unrelated() -> None:
    first = constant(16)
    one = first.words.unpack(first.masked(0).words, LENGTH)
    later = Session(5, length=LENGTH, rules=first.rules, earlier=first, round=2).until("mask")
    later.vectors = first.vectors
    two = later.words.unpack(later.masked(0).words, LENGTH)
    assert min(pvalues(one - two, 16)) > ALARM


def test_after_an_abort_the_sum_is_uniform() -> None:
    session = constant(16)
    session.mask()
    session.confirm()
    session.reveal({2, 3, 4})
    with pytest.raises(RoundError):
        session.server.total()
    assert min(pvalues(session.server._sum, 16)) > ALARM


def test_short_of_a_single_self_mask_the_sum_is_uniform() -> None:
    # Pairwise masks cancel and four of five self-masks are known: the fifth still hides all.
    session = constant(16)
    made = {k: session.masked(k) for k in range(5)}
    held = session.words.zeros(LENGTH)
    for answer in made.values():
        session.words.add_into(held, session.words.unpack(answer.words, LENGTH))
    session._taken("mask", made, [], session.server.masked)
    session.survivors = session.server.close_masked()
    session.confirm()
    session.reveal()
    session.server._words.reduce(session.server._sum)
    keys = self_masks(session)
    REAL(held, session.words, [], keys[:4])
    assert min(pvalues(held, 16)) > ALARM
    REAL(held, session.words, [], keys[4:])
    assert (held == 35).all()


def self_masks(session: Session) -> list[bytes]:
    """The keys that a coordinator is given in the end."""
    seen: list[bytes] = []

    def spy(
        total: Array, words: Words, added: Sequence[bytes], subtracted: Sequence[bytes]
    ) -> None:
        seen.extend(subtracted)
        REAL(total, words, added, subtracted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "accumulate", spy)
        session.server.total()
    return seen


# Negative controls: what a broken mask would look like


def broken(monkeypatch: pytest.MonkeyPatch, way: Any) -> Array:
    """A masked vector of client 0 when masks are applied in another way."""
    session = constant(16)
    monkeypatch.setattr(masks, "accumulate", way)
    return session.words.unpack(session.masked(0).words, LENGTH)


def test_no_masks_at_all_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = broken(monkeypatch, lambda total, words, added, subtracted: None)
    assert (vector == 7).all()
    assert max(pvalues(vector, 16)[:3]) < ALARM


def test_a_skipped_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def skips(total: Array, words: Words, added: Sequence[bytes], minus: Sequence[bytes]) -> None:
        kept = total[3::512].copy()
        REAL(total, words, added, minus)
        total[3::512] = kept

    assert min(pvalues(broken(monkeypatch, skips), 16)) < ALARM


def test_a_dropped_byte_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def halves(total: Array, words: Words, added: Sequence[bytes], minus: Sequence[bytes]) -> None:
        mask = words.zeros(total.size)
        REAL(mask, words, added, minus)
        total += mask & 0xFF00

    assert min(pvalues(broken(monkeypatch, halves), 16)) < ALARM


def test_a_mask_of_one_repeated_block_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def repeats(total: Array, words: Words, added: Sequence[bytes], minus: Sequence[bytes]) -> None:
        mask = words.zeros(4096)
        REAL(mask, words, added, minus)
        total += np.resize(mask, total.size)

    assert min(pvalues(broken(monkeypatch, repeats), 16)) < ALARM


def test_without_self_masks_the_sum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pairwise masks cancel in the sum: with them alone it is the plain one.
    session = constant(16)

    def pairs_only(
        total: Array, words: Words, added: Sequence[bytes], minus: Sequence[bytes]
    ) -> None:
        # A client's own mask is the first that it adds.
        REAL(total, words, added[1:], minus)

    monkeypatch.setattr(masks, "accumulate", pairs_only)
    session.mask()
    assert (session.server._sum == 35).all()
    assert max(pvalues(session.server._sum, 16)[:3]) < ALARM


def test_without_pairwise_masks_a_lone_vector_shows_once_its_self_mask_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What pairwise masks are for: a survivor's self-mask is known to the coordinator at the end.
    for pairs in (True, False):
        session = constant(16)

        def way(
            total: Array,
            words: Words,
            added: Sequence[bytes],
            minus: Sequence[bytes],
            pairs: bool = pairs,
        ) -> None:
            REAL(total, words, added if pairs else added[:1], minus if pairs else [])

        monkeypatch.setattr(masks, "accumulate", way)
        made = {k: session.masked(k) for k in range(5)}
        monkeypatch.setattr(masks, "accumulate", REAL)
        session._taken("mask", made, [], session.server.masked)
        session.survivors = session.server.close_masked()
        session.confirm()
        session.reveal()
        alone = session.words.unpack(made[0].words, LENGTH).copy()
        REAL(alone, session.words, [], self_masks(session)[:1])
        assert (min(pvalues(alone, 16)) > ALARM) == pairs
        assert (alone == 7).all() != pairs


def test_one_pair_without_its_mask_is_not_seen_in_a_vector_but_between_colluders() -> None:
    # Client 0 and all its peers but client 1 collude: what is left of the masks of 1 is its own
    # self-mask and the one it has with nobody else. If that pair is left out, and the self-mask
    # known, the vector is plain.
    session = constant(16, length=200_000)
    seen: dict[int, tuple[list[bytes], list[bytes]]] = {}

    def spy(total: Array, words: Words, added: Sequence[bytes], minus: Sequence[bytes]) -> None:
        seen[len(seen)] = (list(added), list(minus))
        REAL(total, words, added, minus)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "accumulate", spy)
        vectors = [session.words.unpack(session.masked(k).words, 200_000) for k in range(5)]
    added, minus = seen[1]
    shared = [k for k in seen[2][1] if k in added]
    assert len(shared) == 1, "the pair 1, 2"
    known = [k for k in added if k not in shared]
    left = vectors[1].copy()
    REAL(left, session.words, minus, known)
    assert min(pvalues(left, 16)[:2]) > ALARM, "one honest peer is enough"
    REAL(left, session.words, [], shared)
    assert (left == 7).all()
