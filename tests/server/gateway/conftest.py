"""A gateway on loopback, with real certificates, and devices that enrolled with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import edge
import pytest

from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.settings import Limits, Pace, Settings
from tacit.server.home import Home

POPULATION = "tests"


@dataclass
class Place:
    """A gateway that runs."""

    grid: GatewayGrid

    @property
    def ca(self) -> bytes:
        return self.grid.authority.certificate

    def device(self, client: int | None = None) -> edge.Credentials:
        token = self.grid.devices.invite(3600, client)
        return edge.enrol(self.grid.enrol_port, self.ca, token)

    @contextlib.contextmanager
    def stream(self, device: edge.Credentials) -> Iterator[edge.Stream]:
        with edge.stream(device, self.grid.port) as made:
            yield made

    @contextlib.contextmanager
    def ready(self, device: edge.Credentials) -> Iterator[edge.Stream]:
        with self.stream(device) as made:
            yield made.begin()


Gateway = Callable[..., contextlib.AbstractContextManager[Place]]


@pytest.fixture
def gateway(home: Home) -> Gateway:
    """Opens a gateway on the test's home; limits and other settings as keywords."""

    @contextlib.contextmanager
    def run(**more: Any) -> Iterator[Place]:
        names = {"population", "clients", "certificate", "drain", "look", "hosts"}
        own = {k: v for k, v in more.items() if k in names}
        pace = {k: v for k, v in more.items() if k in ("check_in", "retry", "longest", "rate")}
        limits = {k: v for k, v in more.items() if k not in own and k not in pace}
        settings = Settings(
            **{
                "population": POPULATION,
                "clients": 100,
                "drain": 2.0,
                "look": 0.2,
                **own,
                "limits": Limits(**limits),
                "pace": Pace(**pace),
            }
        )
        with opened(home, settings) as grid:
            yield Place(grid)

    return run
