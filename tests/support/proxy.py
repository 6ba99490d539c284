"""A bad network between two sockets of this machine: slow, narrow, cut, or wrong.

What `tc` would do, without rights for it. It moves bytes of TCP, so that what it duplicates,
swaps or corrupts inside a TLS stream ends that stream; a message can only be doubled by who
speaks the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
_PIECE = 16 * 1024


@dataclass
class Network:
    """How bytes travel; may be changed while they do.

    Attributes:
        latency: seconds that each piece takes, one way.
        jitter: at most so many more, at random.
        rate: bytes a second, each way, of all connections together; None has no limit.
        cut_after: bytes of a connection, both ways, after which it is cut; None never.
        doubled: probability of a piece being sent twice,
        swapped: of being sent after the next,
        corrupted: of having a byte changed.
        stalled: whether nothing moves at all, though connections stay.
        refusing: whether new connections are closed at once.
    """

    latency: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    cut_after: int | None = None
    doubled: float = 0.0
    swapped: float = 0.0
    corrupted: float = 0.0
    stalled: bool = False
    refusing: bool = False


@dataclass
class Moved:
    """Bytes that went through, and connections."""

    up: int = 0
    down: int = 0
    connections: int = 0
    cut: int = 0
    open: set[Any] = field(default_factory=set)


class Proxy:
    """Listens on a port of its own and forwards to another, in a thread.

    Args:
        port: of this machine, to forward to.
        network: how.
        seed: of its coins.
    """

    def __init__(self, port: int, network: Network | None = None, seed: int = 0) -> None:
        self._target, self.network = port, network or Network()
        self.moved, self._coins = Moved(), random.Random(seed)
        self._free = {"up": 0.0, "down": 0.0}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def address(self) -> str:
        """Host and port to connect to."""
        return f"{HOST}:{self.port}"

    def cut(self) -> None:
        """Cuts every open connection, as a lost network does: with a reset."""
        self._loop.call_soon_threadsafe(self._cut_all)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._cut_all()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _cut_all(self) -> None:
        for writer in list(self.moved.open):
            writer.transport.abort()
            self.moved.cut += 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.network.refusing:
            writer.transport.abort()
            return
        self.moved.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, far_writer)
        self.moved.open.update(ends)
        count = [0]
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump("up", reader, far_writer, count))
                both.create_task(self._pump("down", far_reader, writer, count))
        except* (OSError, _CutError, asyncio.CancelledError):
            pass  # Also when the proxy ends: asyncio would call that an error.
        finally:
            self.moved.open.difference_update(ends)
            for end in ends:
                end.transport.abort()

    async def _pump(
        self,
        way: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        count: list[int],
    ) -> None:
        """Moves pieces one way, each in its turn after its time."""
        held = b""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

        async def deliver() -> None:
            while True:
                at, piece = await due.get()
                await asyncio.sleep(max(0.0, at - self._loop.time()))
                while self.network.stalled:
                    await asyncio.sleep(0.02)
                if not piece:
                    with contextlib.suppress(OSError, RuntimeError):
                        writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

        sending = asyncio.create_task(deliver())
        try:
            while piece := await reader.read(_PIECE):
                count[0] += len(piece)
                setattr(self.moved, way, getattr(self.moved, way) + len(piece))
                if self.network.cut_after is not None and count[0] > self.network.cut_after:
                    self.moved.cut += 1
                    raise _CutError
                pieces, held = self._spoilt(piece, held)
                for out in pieces:
                    await due.put((await self._when(way, len(out)), out))
            if held:
                await due.put((self._loop.time(), held))
            await due.put((self._loop.time() + self.network.latency, b""))
            await sending
        finally:
            sending.cancel()

    def _spoilt(self, piece: bytes, held: bytes) -> tuple[list[bytes], bytes]:
        """What is sent in a piece's place, and what is kept until after the next."""
        net, coin = self.network, self._coins.random
        if net.corrupted and coin() < net.corrupted:
            place = self._coins.randrange(len(piece))
            piece = piece[:place] + bytes([piece[place] ^ 0x55]) + piece[place + 1 :]
        if held:
            return [piece, held], b""
        if net.swapped and coin() < net.swapped:
            return [], piece
        return ([piece, piece] if net.doubled and coin() < net.doubled else [piece]), b""

    async def _when(self, way: str, size: int) -> float:
        """When a piece is through: the line is shared, then everybody's latency."""
        net, now = self.network, self._loop.time()
        if net.rate is not None:
            self._free[way] = max(self._free[way], now) + size / net.rate
            # Reading stops while the line is full, so that senders feel it.
            await asyncio.sleep(max(0.0, self._free[way] - now))
            now = self._free[way]
        return now + net.latency + self._coins.uniform(0.0, net.jitter)


class _CutError(Exception):
    """The connection is over."""
