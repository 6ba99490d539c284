"""A coordinator that serves devices: the gateway, one run over it, and an orderly end.

Guarantees: the run is one of any coordinator's (`tacit.server.runs`), so whatever ends this
process, it goes on with its id from the last released round, and a round that was under way
has been charged. Asked to stop it finishes the round if it can within its time, and abandons
it if not; nobody's answers are read after that.

It doesn't guarantee that devices are there: who isn't, when a leg ends, has dropped out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

import torch

from tacit.configs.spec import RunSpec
from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.rollouts import RolloutPlan
from tacit.server import begin, deployment, offer
from tacit.server.begin import Round
from tacit.server.gateway.devices import EnrolledDirectory
from tacit.server.gateway.grid import AbandonedError, GatewayGrid, opened
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home, explained, write_durably
from tacit.server.legs import Legs
from tacit.server.store import Row, Store
from tacit.tasks.task import Task
from tacit.tasks.task import plan as privacy_plan

log = logging.getLogger("tacit.gateway")
# Seconds between two looks: for replies, and for devices or a signal.
_POLL, _LOOK = 0.02, 0.2
STOPPED = "stopped by the operator"


def _nothing(*_: object) -> None:
    """For whoever doesn't watch."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is told as it happens.

    Attributes:
        waiting: devices enrolled, connected, and needed to begin.
        started: the run's row and configuration.
        progress: a round was released.
    """

    waiting: Callable[[int, int, int], object] = _nothing
    started: Callable[[Row, RunSpec], object] = _nothing
    progress: Callable[[Round], object] = _nothing


@dataclass(frozen=True, slots=True)
class Terms:
    """How long is waited, in seconds, and for whom.

    Attributes:
        deadline: of a leg.
        devices: that have to be connected before the run begins; None takes `fewest`.
        drain: that a round may go on for after a stop was asked for.
    """

    deadline: float = 600.0
    devices: int | None = None
    drain: float = 30.0

    def __post_init__(self) -> None:
        validate.positive("deadline", self.deadline)
        validate.nonnegative("drain", self.drain)
        if self.devices is not None:
            validate.at_least("devices", self.devices, 1)


class Stop:
    """A wish to stop, heard between rounds; after a while also in the middle of one.

    Args:
        drain: the while, in seconds.
    """

    def __init__(self, drain: float) -> None:
        self._drain, self._wished = drain, threading.Event()
        self._then: Callable[[], None] = _nothing
        self._timer: threading.Timer | None = None

    @property
    def wished(self) -> bool:
        """Whether to stop."""
        return self._wished.is_set()

    def wish(self) -> None:
        """Asks to stop; a second time, at once."""
        if self.wished:
            self._then()
            return
        self._wished.set()
        self._timer = threading.Timer(self._drain, self._then)
        self._timer.daemon = True
        self._timer.start()

    def sleep(self) -> None:
        """Waits a moment, or until it is wished."""
        self._wished.wait(_LOOK)

    @contextlib.contextmanager
    def heeded(self, then: Callable[[], None]) -> Iterator[None]:
        """Within the block SIGTERM and SIGINT are wishes; ``then`` ends what goes on too long."""
        self._then = then

        def heard(number: int, frame: FrameType | None) -> None:
            # In a thread: this one may hold the very lock that is needed.
            threading.Thread(target=self.wish).start()

        signals = (signal.SIGTERM, signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        before = {s: signal.signal(s, heard) for s in signals} if main else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._timer is not None:
                self._timer.cancel()


@dataclass(slots=True)
class Job:
    """A run that is to be served.

    Attributes:
        spec: its configuration.
        task: what is learned.
        resumed: its row, if it was begun before.
        rollout: what it evaluates, if it trains nothing.
    """

    spec: RunSpec
    task: Task
    resumed: Row | None = field(default=None)
    rollout: RolloutPlan | None = field(default=None)

    def __post_init__(self) -> None:
        deployment.check(self.spec)
        offer.check()
        if self.spec.secure.protocol == "shortcut":
            raise ConfigError("a run without masks can't be deployed", "secure.protocol=full")
        if self.resumed is not None and self.resumed["status"] == "finished":
            raise StorageError(f"run={self.resumed['id']} is finished; there is nothing to resume")

    @property
    def population(self) -> str:
        """Whose clients learn."""
        return self.spec.population or self.task.name


def fewest(job: Job) -> int:
    """Connected devices with which a cohort is expected to have its minimum of survivors."""
    least = privacy_plan(job.task, job.spec).minimum_survivors
    return min(job.spec.clients, max(1, math.ceil(least / job.spec.sampling_rate)))


def serve(
    job: Job, home: Home, settings: Settings, terms: Terms, watch: Watch, stop: Stop | None = None
) -> Row | None:
    """Serves devices until the run ends or a stop is asked for.

    Args:
        job: the run.
        home: its state and the operator's keys.
        settings: of the gateway; its population is the job's.
        terms: how long is waited.
        watch: is told.
        stop: asks for an end; signals do so anyhow.

    Returns:
        The run's row, or None if it was stopped before it began.

    Raises:
        TacitError: as the coordinator does; the gateway is closed by then.
    """
    stop = stop or Stop(terms.drain)
    torch.set_num_threads(job.spec.threads)
    with contextlib.ExitStack() as stack:
        store = Store(home)
        stack.callback(store.close)
        grid = stack.enter_context(opened(home, settings))
        stack.enter_context(stop.heeded(grid.abandon))
        advertise(home, grid, settings)
        if not _gathered(job, grid, terms, watch, stop):
            return None
        run = job.resumed or begin.begun(job.spec, job.task, store, "", job.rollout)
        watch.started(run, job.spec)
        _document(job, grid, run)
        _run(run, job, (store, home), grid, terms, watch, stop)
        return store.run(run["id"])


def enrol_only(home: Home, settings: Settings, watch: Watch, stop: Stop | None = None) -> None:
    """Enrols devices and keeps their streams, without a run, until a stop is asked for."""
    stop = stop or Stop(0.0)
    with opened(home, settings) as grid, stop.heeded(_nothing):
        advertise(home, grid, settings)
        _watched(grid, 0, watch, stop, lambda connected: False)


def _gathered(job: Job, grid: GatewayGrid, terms: Terms, watch: Watch, stop: Stop) -> bool:
    """Waits for devices; whether they came before a stop was asked for."""
    needed = terms.devices if terms.devices is not None else fewest(job)
    if needed > job.spec.clients:
        raise ConfigError(f"devices={needed} are more than clients={job.spec.clients}")
    return _watched(grid, needed, watch, stop, lambda connected: connected >= needed)


def _watched(
    grid: GatewayGrid, needed: int, watch: Watch, stop: Stop, enough: Callable[[int], bool]
) -> bool:
    told: tuple[int, int] | None = None
    while not stop.wished:
        connected = grid.connected
        now = (grid.devices.count(), connected)
        if now != told:
            watch.waiting(*now, needed)
            told = now
        if enough(connected):
            return True
        stop.sleep()
    return False


def _document(job: Job, grid: GatewayGrid, run: Row) -> None:
    """Makes the run document and the graphs, and lays them out for devices."""
    key = grid.authority.coordinator
    grid.attach(*offer.made(job.task, job.spec, run["id"], job.population, key))


def _run(
    run: Row,
    job: Job,
    place: tuple[Store, Home],
    grid: GatewayGrid,
    terms: Terms,
    watch: Watch,
    stop: Stop,
) -> None:
    store, home = place
    directory = EnrolledDirectory(grid.devices)
    nodes = grid.nodes(job.spec.clients)
    # Nothing is sent twice by the legs: the gateway sends a task again to who comes back.
    legs = Legs(grid, nodes, terms.deadline, _POLL, directory)
    try:
        with begin.coordinated(run, job.task, store, home, legs, directory) as coordinator:
            for result in coordinator.rounds():
                watch.progress(result)
                if stop.wished and result.round < job.spec.rounds:
                    raise AbandonedError(STOPPED)
    except AbandonedError:
        store.abandon_open_charges(run["id"], "abort")
        store.set_status(run["id"], "stopped", f"{STOPPED}; --resume goes on")


def advertise(home: Home, grid: GatewayGrid, settings: Settings) -> None:
    """Notes where devices reach the gateway, for `tacit devices invite`."""
    host = settings.names()[0]
    known = {
        "population": settings.population,
        "gateway": settings.advertised or f"{_bracketed(host)}:{grid.port}",
    }
    if settings.enrol is not None:
        own = f"{_bracketed(host)}:{grid.enrol_port}"
        known["enrol"] = settings.advertised_enrol or own
    write_durably(home.root / "gateway.json", json.dumps({**advertised(home), **known}).encode())


def advertised(home: Home) -> dict[str, str]:
    """What `advertise` noted: population, gateway, enrol; what isn't known is left out."""
    path = home.root / "gateway.json"
    if not path.is_file():
        return {}
    with explained(f"{path} can't be read"):
        found = json.loads(path.read_text())
    return {str(name): str(value) for name, value in found.items()}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
