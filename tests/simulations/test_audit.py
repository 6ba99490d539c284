"""Audits of real runs: a broken mechanism is caught, and the right one isn't.

Seeds and secrets are fixed, so each outcome is too; the margins are noted where they matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tacit import Task
from tacit.client.dpsgd import NoisyOptimizer
from tacit.configs import build
from tacit.privacy import mechanisms
from tacit.privacy.audit.canaries import Canaries
from tacit.privacy.discrete.layers import Shares
from tacit.privacy.errors import ConfigError
from tacit.server.cohort import Sampler
from tacit.server.home import Home
from tacit.server.store import Row, Store
from tacit.simulations.audit import AuditResult, audit_one_run, audit_one_shot
from tacit.simulations.planting import PlantedClients, PlantedRecords, Released
from tacit.tasks.task import make_model

SECRET = bytes(range(32))
COMMON = ["experiment=none", "optimizer=fedavg", "evaluation=none", "attempts=1", "delta=1e-5"]
CLIENTS = [*COMMON, "privacy.record=none", "clients=220"]
CENTRAL = [
    *CLIENTS,
    "cohort=220",
    "rounds=1",
    "mechanism=central",
    "aggregation=plain",
    "privacy.client.noise_multiplier=1.5",
]
# Each canary is in about 3 of 30 rounds.
SAMPLED = [
    *CLIENTS,
    "cohort=22",
    "rounds=30",
    "mechanism=central",
    "aggregation=plain",
    "privacy.client.noise_multiplier=2.0",
]
SHARES = [
    *CLIENTS,
    "cohort=220",
    "rounds=1",
    "mechanism=skellam",
    "aggregation=plain",
    "secure.dropout=0",
    "privacy.client.noise_multiplier=1.5",
]
SECURE = [
    *COMMON,
    "privacy.record=none",
    "clients=120",
    "cohort=120",
    "rounds=1",
    "mechanism=skellam",
    "aggregation=secure",
    "secure.dropout=0",
    "privacy.client.noise_multiplier=2.0",
]
# 120 canaries on 60 clients of two records each.
RECORDS = [
    *COMMON,
    "privacy.client=none",
    "clients=60",
    "cohort=60",
    "rounds=1",
    "mechanism=central",
    "aggregation=plain",
    "privacy.record.clip=1.0",
    "privacy.record.noise_multiplier=0.25",
    "privacy.record.sampling_rate=1.0",
    "local.steps=1",
]


def wide(clients: int = 220, inputs: int = 100, records: int = 2) -> Task:
    """A linear model with room for the canaries: 10 * (inputs + 1) parameters."""
    rng = np.random.default_rng(7)
    y = rng.integers(0, 10, clients * records)
    x = rng.normal(size=(clients * records, inputs)).astype(np.float32)

    def data(client: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(client * records, (client + 1) * records)
        return x[part], y[part]

    return Task(
        name="wide",
        model=lambda: torch.nn.Linear(inputs, 10),
        data=data,
        examples_per_client=records,
    )


def audited(overrides: list[str], home: Home, canaries: int = 200, **more: Any) -> AuditResult:
    return audit_one_run(
        overrides, canaries=canaries, task=wide(), home=home.root, secret=SECRET, **more
    )


def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "noisy_sum", lambda total, *_: total)


def unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "clip", lambda vector, _: vector.astype(np.float64))


def no_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shares, "add", lambda *_: None)
    monkeypatch.setattr(
        Shares, "surplus", lambda self, *_: np.zeros(self.length, dtype=np.int64)
    )


def always_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canaries are in every cohort, the others as planned."""
    drawn = Sampler.draw
    places = set(Canaries("client", "one-run", 200, SECRET).places(220).tolist())

    def draw(self: Sampler, purpose: str, round: int, aborts: int) -> list[int]:
        return sorted(places | set(drawn(self, purpose, round, aborts)))

    monkeypatch.setattr(Sampler, "draw", draw)


def no_record_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    add = NoisyOptimizer.add_noise

    def silent(self: NoisyOptimizer) -> None:
        kept, self.noise_multiplier = self.noise_multiplier, 0.0
        add(self)
        self.noise_multiplier = kept

    monkeypatch.setattr(NoisyOptimizer, "add_noise", silent)


@pytest.mark.parametrize(
    ("overrides", "breaks"),
    [(CENTRAL, noiseless), (CENTRAL, unclipped), (SAMPLED, always_drawn), (SHARES, no_shares)],
    ids=["noise left out", "clip left out", "draw not secret", "shares left out"],
)
def test_a_broken_mechanism_is_caught_and_the_right_one_is_not(
    overrides: list[str],
    breaks: Callable[[pytest.MonkeyPatch], None],
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = audited(overrides, home)
    breaks(monkeypatch)
    broken = audited(overrides, home)
    assert right.charged is not None
    assert right.charged == broken.charged
    assert 1 < right.charged < 4
    assert not right.violated
    assert broken.violated
    print(right.lower_bound, broken.lower_bound, right.charged, right.detail, broken.detail)


def test_secure_aggregation_hides_no_missing_noise(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = audited(SECURE, home, canaries=110)
    no_shares(monkeypatch)
    broken = audited(SECURE, home, canaries=110)
    assert not right.violated
    assert broken.violated
    print(right.lower_bound, broken.lower_bound, right.charged)


def test_missing_noise_in_dp_sgd_is_caught_at_record_level(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = wide(60, inputs=200)

    def records() -> AuditResult:
        return audit_one_run(
            RECORDS, unit="record", canaries=150, task=task, home=home.root, secret=SECRET
        )

    right = records()
    no_record_noise(monkeypatch)
    broken = records()
    assert right.unit == "record"
    assert not right.violated
    assert broken.violated
    print(right.lower_bound, broken.lower_bound, right.charged, right.detail, broken.detail)


@pytest.mark.parametrize("statistic", ["final", "max"])
def test_one_shot_estimates_epsilon_and_catches_missing_noise(
    statistic: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shot() -> AuditResult:
        return audit_one_shot(
            CENTRAL,
            canaries=150,
            statistic=statistic,
            task=wide(inputs=400),
            home=home.root,
            secret=SECRET,
        )

    right = shot()
    noiseless(monkeypatch)
    broken = shot()
    print(right.lower_bound, right.estimate, broken.lower_bound, broken.estimate, right.charged)
    assert not right.violated
    assert broken.violated


def test_made() -> None:
    assert dataclasses and Row and Store and ConfigError and build
    assert PlantedClients and PlantedRecords and Released and make_model
