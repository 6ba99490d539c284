"""A federation of devices for `gateway.py` and `wire.py`: gateway, crowd, coordinator, bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tacit import Task
from tacit.configs import build
from tacit.privacy.messages import Message
from tacit.server import runs
from tacit.server.gateway.grid import GatewayGrid
from tacit.server.gateway.settings import Limits, Settings
from tacit.server.home import Home
from tacit.server.legs import Legs, Reply
from tacit.server.store import Store
from tacit.tasks.device import bundle

POPULATION = "benchmark"
# Enrolment is as fast as it can be; all else is as it comes.
GATEWAY = Settings(
    population=POPULATION,
    limits=Limits(enrolments_rate=1e6, enrolments_burst=1e6, connections=100_000),
    drain=0.0,
)


class Timed(Legs):
    """Legs that note when each reply came.

    Attributes:
        legs: kind, Unix seconds of the start, seconds until each answer.
    """

    legs: list[tuple[str, float, list[float]]]

    def exchange(self, kind: str, requests: Mapping[int, Message]) -> Iterator[Reply]:
        """See `Legs.exchange`."""
        began, started, took = time.monotonic(), time.time(), list[float]()
        self.legs.append((kind, started, took))
        for reply in super().exchange(kind, requests):
            if reply.message is not None:
                took.append(time.monotonic() - began)
            yield reply


class Directory:
    """Who is enrolled, read once."""

    def __init__(self, grid: GatewayGrid) -> None:
        self._known = {device.client: device.identity for device in grid.devices.enrolled()}

    def public(self, client: int) -> bytes | None:
        """A client's key."""
        return self._known.get(client)


class Crowds:
    """The processes with the devices.

    Args:
        grid: of their gateway.
        training: seconds that each sleeps for.
        processes: how many.
    """

    def __init__(self, grid: GatewayGrid, training: float, processes: int = 2) -> None:
        self.grid, self.devices = grid, 0
        command = [sys.executable, str(Path(__file__).with_name("crowd.py"))]
        self._all = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        authority = grid.authority
        place = {
            "gateway": f"127.0.0.1:{grid.port}",
            "population": POPULATION,
            "ca": authority.certificate.hex(),
            "authority": authority.public.hex(),
            "coordinator": authority.coordinator.public.hex(),
            "training": training,
        }
        self.tell([{"do": "place", "place": place}] * processes)

    def tell(self, commands: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One command for each process; what each says when it is done."""
        for one, command in zip(self._all, commands, strict=True):
            assert one.stdin is not None
            one.stdin.write(json.dumps(command) + "\n")
            one.stdin.flush()
        found = []
        for one in self._all:
            assert one.stdout is not None
            line = one.stdout.readline()
            if not line:
                raise RuntimeError("a crowd's process has ended")
            found.append(json.loads(line))
        return found

    def grow(self, devices: int) -> dict[str, float]:
        """Enrols devices until there are so many, all connected."""
        began, more = time.monotonic(), devices - self.devices
        tokens = [self.grid.devices.invite(3600.0) for _ in range(more)]
        address, parts = f"127.0.0.1:{self.grid.enrol_port}", len(self._all)
        self.tell(
            [{"do": "enrol", "address": address, "tokens": tokens[k::parts]} for k in range(parts)]
        )
        while self.grid.connected < devices:
            if time.monotonic() - began > 600:
                raise RuntimeError(f"{self.grid.connected} of {devices} devices are connected")
            time.sleep(0.1)
        self.devices = devices
        return {"seconds": time.monotonic() - began}

    def used(self) -> tuple[float, list[tuple[str, float]]]:
        """Processor seconds so far, and when tasks arrived since this was last asked."""
        said = self.tell([{"do": "used"}] * len(self._all))
        return sum(s["cpu"] for s in said), [(k, t) for s in said for k, t in s["arrived"]]

    def close(self) -> None:
        """Ends the processes."""
        for one in self._all:
            one.kill()
            one.wait()


@contextmanager
def coordinating(
    grid: GatewayGrid, task: Task, overrides: Sequence[str], home: Home
) -> Iterator[tuple[Any, Timed]]:
    """A coordinator of devices, and its legs."""
    store = Store(home)
    spec = build.compose(list(overrides))
    run = runs.create(spec, task, store)
    made = bundle.build(task, spec, run["id"], POPULATION)
    grid.attach(made.document.encode(grid.authority.coordinator), list(made.blobs.values()))
    directory = Directory(grid)
    legs = Timed(grid, grid.nodes(spec.clients), 120.0, 0.02, directory)
    legs.legs = []
    try:
        with runs.coordinator(run, task, store, home, legs, directory) as coordinator:
            yield coordinator, legs
    finally:
        store.close()


def moved(port: int) -> int:
    """Bytes that devices' connections to a port have carried, as the kernel counts them."""
    ss = shutil.which("ss")
    if ss is None:
        return 0
    found = subprocess.run(
        [ss, "-tinH", "dport", "=", f":{port}"], capture_output=True, text=True, check=True
    ).stdout
    words = (
        w.split(":") for w in found.split() if w.startswith(("bytes_acked:", "bytes_received:"))
    )
    return sum(int(count) for _, count in words)
