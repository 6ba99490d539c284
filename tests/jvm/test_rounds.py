"""Devices that aren't Python in secure rounds of the real gateway, beside devices that are."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import crowd as crowds
import numpy as np
import pytest
from devices import settings
from java import Jvm
from torch import nn

from tacit import Task
from tacit.configs import build
from tacit.server.home import Home
from tacit.tasks.device import bundle

OVERRIDES = settings("rounds=1", "evaluation=federated", "evaluation.every=1")
pytestmark = pytest.mark.slow
PYTHONS, JVMS = 3, (3, 4, 5)


# An answer of 1202 coordinates, padded, doesn't fit into one of the small frames.
FEATURES = 600


def wide() -> Task:
    """Two blobs in many dimensions."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 36)
    x = rng.normal(size=(36, FEATURES)).astype(np.float32) + y[:, None].astype(np.float32)

    def data(client: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(client * 6, client * 6 + 6)
        return x[part], y[part]

    model = lambda: nn.Linear(FEATURES, 2)  # noqa: E731
    return Task(name="wide", model=model, data=data, examples_per_client=6)


@pytest.fixture(scope="module")
def graphs() -> dict[str, float]:
    """The graphs that the JVMs' owners say are a logistic regression."""
    document = bundle.build(wide(), build.compose(OVERRIDES), "any", crowds.POPULATION).document
    assert document.evaluation is not None
    return {document.step.graph: 1.0, document.evaluation.graph: 1.0}


@contextlib.contextmanager
def devices(path: str, folder: Path, crowd: crowds.Crowd) -> Iterator[dict[int, Jvm]]:
    """JVMs that are enrolled."""
    made = {k: Jvm(path, folder / f"jvm-{k}", k) for k in JVMS}
    for device in made.values():
        device.enrol(crowd.grid, crowds.POPULATION)
    try:
        yield made
    finally:
        for device in made.values():
            device.stop()


@contextlib.contextmanager
def killed_at_work(device: Jvm) -> Iterator[set[str]]:
    """Kills a device right after it began with a task, once for each kind; gives the kinds."""
    kinds: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            new = {line["kind"] for line in device.events("task")} - kinds
            if new:
                device.stop(signal.SIGKILL)
                device.start()
                kinds.update(new)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield kinds
    finally:
        over.set()
        watching.join()


def before_each_leg(patch: pytest.MonkeyPatch, do: Callable[[str], None]) -> None:
    """Has something done before a leg's requests are sent."""

    class Hooked(crowds.Patient):
        def exchange(self, kind: str, requests: Mapping[int, Any], *rest: Any) -> Any:
            do(kind)
            return super().exchange(kind, requests, *rest)

    patch.setattr(crowds, "Patient", Hooked)


def test_one_sum_of_jvms_that_are_killed_and_pythons(
    path: str, graphs: dict[str, float], home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One JVM is killed before each leg, one as it begins with it: they go on where they were."""
    with (
        crowds.gateway(home) as grid,
        crowds.Crowd(grid, wide(), PYTHONS, tmp_path / "devices") as crowd,
        devices(path, tmp_path, crowd) as jvms,
    ):
        kinds: list[str] = []

        def kill(kind: str) -> None:
            kinds.append(kind)
            jvms[5].stop(signal.SIGKILL)
            jvms[5].start()

        before_each_leg(monkeypatch, kill)
        for device in jvms.values():
            device.configure(crowd.task, graphs)
            device.start()
        crowd.on()
        crowds.edge.until(lambda: grid.connected == PYTHONS + len(JVMS))
        with killed_at_work(jvms[4]) as killed:
            store, _, results = crowds.rounds(crowd, OVERRIDES, home)
        store.close()
        assert len(kinds) == 10
        assert killed == set(kinds)
        assert [(r.accepted, r.rejected) for r in results] == [(6, {})]
        assert "accuracy" in results[0].metrics
        for device in jvms.values():
            assert [e["purpose"] for e in device.ledger()] == ["train", "evaluate"]
            assert device.events("refused") == []


def test_a_jvm_that_vanishes_and_one_that_refuses(
    path: str, graphs: dict[str, float], home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One drops after its shares, another's floor is above the plan; the rest make the sum.

    Frames are so small that requests are downloaded and answers come in parts.
    """
    with (
        crowds.gateway(home, max_frame=4096, inline=256, chunk=512, lookup=600) as grid,
        crowds.Crowd(grid, wide(), PYTHONS, tmp_path / "devices") as crowd,
        devices(path, tmp_path, crowd) as jvms,
    ):

        def vanish(kind: str) -> None:
            if kind == "train" and 5 not in crowd.away:
                jvms[5].stop(signal.SIGKILL)
                crowd.away.add(5)

        before_each_leg(monkeypatch, vanish)
        for device in jvms.values():
            device.configure(crowd.task, graphs)
        jvms[4].configure(crowd.task, graphs, limits={"noise_multiplier": 9.0})
        for device in jvms.values():
            device.start()
        crowd.on()
        crowds.edge.until(lambda: grid.connected == PYTHONS + len(JVMS))
        store, _, results = crowds.rounds(crowd, settings("rounds=1"), home)
        store.close()
        assert [(r.accepted, r.rejected) for r in results] == [(4, {"error": 1, "no reply": 1})]
        assert {e["reason"] for e in jvms[4].events("refused")} == {"FLOOR"}
        assert [len(jvms[k].ledger()) for k in JVMS] == [1, 0, 0]
