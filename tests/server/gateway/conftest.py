"""A gateway on the test's own home."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from edge import Gateway, Place, serving

from tacit.server.home import Home


@pytest.fixture
def gateway(home: Home) -> Gateway:
    """Opens a gateway on the test's home; limits and other settings as keywords."""

    @contextlib.contextmanager
    def run(**more: Any) -> Iterator[Place]:
        with serving(home, **more) as place:
            yield place

    return run
