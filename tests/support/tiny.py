"""A federation small enough to run in a fraction of a second."""

from __future__ import annotations

import numpy as np
import torch

from tacit import Task

TINY = [
    "experiment=none",
    "clients=20",
    "cohort=10",
    "rounds=3",
    "privacy.client.noise_multiplier=1.0",
    "privacy.record.noise_multiplier=1.0",
    "attempts=1",
    "mechanism=central",
    "aggregation=plain",
]

# The same clients adding the noise themselves, seen by nobody.
TINY_SECURE = [
    "experiment=none",
    "clients=20",
    "cohort=12",
    "minimum_survivors=5",
    "rounds=3",
    "privacy.client.noise_multiplier=1.0",
    "privacy.record.noise_multiplier=1.0",
    "attempts=1",
    "mechanism=skellam",
    "aggregation=secure",
    "secure.protocol=full",
]


def make_tiny(
    clients: int = 20, records: int = 6, test: bool = True, poison: dict[int, float] | None = None
) -> Task:
    """Two Gaussian blobs in four dimensions, ``records`` a client."""
    rng = np.random.default_rng(7)
    total = clients * records + 100
    y = rng.integers(0, 2, total)
    x = rng.normal(size=(total, 4)).astype(np.float32) + (2.0 * y[:, None] - 1.0).astype(np.float32)

    def data(client: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(client * records, (client + 1) * records)
        inputs = x[part].copy()
        if poison and client in poison:
            inputs[0, 0] = poison[client]
        return inputs, y[part]

    return Task(
        name="tiny",
        model=lambda: torch.nn.Linear(4, 2),
        data=data,
        examples_per_client=records,
        test=(lambda: (x[-100:], y[-100:])) if test else None,
    )
