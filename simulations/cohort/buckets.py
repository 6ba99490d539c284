"""Which clients' batches share a pass: packed by size, so that little is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Rows of a pass on a CPU: enough to keep torch busy, few enough for the cache. Measured.
ROWS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Clients in one pass.

    Attributes:
        clients: positions of their jobs, shape [C]; one may come again, with other rows.
        rows: of each, shape [C, m]; what is padding repeats the first.
        real: which of them aren't padding, shape [C, m].
    """

    clients: NDArray[np.int64]
    rows: NDArray[np.int64]
    real: NDArray[np.bool_]


def packs(batches: Sequence[NDArray[np.int64]], most: int) -> list[Pack]:
    """Packs one step's batches.

    Batches are sorted by size; those of nearly one size pass together, so that padding stays
    under an eighth, however unequal the clients. A batch of more than ``most`` rows passes in
    parts. Depends on nothing but the sizes.

    Args:
        batches: rows of each job.
        most: rows in one pass.
    """
    pieces = [
        (k, rows[start : start + most])
        for k, rows in enumerate(batches)
        for start in range(0, len(rows), most)
    ]
    pieces.sort(key=lambda piece: -len(piece[1]))
    found: list[list[tuple[int, NDArray[np.int64]]]] = []
    held = 0
    for piece in pieces:
        if found:
            longest, count = len(found[-1][0][1]), len(found[-1]) + 1
            fits = longest * count <= most
            if fits and (held + len(piece[1])) * 8 >= longest * count * 7:
                found[-1].append(piece)
                held += len(piece[1])
                continue
        found.append([piece])
        held = len(piece[1])
    return [_padded(group) for group in found]


def _padded(group: list[tuple[int, NDArray[np.int64]]]) -> Pack:
    width = len(group[0][1])
    rows = np.empty((len(group), width), dtype=np.int64)
    real = np.zeros((len(group), width), dtype=np.bool_)
    for i, (_, batch) in enumerate(group):
        rows[i, : len(batch)], rows[i, len(batch) :] = batch, batch[0]
        real[i, : len(batch)] = True
    return Pack(np.array([k for k, _ in group], dtype=np.int64), rows, real)
