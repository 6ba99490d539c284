"""A gateway for the devices of each test."""

from __future__ import annotations

from collections.abc import Iterator

import crowd
import pytest

from tacit.server.gateway.grid import GatewayGrid
from tacit.server.home import Home


@pytest.fixture
def grid(home: Home) -> Iterator[GatewayGrid]:
    with crowd.gateway(home) as made:
        yield made
