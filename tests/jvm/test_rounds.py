"""Devices that aren't Python in secure rounds of the real gateway, beside devices that are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import crowd as crowds
import java
import pytest
from devices import settings
from java import Jvm
from tiny import make_tiny

from tacit.configs import build
from tacit.server.home import Home
from tacit.tasks.device import bundle

OVERRIDES = settings("rounds=2", "evaluation=federated", "evaluation.every=1")
PYTHONS, JVMS = 3, (3, 4, 5)


@pytest.fixture(scope="module")
def path() -> str:
    return java.build()


@pytest.fixture(scope="module")
def graphs() -> dict[str, float]:
    """The graphs that the JVM's owners say are a logistic regression."""
    made = bundle.build(make_tiny(), build.compose(OVERRIDES), "any", crowds.POPULATION)
    document = made.document
    assert document.evaluation is not None
    return {document.step.graph: 1.0, document.evaluation.graph: 1.0}


@contextlib.contextmanager
def devices(path: str, folder: Path, crowd: crowds.Crowd) -> Iterator[list[Jvm]]:
    """JVMs that are enrolled."""
    made = [Jvm(path, folder / f"jvm-{k}", k) for k in JVMS]
    for device in made:
        device.enrol(crowd.grid, crowds.POPULATION)
    try:
        yield made
    finally:
        for device in made:
            device.stop()


def test_jvms_and_pythons_make_one_sum(
    path: str, graphs: dict[str, float], home: Home, tmp_path: Path
) -> None:
    with (
        crowds.gateway(home) as grid,
        crowds.Crowd(grid, make_tiny(), PYTHONS, tmp_path / "devices") as crowd,
        devices(path, tmp_path, crowd) as jvms,
    ):
        for device in jvms:
            device.configure(crowd.task, graphs)
            device.start()
        crowd.on()
        crowds.edge.until(lambda: grid.connected == PYTHONS + len(JVMS))
        store, _, results = crowds.rounds(crowd, OVERRIDES, home, deadline=60.0)
        store.close()
        assert [r.accepted for r in results] == [6, 6]
        assert all(r.rejected == {} for r in results)
        assert all("accuracy" in r.metrics for r in results)
        for device in jvms:
            assert [e["purpose"] for e in device.ledger()] == ["train", "evaluate"] * 2
            assert device.events("refused") == []
