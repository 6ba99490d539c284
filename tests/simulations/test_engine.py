"""The simulation: equal to plain training without noise, reproducible with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tacit import Task, simulate
from tacit.configs import build
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.tasks import vector
from tacit.tasks.task import make_model

MakeTask = Callable[..., Task]

PLAIN = [
    "experiment=none",
    "mechanism=central",
    "aggregation=plain",
    "clients=20",
    "cohort=20",
    "rounds=1",
    "privacy.client=none",
    "optimizer=fedavg",
    "local.learning_rate=0.3",
]


def released(home: Home, artifact: str) -> np.ndarray:
    arrays = ModelRegistry(home, Store(home)).get(artifact)
    return np.concatenate([arrays[name].ravel() for name in ("weight", "bias")])


@pytest.mark.parametrize(
    "record",
    [
        ["privacy.record=none"],
        # The DP-SGD path with noise off and a clip that never binds.
        ["privacy.record.noise_multiplier=0", "privacy.record.clip=1000"],
    ],
)
def test_one_step_without_noise_is_centralised_sgd(
    tiny: MakeTask, home: Home, record: list[str]
) -> None:
    task = tiny()
    result = simulate([*PLAIN, *record], task=task, home=home.root)
    x = torch.cat([torch.as_tensor(task.data(k)[0]) for k in range(20)])
    y = torch.cat([torch.as_tensor(task.data(k)[1]) for k in range(20)])
    model = make_model(task, 0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.3)
    task.loss(model(x), y).backward()
    sgd.step()
    ours = released(home, result.artifact_sha256)
    assert np.linalg.norm(ours - vector.read(model)) <= 1e-6 * np.linalg.norm(ours)


def test_same_seed_same_artifact_and_another_seed_another(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    first, again, other = (
        simulate([*overrides, f"seed={seed}"], task=tiny(), home=home.root) for seed in (1, 1, 2)
    )
    assert first.artifact_sha256 == again.artifact_sha256 != other.artifact_sha256
    # Epsilon is a property of the plan, not of the seed.
    assert first.epsilon == again.epsilon == other.epsilon


def test_without_a_seed_nothing_repeats(tiny: MakeTask, overrides: list[str], home: Home) -> None:
    runs = [simulate([*overrides, "seed=null"], task=tiny(), home=home.root) for _ in range(2)]
    assert runs[0].artifact_sha256 != runs[1].artifact_sha256
    store = Store(home)
    sources = {
        leaf["body"]["noise_source"] for leaf in store.spending() if leaf["kind"] == "CHARGE"
    }
    assert sources == {"os-csprng"}


def test_the_ledger_names_a_simulations_noise(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    simulate(overrides, task=tiny(), home=home.root)
    charges = [leaf["body"] for leaf in Store(home).spending() if leaf["kind"] == "CHARGE"]
    assert {c["noise_source"] for c in charges} == {"seeded-simulation"}


def test_the_global_generator_is_left_alone(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    simulate([*overrides, "rounds=1"], task=tiny(), home=home.root)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("optimizer", ["fedavg", "fedavgm", "fedadam"])
def test_every_optimizer_learns(tiny: MakeTask, home: Home, optimizer: str) -> None:
    settings = [
        "experiment=none",
        "mechanism=central",
        "aggregation=plain",
        "clients=20",
        "cohort=20",
        "rounds=15",
        "privacy.client=none",
        "privacy.record=none",
        "local.learning_rate=0.3",
        f"optimizer={optimizer}",
    ]
    result = simulate(settings, task=tiny(), home=home.root)
    assert result.metrics["accuracy"] > 0.9


def test_claims_are_recomputed_from_the_ledger(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    result = simulate(overrides, task=tiny(), home=home.root)
    rows = {(c["unit"], c["adversary"], c["amplified"]): c for c in result.claims}
    assert rows["client", "public", True]["epsilon"] == pytest.approx(
        result.epsilon["client"], rel=1e-6
    )
    assert rows["client", "coordinator", False]["epsilon"] is None
    for row in rows.values():
        if row["epsilon"] is not None:
            assert row["cross_check"] >= row["epsilon"] * 0.999
            assert row["accountant"].startswith("dp-accounting")
            assert row["method"] == "pld"


def test_claims_of_shared_noise_are_recomputed_from_the_ledger(
    tiny: MakeTask, secure: list[str], home: Home
) -> None:
    settings = [*secure, "cohort=15", "minimum_survivors=7", "secure.collusion=2"]
    result = simulate(settings, task=tiny(), home=home.root)
    rows = {(c["unit"], c["adversary"], c["amplified"]): c for c in result.claims}
    names = {
        "client": ("public", True),
        "client_unamplified": ("public", False),
        "client_coordinator": ("coordinator", False),
        "client_collusion": ("collusion", False),
    }
    for name, (who, amplified) in names.items():
        row = rows["client", who, amplified]
        assert row["epsilon"] == pytest.approx(result.epsilon[name], rel=1e-6)
        assert row["method"] == "rdp"
        assert row["cross_check"] >= row["epsilon"] * 0.999
    order = [result.epsilon[name] for name in names]
    assert order == sorted(order)
    assert rows["client", "local", False]["epsilon"] > order[-1]
    # Records are protected by DP-SGD in the clients, whatever becomes of the sum.
    assert rows["record", "local", True]["method"] == "pld"


def test_fewer_clients_than_the_task_has(tiny: MakeTask, overrides: list[str], home: Home) -> None:
    result = simulate([*overrides, "clients=10", "cohort=5"], task=tiny(), home=home.root)
    assert result.rounds == 3


def test_an_empty_client_and_one_with_a_single_record_take_part(home: Home) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 2, 40)
    ends = {0: slice(0, 0), 1: slice(0, 1), 2: slice(1, 40)}
    task = Task(
        name="uneven",
        model=lambda: torch.nn.Linear(4, 2),
        data=lambda k: (x[ends[k]], y[ends[k]]),
        examples_per_client=13,
        test=lambda: (x, y),
    )
    for record in ("dpsgd", "none"):
        for evaluation in ("public", "federated"):
            settings = [
                "experiment=none",
                "mechanism=central",
                "aggregation=plain",
                "clients=3",
                "cohort=3",
                "rounds=2",
                "local.steps=3",
                f"privacy.record={record}",
                f"evaluation={evaluation}",
            ]
            result = simulate(settings, task=task, home=home.root)
            accepted = [row["accepted"] for row in Store(home).rounds(result.run)]
            assert accepted == [3, 3]


def test_digits_learns_within_its_budget(home: Home) -> None:
    """A short version of the default; the whole of it is benchmarks/utility.py."""
    result = simulate(["rounds=15", "budget.epsilon=3"], home=home.root)
    assert result.metrics["accuracy"] > 0.8
    assert result.epsilon["client"] is not None
    assert result.epsilon["client"] < 3


def test_result_is_what_was_asked_for(home: Home, tiny: MakeTask, overrides: list[str]) -> None:
    seen = []
    result = simulate(overrides, task=tiny(), home=home.root, progress=seen.append)
    assert [r.round for r in seen] == [1, 2, 3]
    printed = result.to_json()
    assert printed["epsilon"] == seen[-1].epsilon
    assert printed["artifact_sha256"] == seen[-1].artifact
    assert printed["delta"] == pytest.approx(build.compose(overrides).clients ** -1.1)
    assert (result.folder / "report.html").is_file()
