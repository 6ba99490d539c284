"""``tacit rollout`` and ``tacit gate`` as an operator meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tacit.cli import main
from tacit.server.check import verify
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store
from tacit.simulations.engine import simulate

# A built-in task's data, which needs no file, and clients few enough.
SETTINGS = [
    *("experiment=digits", "rounds=2", "clients=40", "cohort=40", "seed=1"),
    *("mechanism=central", "aggregation=plain", "privacy.record=none"),
    *("evaluation.noise_multiplier=0.2", "privacy.client.noise_multiplier=0.1"),
]


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Tacit = Callable[..., Said]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions, the first champion."""
    home = tmp_path_factory.mktemp("cli") / "home"
    simulate(SETTINGS, home=home)
    store = Store(Home(home))
    life = Lifecycle(store)
    life.move("digits", "champion", 1, expected=None, actor="me", reason="the first")
    store.close()
    return home


@pytest.fixture
def tacit(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tacit:
    """Runs ``tacit`` on the home."""

    def run(*arguments: str) -> Said:
        monkeypatch.setenv("TACIT_ACTOR", "ann")
        monkeypatch.setattr(sys, "argv", ["tacit", *arguments, "--home", str(place)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run


def test_a_gate_a_rollout_and_what_it_says(tacit: Tacit, place: Path) -> None:
    set_ = tacit(
        *("gate", "set", "digits", "--at-least", "0.05", "--windows", "4"),
        *("--reason", "as agreed", "--json"),
    )
    assert set_.json["gate"]["at_least"] == 0.05
    found = tacit(
        *("rollout", "digits", "cohort=30", "--challenger", "2", "--mode", "shadow"),
        *("--rounds", "8", "--json"),
    )
    assert "round 8/8: @2 accuracy" in found.err
    said = found.json
    assert (said["status"], said["verdict"]) == ("finished", "pass")
    shown = tacit("gate", "show", "digits", "--json").json
    (decision,) = shown["gates"][0]["decisions"]
    assert (decision["number"], decision["evidence"]) == (2, said["evidence"])
    assert "accuracy >= 0.05" in tacit("gate", "show", "digits").out
    rows = tacit("runs", "list", "--json").json
    assert [row["kind"] for row in rows] == ["training", "rollout"]
    ledger = tacit("ledger", "show", said["run"]).out
    assert "shadow" in ledger
    assert "evaluated" in ledger
    assert tacit("ledger", "verify").code == 0
    again = tacit("rollout", "--resume", said["run"])
    assert again.code != 0
    assert "is finished" in again.err


def test_a_watch_prints_a_table(tacit: Tacit) -> None:
    said = tacit("rollout", "digits", "--mode", "watch", "--rounds", "2")
    assert said.code == 0
    assert "watch, finished after 2 rounds" in " ".join(said.out.split())
    assert "what the rollout was charged" in said.out


def test_a_gate_is_lifted(tacit: Tacit, place: Path) -> None:
    gate = ("gate", "set", "digits", "--alias", "staging", "--at-least", "0.9")
    assert tacit(*gate, "--reason", "x").code == 0
    lift = ("gate", "lift", "digits", "--alias", "staging", "--reason", "y")
    assert tacit(*lift).code == 0
    assert "has no gate" in tacit(*lift).err
    store = Store(Home(place))
    assert verify(store).holds
    store.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rollout",), "needs a model"),
        (("rollout", "digits"), "needs a challenger"),
        (("rollout", "digits", "--challenger", "9"), "digits@9 isn't in this home"),
        (("rollout", "digits", "--challenger", "2", "--mode", "x"), "mode=x must be one of"),
        (("rollout", "digits", "--challenger", "2", "cohrt=3"), "did you mean cohort"),
        (("rollout", "digits", "--resume", "last"), "takes no model"),
        (("gate", "set", "digits", "--reason", "x"), "lets everything pass"),
        (("gate", "set", "nothing", "--at-least", "0.5", "--reason", "x"), "isn't in this home"),
    ],
)
def test_mistakes_are_explained(arguments: tuple[str, ...], said: str, tacit: Tacit) -> None:
    found = tacit(*arguments)
    assert found.code != 0
    assert said in " ".join(found.err.split())
    assert "Traceback" not in found.err
