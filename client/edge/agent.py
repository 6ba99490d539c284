"""The agent: stays connected to its gateway, as long as it may.

Guarantees: a lost connection, a gateway that stops, or one that sends the device away costs
time only: the agent comes back, after the time that it was told, or after one that doubles with
each failure. One stream at a time. While a stream stands the gateway knows whether the device
is ready.

An `Agent` has no globals and starts no thread of its own: many fit into one process.
"""

from __future__ import annotations

import asyncio
import logging
import time

from tacit.client.edge import link as links
from tacit.client.edge.journal import say
from tacit.client.edge.link import Link, LinkError
from tacit.client.edge.tasks import Tasks
from tacit.client.edge.wiring import Line, Setup
from tacit.privacy.errors import TacitError
from tacit.protocol import edge_pb2 as pb
from tacit.protocol.edge_pb2_grpc import GatewayStub

# Between check-ins, until the gateway says otherwise.
_AGAIN = 600.0
# A stream that lasted so long was a good one.
_STEADY = 60.0
_RENEWALS = 600.0


class Agent:
    """One device.

    Args:
        setup: see there.

    Attributes:
        failures: to connect, in a row.
    """

    def __init__(self, setup: Setup) -> None:
        self._is, self._line = setup, Line()
        self._tasks = Tasks(setup, self._line)
        self._stopping = asyncio.Event()
        self._again = _AGAIN
        self.failures = 0

    @property
    def online(self) -> bool:
        """Whether a stream stands."""
        return self._line.online.is_set()

    def stop(self) -> None:
        """Ends `run` soon, politely."""
        self._stopping.set()

    async def run(self, once: bool = False) -> None:
        """Serves until it is stopped.

        Args:
            once: whether to end as soon as the gateway sends the device away.

        Raises:
            LinkError: with ``once``, if the gateway can't be reached or the stream breaks.
            StorageError: the device's own files can't be read.
        """
        worker = asyncio.create_task(self._tasks.work())
        serving = asyncio.create_task(self._serve(once))
        stopping = asyncio.create_task(self._stopping.wait())
        parts: set[asyncio.Task[None] | asyncio.Task[bool]] = {worker, serving, stopping}
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in parts:
                each.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _serve(self, once: bool) -> None:
        while True:
            began = time.monotonic()
            try:
                pause = await self._connected()
            except LinkError as error:
                if once:
                    raise
                steady = time.monotonic() - began > _STEADY
                self.failures = 1 if steady else self.failures + 1
                pause = self._is.backoff.after(self.failures)
                say("disconnected", logging.WARNING, why=error.message, after_s=round(pause, 1))
            else:
                self.failures = 0
                say("sent away", after_s=round(pause, 1))
                if once:
                    return
            await asyncio.sleep(pause)

    async def _connected(self) -> float:
        """One stream; the seconds after which to come back."""
        credentials = self._is.credentials()
        async with links.channel(self._is.gateway, credentials, self._is.host) as channel:
            stub = GatewayStub(channel)
            link = await Link.open(stub, self._is.client)
            say("connected")
            self._line.up(link, stub)
            beside = [asyncio.create_task(self._check_in(link))]
            if self._is.renew is not None:
                beside.append(asyncio.create_task(self._renew(stub)))
            try:
                async for frame in link.frames():
                    pause = self._take(link, frame)
                    if pause is not None:
                        return pause
                raise LinkError("the gateway ended the stream")
            finally:
                self._line.down()
                for each in beside:
                    each.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
                await link.close(polite=self._stopping.is_set())

    def _take(self, link: Link, frame: pb.GatewayFrame) -> float | None:
        """What one frame asks for; seconds if it ends the stream."""
        match frame.WhichOneof("frame"):
            case "accept":
                self._again = max(1.0, frame.accept.again_ms / 1000)
            case "retry_at":
                return frame.retry_at.after_ms / 1000
            case "goodbye":
                say("goodbye", why=frame.goodbye.why[:200])
                return max(self._is.backoff.first, frame.goodbye.after_ms / 1000)
            case "task":
                self._tasks.add(frame.task, link)
            case "received":
                self._tasks.received(frame.received)
            case "cancel":
                self._tasks.drop(frame.cancel.task, frame.cancel.why)
            case "entries":
                link.entries(frame.entries)
            case _:
                pass  # Of a later version.
        return None

    async def _check_in(self, link: Link) -> None:
        """Tells the gateway whether the device is ready: when that changes, and when it is due."""
        told, since = None, 0.0
        while True:
            now = await self._is.eligibility.met()
            if now != told or time.monotonic() - since >= self._again:
                try:
                    await link.check_in(now)
                except LinkError:
                    return
                told, since = now, time.monotonic()
                say("checked in", logging.DEBUG, eligible=now)
            left = since + self._again - time.monotonic()
            await asyncio.sleep(max(0.05, min(left, self._is.eligibility.poll)))

    async def _renew(self, stub: GatewayStub) -> None:
        assert self._is.renew is not None
        while True:
            try:
                await self._is.renew(stub)
            except TacitError as error:
                say("certificate not renewed", logging.WARNING, why=error.message)
            await asyncio.sleep(_RENEWALS)
