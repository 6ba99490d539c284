"""Fixtures shared by all packages' tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tacit import Task
from tacit.server.home import Home
from tacit.server.store import Store

# Also for the processes that tests start.
SUPPORT = str(Path(__file__).parent / "support")
sys.path.insert(0, SUPPORT)
os.environ["PYTHONPATH"] = os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")]).rstrip(":")

import tampering  # noqa: E402
from postgres import Postgres  # noqa: E402
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


@pytest.fixture(scope="module")
def remembered() -> Iterator[None]:
    """Accountants that answer from memory."""
    with pytest.MonkeyPatch.context() as patch:
        tampering.remember(patch)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this session's own."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Of the home's database: None for SQLite, which it is without `postgres.BOTH`."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    server: Postgres = request.getfixturevalue("postgres")
    made = server.fresh()
    yield made
    server.recycle(made)


@pytest.fixture
def home(tmp_path: Path, url: str | None) -> Home:
    """An empty home."""
    return Home(tmp_path / "home", url)


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """The database of an empty home."""
    made = Store(home)
    yield made
    made.close()
