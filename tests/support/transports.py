"""One federation over each way to reach its clients: what a transport has to give a coordinator.

Every one runs real clients with identities, vaults, floors and ledgers of their own, whose
replies are signed; only the way between differs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crowd
from flwr.app import Context, Message
from flwr.serverapp import Grid

from tacit import Task
from tacit.client.app import make_app, number
from tacit.client.floors import Floors
from tacit.client.ledger import ClientLedger
from tacit.client.party import FolderParty
from tacit.configs import build
from tacit.privacy.errors import TacitError
from tacit.privacy.secagg.directory import Directory, PinnedDirectory, enrol, key_path
from tacit.privacy.secagg.keys import Identity
from tacit.server import runs
from tacit.server.home import Home
from tacit.server.joint import JointGrid
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        home: of the coordinator.
        run: its id.
        accepted: vectors in each released round.
        error: why it ended early, or nothing.
        ledgers: of the clients that have one here.
    """

    home: Home
    run: str
    accepted: list[int] = field(default_factory=list)
    error: str = ""
    ledgers: dict[int, ClientLedger] = field(default_factory=dict)


class Transport(ABC):
    """A way to reach clients.

    Args:
        folder: for all of it.
        task: whose clients.
        overrides: of the runs.
        floors: of clients that ask for more than others.
        gone: clients that are gone as soon as they are asked for a leg.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        overrides: Sequence[str],
        floors: Mapping[int, Floors] | None = None,
        gone: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        self.folder, self.task, self.overrides = folder, task, list(overrides)
        self.floors, self.gone = floors or {}, gone or {}
        self.clients = build.compose(self.overrides).clients
        self.home = Home(str(folder / "home"))

    @abstractmethod
    def run(self) -> Outcome:
        """One whole run."""

    def coordinated(
        self,
        grid: Grid,
        nodes: Mapping[int, int],
        directory: Directory,
        run: str,
        store: Store,
        devices: crowd.Crowd | None = None,
    ) -> Outcome:
        """A run of a coordinator in this process."""
        made = Outcome(self.home, run)
        called = {client for clients in self.gone.values() for client in clients}
        if devices is not None:
            # A device that is going to vanish is waited for until it has.
            called -= set(devices.devices)
        legs = crowd.Patient(grid, nodes, 120.0, 0.02, directory)
        legs.gone = lambda: called | (set(devices.away) if devices is not None else set())
        try:
            with runs.coordinator(
                store.run(run), self.task, store, self.home, legs, directory
            ) as coordinator:
                made.accepted += (r.accepted for r in coordinator.rounds())
        except TacitError as error:
            made.error = str(error)
        return made


class Quiet(InProcessGrid):
    """A grid in which some clients are gone as soon as they are asked for a leg."""

    gone: Mapping[str, Collection[int]] = {}

    def pull_messages(self, message_ids: Any) -> Iterator[Message]:
        """As ever, but nothing comes of those."""
        alive = []
        for identifier in message_ids:
            message = self._pending.get(identifier)
            if message is None:
                continue
            client = {node: k for k, node in self.nodes.items()}[message.metadata.dst_node_id]
            if client not in self.gone.get(message.metadata.message_type, ()):
                alive.append(identifier)
        yield from super().pull_messages(alive)


def parties(
    folder: Path, keys: Mapping[int, Identity], directory: PinnedDirectory, floors: Any
) -> dict[int, FolderParty]:
    """Clients with folders of their own, as silos have them."""
    made = {}
    for client, identity in keys.items():
        own = folder / f"client-{client}"
        own.mkdir(mode=0o700, parents=True)
        directory.save(own / "directory.json")
        key_path(own, client).write_bytes(identity.private)
        if client in floors:
            (own / "floors.json").write_text(said(floors[client]))
        made[client] = FolderParty(own, deployed=True)
    return made


def said(floors: Floors) -> str:
    """A ``floors.json``."""
    held = {name: getattr(floors, name) for name in Floors.__dataclass_fields__}
    return json.dumps({k: v for k, v in held.items() if v not in (None, float("inf"))})


def called(task: Task, clients: Mapping[int, FolderParty]) -> Any:
    """A ClientApp for each client, found by its number."""
    apps = {client: make_app(task, party) for client, party in clients.items()}

    def call(message: Message, context: Context) -> Message:
        return apps[number(context)](message, context)

    return call


class InProcess(Transport):
    """Clients that are called."""

    def run(self) -> Outcome:
        """See `Transport.run`."""
        enrol(self.folder / "keys", self.clients)
        directory = PinnedDirectory.load(self.folder / "keys" / "directory.json")
        keys = {
            k: Identity.from_bytes(key_path(self.folder / "keys", k).read_bytes())
            for k in range(self.clients)
        }
        clients = parties(self.folder, keys, directory, self.floors)
        store = Store(self.home)
        row = runs.create(build.compose(self.overrides), self.task, store)
        config = {"spec": json.dumps(runs.spec_of(row).to_dict())}
        grid = Quiet(called(self.task, clients), self.clients, config)
        grid.gone = self.gone
        made = self.coordinated(grid, grid.nodes, directory, row["id"], store)
        store.close()
        made.ledgers = {k: p.ledger(k) for k, p in clients.items()}  # type: ignore[misc]
        return made


class Devices(Transport):
    """Devices behind the gateway."""

    def run(self) -> Outcome:
        """See `Transport.run`."""
        with crowd.gateway(self.home) as grid, self.devices(grid, range(self.clients)) as devices:
            store = Store(self.home)
            with crowd.prepared(grid, self.task, self.overrides, store) as run:
                nodes = grid.nodes(self.clients)
                made = self.coordinated(grid, nodes, crowd.Enrolled(grid), run, store, devices)
            store.close()
            made.ledgers = {k: devices.ledger(k) for k in range(self.clients)}
        return made

    @contextlib.contextmanager
    def devices(self, grid: Any, numbers: Collection[int]) -> Iterator[crowd.Crowd]:
        """Devices of these numbers, on."""
        strict = {k: v for k, v in self.floors.items() if k in numbers}
        with crowd.Crowd(
            grid, self.task, numbers, self.folder / "devices", None, strict
        ) as devices:
            devices.vanish = dict(self.gone)
            devices.on()
            yield devices


class Mixed(Devices):
    """The first half called, as silos of the coordinator's own, the rest devices."""

    def run(self) -> Outcome:
        """See `Transport.run`."""
        own, others = range(self.clients // 2), range(self.clients // 2, self.clients)
        keys = {k: Identity.generate() for k in own}
        with crowd.gateway(self.home) as grid:
            for client, identity in keys.items():
                crowd.vouched(grid, client, identity)
            with self.devices(grid, others) as devices:
                store = Store(self.home)
                with crowd.prepared(grid, self.task, self.overrides, store) as run:
                    public = {d.client: d.identity for d in grid.devices.enrolled()}
                    directory = PinnedDirectory(public)
                    clients = parties(self.folder, keys, directory, self.floors)
                    spec = runs.spec_of(store.run(run))
                    config = {"spec": json.dumps(spec.to_dict())}
                    here = Quiet(called(self.task, clients), len(own), config)
                    here.gone = self.gone
                    nodes = grid.nodes(self.clients)
                    joint = JointGrid(
                        (here, {k: here.nodes[k] for k in own}),
                        (grid, {k: nodes[k] for k in others}),
                    )
                    made = self.coordinated(joint, joint.nodes, directory, run, store, devices)
                store.close()
                made.ledgers = {k: devices.ledger(k) for k in others}
                made.ledgers |= {k: p.ledger(k) for k, p in clients.items()}  # type: ignore[misc]
        return made


class Silos(Transport):
    """SuperNodes on a SuperLink, over TLS with node authentication, each a process."""

    def run(self) -> Outcome:
        """See `Transport.run`."""
        from superlink import Deployment

        assert not self.gone, "tests/deploy kills silos"
        made = Deployment(self.folder / "silos", " ".join(self.overrides), self.clients)
        try:
            for client, floors in self.floors.items():
                for path in (made.folder / f"silo-{client}").rglob("directory.json"):
                    path.with_name("floors.json").write_text(said(floors))
            made.up()
            made.start("run")
            row = made.wait(made.ended, "the run to end", 400)
            self.home = Home(str(made.coordinator.home))
            store = Store(self.home)
            rounds = store.rounds(row["id"])
            store.close()
        finally:
            made.down()
        for path in made.folder.glob("silo-*"):
            shutil.rmtree(path / "state", ignore_errors=True)
        failed = row["message"] if row["status"] != "finished" else ""
        found = Outcome(self.home, row["id"], [r["accepted"] for r in rounds], failed)
        for path in made.folder.rglob("*.ledger"):
            found.ledgers[int(path.stem)] = ClientLedger(path, Floors().caps())
        return found
