"""One stream to the gateway, frame by frame.

Guarantees: frames are written one at a time, an answer's parts without another's between them,
none larger than the gateway takes. What the gateway may not say ends the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import grpc

from tacit.client.edge.peers import Entry
from tacit.privacy.errors import TacitError
from tacit.protocol import edge_pb2 as pb
from tacit.protocol.edge_pb2_grpc import GatewayStub

AGENT = f"tacit-edge/{version('tacit')}"
PROTOCOL = 1
# Of a frame, for what surrounds a part of an answer.
_ROOM = 1024
_HELLO_SECONDS = 30.0
_LOOKUP = 512
_LOOKUP_SECONDS = 60.0
_LARGEST_FRAME = 4 * 1024**2

Call = grpc.aio.StreamStreamCall[pb.DeviceFrame, pb.GatewayFrame]


class LinkError(TacitError):
    """The gateway can't be reached, ended the stream, or doesn't keep to the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back for one task.

    Attributes:
        task: its id.
        body: the answer; None for a refusal.
        signature: of either.
        reason: of a refusal, a number of ``Refusal.Reason``.
        text: of a refusal.
    """

    task: str
    body: bytes | None
    signature: bytes
    reason: int = 0
    text: str = ""


def channel(
    address: str, credentials: grpc.ChannelCredentials, host: str | None = None
) -> grpc.aio.Channel:
    """A connection of one device.

    Args:
        address: "host:port".
        credentials: of the device.
        host: the name in the gateway's certificate, where that isn't the address's.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", _LARGEST_FRAME),
        ("grpc.max_send_message_length", _LARGEST_FRAME),
        # No other device of this process may be mistaken for this one.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.enable_retries", 0),
    ]
    if host is not None:
        options.append(("grpc.ssl_target_name_override", host))
    return grpc.aio.secure_channel(address, credentials, options=options)


class Link:
    """A stream that has been welcomed.

    Args:
        call: of the stream.
        welcome: what the gateway said first.
    """

    def __init__(self, call: Call, welcome: pb.Welcome) -> None:
        self._call, self._lock = call, asyncio.Lock()
        self._frame = welcome.max_frame or _LARGEST_FRAME
        self._longest = welcome.max_answer
        self._lookups: list[tuple[set[int], list[Entry], asyncio.Future[list[Entry]]]] = []

    @classmethod
    async def open(cls, gateway: GatewayStub, client: int) -> Link:
        """Connects and says hello.

        Args:
            gateway: to connect to.
            client: who this is, as its certificate says.

        Raises:
            LinkError: no welcome came, or for another client.
        """
        call: Call = gateway.Connect()
        try:
            hello = pb.Hello(protocol=PROTOCOL, agent=AGENT)
            async with asyncio.timeout(_HELLO_SECONDS):
                with calling("the gateway didn't welcome"):
                    await call.write(pb.DeviceFrame(hello=hello))
                    first = await call.read()
        except LinkError as error:
            if call.done():
                why = f"{(await call.code()).name}: {await call.details()}"
                raise LinkError(f"the gateway didn't welcome: {why}") from error
            raise
        except TimeoutError as error:
            call.cancel()
            raise LinkError("the gateway didn't welcome in time") from error
        if not isinstance(first, pb.GatewayFrame) or first.WhichOneof("frame") != "welcome":
            call.cancel()
            raise LinkError("the stream didn't begin with a welcome")
        if first.welcome.client != client:
            call.cancel()
            raise LinkError("the gateway took this device for another client")
        return cls(call, first.welcome)

    async def frames(self) -> AsyncIterator[pb.GatewayFrame]:
        """What the gateway says, until the stream ends.

        Raises:
            LinkError: it broke.
        """
        while True:
            with calling("the stream broke"):
                frame = await self._call.read()
            if not isinstance(frame, pb.GatewayFrame):
                return
            yield frame

    async def check_in(self, eligible: bool) -> None:
        """Says whether the device is ready."""
        await self._write([pb.DeviceFrame(check_in=pb.CheckIn(eligible=eligible))])

    async def answer(self, answer: Answer) -> None:
        """Sends an answer or a refusal, whole.

        Raises:
            LinkError: the stream broke, or the answer is longer than the gateway takes.
        """
        if answer.body is None:
            refusal = pb.Refusal(
                task=answer.task,
                reason=answer.reason,  # type: ignore[arg-type]  # a number is a member
                text=answer.text,
                signature=answer.signature,
            )
            await self._write([pb.DeviceFrame(refusal=refusal)])
            return
        if self._longest and len(answer.body) > self._longest:
            raise LinkError(f"an answer of {len(answer.body)} bytes is more than the gateway takes")
        await self._write(self._parts(answer.task, answer.body, answer.signature))

    async def lookup(self, clients: list[int]) -> list[Entry]:
        """Asks who some clients are; those that nobody is come without an entry.

        Raises:
            LinkError: the stream broke, or no reply came.
        """
        found: list[Entry] = []
        for start in range(0, len(clients), _LOOKUP):
            some = clients[start : start + _LOOKUP]
            reply = asyncio.get_running_loop().create_future()
            self._lookups.append((set(some), [], reply))
            await self._write([pb.DeviceFrame(lookup=pb.Lookup(clients=some))])
            try:
                async with asyncio.timeout(_LOOKUP_SECONDS):
                    found += await reply
            except TimeoutError as error:
                raise LinkError("no reply to a lookup") from error
        return found

    def entries(self, entries: pb.Entries) -> None:
        """Takes a part of a lookup's reply; what wasn't asked for is left out."""
        if not self._lookups:
            return
        wanted, found, reply = self._lookups[0]
        for entry in entries.entries:
            if entry.client in wanted:
                found.append(Entry(entry.client, entry.identity, entry.signature))
                wanted.discard(entry.client)
        wanted.difference_update(entries.unknown)
        if not wanted:
            self._lookups.pop(0)
            if not reply.done():
                reply.set_result(found)

    async def close(self, polite: bool) -> None:
        """Ends the stream; politely, with a word."""
        for _, _, reply in self._lookups:
            if not reply.done():
                reply.set_exception(LinkError("the stream ended"))
                # Nobody may be waiting any more.
                reply.exception()
        self._lookups.clear()
        if polite:
            try:
                await self._write([pb.DeviceFrame(bye=pb.Bye())])
                async with asyncio.timeout(1.0):
                    with calling("the stream broke"):
                        await self._call.done_writing()
            except (LinkError, TimeoutError):
                pass
        self._call.cancel()

    def _parts(self, task: str, body: bytes, signature: bytes) -> Iterable[pb.DeviceFrame]:
        size = max(1, self._frame - _ROOM)
        for start in range(0, len(body), size):
            part = body[start : start + size]
            last = start + len(part) == len(body)
            yield pb.DeviceFrame(
                answer=pb.AnswerPart(
                    task=task,
                    offset=start,
                    total=len(body),
                    data=part,
                    signature=signature if last else b"",
                )
            )

    async def _write(self, frames: Iterable[pb.DeviceFrame]) -> None:
        async with self._lock:
            for frame in frames:
                with calling("the stream broke while writing"):
                    await self._call.write(frame)


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Whatever ends a call is a `LinkError`.

    gRPC cancels who waits for a call of a channel that is closed, as if its task were.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise LinkError(f"{what}: {said(error)}") from error
    except asyncio.InvalidStateError as error:
        raise LinkError(f"{what}: it is over") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LinkError(f"{what}: the connection was closed") from error


def said(error: grpc.RpcError) -> str:
    """What a failed call says, in one line."""
    code = error.code() if hasattr(error, "code") else None
    details = error.details() if hasattr(error, "details") else ""
    name = code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
    return f"{name}: {str(details).partition(chr(10))[0][:200]}"
