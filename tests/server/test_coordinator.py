"""The round: charged before it is asked, noised as planned, released whole or not at all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from scipy import stats

from tacit import Task, simulate
from tacit.client.app import make_app, number
from tacit.configs import build, wire
from tacit.configs.planning import privacy_plan
from tacit.privacy.errors import BudgetError, ConfigError, RoundError
from tacit.privacy.ledger import replay
from tacit.privacy.messages import TrainReply, TrainRequest
from tacit.server import runs
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.metrics import federated_metrics
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid

MakeTask = Callable[..., Task]


def federate(
    task: Task, overrides: list[str], home: Home, app: ClientApp | None = None
) -> tuple[Store, str, list[RoundResult]]:
    """Runs a federation whose clients may be of another make."""
    spec, store = build.compose(overrides), Store(home)
    run = runs.create(spec, task, store)
    config = {"spec": json.dumps(spec.to_dict())}
    grid = InProcessGrid(app or make_app(task), spec.clients, config)
    with runs.coordinator(run, task, store, home, Legs(grid, grid.nodes)) as coordinator:
        return store, run["id"], list(coordinator.rounds())


def answering(update: Callable[[TrainRequest, int], TrainReply | None], task: Task) -> ClientApp:
    """Clients that answer as ``update`` says, honestly where it says None."""
    honest, app = make_app(task), ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = update(wire.unpack(TrainRequest, message), number(context))
        if reply is None:
            return honest(message, context)
        return Message(wire.pack(reply), reply_to=message)

    return app


def parameters(store: Store, run: str) -> np.ndarray:
    version = store.versions(run=run)[-1]
    arrays = ModelRegistry(store.home, store).get(version["artifact"])
    return np.concatenate([arrays[name].ravel() for name in ("weight", "bias")])


NOISELESS = [
    "experiment=none",
    "mechanism=central",
    "aggregation=plain",
    "clients=20",
    "cohort=20",
    "rounds=1",
    "privacy.client=none",
    "privacy.record=none",
    "optimizer=fedavg",
]


def test_nobody_is_asked_before_the_charge_is_committed(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    task = tiny()
    seen: list[tuple[int, int]] = []

    def data(client: int) -> object:
        # Another connection sees only what is committed.
        with sqlite3.connect(home.database) as c:
            kinds = [k for (k,) in c.execute('select kind from leaves order by "index"')]
        seen.append((kinds.count("CHARGE"), kinds.count("RELEASE")))
        return task.data(client)

    _, _, results = federate(
        Task(**{**vars_of(task), "data": data}), [*overrides, "evaluation=federated"], home
    )
    asked = results[0].asked
    assert set(seen[:asked]) == {(1, 0)}
    # The evaluation's clients are asked under a second charge, nothing being released yet.
    assert seen[asked] == (2, 0)
    assert all(charged > released for charged, released in seen)


def vars_of(task: Task) -> dict[str, object]:
    return {name: getattr(task, name) for name in Task.__dataclass_fields__}


def test_budget_stops_before_the_round_that_would_exceed_it(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    free = simulate([*overrides, "rounds=4"], task=tiny(), home=home.root)
    spent = [r["epsilon"]["client"] for r in Store(home).rounds(free.run)]
    cap = (spent[1] + spent[2]) / 2
    result = simulate(
        [*overrides, "rounds=4", f"budget.epsilon={cap}"], task=tiny(), home=home.root
    )
    assert (result.status, result.rounds) == ("stopped", 2)
    assert "budget.epsilon" in result.message
    kinds = [leaf["kind"] for leaf in Store(home).spending(result.run)]
    assert kinds == ["CHARGE", "RELEASE"] * 2


def test_a_budget_too_small_for_any_round_asks_nobody(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    task = tiny()

    def data(client: int) -> object:
        raise AssertionError("a client was asked")

    with pytest.raises(BudgetError, match=r"budget\.epsilon=0\.01"):
        simulate(
            [*overrides, "budget.epsilon=0.01"],
            task=Task(**{**vars_of(task), "data": data}),
            home=home.root,
        )
    store = Store(home)
    assert store.spending() == []
    assert store.runs()[0]["status"] == "refused"


def test_the_budget_counts_the_evaluation_too(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    without = simulate([*overrides, "rounds=1"], task=tiny(), home=home.root)
    cap = without.epsilon["client"]
    assert cap is not None
    with pytest.raises(BudgetError):
        simulate(
            [*overrides, "rounds=1", "evaluation=federated", f"budget.epsilon={cap * 1.0001}"],
            task=tiny(),
            home=home.root,
        )


def test_a_record_budget_stops_too(tiny: MakeTask, overrides: list[str], home: Home) -> None:
    one = simulate([*overrides, "rounds=1", "cohort=20"], task=tiny(), home=home.root)
    cap = one.epsilon["record"]
    result = simulate(
        [*overrides, "cohort=20", f"budget.record_epsilon={cap}"], task=tiny(), home=home.root
    )
    assert (result.status, result.rounds) == ("stopped", 1)


def test_the_release_names_what_was_released(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    store, run, results = federate(tiny(), overrides, home)
    leaves = {leaf["index"]: leaf["body"] for leaf in store.spending(run)}
    for result, version in zip(results, store.versions(run=run), strict=True):
        assert version["artifact"] == result.artifact
        body = leaves[version["release"]]
        assert body["artifact"] == version["artifact"]
        assert (body["name"], body["number"]) == (version["name"], version["number"])
        assert leaves[version["charge"]]["kind"] == "CHARGE"
        assert version["charge"] == body["charge"] < version["release"]
        assert version["metrics"] == body["metrics"] == result.metrics
    deltas = {"client": 20**-1.1, "record": 120**-1.1}
    again = replay([leaf["body"] for leaf in store.spending(run)], deltas)
    assert again.epsilon("client", "public", True) == pytest.approx(
        results[-1].epsilon["client"], rel=1e-6
    )


def test_central_noise_has_the_planned_deviation(tiny: MakeTask, home: Home) -> None:
    """Clients that send zeros leave the noise alone: N(0, (z C / cohort)^2)."""
    task = tiny()
    zeros = answering(
        lambda r, k: TrainReply(
            r.run, r.round, r.attempt, np.zeros(r.parameters.size, np.float32), np.zeros(0)
        ),
        task,
    )
    settings = [
        "experiment=none",
        "mechanism=central",
        "aggregation=plain",
        "clients=20",
        "cohort=10",
        "rounds=60",
        "optimizer=fedavg",
        "evaluation=none",
        "privacy.client.clip=0.7",
        "privacy.client.noise_multiplier=3.0",
    ]
    store, run, _ = federate(task, settings, home, zeros)
    registry = ModelRegistry(home, store)
    path = [registry.get(v["artifact"]) for v in store.versions(run=run)]
    steps = np.diff([np.concatenate([a["weight"].ravel(), a["bias"]]) for a in path], axis=0)
    standard = steps.ravel() / (3.0 * 0.7 / 10)
    assert stats.kstest(standard, "norm").pvalue > 1e-6
    # Three in a hundred is one standard error here; a quarter off would be seen.
    low, high = stats.chi2(standard.size).ppf([1e-7, 1 - 1e-7])
    assert low < float((standard**2).sum()) < high
    assert not low < float(((1.25 * standard) ** 2).sum()) < high


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_a_client_that_does_not_clip_moves_no_more_than_the_clip(
    tiny: MakeTask, home: Home, scale: float
) -> None:
    task = tiny()

    def huge(request: TrainRequest, client: int) -> TrainReply:
        size = request.parameters.size
        vector = np.full(size, scale if client == 3 else 0.0, np.float32)
        return TrainReply(request.run, request.round, request.attempt, vector, np.zeros(0))

    settings = [*NOISELESS, "privacy.client=flat", "privacy.client.noise_multiplier=0"]
    store, run, _ = federate(
        task, [*settings, "privacy.client.clip=0.5"], home, answering(huge, task)
    )
    from tacit.tasks import vector
    from tacit.tasks.task import make_model

    start = vector.read(make_model(task, 0))
    assert np.linalg.norm(parameters(store, run) - start) == pytest.approx(0.5 / 20, rel=1e-4)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lambda r: (np.full(r.parameters.size, np.nan), 0), "not finite"),
        (lambda r: (np.full(r.parameters.size, np.inf), 0), "not finite"),
        (lambda r: (np.zeros(r.parameters.size + 1), 0), "wrong round or shape"),
        (lambda r: (np.zeros(0), 0), "wrong round or shape"),
        (lambda r: (np.zeros(r.parameters.size), 1), "wrong round or shape"),
    ],
)
def test_a_bad_vector_counts_as_zero_and_is_reported(
    tiny: MakeTask, home: Home, bad: Callable[..., tuple[np.ndarray, int]], why: str
) -> None:
    task = tiny()

    def mixed(request: TrainRequest, client: int) -> TrainReply | None:
        vector, late = bad(request)
        if client >= 2:
            vector, late = np.ones(request.parameters.size), 0
        return TrainReply(
            request.run,
            request.round + late,
            request.attempt,
            vector.astype(np.float32),
            np.zeros(0, np.float32),
        )

    settings = [*NOISELESS, "minimum_survivors=10"]
    store, run, results = federate(task, settings, home, answering(mixed, task))
    assert results[0].rejected == {why: 2}
    assert results[0].accepted == 18
    from tacit.tasks import vector
    from tacit.tasks.task import make_model

    # Divided by the expected cohort, not by those who were left.
    moved = parameters(store, run) - vector.read(make_model(task, 0))
    np.testing.assert_allclose(moved, 18 / 20, rtol=1e-5)
    # The counts are the operator's: no leaf has them.
    assert all("rejected" not in leaf["body"] for leaf in store.spending(run))


def test_a_client_that_crashes_costs_itself(tiny: MakeTask, home: Home) -> None:
    task = tiny()

    def crash(request: TrainRequest, client: int) -> TrainReply | None:
        if client == 4:
            raise ValueError("boom")
        return None

    _, _, results = federate(
        task, [*NOISELESS, "minimum_survivors=19"], home, answering(crash, task)
    )
    assert results[0].rejected == {"error": 1}


def test_a_cohort_that_fails_whole_says_why(tiny: MakeTask, home: Home) -> None:
    task = tiny()

    def crash(request: TrainRequest, client: int) -> TrainReply | None:
        raise ValueError("boom")

    with pytest.raises(RoundError, match=r"(?s)all 20 clients.*boom"):
        federate(task, NOISELESS, home, answering(crash, task))


def test_too_few_survivors_release_nothing_and_the_charge_stands(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    task = tiny(poison={3: np.nan})
    settings = [*overrides, "privacy.record=none", "cohort=20", "rounds=1"]
    with pytest.raises(RoundError, match="minimum_survivors=20"):
        simulate(settings, task=task, home=home.root)
    store = Store(home)
    kinds = [leaf["kind"] for leaf in store.spending()]
    assert kinds == ["CHARGE", "ABANDON"]
    assert store.versions() == []
    assert store.runs()[0]["status"] == "failed"
    # Another attempt is another charge.
    with pytest.raises(RoundError):
        simulate(task=task, home=home.root, resume="last")
    bodies = [leaf["body"] for leaf in store.spending()]
    assert [b["attempt"] for b in bodies if b["kind"] == "CHARGE"] == [0, 1]


def test_under_dpsgd_one_poisoned_record_does_not_cost_a_client(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    settings = [*overrides, "cohort=20", "rounds=1"]
    result = simulate(settings, task=tiny(poison={3: np.nan, 4: np.inf}), home=home.root)
    assert Store(home).rounds(result.run)[0]["accepted"] == 20


def test_weighting_by_examples_is_the_weighted_mean(home: Home) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)).astype(np.float32), rng.integers(0, 2, 30)
    sizes = {0: slice(0, 5), 1: slice(5, 30)}
    import torch

    task = Task(
        name="two",
        model=lambda: torch.nn.Linear(4, 2),
        data=lambda k: (x[sizes[k]], y[sizes[k]]),
        examples_per_client=15,
        test=lambda: (x, y),
    )
    settings = [*NOISELESS, "clients=2", "cohort=2", "weighting=examples", "weighting.cap=30"]
    store, run, _ = federate(task, settings, home)
    one = torch.nn.Linear(4, 2)
    from tacit.tasks import vector
    from tacit.tasks.task import make_model

    start = make_model(task, 0)
    one.load_state_dict(start.state_dict())
    sgd = torch.optim.SGD(one.parameters(), lr=build.compose(settings).local.learning_rate)
    torch.nn.functional.cross_entropy(one(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    sgd.step()
    np.testing.assert_allclose(parameters(store, run), vector.read(one), atol=1e-6)


def test_adaptive_clipping_finds_the_quantile(tiny: MakeTask, home: Home) -> None:
    """Updates of norm 1..20 over 20 clients: the median lies between 10 and 11."""
    task = tiny()

    def norms(request: TrainRequest, client: int) -> TrainReply:
        vector = np.zeros(request.parameters.size, np.float32)
        vector[0] = client + 1
        vote = np.array([0.5 if client + 1 <= request.clip else -0.5], np.float32)
        return TrainReply(request.run, request.round, request.attempt, vector, vote)

    settings = [
        "experiment=none",
        "mechanism=central",
        "aggregation=plain",
        "clients=20",
        "cohort=20",
        "rounds=60",
        "evaluation=none",
        "privacy.client=adaptive",
        "privacy.client.clip=0.1",
        "privacy.client.noise_multiplier=0.5",
        "privacy.client.count_noise=0.5",
        "optimizer.learning_rate=0.001",
    ]
    store, run, results = federate(task, settings, home, answering(norms, task))
    from tacit.server.state import State

    state = State.load(home.run(run), store.run(run)["state"])
    assert 8 < state.clip < 13
    # The count is inside the charge, not beside it: the event is the planned multiplier.
    events = [
        c["event"]["noise_multiplier"]
        for leaf in store.spending(run)
        if leaf["kind"] == "CHARGE"
        for c in leaf["body"]["claims"]
        if c["unit"] == "client" and c["event"]
    ]
    assert set(events) == {0.5}
    assert len(results) == 60


def test_a_vote_that_is_no_vote_is_refused(tiny: MakeTask, home: Home) -> None:
    task = tiny()

    def stuffing(request: TrainRequest, client: int) -> TrainReply | None:
        if client > 0:
            return None
        vector = np.zeros(request.parameters.size, np.float32)
        vote = np.array([50.0], np.float32)
        return TrainReply(request.run, request.round, request.attempt, vector, vote)

    settings = [
        "experiment=none",
        "mechanism=central",
        "aggregation=plain",
        "clients=20",
        "cohort=20",
        "rounds=1",
        "minimum_survivors=10",
        "privacy.client=adaptive",
        "privacy.record=none",
    ]
    _, _, results = federate(task, settings, home, answering(stuffing, task))
    assert results[0].rejected == {"not finite": 1}


def test_federated_accuracy_without_noise_is_the_pooled_accuracy(
    tiny: MakeTask, home: Home
) -> None:
    task = tiny()
    settings = [*NOISELESS, "evaluation=federated", "evaluation.noise_multiplier=0"]
    store, run, results = federate(task, settings, home)
    weights = parameters(store, run)
    right = total = 0
    for k in range(20):
        x, y = task.data(k)
        right += int((np.argmax(x @ weights[:8].reshape(2, 4).T + weights[8:], 1) == y).sum())
        total += len(y)
    assert results[0].metrics["accuracy"] == pytest.approx(right / total, abs=1e-6)
    # Without noise nothing is claimed, and the ledger says so.
    assert results[0].epsilon["client"] is None


def test_federated_evaluation_is_charged_and_released(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    settings = [*overrides, "evaluation=federated", "evaluation.every=2"]
    store, run, results = federate(tiny(test=False), settings, home)
    shape = [
        (b["kind"], b["round"], b["purpose"]) for b in (r["body"] for r in store.spending(run))
    ]
    train, evaluate = "train", "evaluate"
    assert shape == [
        ("CHARGE", 1, train),
        ("RELEASE", 1, train),
        *[
            row
            for n in (2, 3)
            for row in (
                ("CHARGE", n, train),
                ("CHARGE", n, evaluate),
                ("RELEASE", n, evaluate),
                ("RELEASE", n, train),
            )
        ],
    ]
    plain = simulate([*overrides, "evaluation=none"], task=tiny(), home=home.root)
    assert plain.epsilon["client"] is not None
    assert results[-1].epsilon["client"] is not None
    assert results[-1].epsilon["client"] > plain.epsilon["client"]


def test_federated_metrics_stay_in_range_under_any_noise() -> None:
    spec = build.compose(["evaluation=federated"])
    how = privacy_plan(spec, 5, 10).evaluation
    assert how is not None
    rng = np.random.default_rng(0)
    for counts in rng.normal(size=(200, 3)) * 10:
        metrics = federated_metrics(counts, how)
        assert 0 <= metrics["accuracy"] <= 1
        assert 0 <= metrics["loss"] <= how.loss_cap
        assert 0 <= metrics["accuracy_noise"] <= 1


def test_a_run_resumes_only_with_its_own_task(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    task = tiny(poison=dict.fromkeys(range(20), np.nan))
    settings = [*overrides, "privacy.record=none", "cohort=20"]
    with pytest.raises(RoundError):
        simulate(settings, task=task, home=home.root)
    other = Task(**{**vars_of(tiny()), "examples_per_client": 600})
    with pytest.raises(ConfigError, match="privacy plan"):
        simulate(task=other, home=home.root, resume="last")


def test_code_version_names_the_source(tmp_path: Path) -> None:
    assert "+src." in runs.code_version()


def test_a_round_that_falls_short_is_attempted_again(
    tiny: MakeTask, overrides: list[str], home: Home
) -> None:
    # Client 3's update isn't finite: a cohort with it has one survivor too few for the plan.
    task = tiny(poison={3: np.nan})
    settings = [*overrides, "privacy.record=none", "rounds=2", "attempts=50", "seed=1"]
    plain = simulate(settings, task=tiny(), home=home.root)
    sizes = [row["asked"] for row in Store(home).rounds(plain.run)]
    settings.append(f"minimum_survivors={min(sizes)}")
    result = simulate(settings, task=task, home=home.root)
    bodies = [leaf["body"] for leaf in Store(home).spending(result.run)]
    kinds = [b["kind"] for b in bodies]
    assert kinds.count("RELEASE") == result.rounds == 2
    assert kinds.count("CHARGE") == 2 + kinds.count("ABANDON")
    assert kinds.count("ABANDON") > 0
    # Every attempt is charged.
    events = kinds.count("CHARGE")
    assert result.epsilon["client"] is not None
    assert plain.epsilon["client"] is not None
    assert (result.epsilon["client"] > plain.epsilon["client"]) == (events > 2)
