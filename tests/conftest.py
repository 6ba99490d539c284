"""Fixtures shared by all packages' tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tacit import Task
from tacit.server.home import Home
from tacit.server.store import Store

# Also for the processes that tests start.
SUPPORT = str(Path(__file__).parent / "support")
sys.path.insert(0, SUPPORT)
os.environ["PYTHONPATH"] = os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")]).rstrip(":")

from tiny import TINY, TINY_SECURE, make_tiny  # noqa: E402

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def tiny() -> Callable[..., Task]:
    """Makes a tiny task."""
    return make_tiny


@pytest.fixture
def overrides() -> list[str]:
    """Settings of a tiny federation."""
    return list(TINY)


@pytest.fixture
def secure() -> list[str]:
    """Settings of a tiny federation with secure aggregation."""
    return list(TINY_SECURE)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path / "home")


@pytest.fixture
def store(home: Home) -> Store:
    """The database of an empty home."""
    return Store(home)
