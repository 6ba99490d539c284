"""Faults: a round is released as its survivors make it, or not at all; by the seed, by config."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tacit import Task, simulate
from tacit.client.app import make_app
from tacit.configs import build, wire
from tacit.configs.faults import KINDS, LEGS, FaultsSpec
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest
from tacit.privacy.messages import Message as Body
from tacit.privacy.noise import Randomness
from tacit.privacy.secagg.server import AggregatingServer
from tacit.server.app import main
from tacit.server.cohort import Sampler
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.simulations import engine
from tacit.simulations.engine import Result
from tacit.simulations.faults import Fate, FaultyGrid
from tacit.simulations.grid import InProcessGrid

MakeTask = Callable[..., Task]

SECURE = [
    "experiment=none",
    "clients=20",
    "cohort=12",
    "rounds=1",
    "mechanism=skellam",
    "aggregation=secure",
    "minimum_survivors=5",
    "secure.dropout=0.3",
    "privacy.client.noise_multiplier=1.0",
    "privacy.record.noise_multiplier=1.0",
    "evaluation=none",
]
CENTRAL = [*SECURE, "mechanism=central", "aggregation=plain", "minimum_survivors=null"]
SURE = 1 - 1e-9


class Run:
    """A simulation, what its rounds were, and who was in each session."""

    def __init__(self, home: Home, task: Task, settings: list[str], **how: Any) -> None:
        self.rounds: list[RoundResult] = []
        self.end: Result | None = None
        self.error = ""
        self.sessions: dict[str, tuple[list[int], list[int]]] = {}
        with pytest.MonkeyPatch.context() as patch:
            honest = AggregatingServer.total

            def noted(server: AggregatingServer) -> Any:
                sets = (server.members, server.survivors)
                self.sessions[server.invitation.purpose] = sets
                return honest(server)

            patch.setattr(AggregatingServer, "total", noted)
            # Its plots take longer than the round.
            patch.setattr(engine.report, "write", lambda *_: None)
            progress = self.rounds.append
            try:
                self.end = simulate(settings, task=task, home=home.root, progress=progress, **how)
            except RoundError as error:
                self.error = error.message

    @property
    def result(self) -> Result:
        assert self.end is not None, self.error
        return self.end

    @property
    def rejected(self) -> dict[str, int]:
        return dict(sum((Counter(r.rejected) for r in self.rounds), Counter[str]()))


def expected(run: Run, home: Home, task: Task, settings: list[str]) -> Run:
    """The same round with vectors in the clear: the members asked, the survivors answering."""

    def draw(sampler: Sampler, purpose: str, number: int, aborts: int) -> list[int]:
        return list(run.sessions[purpose][0])

    def fate(grid: FaultyGrid, leg: str, body: Body, client: int) -> Fate:
        return Fate(client not in run.sessions[leg][1], False, False, False, False, 0.0, 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "draw", draw)
        patch.setattr(FaultyGrid, "fate", fate)
        return Run(home, task, [*settings, "aggregation=plain"])


@pytest.fixture
def task(tiny: MakeTask) -> Task:
    return tiny()


def test_a_wrapper_without_faults_changes_nothing(task: Task, home: Home) -> None:
    bare, wrapped = (
        Run(home, task, [*SECURE, f"faults.drop={p}"]).result.artifact_sha256 for p in (0, 1e-300)
    )
    assert bare == wrapped


# Whatever is lost after the vectors were sent, one and the same sum is expected.
EXPECTED: dict[str, Run] = {}


@pytest.mark.parametrize(
    ("kind", "leg", "reason"),
    [
        *(("drop", leg, "no reply") for leg in LEGS),
        *(("late", leg, "no reply") for leg in LEGS),
        *(("corrupt", leg, "refused") for leg in LEGS),
        ("equivocate", "advertise", "refused"),
        ("equivocate", "share", "refused"),
        ("equivocate", "train", "error"),
        ("equivocate", "evaluate", "error"),
        ("equivocate", "confirm", "refused"),
    ],
)
def test_a_fault_costs_clients_their_place_and_the_sum_is_the_survivors(
    task: Task, home: Home, caplog: pytest.LogCaptureFixture, kind: str, leg: str, reason: str
) -> None:
    # A seed at which every case has from one to three clients struck; four may drop.
    settings = [*SECURE, "clients=16", "cohort=16", "seed=688"]
    settings += [f"faults.{kind}=0.13", f"faults.legs={leg}"]
    if leg == "evaluate":
        settings += ["evaluation=federated"]
    with caplog.at_level(logging.INFO, "tacit.faults"):
        run = Run(home, task, settings)
    struck = sum(kind in r.getMessage() for r in caplog.records if r.name == "tacit.faults")
    assert 1 <= struck <= 3
    if leg != "evaluate":
        # The evaluation's losses aren't the round's.
        assert run.rejected == {reason: struck}
    (members, survivors) = run.sessions["evaluate" if leg == "evaluate" else "train"]
    lost = {"advertise": 0, "share": 0, "train": struck, "evaluate": struck}.get(leg, 0)
    assert len(members) - len(survivors) == lost
    asked = run.rounds[0].asked
    assert leg not in ("advertise", "share") or len(members) == asked - struck
    again = EXPECTED.get(repr(run.sessions)) or expected(run, home, task, settings)
    EXPECTED[repr(run.sessions)] = again
    assert run.result.artifact_sha256 == again.result.artifact_sha256
    assert run.result.metrics == again.result.metrics


def test_every_request_twice_changes_nothing(task: Task, home: Home) -> None:
    settings = [*SECURE, "rounds=2", "evaluation=federated"]
    once, twice = (
        Run(home, task, settings),
        Run(home, task, [*settings, f"faults.duplicate={SURE}"]),
    )
    assert once.result.artifact_sha256 == twice.result.artifact_sha256
    assert once.result.metrics == twice.result.metrics
    assert twice.rejected == {}


def test_with_everything_going_wrong_a_release_is_right_or_isnt_made(
    task: Task, home: Home
) -> None:
    released = 0
    for seed in range(4):
        faults = [f"faults.{kind}={0.02 + 0.01 * (seed % 3)}" for kind in KINDS]
        settings = [*SECURE, *faults, f"seed={seed}"]
        before = len(Store(home).versions())
        run = Run(home, task, settings)
        if run.end is None:
            assert "nothing was released" in run.error
            assert len(Store(home).versions()) == before
            continue
        again = expected(run, home, task, settings)
        assert run.result.artifact_sha256 == again.result.artifact_sha256
        released += 1
    # Both happen at these seeds.
    assert 0 < released < 4


def test_the_seed_says_what_goes_wrong(
    task: Task, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [f"faults.{kind}=0.02" for kind in KINDS]

    def told(seed: int) -> tuple[list[str], str, dict[str, int]]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "tacit.faults"):
            run = Run(home, task, [*SECURE, *faults, f"seed={seed}"])
        said = [r.getMessage() for r in caplog.records if r.name == "tacit.faults"]
        return said, run.error or run.result.artifact_sha256, run.rejected

    first = told(2)
    assert first[0]
    assert first == told(2)
    assert first[0] != told(4)[0]


def test_dropouts_are_counted_and_the_noise_is_as_planned(home: Home) -> None:
    """Variance over 4020 coordinates; noise left over from dropouts would add a fifth and more."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 200)).astype(np.float32), rng.integers(0, 20, 20)
    wide = Task(
        name="wide",
        model=lambda: torch.nn.Linear(200, 20),
        data=lambda k: (x[k : k + 1], y[k : k + 1]),
        examples_per_client=1,
        test=lambda: (x, y),
    )
    settings = [
        *SECURE,
        "cohort=20",
        "rounds=4",
        "optimizer=fedavg",
        "local.learning_rate=1e-6",
        "privacy.client.noise_multiplier=2",
        "faults.drop=0.05",
        "faults.legs=train",
    ]
    run = Run(home, wide, settings)
    assert all(r.accepted + r.rejected.get("no reply", 0) == r.asked for r in run.rounds)
    assert sum(r.asked - r.accepted for r in run.rounds) >= 3
    assert max(r.rejected.get("no reply", 0) for r in run.rounds) < 6
    registry, store = ModelRegistry(home, Store(home)), Store(home)
    models = [registry.get(v["artifact"]) for v in store.versions(run=run.result.run)]
    flat = [np.concatenate([m["weight"].ravel(), m["bias"]]) for m in models]
    spec = build.compose(settings)
    planned = 2 * spec.privacy.client.clip / spec.cohort
    for before, after in itertools.pairwise(flat):
        assert np.std(after - before) == pytest.approx(planned, rel=0.05)


def test_too_many_dropouts_end_the_round_and_another_attempt_meets_others(
    task: Task, home: Home
) -> None:
    settings = [*SECURE, "rounds=3", "faults.drop=0.08", "attempts=1"]
    run, aborts = Run(home, task, settings), 0
    while run.end is None:
        assert "nothing was released" in run.error
        aborts += 1
        assert aborts < 20
        run = Run(home, task, [], resume="last")
    finished = run.result
    assert aborts > 0
    assert (finished.status, finished.rounds) == ("finished", 3)
    bodies = [leaf["body"] for leaf in Store(home).spending(finished.run)]
    assert Counter(b["kind"] for b in bodies) == {
        "CHARGE": 3 + aborts,
        "RELEASE": 3,
        "ABANDON": aborts,
    }


def test_another_attempt_is_made_without_being_asked_for(task: Task, home: Home) -> None:
    settings = [*SECURE, "rounds=3", "faults.drop=0.08", "attempts=20"]
    finished = Run(home, task, settings).result
    assert (finished.status, finished.rounds) == ("finished", 3)
    kinds = Counter(leaf["body"]["kind"] for leaf in Store(home).spending(finished.run))
    assert kinds["ABANDON"] > 0
    assert kinds["CHARGE"] == kinds["RELEASE"] + kinds["ABANDON"]


@pytest.mark.parametrize("kind", ["drop", "late"])
def test_with_central_noise_who_is_gone_counts_as_zero(task: Task, home: Home, kind: str) -> None:
    run = Run(home, task, [*CENTRAL, "rounds=2", f"faults.{kind}=0.2"])
    lost = sum(r.asked - r.accepted for r in run.rounds)
    assert lost > 0
    assert run.rejected == {"no reply": lost}


def test_with_central_noise_a_second_answer_doesnt_count(task: Task, home: Home) -> None:
    once, twice = (
        Run(home, task, [*CENTRAL, f"faults.duplicate={p}"]).result.artifact_sha256
        for p in (0, SURE)
    )
    assert once == twice


@pytest.mark.parametrize("kind", ["corrupt", "equivocate"])
def test_with_central_noise_nothing_is_signed_and_the_clip_holds(
    task: Task, home: Home, kind: str
) -> None:
    run = Run(home, task, [*CENTRAL, f"faults.{kind}=0.3"])
    assert run.rounds[0].accepted + sum(run.rejected.values()) == run.rounds[0].asked


# The Grid by itself

REQUEST = EvaluateRequest(
    "run", 1, 0, "plan", "frozen", 0.0, 0, b"", np.arange(3, dtype=np.float32)
)


def answering() -> ClientApp:
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        request = wire.unpack(EvaluateRequest, message)
        place = (request.run, request.round, request.attempt)
        return Message(wire.pack(EvaluateReply(*place, request.parameters)), reply_to=message)

    return app


def faulty(legs: str = "all", seed: int | None = 0, **chances: float) -> FaultyGrid:
    inner = InProcessGrid(answering(), 8, {})
    known = dict.fromkeys(KINDS, 0.0) | chances
    return FaultyGrid(inner, inner.nodes, FaultsSpec(**known, legs=legs), Randomness(seed))


def requests(grid: FaultyGrid, body: EvaluateRequest = REQUEST) -> list[Message]:
    return [Message(wire.pack(body), node, "evaluate") for node in grid.get_node_ids()]


def bodies(replies: list[Message]) -> list[bytes]:
    return [bytes(reply.content["tacit"]["body"]) for reply in replies]


def test_a_late_answer_comes_with_the_next_leg_and_is_ignored() -> None:
    grid = faulty(late=SURE)
    legs = Legs(grid, {k: 1000 + k for k in range(8)}, deadline=0.0, poll=0.0)
    asked = dict.fromkeys(range(8), REQUEST)
    assert [r.problem for r in legs.exchange("evaluate", asked)] == ["no reply"] * 8
    ids = list(grid.push_messages(requests(grid)))
    came = list(grid.pull_messages(ids))
    assert len(came) == 8
    assert not {m.metadata.reply_to_message_id for m in came} & set(ids)
    assert grid.counts == {"late": 16}


def test_a_duplicate_is_a_second_answer_to_one_request() -> None:
    grid = faulty(duplicate=SURE)
    ids = list(grid.push_messages(requests(grid)))
    came = [m.metadata.reply_to_message_id for m in grid.pull_messages(ids)]
    assert came == [i for i in ids for _ in range(2)]


def test_a_corrupt_answer_differs_in_one_bit() -> None:
    sound, grid = faulty(), faulty(corrupt=SURE)
    (right, wrong) = (
        bodies(list(g.pull_messages(list(g.push_messages(requests(g)))))) for g in (sound, grid)
    )
    for a, b in zip(right, wrong, strict=True):
        changed = np.unpackbits(np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8))
        assert changed.sum() == 1


def test_an_equivocal_request_differs_from_the_others_request() -> None:
    grid = faulty(equivocate=SURE)
    pulled = bodies(list(grid.pull_messages(list(grid.push_messages(requests(grid))))))
    told = [EvaluateReply.decode(body).counts for body in pulled]
    assert all(np.abs(counts - REQUEST.parameters).sum() == 1 for counts in told)


def test_who_is_gone_stays_so_until_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = faulty()
    monkeypatch.setattr(grid, "_purpose", "train")

    def fate(leg: str, body: Body, client: int) -> Fate:
        return Fate(leg == "confirm" and client < 3, False, False, False, False, 0.0, 0.0)

    monkeypatch.setattr(grid, "fate", fate)
    from tacit.privacy.messages import TrainRequest
    from tacit.privacy.secagg.messages import Survivors

    def answered(kind: str, body: Body) -> int:
        sent = [Message(wire.pack(body), node, kind) for node in grid.get_node_ids()]
        return len(list(grid.pull_messages(list(grid.push_messages(sent)))))

    task = {f: getattr(REQUEST, f) for f in ("plan", "frozen", "clip", "clients", "members")}
    train = [TrainRequest("run", n, 0, **task, parameters=REQUEST.parameters) for n in (1, 2)]
    assert answered("train", train[0]) == 8
    assert answered("query.confirm", Survivors("run", 1, 0, "session", b"")) == 5
    assert answered("evaluate", REQUEST) == 5
    assert answered("train", train[1]) == 8
    assert grid.counts == {"drop": 3}


def test_a_fault_is_its_own_and_an_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(grid: FaultyGrid, attempt: int = 0, leg: str = "evaluate") -> list[bool]:
        body = EvaluateRequest("run", 1, attempt, "", "", 0.0, 0, b"", REQUEST.parameters)
        return [grid.fate(leg, body, client).late for client in range(200)]

    alone = late(faulty(late=0.3))
    assert alone == late(faulty(late=0.3, drop=0.5, corrupt=0.9))
    assert 30 < sum(alone) < 90
    assert alone != late(faulty(late=0.3), attempt=1)
    assert alone != late(faulty(late=0.3, seed=1))
    assert not any(late(faulty(late=0.3, legs="train+reveal")))
    assert any(late(faulty(late=0.3, legs="train+reveal"), leg="reveal"))
    # From the operating system: equal with a probability below 2^-150.
    assert late(faulty(late=0.5, seed=None)) != late(faulty(late=0.5, seed=None))


# Configuration


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["1", "-0.1", "nan"])
def test_a_probability_is_below_one(kind: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"faults.{kind}="):
        build.compose([f"faults.{kind}={value}"])


def test_an_unknown_leg_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'query\.share' is not a leg") as caught:
        build.compose(["faults.legs=train+query.share"])
    assert all(leg in caught.value.hint for leg in LEGS)
    with pytest.raises(ConfigError, match="twice"):
        build.compose(["faults.legs=train+train"])


def test_faults_are_off_by_default_and_in_the_digest() -> None:
    off, on = build.compose(), build.compose(["faults.drop=0.1", "faults.legs=train+reveal"])
    assert not off.faults.active
    assert on.faults.active
    assert [leg for leg in LEGS if on.faults.at(leg)] == ["train", "reveal"]
    assert off.digest() != on.digest()


def test_a_coordinator_over_flower_refuses_faults(tmp_path: Path) -> None:
    config = {
        "overrides": "clients=4 cohort=4 rounds=1 seed=null faults.late=0.1",
        "home": str(tmp_path / "home"),
    }
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config)
    )
    with pytest.raises(ConfigError, match="faults are for `tacit simulate`"):
        main(InProcessGrid(make_app(), 4, config), context)
    assert not (tmp_path / "home").exists()
