"""Wrong bytes for the gateway's frame handler: mutations of streams that are right.

Every choice is of one seeded generator, so that a failure can be had again. The handler is the
real one, on a real store; only the socket is left out, for speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edge
import grpc
from flwr.app import Message

from tacit.configs.wire import content as packed
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.server import outside
from tacit.server.gateway import wire
from tacit.server.gateway.authority import Authority, request
from tacit.server.gateway.desk import Desk, Document
from tacit.server.gateway.devices import Device, Devices
from tacit.server.gateway.enrolment import Enrolment
from tacit.server.gateway.grid import FIRST_NODE
from tacit.server.gateway.hall import Hall
from tacit.server.gateway.refused import REASONS, RefusedError
from tacit.server.gateway.session import Session
from tacit.server.gateway.settings import Limits, Pace, Settings
from tacit.server.home import Home
from tacit.server.store import Store

KINDS = ("query.advertise", "query.share", "train", "evaluate", "query.confirm", "query.reveal")
# Generous in what would only slow the fuzzing down, tight in what holds memory.
LIMITS = Limits(
    frames_rate=1e9,
    frames_burst=1e9,
    bytes_rate=1e12,
    bytes_burst=1e12,
    max_frame=16 * 1024,
    max_answer=64 * 1024,
    held=256 * 1024,
    inline=8 * 1024,
    chunk=8 * 1024,
    lookup=512,
    enrolments_rate=1e9,
    enrolments_burst=1e9,
)
# A varint that says more than any buffer has.
_HUGE = bytes([0xFF] * 9 + [0x01])


class AbortedError(Exception):
    """What gRPC raises where a call is ended with a status."""


class Wire:
    """A call without a socket: what the device sends, and what it is told.

    Args:
        frames: of the device; the stream ends after them.
    """

    def __init__(self, frames: Sequence[bytes]) -> None:
        self._frames = iter(frames)
        self.heard: list[bytes] = []
        self.status: tuple[grpc.StatusCode, str] | None = None

    async def read(self) -> Any:
        """The next frame."""
        await asyncio.sleep(0)
        return next(self._frames, grpc.aio.EOF)

    async def write(self, data: bytes) -> None:
        """What the gateway says."""
        self.heard.append(data)

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        """Ends the call."""
        self.status = (code, details)
        raise AbortedError


@dataclass
class Tally:
    """How inputs ended, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)
    answered: int = 0

    def note(self, refusal: str) -> None:
        """A refusal, whose reason has to be one that there is."""
        word = refusal.split(":")[0]
        assert word in REASONS, refusal
        self.reasons[word] += 1


class Spoiler:
    """Makes streams that are right, and spoils them.

    Args:
        seed: of every choice.
        client: whose streams.
        identity: signs them.
    """

    def __init__(self, seed: int, client: int, identity: Identity) -> None:
        self.coins, self._client, self._identity = random.Random(seed), client, identity

    def honest(self, tasks: Sequence[pb.Task]) -> list[pb.DeviceFrame]:
        """Some frames that a device might send."""
        coin = self.coins
        frames = [
            pb.DeviceFrame(hello=pb.Hello(protocol=1, agent="fuzz")),
            pb.DeviceFrame(check_in=pb.CheckIn(eligible=True)),
        ]
        makers: list[Callable[[], list[pb.DeviceFrame]]] = [
            lambda: self._answers(coin.choice(tasks)),
            lambda: [self._refusal(coin.choice(tasks))],
            lambda: [pb.DeviceFrame(lookup=pb.Lookup(clients=[0, coin.randrange(2**32)]))],
            lambda: [pb.DeviceFrame(check_in=pb.CheckIn(eligible=coin.random() < 0.5))],
            lambda: [pb.DeviceFrame(bye=pb.Bye())],
        ]
        for _ in range(coin.randrange(1, 4)):
            frames += coin.choice(makers)()
        return frames

    def _answers(self, task: pb.Task) -> list[pb.DeviceFrame]:
        body = self.coins.randbytes(self.coins.choice([1, 20, 300, 3000]))
        statement = statements.reply(task.nonce, task.kind, self._client, body)
        size = self.coins.choice([len(body), 100, 1000])
        parts = [
            pb.AnswerPart(task=task.id, offset=at, total=len(body), data=body[at : at + size])
            for at in range(0, len(body), size)
        ]
        parts[-1].signature = self._identity.sign(statement)
        return [pb.DeviceFrame(answer=part) for part in parts]

    def _refusal(self, task: pb.Task) -> pb.DeviceFrame:
        reason = self.coins.randrange(12)
        text = "".join(self.coins.choice("abc é") for _ in range(self.coins.randrange(30)))
        client = self._client
        said = statements.refusal(task.nonce, task.kind, client, reason, text)
        signature = self._identity.sign(said)
        return pb.DeviceFrame(
            refusal=pb.Refusal(task=task.id, reason=reason, text=text, signature=signature)  # type: ignore[arg-type]
        )

    def wrong(self, tasks: Sequence[pb.Task]) -> list[bytes]:
        """A stream with something wrong in its messages, their order, or their bytes."""
        frames = self.honest(tasks)
        if self.coins.random() < 0.5:
            self._fields(self.coins.choice(frames))
        data = [frame.SerializeToString() for frame in frames]
        if self.coins.random() < 0.4:
            self._order(data)
        if self.coins.random() < 0.6:
            # Half of them late, so that the handler is well inside a stream.
            place = self.coins.randrange(len(data))
            data[place] = self.bytes(data[place])
        return data

    def _fields(self, frame: pb.DeviceFrame) -> None:
        """Values that no honest device has."""
        coin = self.coins
        number = coin.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
        match frame.WhichOneof("frame"):
            case "hello":
                frame.hello.protocol = number % 2**32
                frame.hello.agent = "x" * coin.choice([0, 64, 65, 5000])
            case "answer":
                setattr(frame.answer, coin.choice(["offset", "total"]), number)
                if coin.random() < 0.3:
                    frame.answer.data = coin.randbytes(coin.choice([0, 1, 12_000]))
                if coin.random() < 0.3:
                    frame.answer.signature = coin.randbytes(coin.choice([0, 63, 64, 65]))
                if coin.random() < 0.3:
                    frame.answer.task = coin.choice(["", "\x00" * 500, "../../x"])
            case "refusal":
                frame.refusal.text = coin.choice(["\x00\x1b[2J", "é" * 200, "x" * 9000, ""])
                frame.refusal.reason = number % 2**31  # type: ignore[assignment]
            case "lookup":
                many = coin.choice([0, 1, 511, 512, 513, 3000])
                frame.lookup.clients.extend(coin.randrange(2**32) for _ in range(many))

    def _order(self, data: list[bytes]) -> None:
        """Frames twice, left out, or in another order."""
        coin, place = self.coins, self.coins.randrange(len(data))
        match coin.randrange(4):
            case 0:
                data.insert(coin.randrange(len(data)), data[place])
            case 1:
                del data[place]
            case 2:
                coin.shuffle(data)
            case 3:
                data += data[place:]

    def bytes(self, data: bytes) -> bytes:
        """The bytes of one message, spoilt in one of ten ways."""
        coin = self.coins
        at = coin.randrange(len(data) + 1)
        match coin.randrange(10):
            case 0:
                return coin.randbytes(coin.randrange(1, 200))
            case 1:
                return data[:at]
            case 2 | 3:
                changed = bytearray(data or b"\x00")
                for _ in range(coin.randrange(1, 4)):
                    changed[coin.randrange(len(changed))] ^= 1 << coin.randrange(8)
                return bytes(changed)
            case 4:
                return data[:at] + coin.randbytes(coin.randrange(1, 20)) + data[at:]
            case 5:
                return data[:at] + _HUGE + data[at:]
            case 6:
                # A field of a later version, known or not, and of every wire type.
                tag = coin.randrange(1, 2**14) << 3 | coin.randrange(8)
                return data + bytes([tag & 0x7F | 0x80, tag >> 7 & 0x7F]) + coin.randbytes(9)
            case 7:
                return b"\x0b" * coin.randrange(1, 2000)  # Groups in groups.
            case 8:
                return data + data
            case _:
                return coin.randbytes(coin.choice([0, LIMITS.max_frame, LIMITS.max_frame + 1]))


class Target:
    """The gateway's handlers in this process, with one device and open tasks.

    Args:
        folder: for the store and the keys.
        seed: of everything.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        outside.prepare()
        self._store = Store(Home(str(folder)))
        self.settings = Settings(population="fuzz", limits=LIMITS, pace=Pace())
        self.devices = Devices(self._store.database, "fuzz")
        self.authority = Authority(Home(str(folder)), "fuzz")
        self.desk = Desk(LIMITS)
        self.desk.attach(Document(b"TCD1" + bytes(300), (bytes(1000),)))
        self.hall = Hall(self.settings, self.devices, self.desk)
        self.enrolment = Enrolment(self.devices, self.authority, self.settings)
        self.identity, self.key = Identity.generate(), edge.key()
        self.device = self._enrolled()
        self.spoil = Spoiler(seed, self.device.client, self.identity)
        self.tally = Tally()

    def _enrolled(self) -> Device:
        csr = request(edge.csr(self.key))
        return self.devices.enrol(
            self.devices.invite(600.0),
            self.identity.public,
            None,
            lambda client: self.authority.issue(csr, client, 3600.0),
            lambda client: self.authority.attest(client, self.identity.public),
        )[0]

    def close(self) -> None:
        """Closes the store."""
        self._store.close()

    def lay(self) -> list[pb.Task]:
        """Open tasks for the device, as it is told of them."""
        while len(self.desk.tasks(self.device.client)) < 3:
            coins = self.spoil.coins
            kind = coins.choice(KINDS)
            node = FIRST_NODE + self.device.client
            content = packed(coins.randbytes(40), bytes(16))
            message = Message(content, node, kind, ttl=3600.0)
            self.desk.lay([(self.device.client, message)])
        found = self.desk.tasks(self.device.client)
        return [pb.Task(id=task.id, kind=task.kind, nonce=task.nonce) for task in found]

    async def stream(self, frames: Sequence[bytes]) -> Wire:
        """One whole stream; anything that escapes it is a failure."""
        call: Any = Wire(frames)
        session = Session(self.device, self.hall, call)
        self.hall.enter(session)
        try:
            with contextlib.suppress(AbortedError):
                await asyncio.wait_for(wire.refusing(session.run(), call), 10.0)
        finally:
            self.hall.leave(session)
        if call.status is not None:
            self.tally.note(call.status[1])
        assert self.hall.connected == []
        assert not session.uploading
        return call  # type: ignore[no-any-return]

    async def enrol(self, data: bytes) -> None:
        """One request of a device that isn't enrolled."""
        try:
            await self.enrolment.enrol(data, None)  # type: ignore[arg-type]
            self.tally.answered += 1
        except RefusedError as refusal:
            self.tally.note(refusal.why)

    def settle(self) -> None:
        """Picks all replies up, as a coordinator does, and checks that nothing else is held."""
        identifiers = list(self.desk._replies)
        replies, held = self.desk.pick(identifiers)
        self.tally.answered += len(replies)
        self.hall.held.give(held)
        assert self.hall.held.held == 0
        # Answered tasks are remembered until they would have expired; here that is never.
        self.desk._done.clear()


def resident() -> int:
    """Bytes that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
