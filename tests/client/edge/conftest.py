"""A gateway on loopback for the agents of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from devices import POPULATION

from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.settings import Pace, Settings
from tacit.server.home import Home


@pytest.fixture
def settings() -> Settings:
    """Of the gateway; tests may have others."""
    pace = Pace(retry=0.2, longest=1.0)
    return Settings(population=POPULATION, clients=20, drain=0.5, look=0.2, pace=pace)


@pytest.fixture
def grid(home: Home, settings: Settings) -> Iterator[GatewayGrid]:
    """A gateway that serves."""
    with opened(home, settings) as made:
        yield made
