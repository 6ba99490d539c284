"""A home with a finished federation, and its cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from erasing import train

from tacit.server.erasure.cases import Cases
from tacit.server.home import Home
from tacit.server.store import Store


@pytest.fixture
def cases(store: Store) -> Cases:
    return Cases(store)


@pytest.fixture
def run(store: Store, home: Home) -> str:
    """A finished run."""
    return train(home)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite home with a finished run, for tests that copy it."""
    root = tmp_path_factory.mktemp("ready") / "home"
    train(Home(root))
    return root
