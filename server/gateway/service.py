"""The gateway's servers on one event loop: `Gateway` by mutual TLS, `Enrolment` beside it.

Guarantees: a device is who its certificate says, by TLS and by the store; both are asked when
a call begins, the store again while a stream lives.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter

import grpc

from tacit.privacy.errors import ConfigError
from tacit.protocol import edge_pb2 as pb
from tacit.server import telemetry
from tacit.server.gateway import authority as authorities
from tacit.server.gateway import wire
from tacit.server.gateway.authority import Authority
from tacit.server.gateway.desk import Desk
from tacit.server.gateway.devices import Device, Devices
from tacit.server.gateway.enrolment import Enrolment
from tacit.server.gateway.flow import Turns
from tacit.server.gateway.hall import Hall
from tacit.server.gateway.refused import RefusedError
from tacit.server.gateway.session import Session
from tacit.server.gateway.settings import Settings, split

log = logging.getLogger("tacit.gateway")
_DOWNLOADS_EACH = 2
_GRACE = 2.0
# Descriptors for all else: the database, TLS, what is beside the gateway.
_OTHER_FILES = 512


class Service:
    """The servers.

    Args:
        settings: of the gateway.
        devices: the store.
        authority: the operator's keys.
        desk: the tasks.

    Attributes:
        port: of the gateway.
        enrol_port: of the enrolment service; 0 if there is none.
    """

    def __init__(
        self, settings: Settings, devices: Devices, authority: Authority, desk: Desk
    ) -> None:
        self._settings, self._devices, self._authority = settings, devices, authority
        self.hall = Hall(settings, devices, desk)
        limits = settings.limits
        self._turns = Turns(limits.downloads, limits.downloads_waiting)
        self._downloading: Counter[int] = Counter()
        self._enrolment = Enrolment(devices, authority, settings)
        self._servers: list[grpc.aio.Server] = []
        self._keeper: asyncio.Task[None] | None = None
        self.port = self.enrol_port = 0

    async def start(self) -> None:
        """Binds and serves.

        Raises:
            ConfigError: an address can't be had.
        """
        limits, settings = self._settings.limits, self._settings
        _descriptors(limits.connections)
        key, certificate = self._authority.server(settings.names())
        pairs = [(key, certificate)]
        own = self._authority.certificate
        mutual = grpc.ssl_server_credentials(pairs, own, require_client_auth=True)
        calls = 2 * limits.connections + limits.downloads + limits.downloads_waiting
        gateway = wire.server([self._handler()], limits, calls)
        self.port = _bound(gateway, "listen", settings.listen, mutual)
        self._servers.append(gateway)
        if settings.enrol is not None:
            enrolment = wire.server([self._enrolment.handler()], limits, limits.enrolments)
            alone = grpc.ssl_server_credentials(pairs)
            self.enrol_port = _bound(enrolment, "enrol", settings.enrol, alone)
            self._servers.append(enrolment)
        for server in self._servers:
            await server.start()
        self._keeper = asyncio.create_task(self.hall.keep())
        telemetry.ready(True)
        log.info("the gateway serves", extra={"port": self.port})

    async def stop(self) -> None:
        """Drains, and stops."""
        telemetry.ready(False)
        await self.hall.drain(self._settings.drain)
        for server in self._servers:
            await server.stop(_GRACE)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        log.info("the gateway has stopped")

    def _handler(self) -> wire.Handler:
        methods = {
            "Connect": wire.duplex(self._connect),
            "Download": wire.streaming(self._download),
            "Renew": wire.unary(self._enrolment.renew),
        }
        return grpc.method_handlers_generic_handler("tacit.edge.v1.Gateway", methods)

    async def _admitted(self, context: wire.Context) -> Device:
        """The device that calls."""
        der = wire.caller(context)
        named = self._authority.client_of(der)
        device = await asyncio.to_thread(self._devices.admit, authorities.fingerprint(der))
        if device.client != named:
            raise RefusedError("CERTIFICATE", "the certificate names another client")
        return device

    async def _connect(self, context: wire.Context) -> None:
        session = Session(await self._admitted(context), self.hall, context)
        self.hall.enter(session)
        try:
            await session.run()
        finally:
            self.hall.leave(session)

    async def _download(self, data: bytes, context: wire.Context) -> None:
        device = await self._admitted(context)
        asked = wire.parsed(pb.DownloadRequest, data)
        blob = self.hall.desk.blob(device.client, asked.sha256)
        if blob is None:
            raise RefusedError("NOT_FOUND", "no open task of this device refers to that")
        if asked.offset > len(blob):
            raise RefusedError("BACKWARD", f"offset {asked.offset} is behind the end {len(blob)}")
        each = 1 if self._turns.full else _DOWNLOADS_EACH
        if self._downloading[device.client] >= each:
            raise RefusedError("BUSY", f"a device has at most {each} downloads at once now")
        self._downloading[device.client] += 1
        try:
            async with self._turns.turn():
                await self._send(blob, asked.offset, context)
        finally:
            self._downloading[device.client] -= 1
            if not self._downloading[device.client]:
                del self._downloading[device.client]

    async def _send(self, blob: bytes, offset: int, context: wire.Context) -> None:
        limits, view = self._settings.limits, memoryview(blob)
        clock = self.hall.loop.time
        began = clock()
        try:
            async with asyncio.timeout(limits.download):
                for start in range(offset, len(blob), limits.chunk):
                    part = bytes(view[start : start + limits.chunk])
                    slow = began + limits.grace + (start - offset) / limits.rate
                    async with asyncio.timeout_at(min(clock() + limits.write, slow)):
                        await context.write(pb.Chunk(data=part).SerializeToString())
                    telemetry.bytes_moved("out", len(part))
        except TimeoutError as error:
            raise RefusedError("TOO_SLOW", "the download takes too long; resume it") from error


def _descriptors(connections: int) -> None:
    """Lets the process have a file descriptor for each connection, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning(
            "connections=%d, but this process may open %d files: raise `ulimit -n`",
            connections,
            most,
        )


def _bound(
    server: grpc.aio.Server, name: str, address: str, credentials: grpc.ServerCredentials
) -> int:
    split(name, address)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError(f"{name}={address} can't be bound", "is it in use?") from error
    if not port:
        raise ConfigError(f"{name}={address} can't be bound", "is it in use?")
    return port
