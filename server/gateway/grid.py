"""A Flower `Grid` whose nodes are devices behind the gateway.

The coordinator's thread pushes and pulls; the gateway's event loop runs in a thread of its
own. A message to a device that isn't there waits until it comes, or until its ttl is over,
when its reply says so. What is pulled is as good as what the device signed: `Legs` verifies it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TypeVar

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from tacit.privacy.errors import TacitError
from tacit.server import outside
from tacit.server.gateway.authority import Authority
from tacit.server.gateway.desk import Desk, Document, request
from tacit.server.gateway.devices import Devices
from tacit.server.gateway.service import Service
from tacit.server.gateway.settings import Settings
from tacit.server.grids import Nodes, OwnGrid
from tacit.server.home import Home
from tacit.server.store import Store

log = logging.getLogger("tacit.gateway")
T = TypeVar("T")

# Out of the way of InProcessGrid's; SuperNodes' are random and of 64 bits.
FIRST_NODE = 2**40


class AbandonedError(TacitError):
    """A round that was ended because the process has to; its charge stands."""


class GatewayGrid(OwnGrid):
    """Devices as nodes; made by `opened`.

    Args:
        service: the gateway's, started.
        loop: that it runs on.
        devices: the store.
        authority: the operator's keys.

    Attributes:
        devices: who is enrolled.
        authority: CA, attestations, and the key of run documents.
        port, enrol_port: where it serves.
    """

    def __init__(
        self,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        devices: Devices,
        authority: Authority,
    ) -> None:
        super().__init__()
        self._service, self._loop = service, loop
        self._abandoned = threading.Event()
        self._desk = service.hall.desk
        self.devices, self.authority = devices, authority
        self.port, self.enrol_port = service.port, service.enrol_port

    def nodes(self, clients: int) -> Nodes:
        """Node id of each client of a population, enrolled or not, connected or not."""
        return Nodes(FIRST_NODE, clients)

    def enrolled(self) -> dict[int, int]:
        """Node id of each client that is a device now: a part of a `JointGrid`."""
        return {
            d.client: FIRST_NODE + d.client
            for d in self.devices.enrolled()
            if not d.revoked and d.not_after
        }

    @property
    def connected(self) -> int:
        """Devices with a stream."""
        return len(self._service.hall.connected)

    @property
    def held(self) -> int:
        """Bytes of answers that the gateway holds or has promised room for."""
        return self._service.hall.held.held

    def attach(self, data: bytes, blobs: Sequence[bytes] = ()) -> None:
        """The run document that each task refers to from now on.

        Args:
            data: signed, as `tacit.protocol.document` encodes it.
            blobs: the graphs that it refers to.
        """
        self._desk.attach(Document(data, tuple(blobs)))

    def get_node_ids(self) -> Iterable[int]:
        """Devices that are connected now."""
        return [FIRST_NODE + client for client in self._on_loop(lambda: self._connected())]

    def _connected(self) -> list[int]:
        return self._service.hall.connected

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Lays tasks down for their devices.

        Returns:
            Their ids; empty where a device has too many open tasks.
        """
        laid, places, made = [], [], [""] * len(messages := list(messages))
        for place, message in enumerate(messages):
            if request(message) is None:
                made[place] = self._told(message)
            else:
                laid.append((message.metadata.dst_node_id - FIRST_NODE, message))
                places.append(place)
        for place, identifier in zip(places, self._desk.lay(laid), strict=True):
            made[place] = identifier
        self._tell(self._service.hall.wake, [client for client, _ in laid])
        return made

    def _tell(self, what: Callable[[T], object], value: T) -> None:
        """Calls something on the event loop; once that has stopped, nothing is due there."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, value)

    def _told(self, message: Message) -> str:
        """Which client a node is, which the gateway knows without asking, or an error."""
        identifier = f"asked-{id(message):x}-{time.monotonic_ns():x}"
        outside.name(message, identifier)
        if message.metadata.message_type == "query":
            client = message.metadata.dst_node_id - FIRST_NODE
            content = RecordDict({"tacit": ConfigRecord({"client": client})})
            self._desk.put(identifier, Message(content, reply_to=message))
        else:
            error = Error(code=ErrorCode.UNKNOWN, reason="a request without body or nonce")
            self._desk.put(identifier, Message(error, reply_to=message))
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yields the replies that have come; each makes room for another once it is dealt with.

        Raises:
            AbandonedError: see `abandon`.
        """
        for identifier in self._desk.ready(list(message_ids)):
            self._check()
            found, held = self._desk.pick([identifier])
            try:
                yield from found
            finally:
                if held:
                    self._tell(self._service.hall.held.give, held)
        self._check()

    def abandon(self) -> None:
        """Ends what the coordinator does at its next look for replies: an `AbandonedError`."""
        self._abandoned.set()

    def _check(self) -> None:
        if self._abandoned.is_set():
            raise AbandonedError("the round was abandoned: the gateway is to stop")

    def _on_loop(self, read: Callable[[], T]) -> T:
        """What the event loop's own state is, read there."""

        async def inner() -> T:
            return read()

        return asyncio.run_coroutine_threadsafe(inner(), self._loop).result(30.0)


@contextlib.contextmanager
def opened(home: Home, settings: Settings) -> Iterator[GatewayGrid]:
    """A gateway that serves until the block ends, and then drains.

    Args:
        home: with the store of devices and the operator's keys.
        settings: addresses, population, limits.

    Raises:
        ConfigError: an address can't be had.
        StorageError: the home's database or keys can't be used.
    """
    store = Store(home)
    try:
        devices = Devices(store.database, settings.population)
        authority = Authority(home, settings.population)
        desk = Desk(settings.limits)
        with _looping() as loop:
            service = _awaited(_made(settings, devices, authority, desk), loop)
            try:
                _awaited(service.start(), loop)
                yield GatewayGrid(service, loop, devices, authority)
            finally:
                _awaited(service.stop(), loop)
    finally:
        store.close()


async def _made(settings: Settings, devices: Devices, authority: Authority, desk: Desk) -> Service:
    return Service(settings, devices, authority, desk)


def _awaited(work: Coroutine[object, object, T], loop: asyncio.AbstractEventLoop) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result()


@contextlib.contextmanager
def _looping() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tacit-gateway", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        _awaited(loop.shutdown_default_executor(), loop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
