"""Agents of the tests: enrolled at a real gateway, each with its folder, in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import devices
import numpy as np
from devices import POPULATION

from tacit import Task
from tacit.client.edge import assembly, enrol
from tacit.client.edge.agent import Agent
from tacit.client.edge.home import Bundle, Home
from tacit.configs import build
from tacit.privacy.secagg.directory import PinnedDirectory
from tacit.protocol.document import RunDocument
from tacit.server import runs
from tacit.server.coordinator import RoundResult
from tacit.server.gateway.grid import GatewayGrid
from tacit.server.home import Home as ServerHome
from tacit.server.legs import Legs
from tacit.server.store import Store

# Of every device in the tests, unless a test says otherwise.
TOML = """
data = "records.npz"
[limits]
secure = false
[eligibility]
always = true
"""


def invitation(grid: GatewayGrid, client: int | None = None, **changes: Any) -> dict[str, Any]:
    """The bundle of a device, as `tacit devices invite` writes it."""
    return {
        "version": 1,
        "population": POPULATION,
        "enrol": f"127.0.0.1:{grid.enrol_port}",
        "gateway": f"127.0.0.1:{grid.port}",
        "ca": grid.authority.certificate.decode(),
        "authority": grid.authority.public.hex(),
        "coordinator": grid.authority.coordinator.public.hex(),
        "token": grid.devices.invite(3600, client),
        **changes,
    }


def enrolled(
    grid: GatewayGrid, folder: Path, client: int, task: Task | None = None, toml: str = TOML
) -> Path:
    """A device's folder, enrolled, with its settings and records."""
    path = folder / f"device-{client}"
    path.mkdir(parents=True, exist_ok=True)
    bundle = path / "bundle.json"
    bundle.write_text(json.dumps(invitation(grid, client)))
    enrol.enrol(Home(path), Bundle.load(bundle))
    (path / "agent.toml").write_text(toml)
    if task is not None:
        inputs, targets = task.data(client)
        np.savez(path / "records.npz", inputs=np.asarray(inputs), targets=np.asarray(targets))
    return path


class Running:
    """Agents that run.

    Args:
        paths: folders, by client.
    """

    def __init__(self, paths: Mapping[int, Path]) -> None:
        self.paths = dict(paths)
        self.agents: dict[int, Agent] = {}
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.ExitStack()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, client: int) -> Agent:
        """Starts a device's agent."""
        setup = self._stack.enter_context(assembly.assembled(self.paths[client]))

        async def begin() -> Agent:
            agent = Agent(setup)
            self._tasks[client] = asyncio.create_task(agent.run())
            return agent

        self.agents[client] = self._done(begin())
        return self.agents[client]

    def stop(self, client: int) -> None:
        """Ends one, politely."""

        async def end() -> None:
            self.agents.pop(client).stop()
            await self._tasks.pop(client)

        self._done(end())

    def failures(self, client: int) -> int:
        """How often in a row a device couldn't connect."""
        return self.agents[client].failures

    def close(self) -> None:
        """Ends all."""
        for client in list(self.agents):
            self.stop(client)
        self._stack.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _done(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60.0)


@contextlib.contextmanager
def running(paths: Mapping[int, Path]) -> Iterator[Running]:
    """Agents of all these folders, until the block ends."""
    made = Running(paths)
    try:
        for client in paths:
            made.start(client)
        yield made
    finally:
        made.close()


class Federation:
    """Devices at a gateway, and what a coordinator needs to run with them.

    Args:
        grid: the gateway's.
        home: the coordinator's.
        task: that all learn.
        settings: of the run.
        made: gives the document of a run's id, and its graphs.
    """

    def __init__(
        self,
        grid: GatewayGrid,
        home: ServerHome,
        task: Task,
        settings: list[str],
        made: Callable[[str], tuple[RunDocument, Iterable[bytes]]],
    ) -> None:
        self._home, self._task, self._grid = home, task, grid
        self._store = Store(home)
        self.run = runs.create(build.compose(settings), task, self._store)
        document, graphs = made(self.run["id"])
        grid.attach(document.encode(grid.authority.coordinator), list(graphs))
        keys = {d.client: d.identity for d in grid.devices.enrolled()}
        self.directory = PinnedDirectory(keys)

    def rounds(self, deadline: float = 60.0) -> list[RoundResult]:
        """All rounds of the run."""
        size = runs.spec_of(self.run).clients
        nodes = self._grid.nodes(size)
        legs = Legs(self._grid, nodes, deadline=deadline, directory=self.directory)
        parts = (self.run, self._task, self._store, self._home, legs, self.directory)
        try:
            with runs.coordinator(*parts) as coordinator:
                return list(coordinator.rounds())
        finally:
            self._store.close()


def tiny_federation(grid: GatewayGrid, home: ServerHome, *more: str) -> Federation:
    """Of the tiny task of `devices`."""

    def made(run: str) -> tuple[RunDocument, Iterable[bytes]]:
        _, document, blobs = devices.exported(*more, run=run)
        return document, blobs.values()

    task = devices.exported(*more)[0]
    return Federation(grid, home, task, devices.settings(*more), made)


def agent_process(path: Path, *command: str) -> subprocess.Popen[str]:
    """``tacit-edge run`` in a process of its own, or another script on the same folder."""
    script = command or ("-m", "tacit.client.edge.command", "run", "--home", str(path))
    return subprocess.Popen(
        [sys.executable, *script], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for something that is to become true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)
