"""Every limit of the gateway, each with a default and checked when it is set.

Nothing that a device can make the gateway hold, read or wait for is without one of these.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

KIB, MIB = 1024, 1024 * 1024
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What devices may use. Sizes are in bytes, times in seconds.

    Attributes:
        connections: live streams in all.
        frames_rate, frames_burst: frames of one device, a second and at once; above, the
            gateway reads more slowly.
        bytes_rate, bytes_burst: the same in bytes of frames.
        max_frame: largest frame.
        max_answer: largest answer.
        held: bytes of answers that aren't with the coordinator yet, of all devices. Who would
            exceed it waits.
        inline: largest body that is sent in its task; others are downloaded.
        lookup: clients in a lookup.
        tasks: open tasks of one device; more are refused to the coordinator.
        outbox: frames that wait for a slow reader, tasks apart.
        downloads: at once, in all; of one device, two, and one where no place is free.
        downloads_waiting: that wait for their turn; others are told to come again.
        chunk: of a download.
        handshake: until TLS is done.
        hello: until a new stream's first frame.
        answer: from an answer's first part to its last.
        rate: least bytes a second of an answer or a download, on average once ``grace`` is
            over; who is slower loses its room or place. Of a download what the transport has
            room for counts as taken, some 4 MB: who stalls before that is let go by ``write``.
        grace: seconds before that is asked.
        write: until a device has taken a frame.
        download: of a whole download; it can be resumed.
        keepalive, keepalive_timeout: between HTTP/2 pings, and until one is answered.
        hold: that a reply, or the news that there is none, waits for the coordinator.
        enrolments: at once.
        enrolments_rate, enrolments_burst: a second, and at once, in all.
        renewals: between two renewals of a device's certificate; it may ask four times as often.
    """

    connections: int = 10_000
    frames_rate: float = 200.0
    frames_burst: float = 400.0
    bytes_rate: float = 16.0 * MIB
    bytes_burst: float = 16.0 * MIB
    max_frame: int = 256 * KIB
    max_answer: int = 64 * MIB
    held: int = 256 * MIB
    inline: int = 64 * KIB
    lookup: int = 4096
    tasks: int = 8
    outbox: int = 16
    downloads: int = 64
    downloads_waiting: int = 4096
    chunk: int = 64 * KIB
    handshake: float = 20.0
    hello: float = 20.0
    answer: float = 300.0
    rate: float = 16.0 * KIB
    grace: float = 10.0
    write: float = 60.0
    download: float = 900.0
    keepalive: float = 60.0
    keepalive_timeout: float = 20.0
    hold: float = 900.0
    enrolments: int = 64
    enrolments_rate: float = 50.0
    enrolments_burst: float = 100.0
    renewals: float = 60.0

    def __post_init__(self) -> None:
        validate.limits("limits", self)
        if not 4 * KIB <= self.max_frame <= 4 * MIB - 1:
            raise ConfigError(
                f"limits.max_frame={self.max_frame} must be in [4096, 4194303]",
                "gRPC's own limit on a device is 4 MiB unless it is raised there",
            )
        # Room for what surrounds a body or a chunk.
        for name, size in {"inline": self.inline, "chunk": self.chunk}.items():
            if size + 2 * KIB > self.max_frame:
                raise ConfigError(
                    f"limits.{name}={size} doesn't fit into max_frame={self.max_frame}"
                )
        if 5 * self.lookup + KIB > self.max_frame:
            raise ConfigError(f"limits.lookup={self.lookup} doesn't fit into max_frame")
        if self.max_answer > self.held:
            raise ConfigError(
                f"limits.held={self.held} is less than one max_answer={self.max_answer}"
            )


@dataclass(frozen=True, slots=True)
class Pace:
    """When devices come back. Times are in seconds.

    Attributes:
        check_in: between two check-ins of a device that stays connected.
        retry: least time for which a device is sent away.
        longest: most.
        rate: returning devices a second that the gateway aims at.
    """

    check_in: float = 600.0
    retry: float = 30.0
    longest: float = 3600.0
    rate: float = 100.0

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            validate.positive(f"pace.{each.name}", getattr(self, each.name))
        if self.longest < self.retry:
            raise ConfigError(f"pace.longest={self.longest:g} is below retry={self.retry:g}")
        if max(self.longest, self.check_in) > 2**31 / 1000:
            raise ConfigError("pace.longest and pace.check_in must be below 24 days")


@dataclass(frozen=True, slots=True)
class Settings:
    """A gateway.

    Attributes:
        population: whose devices.
        clients: their numbers are below this; None has no limit.
        listen: ``host:port`` of the gateway; port 0 takes any.
        enrol: ``host:port`` of the enrolment service; None has none.
        advertised, advertised_enrol: ``host:port`` that devices reach them by, where that
            isn't the same.
        hosts: more names and addresses that the server's certificate is to be for.
        certificate: lifetime of a device's, in seconds.
        drain: seconds that a gateway which stops waits for answers on their way.
        look: seconds between two looks for devices that were revoked.
    """

    population: str
    clients: int | None = None
    listen: str = "127.0.0.1:0"
    enrol: str | None = "127.0.0.1:0"
    advertised: str | None = None
    advertised_enrol: str | None = None
    hosts: tuple[str, ...] = ()
    certificate: float = 90 * DAY
    drain: float = 30.0
    look: float = 2.0
    limits: Limits = field(default_factory=Limits)
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        if self.clients is not None:
            validate.at_least("clients", self.clients, 1)
        for name in ("listen", "enrol", "advertised", "advertised_enrol"):
            if getattr(self, name) is not None:
                split(name, getattr(self, name))
        validate.positive("certificate", self.certificate)
        validate.nonnegative("drain", self.drain)
        validate.positive("look", self.look)

    def names(self) -> tuple[str, ...]:
        """The hosts that the server's certificate is for, the one that is told first."""
        given = (self.advertised, self.advertised_enrol, self.listen, self.enrol)
        own = [split("listen", address)[0] for address in given if address is not None]
        return tuple(dict.fromkeys([*own, *self.hosts]))


def split(name: str, address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address is in brackets.

    Raises:
        ConfigError: it isn't that.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{name}={address} isn't host:port", "such as 127.0.0.1:9443")
    return host.removeprefix("[").removesuffix("]"), int(port)
