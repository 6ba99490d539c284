"""Packs hold every row once, within their limit, and little padding."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tacit.simulations.cohort.buckets import packs

sizes = st.lists(st.integers(0, 700), min_size=0, max_size=40)


@given(sizes, st.integers(1, 600))
def test_every_row_is_real_once(counts: list[int], most: int) -> None:
    batches = [np.arange(count) * 3 + 1 for count in counts]
    seen: Counter[tuple[int, int]] = Counter()
    for pack in packs(batches, most):
        assert pack.rows.shape == pack.real.shape == (len(pack.clients), pack.rows.shape[1])
        assert pack.rows.size <= most
        for k, rows, real in zip(pack.clients, pack.rows, pack.real, strict=True):
            seen.update((int(k), int(row)) for row in rows[real])
            # Padding repeats rows of the client's own batch.
            assert set(rows.tolist()) <= set(batches[k].tolist())
    assert seen == {(k, int(row)): 1 for k, rows in enumerate(batches) for row in rows}


@given(st.lists(st.integers(1, 700), min_size=1, max_size=200))
def test_under_an_eighth_is_padding_however_unequal(counts: list[int]) -> None:
    made = packs([np.arange(count) for count in counts], 256)
    assert sum(p.rows.size for p in made) <= sum(counts) * 8 / 7 + 1e-9


def test_clients_of_one_size_share_passes() -> None:
    made = packs([np.arange(20)] * 50, 256)
    assert [p.rows.shape for p in made] == [(12, 20)] * 4 + [(2, 20)]
