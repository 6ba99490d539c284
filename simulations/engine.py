"""Runs or resumes a simulation on one machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from threadpoolctl import threadpool_limits

from tacit.client.app import MakeTrainer, make_app
from tacit.client.party import LocalParty
from tacit.configs import build, wire
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError
from tacit.privacy.messages import TrainRequest
from tacit.privacy.noise import Randomness
from tacit.privacy.secagg.directory import LocalDirectory
from tacit.server import runs
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.store import Row, Store
from tacit.simulations import report
from tacit.simulations.cohort.choice import device
from tacit.simulations.cohort.trainer import CohortTrainer
from tacit.simulations.faults import FaultyGrid
from tacit.simulations.grid import InProcessGrid
from tacit.simulations.workers import PooledGrid
from tacit.tasks.task import Task, check, load, plan


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    Attributes:
        run: its identifier.
        status: "finished", or "stopped" by its budget.
        message: why it stopped.
        rounds: rounds released, those of earlier sessions included.
        model: the newest version, as ``name@number``.
        model_version: its number.
        artifact_sha256: its digest.
        metrics: of the newest evaluated version.
        evaluation: what they were measured on: "public", "federated" or "none".
        epsilon: client, client_unamplified, record, record_unamplified, record_local; None
            where nothing is claimed.
        delta: of the client unit, or of the record unit where only that is protected.
        claims: every row of unit x adversary x amplified, with cross-check and assumption.
        client_updates_per_second: over the rounds of this session.
        wall_seconds: of this session.
        folder: the run's folder, with ``report.html``.
    """

    run: str
    status: str
    message: str
    rounds: int
    model: str
    model_version: int
    artifact_sha256: str
    metrics: dict[str, float]
    evaluation: str
    epsilon: dict[str, float | None]
    delta: float
    claims: list[dict[str, Any]]
    client_updates_per_second: float
    wall_seconds: float
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "run": self.run,
            "status": self.status,
            "rounds": self.rounds,
            "model": self.model,
            "model_version": self.model_version,
            "artifact_sha256": self.artifact_sha256,
            "metrics": self.metrics,
            "evaluation": self.evaluation,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "claims": self.claims,
            "client_updates_per_second": self.client_updates_per_second,
            "wall_seconds": self.wall_seconds,
            "report": str(self.folder / "report.html"),
        }


def simulate(
    overrides: Sequence[str] = (),
    *,
    task: Task | None = None,
    home: str | PathLike[str] | None = None,
    resume: str | None = None,
    started: Callable[[Row, RunSpec], None] | None = None,
    progress: Callable[[RoundResult], None] | None = None,
    trainer: MakeTrainer | None = None,
    workers: int | None = None,
) -> Result:
    """Trains a model over simulated clients on this machine.

    Args:
        overrides: settings as on the command line, such as ``["rounds=10", "seed=1"]``.
        task: your own; None finds the one the settings name.
        home: where state is kept; None takes ``TACIT_HOME``, else ``.tacit``.
        resume: a run to go on with, its id or a prefix or ``"last"``, in place of settings.
        started: called once, with the run's row and configuration.
        progress: called after every released round.
        trainer: of the clients, as in `tacit.client.app.make_app`; None trains them
            together, with the engine that the settings name.
        workers: processes that clients are trained in, which changes no result. None takes
            one a core where that pays, 1 stays in this process.

    Raises:
        TacitError: one of its children, with a hint of what to do.

    Example:
        >>> import tempfile
        >>> result = simulate(["rounds=1", "clients=50", "cohort=20"], home=tempfile.mkdtemp())
        >>> result.rounds
        1
    """
    spec = None if resume is not None else build.compose(overrides)
    return simulated(
        spec,
        task=task,
        home=home,
        resume=resume,
        started=started,
        progress=progress,
        trainer=trainer,
        workers=workers,
    )


def simulated(
    spec: RunSpec | None,
    *,
    task: Task | None = None,
    home: str | PathLike[str] | None = None,
    resume: str | None = None,
    cause: int | None = None,
    started: Callable[[Row, RunSpec], None] | None = None,
    progress: Callable[[RoundResult], None] | None = None,
    trainer: MakeTrainer | None = None,
    workers: int | None = None,
) -> Result:
    """As `simulate`, of a configuration; ``cause`` is the leaf of the fallback that asks for it."""
    began = time.perf_counter()
    place = Home(home)
    store = Store(place)
    try:
        if spec is not None:
            spec = decided(spec)
            device(spec)  # Refused before there is a run.
            found = check(task, spec) if task is not None else load(spec)
            run = runs.create(spec, found, store, cause)
        else:
            run = store.run(resume or "last")
            spec = runs.spec_of(run)
            found = check(task, spec) if task is not None else load(spec)
        if started is not None:
            started(run, spec)
        with torch.random.fork_rng(devices=[]), bounded_threads(spec.threads):
            updates, seconds = _run(run, spec, found, store, place, progress, (trainer, workers))
        result = summary(store, run["id"], updates / max(seconds, 1e-9), began)
        report.write(store, run["id"], result.claims)
        return result
    finally:
        store.close()


def _run(
    run: Row,
    spec: RunSpec,
    task: Task,
    store: Store,
    home: Home,
    progress: Callable[[RoundResult], None] | None,
    how: tuple[MakeTrainer | None, int | None],
) -> tuple[int, float]:
    """Runs the rounds; returns how many clients answered, and in what time."""
    directory = LocalDirectory()
    updates, seconds = 0, 0.0
    with contextlib.closing(simulated_grid(task, spec, directory, *how)) as grid:
        legs = simulated_legs(grid, spec)
        with runs.coordinator(run, task, store, home, legs, directory) as coordinator:
            for result in coordinator.rounds():
                updates += result.asked
                seconds += result.seconds
                if progress is not None:
                    progress(result)
    return updates, seconds


def simulated_grid(
    task: Task,
    spec: RunSpec,
    directory: LocalDirectory,
    trainer: MakeTrainer | None,
    workers: int | None,
) -> PooledGrid:
    """The clients, trained together and in several processes where that is possible."""
    settled = plan(task, spec)
    # A session of secure aggregation is kept where it began.
    alone = settled.aggregation == "secure" or spec.threads > 1 or spec.faults.active
    alone = alone or trainer is not None  # It may keep something.
    # A process that uses a GPU can't be forked.
    alone = alone or device(spec).type != "cpu"
    if alone and workers is not None and workers > 1:
        raise ConfigError(
            f"workers={workers} needs clients that keep nothing between messages, threads=1, and "
            "device=cpu where there is a GPU",
            "leave workers out with the full protocol of secure aggregation, faults, a trainer, "
            "or a GPU",
        )
    if trainer is not None and spec.device == "cuda":
        raise ConfigError("device=cuda needs tacit's own trainer", "leave out device, or trainer")
    ahead = None
    if trainer is None:
        together = CohortTrainer(task, spec, settled)

        def trainer(task: Task, spec: RunSpec) -> CohortTrainer:
            return together

        def ahead(messages: Sequence[Message], clients: Sequence[int]) -> None:
            asked = wire.unpack(TrainRequest, messages[0])
            together.expect(asked, clients)

    app = make_app(task, LocalParty(directory), trainer)
    config = {"spec": json.dumps(spec.to_dict())}
    return PooledGrid(app, spec.clients, config, ahead=ahead, workers=1 if alone else workers)


def decided(spec: RunSpec) -> RunSpec:
    """The configuration with the protocol of secure aggregation decided."""
    if spec.secure.protocol != "auto":
        return spec
    protocol = "full" if spec.faults.active else "shortcut"
    return dataclasses.replace(spec, secure=dataclasses.replace(spec.secure, protocol=protocol))


def simulated_legs(grid: InProcessGrid, spec: RunSpec) -> Legs:
    """The legs of a simulation, with the faults that its configuration asks for."""
    if not spec.faults.active:
        return Legs(grid, grid.nodes)
    faulty = FaultyGrid(grid, grid.nodes, spec.faults, Randomness(spec.seed))
    # In one process who hasn't answered at the first look never will.
    return Legs(faulty, grid.nodes, deadline=0.0, poll=0.0)


def summary(store: Store, identifier: str, rate: float, began: float) -> Result:
    """A run's end, read back from the database."""
    run = store.run(identifier)
    version = store.versions(run=identifier)[-1]
    plan = json.loads(run["plan"])
    rounds = store.rounds(identifier)
    measured = [row["metrics"] for row in rounds if row["metrics"]]
    return Result(
        run=identifier,
        status=run["status"],
        message=run["message"],
        rounds=run["round"],
        model=f"{version['name']}@{version['number']}",
        model_version=version["number"],
        artifact_sha256=version["artifact"],
        metrics=measured[-1] if measured else {},
        evaluation=json.loads(run["spec"])["evaluation"]["kind"],
        epsilon=rounds[-1]["epsilon"],
        delta=plan["client_delta" if plan["client"] else "record_delta"],
        claims=store.claims(identifier),
        client_updates_per_second=rate,
        wall_seconds=time.perf_counter() - began,
        folder=store.home.run(identifier),
    )


@contextlib.contextmanager
def bounded_threads(count: int) -> Iterator[None]:
    """Threads of torch and of numpy's BLAS, and the caller's numbers again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
