"""Connections: how long the head of a request may take, and how large it may be.

Guarantees: a connection is closed when the head of a request isn't there `Wire.patience` seconds
after the connection was made or the head begun, or has more than `HEAD` bytes. uvicorn has neither
limit, and a stranger who says little, or never ends, would cost a file or memory each time. What
comes after the head is `tacit.server.api.security`'s to limit.

Who doesn't read an answer isn't cut off.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from tacit.server.api.settings import Limits

HEAD = 1 << 16


class Wire(asyncio.Protocol):
    """uvicorn's protocol, with these limits.

    Attributes:
        patience: seconds until a head is there.

    Args:
        given: what uvicorn gives to a protocol.
    """

    patience: ClassVar[float] = Limits().patience
    body: ClassVar[int] = Limits().body

    def __init__(self, **given: Any) -> None:
        self._inner: Any = AutoHTTPProtocol(**given)
        self._transport: Any = None
        self._late: asyncio.TimerHandle | None = None
        self._taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for a head from now on."""
        self._transport = transport
        self._inner.connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._rest()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, unless it is too much."""
        self._inner.data_received(data)
        cycle = self._inner.cycle
        if cycle is not None and not cycle.response_complete:
            self._rest()
            return
        self._taken += len(data)
        # A body that was answered before it had come may end.
        early = cycle is not None and cycle.more_body
        if self._taken > (self.body if early else 0) + HEAD:
            self._transport.abort()
        elif self._late is None:
            self._wait()

    def eof_received(self) -> None:
        """The caller sends no more."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """The caller reads more slowly than is written."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._inner.resume_writing()

    def _wait(self) -> None:
        self._late = asyncio.get_running_loop().call_later(self.patience, self._transport.abort)

    def _rest(self) -> None:
        self._taken = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
