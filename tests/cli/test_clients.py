"""``tacit client-ledger``: the view of a client's own ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planned import plan
from typer.testing import CliRunner

from tacit.cli.root import app
from tacit.client.ledger import Caps, ClientLedger, Participation, Refused
from tacit.privacy.errors import StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "0.ledger"
    ledger = ClientLedger(made, Caps(rounds=1))
    ledger.charge(Participation("r", 1, 0, "train", plan(), "one"))
    with pytest.raises(Refused):
        ledger.charge(Participation("r", 2, 0, "train", plan(), "two"))
    ledger.close()
    return made


def test_it_says_what_was_spent_and_refused(path: Path) -> None:
    said = CliRunner().invoke(app, ["client-ledger", str(path)]).stdout
    assert "1 participations, in 1 rounds" in said
    assert "refused: ROUNDS 1" in said
    assert "unbounded" in said  # The plan claims nothing for a record.


def test_limits_are_those_of_the_floors_beside_it(path: Path) -> None:
    floors = {"rounds": 7, "epsilon": 5, "delta": 1e-6}
    path.with_name("floors.json").write_text(json.dumps(floors))
    said = json.loads(CliRunner().invoke(app, ["client-ledger", str(path), "--json"]).stdout)
    assert said["caps"]["rounds"] == 7
    assert (said["client"]["cap"], said["client"]["delta"]) == (5, 1e-6)
    assert 0 < said["client"]["epsilon"] < 5


def test_looking_makes_no_ledger(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["client-ledger", str(tmp_path / "1.ledger")])
    assert isinstance(result.exception, StorageError)
    assert list(tmp_path.iterdir()) == []
