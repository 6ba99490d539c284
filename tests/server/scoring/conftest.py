"""A home whose first version is champion, made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from scoring import MODEL
from tiny import TINY

from tacit import simulate
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.scoring.model import Loader
from tacit.server.store import Store

WHO = {"actor": "ann", "reason": "because"}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, the first of which is champion, and their graphs."""
    root = tmp_path_factory.mktemp("scoring") / "home"
    simulate([*TINY, "task=served:task"], home=root)
    store = Store(Home(root))
    Lifecycle(store).move(MODEL, "champion", 1, expected=None, **WHO)
    registry = ModelRegistry(store.home, store)
    loader = Loader(store, registry)
    for row in registry.list(MODEL):
        loader.load(row)
    store.close()
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A home of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "home"))


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    """Its database."""
    store = Store(Home(root))
    yield store
    store.close()
