"""Silos and devices in one federation: Flower's Grid joined with a gateway's.

Guarantees: a client is a silo or a device by its number alone, and each is reached in its own
way; the coordinator sees one Grid, one table of nodes, one directory. A device takes part if the
gateway has it enrolled, not revoked, under the very key that ``devices.json`` has for it: the
silos have copies of that file, and a roster with a client that they don't know is one that they
refuse. The silos' keys are attested by the operator's authority, so that devices know them.

It doesn't tell silos of devices that enrolled after the file was made: those wait for the next
one (`tacit devices directory`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from flwr.serverapp import Grid

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.secagg.directory import Directory
from tacit.server import offer, runs, serving
from tacit.server.census import census
from tacit.server.deployment import POLL, DeviceSettings, LegSettings
from tacit.server.gateway.devices import EnrolledDirectory
from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home
from tacit.server.joint import JointGrid
from tacit.server.legs import Legs
from tacit.server.store import Row
from tacit.tasks.task import Task

log = logging.getLogger("tacit.gateway")
# Seconds between two looks at who is there.
_LOOK = 0.5


class MixedDirectory:
    """Whose replies are taken: silos as pinned, devices as pinned and enrolled.

    Args:
        pinned: everybody's keys, as the silos have them too.
        enrolled: devices that are enrolled now.
        first: number of the first device.
    """

    def __init__(self, pinned: Directory, enrolled: Directory, first: int) -> None:
        self._pinned, self._enrolled, self._first = pinned, enrolled, first

    def public(self, client: int) -> bytes | None:
        """A client's key, or None if it has no part in this run."""
        known = self._pinned.public(client)
        if client < self._first or known is None:
            return known
        return known if self._enrolled.public(client) == known else None


@dataclass(frozen=True, slots=True)
class Joined:
    """A federation, while its gateway is open.

    Attributes:
        silos: Flower's Grid.
        gateway: the devices'.
        directory: of both.
        spec, task: of the run.
        first: number of the first device.
    """

    silos: Grid
    gateway: GatewayGrid
    directory: MixedDirectory
    spec: RunSpec
    task: Task
    first: int

    def legs(self, settings: LegSettings) -> Legs:
        """Legs to all, once there are enough.

        Raises:
            RoundError: there aren't, after ``settings.wait``.
        """
        began, fewest = time.monotonic(), max(1, self.spec.minimum_survivors or 1)
        silos = census(self.silos, self.first, settings.wait, self.directory, 0)
        while len(silos) + self._connected() < fewest:
            if time.monotonic() > began + settings.wait:
                raise RoundError(
                    f"minimum_survivors={fewest} but {len(silos)} of {self.first} silos and "
                    f"{self._connected()} devices of the directory are there",
                    "start more, or wait longer (wait=)",
                )
            time.sleep(_LOOK)
        joint = JointGrid((self.silos, silos), (self.gateway, self._devices()), growing=self.silos)
        log.info("%d silos, %d devices", len(silos), self._connected())
        deadline, resend = settings.deadline, settings.resend
        return Legs(joint, joint.nodes, deadline, POLL, self.directory, resend)

    def begin(self, run: Row) -> None:
        """Lays out a run's document and graphs for devices."""
        population = self.gateway.devices.population
        key = self.gateway.authority.coordinator
        spec = runs.spec_of(run)
        self.gateway.attach(*offer.made(self.task, spec, run["id"], population, key))

    def _devices(self) -> dict[int, int]:
        """Node ids of the devices that may take part, connected or not."""
        enrolled = self.gateway.enrolled()
        known = range(self.first, self.spec.clients)
        return {k: enrolled[k] for k in known if k in enrolled and self.directory.public(k)}

    def _connected(self) -> int:
        return len(set(self.gateway.get_node_ids()) & set(self._devices().values()))


@contextlib.contextmanager
def joined(
    grid: Grid, what: tuple[RunSpec, Task], where: tuple[Home, Directory], settings: DeviceSettings
) -> Iterator[Joined]:
    """Opens a gateway beside a SuperLink, until the block ends.

    Args:
        grid: of the silos.
        what: the run's configuration and task.
        where: the coordinator's home, and the pinned directory.
        settings: of the gateway.

    Raises:
        ConfigError: a silo isn't in the directory, or its number is a device's; or an address
            can't be had.
        StorageError: the home's database or keys can't be used.
    """
    (spec, task), (home, pinned) = what, where
    offer.check()
    made = Settings(
        population=spec.population or task.name,
        clients=spec.clients,
        listen=settings.gateway,
        enrol=settings.enrol or None,
        advertised=settings.advertised or None,
        advertised_enrol=settings.advertised_enrol or None,
        drain=10.0,
    )
    with opened(home, made) as gateway:
        for client in range(settings.devices_from):
            _attest(gateway, client, pinned.public(client))
        serving.advertise(home, gateway, made)
        first = settings.devices_from
        directory = MixedDirectory(pinned, EnrolledDirectory(gateway.devices), first)
        yield Joined(grid, gateway, directory, spec, task, first)


def _attest(gateway: GatewayGrid, client: int, identity: bytes | None) -> None:
    """Has the authority say to devices whose identity a silo's is."""
    if identity is None:
        raise ConfigError(
            f"client={client} is a silo and isn't in the directory", "or raise devices-from"
        )
    gateway.devices.adopt(client, identity, gateway.authority.attest(client, identity))
