"""Audits of real runs: a broken mechanism is caught, and the right one isn't.

Seeds and secrets are fixed, so each outcome is too; the margins are noted where they matter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tacit
from tacit import Task
from tacit.client.dpsgd import NoisyOptimizer
from tacit.configs import build
from tacit.privacy import mechanisms
from tacit.privacy.audit.canaries import Canaries
from tacit.privacy.discrete.layers import Shares
from tacit.privacy.errors import BudgetError, ConfigError
from tacit.server import check
from tacit.server.cohort import Sampler
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.simulations.audit import AuditResult, _released, audit_one_run, audit_one_shot
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
# 150 canaries on 60 clients of two records each.
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
    monkeypatch.setattr(Shares, "surplus", lambda self, *_: np.zeros(self.length, dtype=np.int64))


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
    assert right.amplified == (overrides is SAMPLED)


def test_secure_aggregation_hides_no_missing_noise(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = audited(SECURE, home, canaries=110)
    no_shares(monkeypatch)
    broken = audited(SECURE, home, canaries=110)
    assert not right.violated
    assert broken.violated


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
    assert (right.unit, right.adversary) == ("record", "public")
    assert not right.violated
    assert broken.violated
    assert broken.lower_bound > 1.2 * (broken.charged or 0)


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
    assert right.estimate is not None
    assert right.charged is not None
    # One round: either statistic is the mechanism's own, but for sampling error.
    assert right.charged / 2 < right.estimate < 2 * right.charged + 1
    assert right.lower_bound < right.estimate
    assert not right.violated
    assert broken.violated


def test_canaries_go_through_the_clip_and_excluded_ones_are_zero(home: Home) -> None:
    # Everybody is a canary and nobody adds noise: the release is the sum of what was bounded.
    task = wide(40)
    canaries = Canaries("client", "one-run", 40, SECRET)
    overrides = [*CLIENTS, "clients=40", "cohort=40", "rounds=1", "mechanism=central"]
    overrides += ["aggregation=plain", "privacy.client.noise_multiplier=0"]
    overrides += ["privacy.client.clip=0.5", "optimizer.learning_rate=0.25"]
    result = audit_one_run(
        overrides, canaries=40, task=task, home=home.root, secret=SECRET, guesses=[19]
    )
    spec = build.compose(overrides)
    plant = PlantedClients(task, spec, canaries)
    updates = _released(result.run, home.root, task, spec).updates
    scores = plant.scores(Released(np.zeros((2, updates.shape[1])), updates))
    assert scores == pytest.approx(canaries.included() * 0.5 / 40, abs=1e-6)
    # Nothing is claimed without noise, so nothing is refuted.
    assert result.charged is None
    assert not result.violated
    coins = int(canaries.included().sum())
    assert result.detail["correct"] == min(19, coins) + min(19, 40 - coins)


def test_canary_records_are_added_by_their_coins_alone() -> None:
    task, spec = wide(60), build.compose(RECORDS)
    canaries = Canaries("record", "one-run", 150, SECRET)
    plant = PlantedRecords(task, spec, canaries)
    assert plant.trainer is None
    places, included = canaries.places(60), canaries.included()
    for client in range(60):
        own_x, own_y = task.data(client)
        x, y = plant.task.data(client)
        assert np.array_equal(x[: len(own_x)], own_x)
        assert np.array_equal(y[: len(own_y)], own_y)
        added = int((included & (places == client)).sum())
        assert len(x) == len(y) == len(own_x) + added


def test_a_records_score_is_how_far_its_clipped_gradient_was_followed() -> None:
    task, spec = wide(4, inputs=6), build.compose([*RECORDS, "clients=4", "cohort=4"])
    records = wide(8, inputs=6).data(0)
    canaries = Canaries("record", "one-run", 2, SECRET)
    plant = PlantedRecords(task, spec, canaries, records)
    model = make_model(task, 0)
    gradients = []
    for x, y in zip(*records, strict=True):
        model.zero_grad()
        task.loss(model(torch.as_tensor(x)[None]), torch.as_tensor([y])).backward()
        whole = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        gradients.append((whole / max(1.0, float(whole.norm()))).double().numpy())
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double().numpy()
    update = np.random.default_rng(1).normal(size=len(start))
    scores = plant.scores(Released(np.stack([start, start]), update[None]))
    assert scores == pytest.approx(-np.array(gradients) @ update, rel=1e-5)


def test_an_empty_client_takes_canaries(home: Home) -> None:
    data = wide(60).data
    task = dataclasses.replace(wide(60), data=lambda k: data(k) if k else (data(k)[0][:0], []))
    plant = PlantedRecords(task, build.compose(RECORDS), Canaries("record", "one-run", 99, SECRET))
    assert np.isfinite(plant.scores(_nothing(1010))).all()


def _nothing(size: int) -> Released:
    return Released(np.zeros((2, size)), np.zeros((1, size)))


def test_the_commitment_is_logged_before_anybody_trains_and_the_result_after(home: Home) -> None:
    started: list[str] = []
    result = audit_one_run(
        [*CENTRAL, "clients=40", "cohort=40"],
        canaries=20,
        task=wide(40),
        home=home.root,
        started=lambda run, spec: started.append(run["id"]),
    )
    assert started == [result.run]
    store = Store(home)
    leaves = [leaf["body"] for leaf in store.leaves(result.run)]
    kinds = [leaf["kind"] for leaf in leaves]
    first, last = (i for i, kind in enumerate(kinds) if kind == "AUDIT")
    assert first < kinds.index("CHARGE")
    assert last == len(kinds) - 1
    assert leaves[first]["commitment"] == leaves[last]["commitment"] == result.commitment
    assert "secret" not in leaves[first]
    opened = Canaries("client", "one-run", 20, bytes.fromhex(leaves[last]["secret"]))
    assert opened.secret != SECRET
    assert opened.opens(result.commitment)
    assert check.verify(store).findings == []


def test_a_refuted_claim_freezes_releases_until_somebody_explains_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(mechanisms, "noisy_sum", lambda total, *_: total)
        assert audited(CENTRAL, home).violated
    with pytest.raises(BudgetError, match="audit"):
        tacit.simulate([*CENTRAL, "rounds=1"], task=wide(), home=home.root)
    store = Store(home)
    assert store.run("last")["status"] == "refused"
    assert check.verify(store).findings == []


def test_results_are_json(home: Home) -> None:
    result = audited(CENTRAL, home, guesses=[20, 50])
    found = json.loads(json.dumps(result.to_json()))
    fields = {field.name for field in dataclasses.fields(AuditResult)}
    assert set(found) == fields | {"violated"}
    assert found["canaries"] == 200
    assert found["delta"] == 1e-5


@pytest.mark.parametrize(
    ("overrides", "more", "said"),
    [
        (["optimizer=fedavgm"], {}, "optimizer=fedavgm"),
        (["privacy.client=adaptive"], {}, "adaptive"),
        (["privacy.client=none"], {}, "privacy.client=none"),
        ([], {"unit": "record"}, "privacy.record=none"),
        ([], {"unit": "site"}, "unit=site"),
        ([], {"canaries": 221}, "canaries=221"),
        ([], {"guesses": [101]}, "guesses=101"),
        ([], {"confidence": 1.0}, "confidence"),
        ([], {"records": (np.zeros((2, 100)), [0, 1])}, "records"),
        ([], {"secret": b"short"}, "secret"),
    ],
)
def test_what_cannot_be_audited_is_refused_before_the_run(
    overrides: list[str], more: dict[str, Any], said: str, home: Home
) -> None:
    settings = {"canaries": 200, "task": wide(), "home": home.root, **more}
    base = [line for line in CENTRAL if not overrides or "noise_multiplier" not in line]
    base = [line for line in base if line.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    with pytest.raises(ConfigError, match=said):
        audit_one_run([*base, *overrides], **settings)
    assert not home.database.exists()


def test_one_shot_refuses_an_unknown_statistic(home: Home) -> None:
    with pytest.raises(ConfigError, match="statistic=mean"):
        audit_one_shot(CENTRAL, statistic="mean", task=wide(), home=home.root)


def test_made_up_records_need_numbers(home: Home) -> None:
    task = dataclasses.replace(wide(60), data=lambda k: (np.ones((2, 100), dtype=np.int64), [0, 1]))
    with pytest.raises(ConfigError, match="int64"):
        audit_one_run(RECORDS, unit="record", task=task, home=home.root)


def test_wrong_number_of_records_is_refused(home: Home) -> None:
    with pytest.raises(ConfigError, match="canaries=9"):
        audit_one_run(
            RECORDS,
            unit="record",
            canaries=9,
            records=wide(60).data(0),
            task=wide(60),
            home=home.root,
        )
