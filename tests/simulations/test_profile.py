"""A profile adds up to the time that passed, and leaves nothing behind."""

from __future__ import annotations

import json
import time

import pytest
from tiny import TINY, make_tiny
from typer.testing import CliRunner

from tacit import simulate
from tacit.cli.root import app
from tacit.client.trainer import Trainer
from tacit.server.home import Home
from tacit.simulations import profile


def test_phases_add_up_and_the_functions_are_themselves_again(home: Home) -> None:
    before = Trainer.train
    with profile.profiled() as made:
        assert Trainer.train is not before
        simulate([*TINY, "engine=serial"], task=make_tiny(), home=home.root, workers=1)
    assert Trainer.train is before
    rows = made.rows()
    assert sum(row["seconds"] for row in rows) == pytest.approx(made.total)
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    spent = {row["phase"]: row["seconds"] for row in rows}
    for phase in ("clients' training", "accounting and ledger", "database and files", "other"):
        assert spent[phase] > 0
    assert [row["seconds"] for row in rows] == sorted(spent.values(), reverse=True)
    assert all(row["peak_mb"] is None or row["peak_mb"] > 10 for row in rows)


def test_workers_are_waited_for(home: Home) -> None:
    settings = [*TINY, "clients=40", "cohort=40", "rounds=1"]
    with profile.profiled() as made:
        simulate(settings, task=make_tiny(clients=40), home=home.root, workers=2)
    assert made.seconds["waiting for workers"] > 0


def test_what_an_inner_phase_takes_is_not_the_outer_ones() -> None:
    made, running = profile.Profile(), [[0.0]]
    inner = profile._timed(lambda: time.sleep(0.05), "inner", made, running)
    outer = profile._timed(lambda: (time.sleep(0.02), inner()), "outer", made, running)
    began = time.perf_counter()
    outer()
    total = time.perf_counter() - began
    assert made.seconds["inner"] >= 0.05
    assert made.seconds["outer"] >= 0.02
    assert made.seconds["inner"] + made.seconds["outer"] <= total


def test_an_error_passes_through(home: Home) -> None:
    before = Trainer.train
    with pytest.raises(ZeroDivisionError), profile.profiled():
        1 / 0  # noqa: B018
    assert Trainer.train is before


def test_the_command_shows_it(home: Home) -> None:
    settings = ["rounds=1", "cohort=10", "model=pixels", "--home", str(home.root)]
    shown = CliRunner().invoke(app, ["simulate", *settings, "--profile", "--json"])
    phases = json.loads(shown.stdout.splitlines()[-1])["profile"]
    assert {"phase", "seconds", "share", "peak_mb"} == set(phases[0])
    shown = CliRunner().invoke(app, ["simulate", *settings, "--profile", "--workers", "1"])
    assert "where the time went" in shown.stdout
    assert "accounting and ledger" in shown.stdout
