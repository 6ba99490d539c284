"""What hooks tell is what RELEASE leaves say, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import told
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.simulations.hooks import Logged, TensorBoard


def released(home: Path) -> dict[int, dict[str, float]]:
    """By round, what the ledger says."""
    store = Store(Home(home))
    found = {}
    for leaf in store.leaves(kinds=("RELEASE",)):
        body = leaf["body"]
        spent = {f"epsilon/{k}": v for k, v in body["epsilon"].items() if v is not None}
        found[body["round"]] = {**body["metrics"], **spent}
    store.close()
    return found


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def plotted(events: EventAccumulator) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    return found


def test_tensorboard_reads_what_was_released(tmp_path: Path) -> None:
    with TensorBoard(tmp_path / "plots") as hook:
        simulate(TINY, task=make_tiny(), home=tmp_path / "home", progress=hook)
    events = read(tmp_path / "plots")
    said = released(tmp_path / "home")
    assert plotted(events) == {
        step: pytest.approx(values, rel=1e-6) for step, values in said.items()
    }
    times = {event.wall_time for event in events.Scalars("accuracy")}
    assert all(time % 3600 == 0 for time in times)


class Run:
    """What W&B's runs can do."""

    def __init__(self) -> None:
        self.lines: dict[int, dict[str, Any]] = {}

    def log(self, data: dict[str, Any], *, step: int) -> None:
        self.lines[step] = data


def test_whatever_logs_like_wandb_is_told_what_was_released(tmp_path: Path) -> None:
    run = Run()
    simulate(TINY, task=make_tiny(), home=tmp_path, progress=Logged(run))
    assert run.lines == released(tmp_path)


def test_the_command_line_plots_in_a_folder_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["rounds=2", "clients=40", "cohort=20", "evaluation=public"]
    line = ["simulate", *settings, "--home", str(tmp_path / "home"), "--json"]
    assert told([*line, "--tensorboard", str(tmp_path / "plots")]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert sorted(plotted(read(tmp_path / "plots" / run))) == [1, 2]
    assert told(["simulate", "-m", "seed=1,2", "--tensorboard", str(tmp_path)]) != 0
    assert "--tensorboard is for one run" in capsys.readouterr().err
