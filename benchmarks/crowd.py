"""Many devices in one process, for `gateway.py`: real agents, protocol and cryptography.

What is left out: training, which is a sleep and a made-up update; the files, which are in
memory; the network, which is this machine's own. Each device has its keys, its certificate of
a real enrolment, its own TLS connection and stream, and a member that checks, charges, encodes,
noises, masks and signs as it does on a phone.

Run by `gateway.py`: reads commands as lines of JSON, prints one line of JSON for each.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from common import one_thread

from tacit.client.edge import certificates, tasks
from tacit.client.edge.agent import Agent
from tacit.client.edge.blobs import Blobs
from tacit.client.edge.link import Link
from tacit.client.edge.member import Member, Parts
from tacit.client.edge.peers import Peers
from tacit.client.edge.policy import Eligibility
from tacit.client.edge.wiring import Backoff, Setup
from tacit.client.floors import Floors
from tacit.client.ledger import ClientLedger
from tacit.privacy.messages import Vector
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.vault import Vault
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.protocol.document import RunDocument
from tacit.protocol.edge_pb2_grpc import EnrolmentStub

# Streams that are opened a second by one process, so that TLS doesn't come in one burst.
_OPENED = 100


@dataclass
class Place:
    """What an operator hands out, and the device's keys."""

    gateway: str
    population: str
    ca: bytes
    authority: bytes
    coordinator: bytes
    training: float


class Sleeper:
    """Instead of training: an update of the right shape; the sleep is around it."""

    def fits(self, document: RunDocument, purpose: str) -> None:
        """Any graph fits."""

    def train(self, document: RunDocument, parameters: Vector) -> tuple[Vector, int]:
        """A small update."""
        return np.full(parameters.shape, 1e-3, dtype=np.float32), 5

    def counts(self, document: RunDocument, parameters: Vector) -> Vector:
        """Some counts."""
        return np.zeros(3, dtype=np.float32)


class Crowd:
    """The devices of this process.

    Args:
        place: of all.
        folder: for downloads.
    """

    def __init__(self, place: Place, folder: Path) -> None:
        self._place, self._folder, self._ca = place, folder, place.ca.decode()
        self._running: list[asyncio.Task[None]] = []
        self._arrived: list[tuple[str, float]] = []
        self._watch(place.training)

    def _watch(self, training: float) -> None:
        """Notes when tasks arrive, and sleeps where training would be; all else goes on."""
        answer, add = tasks.Tasks._made, tasks.Tasks.add

        async def made(own: tasks.Tasks, task: pb.Task) -> bytes:
            if task.kind == "train":
                await asyncio.sleep(random.uniform(0.5, 1.5) * training)
            return await answer(own, task)

        def added(own: tasks.Tasks, task: pb.Task, link: Link) -> None:
            self._arrived.append((task.kind, time.time()))
            add(own, task, link)

        tasks.Tasks._made = made  # type: ignore[method-assign]
        tasks.Tasks.add = added  # type: ignore[method-assign]

    def arrived(self) -> list[tuple[str, float]]:
        """Kinds and times of the tasks that have come since this was last asked."""
        found, self._arrived = self._arrived, []
        return found

    async def enrol(self, address: str, tokens: list[str]) -> dict[str, float]:
        """Enrols a device for each token over TLS, and starts its agent."""
        began, cpu = time.monotonic(), time.process_time()
        trust = grpc.ssl_channel_credentials(self._place.ca)
        async with grpc.aio.secure_channel(address, trust) as channel:
            stub = EnrolmentStub(channel)
            for token in tokens:
                self._running.append(asyncio.create_task(self._live(*await self._one(stub, token))))
                await asyncio.sleep(1 / _OPENED)
        return {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}

    async def _one(self, stub: EnrolmentStub, token: str) -> tuple[int, Identity, bytes]:
        identity, (key, csr) = Identity.generate(), certificates.request()
        proof = identity.sign(statements.enrolment(token, csr))
        asked = pb.EnrolRequest(
            token=token, csr=csr, identity=identity.public, proof=proof, agent="benchmark"
        )
        reply = await stub.Enrol(asked)
        return reply.client, identity, certificates.bound(key, list(reply.chain), self._ca)

    async def _live(self, client: int, identity: Identity, key: bytes) -> None:
        place, blobs = self._place, Blobs(self._folder / str(client), 2**28, 2**29)
        setup = Setup(
            client=client,
            identity=identity,
            member=lambda: Member(
                Parts(
                    client=client,
                    population=place.population,
                    identity=identity,
                    coordinator=place.coordinator,
                    peers=Peers(None, place.population, place.authority),
                    vault=Vault(None),
                    ledger=ClientLedger(None, Floors().caps()),
                    floors=Floors(seeded=False),
                    trainer=Sleeper(),
                )
            ),
            gateway=place.gateway,
            credentials=lambda: certificates.credentials(key, self._ca),
            blobs=blobs,
            eligibility=Eligibility(always=True, poll=3600.0),
            backoff=Backoff(first=1.0, most=5.0),
        )
        await Agent(setup).run()


def _used() -> dict[str, Any]:
    """What this process has used so far."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {"cpu": time.process_time(), "resident": pages * 4096}


async def serve() -> None:
    """Obeys one command after another until there are no more."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    crowd: Crowd | None = None
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        while line := await reader.readline():
            command: dict[str, Any] = json.loads(line)
            if command["do"] == "place":
                held = command["place"]
                hexed = {k: bytes.fromhex(held[k]) for k in ("ca", "authority", "coordinator")}
                crowd = Crowd(Place(**{**held, **hexed}), Path(home))
                said: dict[str, Any] = {}
            elif command["do"] == "enrol":
                assert crowd is not None
                said = await crowd.enrol(command["address"], command["tokens"])
            else:
                said = {**_used(), "arrived": crowd.arrived() if crowd else []}
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    one_thread()
    asyncio.run(serve())
