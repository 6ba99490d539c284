"""Real agents of real devices in one thread, on a real gateway, for a run that is made for them.

Each has its own keys, certificate, stream and member, and files of its own if there is a folder.
What is bad about them is asked for: who vanishes at which leg, what network is between.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import edge
import grpc
import numpy as np

from tacit import Task
from tacit.client.edge.agent import Agent
from tacit.client.edge.blobs import Blobs
from tacit.client.edge.data import Records
from tacit.client.edge.member import Member, Parts
from tacit.client.edge.peers import Peers
from tacit.client.edge.policy import Eligibility
from tacit.client.edge.steps import LocalTrainer
from tacit.client.edge.wiring import Backoff, Setup
from tacit.client.floors import Floors
from tacit.client.ledger import ClientLedger
from tacit.configs import build
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.vault import Vault
from tacit.server import runs
from tacit.server.coordinator import RoundResult
from tacit.server.gateway.authority import request
from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.settings import Limits, Pace, Settings
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.store import Store
from tacit.tasks.device import bundle

POPULATION = "tests"
LEGS = ("query.advertise", "query.share", "train", "query.confirm", "query.reveal")
# Quick to come back, for tests that cut connections.
BACKOFF = Backoff(first=0.1, most=0.4)


class Enrolled:
    """The operator's word on who is who, as a directory."""

    def __init__(self, grid: GatewayGrid) -> None:
        self._devices = grid.devices

    def public(self, client: int) -> bytes | None:
        """A client's key."""
        found = self._devices.some([client]).get(client)
        return found.identity if found is not None else None


class Patient(Legs):
    """Legs whose deadline is when all who are still there have answered, or a minute.

    A busy machine takes its time; what is to be seen is what happens after a deadline.

    Attributes:
        gone: clients that won't answer.
    """

    gone: Callable[[], Collection[int]]

    def _run(self, leg: Any, end: float | None) -> Iterator[Any]:
        return super()._run(leg, _End(leg, self.gone, time.monotonic() + 60.0))  # type: ignore[arg-type]


class _End:
    """Compares with a time as if it were one."""

    def __init__(self, leg: Any, gone: Callable[[], Collection[int]], latest: float) -> None:
        self._leg, self._gone, self._latest = leg, gone, latest

    def __lt__(self, now: float) -> bool:
        return set(self._leg.waiting) <= set(self._gone()) or now > self._latest


class Fleeting(Member):
    """A member whose device goes off when it is asked for a leg.

    Args:
        parts: of a member.
        leg: which.
        off: what switches it off.
    """

    def __init__(self, parts: Parts, leg: str, off: Callable[[], None]) -> None:
        super().__init__(parts)
        self._leg, self._off = leg, off

    def answer(self, kind: str, body: bytes, document: bytes, eligible: bool = True) -> bytes:
        """As a member, but for one leg."""
        if kind == self._leg:
            self._off()
            raise asyncio.CancelledError
        return super().answer(kind, body, document, eligible)


class Crowd:
    """Devices.

    Args:
        grid: their gateway.
        task: whose records they have.
        many: how many, or which numbers, enrolled over the network.
        folder: of their files; None keeps all in memory.
        floors: of each that isn't named in ``strict``.
        strict: floors of some.
    """

    def __init__(
        self,
        grid: GatewayGrid,
        task: Task,
        many: int | Collection[int],
        folder: Path,
        floors: Floors | None = None,
        strict: Mapping[int, Floors] | None = None,
    ) -> None:
        self.grid, self.task, self._folder = grid, task, folder
        self._floors, self._strict = floors or Floors(seeded=False), strict or {}
        self.devices: dict[int, edge.Credentials] = {}
        for client in range(many) if isinstance(many, int) else many:
            self.enrol(client)
        self.ports: dict[int, int] = {}
        self.vanish: dict[str, Collection[int]] = {}
        self.vanished: list[int] = []
        self.away: set[int] = set()
        self._loop = asyncio.new_event_loop()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def enrol(self, client: int) -> None:
        """A new device of this number."""
        grid = self.grid
        token = grid.devices.invite(600.0, client)
        self.devices[client] = edge.enrol(grid.enrol_port, grid.authority.certificate, token)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # On and off

    def on(self, clients: Collection[int] | None = None, wait: bool = True) -> None:
        """Switches devices on, as after a restart."""
        wanted = list(self.devices if clients is None else clients)
        self.away -= set(wanted)

        async def begin() -> None:
            for client in wanted:
                self._running[client] = asyncio.create_task(self._live(client))

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(60)
        if wait:
            edge.until(lambda: set(wanted) <= set(self.grid._service.hall.connected))

    def off(self, clients: Collection[int]) -> None:
        """Switches devices off without a word."""

        async def end() -> None:
            tasks = [self._running.pop(k) for k in clients if k in self._running]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(60)

    async def _live(self, client: int) -> None:
        await Agent(self.setup(client)).run()

    def setup(self, client: int) -> Setup:
        """What a device's agent is made of."""
        device = self.devices[client]
        port = self.ports.get(client, self.grid.port)
        home = self._folder / str(client)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        blobs = Blobs(home / "blobs", 2**26, 2**28)
        return Setup(
            client=client,
            identity=device.identity,
            member=lambda: self._member(client, home, blobs),
            gateway=f"127.0.0.1:{port}",
            credentials=lambda: grpc.ssl_channel_credentials(
                device.ca, edge.pem(device.private), device.certificate
            ),
            blobs=blobs,
            eligibility=Eligibility(always=True),
            backoff=BACKOFF,
        )

    def _member(self, client: int, home: Path, blobs: Blobs) -> Member:
        floors = self._strict.get(client, self._floors)
        authority = self.grid.authority
        parts = Parts(
            client=client,
            population=POPULATION,
            identity=self.devices[client].identity,
            coordinator=authority.coordinator.public,
            peers=Peers(home / "peers", POPULATION, authority.public),
            vault=Vault(home / "vault"),
            ledger=ClientLedger(home / "ledger", floors.caps()),
            floors=floors,
            trainer=LocalTrainer(lambda: self._records(client), blobs.read),
        )
        for leg, clients in self.vanish.items():
            if client in clients:
                return Fleeting(parts, leg, lambda: self._gone(client))
        return Member(parts)

    def _gone(self, client: int) -> None:
        """Cuts the device off in the middle of its work."""
        self.vanished.append(client)
        self.away.add(client)
        running = self._running.pop(client)
        self._loop.call_soon(running.cancel)

    def _records(self, client: int) -> Records:
        inputs, targets = self.task.data(client)
        return Records(np.asarray(inputs), np.asarray(targets))

    def ledger(self, client: int) -> ClientLedger:
        """A device's own ledger."""
        return ClientLedger(self._folder / str(client) / "ledger", self._floors.caps())


def vouched(grid: GatewayGrid, client: int, identity: Identity) -> None:
    """Enrols somebody who has no device: the authority says that the identity is the client's."""
    authority, csr = grid.authority, request(edge.csr(edge.key()))
    grid.devices.enrol(
        grid.devices.invite(600.0, client),
        identity.public,
        None,
        lambda number: authority.issue(csr, number, 600.0),
        lambda number: authority.attest(number, identity.public),
    )


def settings(devices: int, minimum: int, rounds: int, collusion: int = 1) -> list[str]:
    """Of a federation in which everybody takes part and some may drop out."""
    return [
        "experiment=none",
        f"clients={devices}",
        f"cohort={devices}",
        f"minimum_survivors={minimum}",
        f"rounds={rounds}",
        "privacy.client.noise_multiplier=1.0",
        "privacy.record.noise_multiplier=1.0",
        "privacy.record.sampling_rate=0.5",
        "attempts=1",
        "mechanism=skellam",
        "aggregation=secure",
        "secure.protocol=full",
        "secure.dropout=0.3",
        f"secure.collusion={collusion}",
        "seed=null",
    ]


@contextmanager
def gateway(home: Home, **more: Any) -> Iterator[GatewayGrid]:
    """A gateway on loopback; what isn't a setting is a limit or a pace."""
    settings = {k: v for k, v in more.items() if k in Settings.__dataclass_fields__}
    pace = {k: v for k, v in more.items() if k in Pace.__dataclass_fields__}
    limits = {k: v for k, v in more.items() if k in Limits.__dataclass_fields__}
    base: dict[str, Any] = {"population": POPULATION, "drain": 1.0, "look": 0.2, **settings}
    with opened(home, Settings(limits=Limits(**limits), pace=Pace(**pace), **base)) as grid:
        yield grid


@contextmanager
def prepared(
    grid: GatewayGrid, task: Task, overrides: Sequence[str], store: Store
) -> Iterator[str]:
    """A run whose document the gateway hands out."""
    spec = build.compose(list(overrides))
    run = runs.create(spec, task, store)["id"]
    made = bundle.build(task, spec, run, POPULATION)
    grid.attach(made.document.encode(grid.authority.coordinator), list(made.blobs.values()))
    yield run


def rounds(
    crowd: Crowd,
    overrides: Sequence[str],
    home: Home,
    deadline: float | None = None,
    resend: float | None = None,
    between: Callable[[int], None] | None = None,
) -> tuple[Store, str, list[RoundResult]]:
    """Runs a federation of devices to its end.

    Args:
        crowd: the devices.
        overrides: settings.
        home: where the coordinator's state is kept.
        deadline: of a leg; None waits for all but those who have vanished.
        resend: before an unanswered request is sent again.
        between: is called with the number of each released round.
    """
    store, grid, task = Store(home), crowd.grid, crowd.task
    with prepared(grid, task, overrides, store) as run:
        row = store.run(run)
        spec = runs.spec_of(row)
        directory = Enrolled(grid)
        nodes = grid.nodes(spec.clients)
        made = Patient if deadline is None else Legs
        legs = made(grid, nodes, deadline or 120.0, 0.02, directory, resend)
        if isinstance(legs, Patient):
            legs.gone = lambda: crowd.away
        found: list[RoundResult] = []
        with runs.coordinator(row, task, store, home, legs, directory) as coordinator:
            for result in coordinator.rounds():
                found.append(result)
                if between is not None:
                    between(result.round)
    return store, run, found
