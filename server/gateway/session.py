"""One device's stream: what it may say when, and what it is told.

Guarantees: who speaks is the client of the certificate. Whatever a device sends, nothing but
its own stream ends. It answers tasks of its own only, each once. Memory is bounded by the
limits: one answer on its way, room for which is taken before its first part is kept, and a
short outbox; when either is full the stream isn't read. Room is taken whole and in order, so
uploads never wait for each other in a circle; an answer that doesn't get on at the least rate
ends with its stream, and its device's next waits behind all others. Many devices that are just
fast enough can still fill the room until `Limits.answer`.

Nothing here tells whether an answer is right: signatures are forwarded, and checked by the
coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tacit.configs.wire import Refusal
from tacit.privacy.secagg.keys import verify
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.server import telemetry
from tacit.server.gateway import wire
from tacit.server.gateway.desk import Assignment
from tacit.server.gateway.devices import Device
from tacit.server.gateway.flow import Bucket
from tacit.server.gateway.hall import Hall
from tacit.server.gateway.refused import RefusedError
from tacit.server.gateway.upload import Upload, most

log = logging.getLogger("tacit.gateway")

PROTOCOL = 1
_MAX_AGENT, _MAX_TEXT = 64, 200
# What begins something new isn't sent to a device that says it isn't ready; the legs of a
# session that it is in are, since without them the others' work is lost.
_BEGINNING = frozenset({"query.advertise", "train", "evaluate"})
# Clients whose lookup counts as one frame more.
_LOOKED_UP = 64
# For the last frame of a stream that ends.
_FAREWELL = 5.0


class Session:
    """A stream.

    Args:
        device: whose.
        hall: what all streams share.
        context: of the call.
    """

    def __init__(self, device: Device, hall: Hall, context: wire.Context) -> None:
        self.device, self._hall, self._context = device, hall, context
        self.client = device.client
        self._limits = hall.settings.limits
        self._frames = Bucket(self._limits.frames_rate, self._limits.frames_burst)
        self._bytes = Bucket(self._limits.bytes_rate, self._limits.bytes_burst)
        self._outbox: deque[pb.GatewayFrame] = deque()
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._delivered: set[str] = set()
        self._eligible: bool | None = None
        self._closing = False
        self._upload: Upload | None = None
        self._ended: asyncio.Future[RefusedError | None] = hall.loop.create_future()
        self.gone: asyncio.Future[None] = hall.loop.create_future()

    # Its life

    async def run(self) -> None:
        """Serves the stream until either side ends it; raises what the call is to end with."""
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        problem: RefusedError | None = None
        try:
            parts: set[asyncio.Future[Any]] = {reader, writer, self._ended}
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            problem = _problem(done)
            if not writer.done():
                await self._farewell(problem, writer)
        finally:
            await _cancelled(reader, writer)
            self._drop()
            self.gone.set_result(None)
        if problem is not None:
            raise problem

    async def _farewell(self, problem: RefusedError | None, writer: asyncio.Task[None]) -> None:
        """Says why the stream ends, to a device that still reads."""
        self.end(problem)
        if problem is not None:
            late = problem.reason in ("REPLACED", "REVOKED")
            after = 0 if late else self._hall.pacer.after()
            why = problem.why[:_MAX_TEXT]
            self._outbox.append(pb.GatewayFrame(goodbye=pb.Goodbye(why=why, after_ms=after)))
        self._closing = True
        self._wake.set()
        with contextlib.suppress(TimeoutError, RefusedError, grpc.RpcError, grpc.aio.BaseError):
            await asyncio.wait_for(writer, _FAREWELL)

    def end(self, problem: RefusedError | None) -> None:
        """Ends the stream, with a reason if it is refused; without, once all is written."""
        if not self._ended.done():
            self._ended.set_result(problem)

    def retire(self, why: str) -> None:
        """Sends the device away for a while."""
        if not self.over:
            retry = pb.RetryAt(after_ms=self._hall.pacer.after(), why=why)
            self._outbox.append(pb.GatewayFrame(retry_at=retry))
            self.end(None)

    @property
    def over(self) -> bool:
        """Whether nothing that this stream brings counts any more."""
        return self._ended.done()

    @property
    def uploading(self) -> bool:
        """Whether an answer is on its way."""
        return self._upload is not None

    def expired(self, now: float) -> bool:
        """Whether its certificate is over; ``now`` is in Unix seconds."""
        return now > self.device.not_after

    # Writing

    def wake(self) -> None:
        """There may be a task for it."""
        self._wake.set()

    def cancel(self, task: Assignment) -> None:
        """A task is over; tells the device if it has it."""
        if task.id in self._delivered:
            self._delivered.discard(task.id)
            self._outbox.append(pb.GatewayFrame(cancel=pb.Cancel(task=task.id, why="too late")))
            self._wake.set()
        if self._upload is not None and self._upload.task.id == task.id:
            self._drop()

    async def _put(self, frame: pb.GatewayFrame) -> None:
        """Puts a frame into the outbox; waits while that is full."""
        while len(self._outbox) >= self._limits.outbox and not self.over:
            self._room.clear()
            await self._room.wait()
        self._outbox.append(frame)
        self._wake.set()

    async def _write(self) -> None:
        while True:
            while (frame := self._next()) is not None:
                data = frame.SerializeToString()
                try:
                    async with asyncio.timeout(self._limits.write):
                        await self._context.write(data)
                except TimeoutError as error:
                    raise RefusedError("TOO_SLOW", "the device doesn't read") from error
                telemetry.bytes_moved("out", len(data))
                self._room.set()
            if self._closing:
                return
            await self._wake.wait()
            self._wake.clear()

    def _next(self) -> pb.GatewayFrame | None:
        if self._outbox:
            return self._outbox.popleft()
        if self._eligible is None or self.over or self._hall.draining:
            return None
        for task in self._hall.desk.tasks(self.client):
            if task.id in self._delivered or (task.kind in _BEGINNING and not self._eligible):
                continue
            self._delivered.add(task.id)
            return pb.GatewayFrame(task=self._task(task))
        return None

    def _task(self, task: Assignment) -> pb.Task:
        if task.body is not None:
            body = pb.Blob(inline=task.body)
        else:
            body = pb.Blob(ref=pb.BlobRef(sha256=task.digest, size=task.size))
        run = None
        if task.document is not None:
            run = pb.BlobRef(sha256=task.document[0], size=task.document[1])
        left = min(self._hall.desk.left(task), 2**32 - 1)
        return pb.Task(
            id=task.id, kind=task.kind, nonce=task.nonce, deadline_ms=left, body=body, run=run
        )

    # Reading

    async def _read(self) -> None:
        async with self._within(self._limits.hello, "no hello in time"):
            data = await self._context.read()
        if data is wire.EOF:
            return
        await self._hello(self._parsed(data))
        while not self.over:
            async with self._patience():
                data = await self._context.read()
            if data is wire.EOF or self.over:
                return
            await self._take(self._parsed(data))
            pause = max(self._frames.take(1), self._bytes.take(len(data)))
            if pause > 0:
                await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def _within(self, seconds: float, problem: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise RefusedError("TOO_SLOW", problem) from error

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """An answer that has begun must end in time; between answers there is no hurry."""
        until = self._upload.until if self._upload is not None else None
        try:
            async with asyncio.timeout_at(until):
                yield
        except TimeoutError as error:
            raise RefusedError("TOO_SLOW", "an answer took too long") from error

    def _parsed(self, data: bytes) -> pb.DeviceFrame:
        telemetry.bytes_moved("in", len(data))
        if len(data) > self._limits.max_frame:
            raise RefusedError("TOO_LARGE", f"a frame has at most {self._limits.max_frame} bytes")
        return wire.parsed(pb.DeviceFrame, data)

    async def _hello(self, frame: pb.DeviceFrame) -> None:
        if frame.WhichOneof("frame") != "hello":
            raise RefusedError("ORDER", "a stream begins with hello")
        if frame.hello.protocol < PROTOCOL:
            raise RefusedError("VERSION", f"protocol {frame.hello.protocol}; 1 is the oldest")
        if len(frame.hello.agent.encode()) > _MAX_AGENT:
            raise RefusedError("MALFORMED", f"agent has more than {_MAX_AGENT} bytes")
        welcome = pb.Welcome(
            protocol=PROTOCOL,
            client=self.client,
            max_frame=self._limits.max_frame,
            max_answer=self._limits.max_answer,
            time_ms=int(time.time() * 1000),
        )
        await self._put(pb.GatewayFrame(welcome=welcome))

    async def _take(self, frame: pb.DeviceFrame) -> None:
        match frame.WhichOneof("frame"):
            case "check_in":
                await self._check_in(frame.check_in.eligible)
            case "answer":
                await self._answer(frame.answer)
            case "refusal":
                await self._refusal(frame.refusal)
            case "lookup":
                await self._lookup(frame.lookup)
            case "bye":
                self.end(None)
            case "hello":
                raise RefusedError("ORDER", "a second hello")
            case _:
                pass  # Of a later version; receivers ignore what they don't know.

    async def _check_in(self, eligible: bool) -> None:
        if self._hall.draining:
            telemetry.check_in("draining")
            self.end(RefusedError("DRAINING", "the gateway stops"))
            return
        if self._hall.crowded(self):
            telemetry.check_in("full")
            self.retire("full")
            return
        telemetry.check_in("accepted" if eligible else "ineligible")
        self._eligible = eligible
        accept = pb.Accept(again_ms=self._hall.pacer.again())
        await self._put(pb.GatewayFrame(accept=accept))

    async def _answer(self, part: pb.AnswerPart) -> None:
        upload = self._upload
        if upload is None or upload.task.id != part.task:
            if upload is not None:
                raise RefusedError("ORDER", "one answer at a time")
            task = self._hall.desk.task(self.client, part.task)
            if task is None or task.id not in self._delivered:
                await self._unwanted(part)
                return
            upload = Upload(task, part.total, most(task, self._limits.max_answer))
            await self._hall.held.take(upload.total)
            upload.begin(self._hall.loop.time(), self._limits)
            if self.over:
                self._hall.held.give(upload.total)
                return
            self._upload = upload
        whole = upload.add(part)
        if whole is None:
            return
        # The room it takes is the reply's from now on.
        self._upload = None
        taken = self._hall.desk.answer(upload.task, *whole)
        if taken:
            self._delivered.discard(part.task)
        else:
            self._hall.held.give(upload.total)
        await self._received(part.task, taken, "" if taken else "too late")

    async def _unwanted(self, part: pb.AnswerPart) -> None:
        """An answer to no open task: sent before its cancellation came, or sent again."""
        if part.offset == 0:
            known = self._hall.desk.done(self.client, part.task)
            await self._received(part.task, known, "" if known else "no such task, or too late")

    async def _refusal(self, said: pb.Refusal) -> None:
        if len(said.text.encode()) > _MAX_TEXT:
            raise RefusedError("MALFORMED", f"a refusal's text has at most {_MAX_TEXT} bytes")
        task = self._hall.desk.task(self.client, said.task)
        if task is None or task.id not in self._delivered:
            known = self._hall.desk.done(self.client, said.task)
            await self._received(said.task, known, "" if known else "no such task, or too late")
            return
        statement = statements.refusal(
            task.nonce, task.kind, self.client, int(said.reason), said.text
        )
        if not verify(self.device.identity, said.signature, statement):
            raise RefusedError("SIGNATURE", "a refusal that its device didn't sign")
        if self._upload is not None and self._upload.task.id == task.id:
            self._drop()
        refusal = Refusal(int(said.reason), said.text)
        taken = self._hall.desk.refuse(task, refusal, said.signature)
        if taken:
            self._delivered.discard(said.task)
        else:
            # What is taken is counted where it is verified again, a silo's like a device's.
            telemetry.refusal(refusal.name)
        await self._received(said.task, taken, "" if taken else "too late")

    async def _received(self, task: str, accepted: bool, why: str) -> None:
        received = pb.Received(task=task, accepted=accepted, why=why)
        await self._put(pb.GatewayFrame(received=received))

    async def _lookup(self, asked: pb.Lookup) -> None:
        if len(asked.clients) > self._limits.lookup:
            raise RefusedError("TOO_LARGE", f"a lookup has at most {self._limits.lookup} clients")
        wanted = list(dict.fromkeys(asked.clients))
        self._frames.take(len(wanted) / _LOOKED_UP)
        found = await self._hall.lookup(wanted)
        unknown = [k for k in wanted if k not in found]
        # As many frames as it takes: an entry has some 110 bytes.
        most = max(1, (self._limits.max_frame - 1024) // 128)
        known = [found[k] for k in wanted if k in found]
        for start in range(0, max(1, len(known)), most):
            entries = [wire.attestation(d) for d in known[start : start + most]]
            rest = unknown if start == 0 else []
            await self._put(pb.GatewayFrame(entries=pb.Entries(entries=entries, unknown=rest)))

    def _drop(self) -> None:
        """Forgets an answer that wasn't finished."""
        if self._upload is not None:
            self._hall.held.give(self._upload.total)
            self._upload = None


def _problem(done: set[asyncio.Future[Any]]) -> RefusedError | None:
    """What a stream ends with, if it is something that went wrong."""
    for each in done:
        error = each.exception()
        if isinstance(error, RefusedError):
            return error
        if error is not None and not isinstance(error, grpc.RpcError | grpc.aio.BaseError):
            raise error
    results = (each.result() for each in done if each.exception() is None)
    return next((found for found in results if isinstance(found, RefusedError)), None)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
