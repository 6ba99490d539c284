"""What an agent is made of, and the line that its parts share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import grpc

from tacit.client.edge.blobs import Blobs
from tacit.client.edge.link import Link
from tacit.client.edge.member import Member
from tacit.client.edge.policy import Eligibility
from tacit.privacy.secagg.keys import Identity
from tacit.protocol.edge_pb2_grpc import GatewayStub


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait after failures: twice as long each time, up to a quarter more at random.

    Attributes:
        first: seconds after the first one.
        most: seconds.
    """

    first: float = 1.0
    most: float = 300.0

    def after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, at least one."""
        doubled = self.first * 2.0 ** min(failures - 1, 30)
        # Not a secret: it spreads devices out.
        return float(min(self.most, doubled) * (1 + random.random() / 4))  # noqa: S311


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """An agent.

    Attributes:
        client: its number.
        identity: its signing key.
        member: makes its member, where the member is then used: in the executor.
        gateway: "host:port".
        credentials: of TLS, asked for at every connection.
        blobs: downloads.
        eligibility: its owner's conditions.
        renew: renews the certificate if that is due, over an open connection; None never does.
        executor: of one thread, in which the member works; None has it work in the event
            loop, where many agents share a process and their members are quick.
        host: see `tacit.client.edge.link.channel`.
        backoff: after failures.
    """

    client: int
    identity: Identity
    member: Callable[[], Member]
    gateway: str
    credentials: Callable[[], grpc.ChannelCredentials]
    blobs: Blobs
    eligibility: Eligibility
    renew: Callable[[GatewayStub], Awaitable[None]] | None = None
    executor: Executor | None = None
    host: str | None = None
    backoff: Backoff = field(default_factory=Backoff)


class Line:
    """The connection that there is just now, if there is one.

    Attributes:
        link: the stream, or None.
        stub: the channel's calls, or None.
        online: set while there is one.
    """

    def __init__(self) -> None:
        self.link: Link | None = None
        self.stub: GatewayStub | None = None
        self.online = asyncio.Event()

    def up(self, link: Link, stub: GatewayStub) -> None:
        """A stream was welcomed."""
        self.link, self.stub = link, stub
        self.online.set()

    def down(self) -> None:
        """It ended."""
        self.online.clear()
        self.link = self.stub = None
