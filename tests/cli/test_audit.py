"""``tacit audit``: what it prints, what it exits with, and whom it tells beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tacit.cli import audit
from tacit.privacy import mechanisms
from tacit.privacy.audit import canaries
from tacit.privacy.errors import ConfigError
from tacit.server.home import Home
from tacit.server.store import Store

FAST = [
    "model=pixels",
    "mechanism=central",
    "aggregation=plain",
    "evaluation=none",
    "clients=220",
    "cohort=220",
    "rounds=1",
    "delta=1e-5",
    "privacy.record=none",
    "privacy.client.noise_multiplier=1.5",
]


def called(home: Path, *arguments: str) -> Any:
    return CliRunner().invoke(audit.app, [*arguments, "--home", str(home), *FAST])


def test_missing_noise_exits_with_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = called(tmp_path, "one-run", "--canaries", "200", "--json")
    assert right.exit_code == 0, right.output
    found = json.loads(right.stdout.splitlines()[-1])
    assert not found["violated"]
    assert found["lower_bound"] <= found["charged"]
    monkeypatch.setattr(mechanisms, "noisy_sum", lambda total, *_: total)
    # Coins that are known, so that the outcome is.
    monkeypatch.setattr(canaries.os, "urandom", lambda size: bytes(range(size)))
    broken = called(tmp_path, "one-run", "--canaries", "200", "--guesses", "60")
    assert broken.exit_code == audit.VIOLATED == 3
    assert "REFUTED" in broken.stdout


def test_one_shot_prints_its_estimate_and_is_in_the_ledger(tmp_path: Path) -> None:
    done = called(tmp_path, "one-shot", "--canaries", "20", "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == (3 if found["violated"] else 0)
    assert found["estimate"] > 0
    leaves = [leaf["body"] for leaf in Store(Home(tmp_path)).leaves(kinds=["AUDIT"])]
    assert [leaf["commitment"] for leaf in leaves] == [found["commitment"]] * 2


def test_a_closing_table_says_what_was_compared(tmp_path: Path) -> None:
    done = called(tmp_path, "one-run", "--canaries", "20")
    assert done.exit_code == 0, done.output
    for word in ("lower", "charged", "commitment", "not refuted"):
        assert word in done.stdout


@pytest.mark.parametrize(
    "arguments", [("one-run", "--unit", "site"), ("one-shot", "--unit=record")]
)
def test_units_that_cannot_be_audited_are_refused(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = called(tmp_path / "none", *arguments)
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "none").exists()
