"""What all streams share: who is connected, the tasks, the room for answers, who is revoked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tacit.server import telemetry
from tacit.server.gateway.desk import Desk
from tacit.server.gateway.devices import Device, Devices
from tacit.server.gateway.flow import Budget, Pacer
from tacit.server.gateway.refused import RefusedError
from tacit.server.gateway.settings import Settings

if TYPE_CHECKING:
    from tacit.server.gateway.session import Session

log = logging.getLogger("tacit.gateway")
# Identities that are remembered for lookups.
_KNOWN = 65536
_SWEEP = 0.5


class Hall:
    """Of one event loop.

    Args:
        settings: of the gateway.
        devices: the store.
        desk: the tasks.

    Attributes:
        held: room for answers.
        pacer: says when devices come back.
        draining: whether nobody is let in any more.
    """

    def __init__(self, settings: Settings, devices: Devices, desk: Desk) -> None:
        self.settings, self.devices, self.desk = settings, devices, desk
        self.loop = asyncio.get_running_loop()
        self.held = Budget(settings.limits.held)
        self.pacer = Pacer(settings.pace)
        self.draining = False
        self._sessions: dict[int, Session] = {}
        self._known: dict[int, Device] = {}
        self._revoked: set[int] = set()

    # Who is here

    @property
    def connected(self) -> list[int]:
        """Clients with a stream."""
        return list(self._sessions)

    def enter(self, session: Session) -> None:
        """Takes a stream in; an older one of the same device counts no more from here on.

        Raises:
            RefusedError: the gateway stops, or is full beyond what it can turn away politely.
        """
        if self.draining:
            raise RefusedError("DRAINING", "the gateway stops")
        older = self._sessions.pop(session.client, None)
        if older is not None:
            older.end(RefusedError("REPLACED", "a newer stream of this device"))
        elif len(self._sessions) >= 2 * self.settings.limits.connections:
            raise RefusedError("BUSY", "too many streams; come again later")
        self._sessions[session.client] = session
        telemetry.devices(connected=len(self._sessions))

    def leave(self, session: Session) -> None:
        """Lets a stream go."""
        if self._sessions.get(session.client) is session:
            del self._sessions[session.client]
            telemetry.devices(connected=len(self._sessions))

    def crowded(self, session: Session) -> bool:
        """Whether a device is to be sent away; one with tasks takes an idle one's place."""
        if len(self._sessions) <= self.settings.limits.connections:
            return False
        if self.desk.idle(session.client):
            return True
        for other in self._sessions.values():
            if other is not session and self.desk.idle(other.client):
                other.retire("full")
                self._sessions.pop(other.client)
                return False
        return True

    def wake(self, clients: Sequence[int]) -> None:
        """There are tasks for these."""
        for client in clients:
            if (session := self._sessions.get(client)) is not None:
                session.wake()

    # Whose identity

    async def lookup(self, clients: Sequence[int]) -> dict[int, Device]:
        """Those that are enrolled and not revoked."""
        missing = [k for k in clients if k not in self._known]
        found: dict[int, Device] = {}
        if missing:
            found = await asyncio.to_thread(self.devices.some, missing)
            if len(self._known) + len(found) > _KNOWN:
                self._known.clear()
            # One that is revoked at this moment is forgotten at the next look.
            self._known.update(found)
        known = {k: found.get(k) or self._known.get(k) for k in clients}
        return {k: device for k, device in known.items() if device is not None}

    # Time

    async def keep(self) -> None:
        """Ends what is over, for as long as the gateway runs."""
        due = self.loop.time()
        while True:
            await asyncio.sleep(_SWEEP)
            self._sweep()
            if self.loop.time() < due:
                continue
            due = self.loop.time() + self.settings.look
            try:
                await self._look()
            except Exception:
                # A database that is away for a moment ends nobody's stream; new ones are
                # refused by themselves.
                log.exception("who is revoked can't be read")

    def _sweep(self) -> None:
        late, unclaimed = self.desk.sweep()
        for task in late:
            if (session := self._sessions.get(task.client)) is not None:
                session.cancel(task)
        if unclaimed:
            self.held.give(unclaimed)

    async def _look(self) -> None:
        self._revoked = await asyncio.to_thread(self.devices.revoked)
        now = self.devices.now()
        for client in self._revoked:
            self._known.pop(client, None)
        for session in list(self._sessions.values()):
            if session.client in self._revoked:
                session.end(RefusedError("REVOKED", "the device is revoked"))
            elif session.expired(now):
                session.end(RefusedError("EXPIRED", "the certificate has expired"))

    async def drain(self, seconds: float) -> None:
        """Lets nobody in, waits for answers on their way, and says goodbye."""
        self.draining = True
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            if not any(s.uploading for s in self._sessions.values()):
                break
            await asyncio.sleep(0.05)
        leaving = list(self._sessions.values())
        for session in leaving:
            session.end(RefusedError("DRAINING", "the gateway stops"))
        if leaving:
            await asyncio.wait([s.gone for s in leaving], timeout=10.0)
