"""A gateway that says what it likes: the agent stays, and answers nothing it shouldn't."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agents
import devices
import grpc
import pytest
from agents import enrolled, running

from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.server.gateway.authority import Authority
from tacit.server.gateway.grid import GatewayGrid

KINDS = ("query.advertise", "query.share", "train", "evaluate", "query.confirm", "query.reveal")


class Hostile:
    """Serves `Connect` and `Download`; keeps what devices say.

    Args:
        authority: whose certificates it has.
        script: frames, or bytes, that follow the welcome; then the stream stays open.
    """

    def __init__(self, authority: Authority, script: list[pb.GatewayFrame | bytes]) -> None:
        self.authority, self.script = authority, script
        self.said: list[pb.DeviceFrame] = []
        self.streams = 0
        # None never comes, and keeps the device waiting.
        self.blob: bytes | None = b""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    async def _connect(self, requests: Any, context: Any) -> Any:
        self.streams += 1
        await context.read()
        welcome = pb.Welcome(protocol=1, client=0, max_frame=4096, max_answer=2**20)
        yield pb.GatewayFrame(welcome=welcome).SerializeToString()
        for frame in self.script:
            yield frame if isinstance(frame, bytes) else frame.SerializeToString()
        while True:
            data = await context.read()
            if data is grpc.aio.EOF:
                return
            self.said.append(pb.DeviceFrame.FromString(data))

    async def _download(self, request: bytes, context: Any) -> Any:
        while self.blob is None:
            await asyncio.sleep(0.1)
        for at in range(0, len(self.blob), 1000):
            yield pb.Chunk(data=self.blob[at : at + 1000]).SerializeToString()

    async def _start(self) -> int:
        key, certificate = self.authority.server(["127.0.0.1"])
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], self.authority.certificate, require_client_auth=True
        )
        self.server = grpc.aio.server()
        methods = {
            "Connect": grpc.stream_stream_rpc_method_handler(self._connect),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
        }
        handler = grpc.method_handlers_generic_handler("tacit.edge.v1.Gateway", methods)
        self.server.add_generic_rpc_handlers((handler,))
        port = self.server.add_secure_port("127.0.0.1:0", credentials)
        await self.server.start()
        return port

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        self._thread.start()
        try:
            yield asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        finally:
            asyncio.run_coroutine_threadsafe(self.server.stop(0), self._loop).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


@pytest.fixture
def path(grid: GatewayGrid, tmp_path: Path) -> Path:
    return enrolled(grid, tmp_path, 0, devices.exported()[0])


def send_to(path: Path, port: int) -> None:
    """The owner's setting of another gateway."""
    toml = (path / "agent.toml").read_text()
    (path / "agent.toml").write_text(f'gateway = "127.0.0.1:{port}"\n{toml}')


def task(number: int, generator: random.Random, document: bytes = b"") -> pb.GatewayFrame:
    size = generator.randrange(200)
    made = pb.Task(
        id=f"t{number}",
        kind=generator.choice((*KINDS, "", "query", "\u2603")),
        nonce=generator.randbytes(generator.choice((0, 16, 99))),
        deadline_ms=30_000,
        body=pb.Blob(inline=generator.choice((b"", b"TCT1", generator.randbytes(size)))),
    )
    if document:
        digest = statements.hashlib.sha256(document).digest()
        made.run.CopyFrom(pb.BlobRef(sha256=digest, size=len(document)))
    return pb.GatewayFrame(task=made)


def refusals(hostile: Hostile) -> dict[str, str]:
    return {
        frame.refusal.task: pb.Refusal.Reason.Name(frame.refusal.reason)
        for frame in hostile.said
        if frame.WhichOneof("frame") == "refusal"
    }


def test_tasks_without_a_signed_document_are_refused(grid: GatewayGrid, path: Path) -> None:
    generator = random.Random(1)
    forged = devices.Fleet().signed
    script = [task(i, generator) for i in range(6)]
    script += [task(i, generator, forged) for i in range(6, 12)]
    hostile = Hostile(grid.authority, script)  # type: ignore[arg-type]
    hostile.blob = forged
    with hostile.serving() as port:
        send_to(path, port)
        with running({0: path}):
            agents.until(lambda: len(refusals(hostile)) == 12)
    assert set(refusals(hostile).values()) == {"UNSIGNED"}
    assert not any(frame.WhichOneof("frame") == "answer" for frame in hostile.said)


def test_whatever_follows_a_signed_document_is_answered_by_refusals(
    grid: GatewayGrid, path: Path
) -> None:
    generator = random.Random(2)
    fleet = devices.Fleet()
    signed = fleet.document.encode(grid.authority.coordinator)
    hostile = Hostile(grid.authority, [task(i, generator, signed) for i in range(12)])
    hostile.blob = signed
    with hostile.serving() as port:
        send_to(path, port)
        with running({0: path}):
            agents.until(lambda: len(refusals(hostile)) == 12)
    assert set(refusals(hostile).values()) <= {"MALFORMED", "UNSUPPORTED"}


@pytest.mark.parametrize("seed", range(3))
def test_an_agent_outlives_any_frames(grid: GatewayGrid, path: Path, seed: int) -> None:
    generator = random.Random(seed)

    def anything(number: int) -> pb.GatewayFrame | bytes:
        text = generator.randbytes(20).hex()
        entry = pb.Attestation(client=generator.randrange(9), identity=b"x", signature=b"y")
        return generator.choice(
            [
                generator.randbytes(generator.randrange(60)),
                pb.GatewayFrame(),
                pb.GatewayFrame(accept=pb.Accept(again_ms=generator.randrange(2**32))),
                pb.GatewayFrame(received=pb.Received(task=text, accepted=True, why=text * 90)),
                pb.GatewayFrame(cancel=pb.Cancel(task=f"t{number - 1}", why=text)),
                pb.GatewayFrame(entries=pb.Entries(entries=[entry], unknown=[1, 2])),
                pb.GatewayFrame(welcome=pb.Welcome(client=7)),
                task(number % 9, generator),
            ]
        )

    hostile = Hostile(grid.authority, [anything(i) for i in range(200)])
    with hostile.serving() as port:
        send_to(path, port)
        with running({0: path}) as crowd:
            # Bytes that are no frame end a stream; the agent comes back for more.
            agents.until(lambda: hostile.streams >= 2)
            assert not any(frame.WhichOneof("frame") == "answer" for frame in hostile.said)
            assert 0 in crowd.agents
            hostile.script = []
            agents.until(lambda: crowd.agents[0].online)


def test_too_many_tasks_end_the_stream(grid: GatewayGrid, path: Path) -> None:
    generator = random.Random(4)
    document = b"a document that never comes"
    hostile = Hostile(grid.authority, [task(i, generator, document) for i in range(40)])
    hostile.blob = None
    with hostile.serving() as port:
        send_to(path, port)
        with running({0: path}) as crowd:
            # With a download on its way that ends with the connection.
            agents.until(lambda: hostile.streams >= 2)
            assert crowd.failures(0) > 0
            hostile.script, hostile.blob = [], b""
            agents.until(lambda: crowd.agents[0].online)
