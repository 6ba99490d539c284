"""Three silos over TLS with node authentication: as in one process, and whatever is killed.

A real SuperLink, SuperExec and three SuperNodes, on loopback. ``TACIT_DEEP=1`` kills each of
them in every leg; `docs/deploy.md` has the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from superlink import SILOS, Deployment, check_books, deployed

from tacit import simulate
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TACIT = Path(sys.executable).parent / "tacit"
LEGS = ("query.advertise", "query.share", "train", "query.confirm", "query.reveal")
deep = pytest.mark.skipif(os.environ.get("TACIT_DEEP") != "1", reason="TACIT_DEEP=1 runs it")


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    yield from deployed(tmp_path_factory.mktemp("silos"))


def began(silos: Deployment, rounds: int) -> int:
    """Starts a run; returns how many runs there were before."""
    before = len(silos.rows())
    path = silos.coordinator.root / "run.toml"
    _, *rest = path.read_text().splitlines()
    path.write_text("\n".join([f'overrides = "{SILOS} rounds={rounds}"', *rest, ""]))
    silos.steps.write_text("")
    silos.start("run")
    return before


def ended(silos: Deployment, before: int, seconds: float = 400) -> dict[str, Any]:
    """The row of the run that was begun, once it has ended."""

    def found() -> dict[str, Any] | None:
        rows = silos.rows()
        over = len(rows) > before and rows[-1]["status"] not in ("created", "running")
        return rows[-1] if over else None

    return silos.wait(found, "the run to end", seconds)


def verify(silos: Deployment) -> None:
    done = subprocess.run(
        [str(TACIT), "ledger", "verify", "--home", str(silos.coordinator.home)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def spent(home: Path, run: str) -> tuple[list[tuple[Any, ...]], list[Any], list[Any]]:
    """What a run's leaves say, but for what is drawn: places, epsilons, claims."""
    store = Store(Home(home))
    try:
        bodies = [leaf["body"] for leaf in store.spending(run)]
        claims = store.claims(run)
    finally:
        store.close()
    places = [(b["kind"], b["round"], b["attempt"], b["purpose"]) for b in bodies]
    return places, [b.get("epsilon") for b in bodies if b["kind"] == "RELEASE"], claims


def test_three_silos_are_one_process(silos: Deployment, tmp_path: Path) -> None:
    before = began(silos, rounds=2)
    row = ended(silos, before)
    assert (row["status"], row["round"]) == ("finished", 2), row["message"]
    here = simulate([*SILOS.split(), "rounds=2"], home=tmp_path / "here")
    deployed_, simulated = (
        spent(silos.coordinator.home, row["id"]),
        spent(tmp_path / "here", here.run),
    )
    assert deployed_ == simulated
    assert deployed_[0] == [
        (kind, number, 0, "train") for number in (1, 2) for kind in ("CHARGE", "RELEASE")
    ]
    store = Store(Home(silos.coordinator.home))
    rounds = store.rounds(row["id"])
    store.close()
    assert [r["accepted"] for r in rounds] == [3, 3]
    # Both are drawn from the operating system; a run's accuracy varies by a few hundredths.
    assert rounds[-1]["metrics"]["accuracy"] == pytest.approx(here.metrics["accuracy"], abs=0.15)
    assert rounds[-1]["metrics"]["accuracy"] > 0.5
    verify(silos)
    check_books(silos)


def test_versions_are_evaluated_on_silos(
    silos: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout planned by the command, after the training above; silos answer it as ever."""
    home = silos.coordinator.home
    store = Store(Home(home))
    Lifecycle(store).move(
        "digits", "champion", 1, expected=None, actor="me", reason="the first of them"
    )
    store.close()
    path = tmp_path / "rollout.toml"
    words = ["--challenger", "2", "--mode", "shadow", "--rounds", "2", "--plan", str(path)]
    settings = ["evaluation.noise_multiplier=0.5"]
    done = subprocess.run(
        [str(TACIT), "rollout", "digits", *settings, *words, "--home", str(home)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("ROLLOUT", str(path))
    before = began(silos, rounds=9)
    row = ended(silos, before)
    assert (row["status"], row["round"]) == ("finished", 2), row["message"]
    store = Store(Home(home))
    bodies = [leaf["body"] for leaf in store.spending(row["id"])]
    store.close()
    assert [(b["kind"], b["purpose"]) for b in bodies] == [
        ("CHARGE", "evaluate"),
        ("RELEASE", "evaluate"),
    ] * 2
    assert [arm["number"] for b in bodies for arm in b.get("arms", ())] == [1, 2]
    verify(silos)
    check_books(silos)


# Kills


def strike(silos: Deployment, victim: str, number: int, leg: str) -> None:
    """Kills a process in the middle of a leg, and starts it again as a service manager would."""
    # The coordinator says it trains, and then the leg of that name begins.
    told = 2 if leg == "train" else 1
    if victim.startswith("silo-"):
        line = f"Receiving: {leg} message"
        so_far = silos.log(victim).count(line)
        silos.wait_for_step(f"round {number}: {leg}", told)
        silos.wait(lambda: silos.log(victim).count(line) > so_far, f"{victim} to get {leg}")
    else:
        silos.wait_for_step(f"round {number}: {leg}", told)
        time.sleep(0.5)
    if victim == "serverapp":
        app = silos.app()
        assert app is not None, silos.tail()
        silos.kill_app(app)
        silos.start("run", silos.rows()[-1]["id"])
        return
    silos.kill(victim)
    time.sleep(2)
    silos.start(victim)
    if victim == "superexec":
        # The ServerApp goes with what started it.
        silos.start("run", silos.rows()[-1]["id"])


def finished(silos: Deployment, before: int, rounds: int) -> dict[str, Any]:
    """Waits for the end; a run that gave up is resumed, once."""
    row = ended(silos, before)
    if row["status"] == "failed":
        silos.start("run", row["id"])
        time.sleep(5)
        row = silos.wait(
            lambda: next((r for r in silos.rows()[-1:] if r["status"] == "finished"), None),
            "the resumed run to finish",
        )
    assert (row["status"], row["round"]) == ("finished", rounds), row["message"]
    return row


def test_kills_in_three_legs(silos: Deployment) -> None:
    before = began(silos, rounds=2)
    strike(silos, "silo-1", 1, "query.share")
    strike(silos, "superlink", 1, "train")
    strike(silos, "serverapp", 2, "query.reveal")
    row = finished(silos, before, 2)
    places, _, _ = spent(silos.coordinator.home, row["id"])
    # The coordinator that was killed had charged for what it began, and is charged again.
    assert places.count(("ABANDON", 2, 0, "train")) == 1
    assert [p for p in places if p[0] == "RELEASE"][-1][1:3] == (2, 1)
    verify(silos)
    check_books(silos)


@deep
@pytest.mark.parametrize("victim", ["superlink", "serverapp", "superexec", "silo-1"])
def test_kills_in_every_leg(
    silos: Deployment, victim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = began(silos, rounds=len(LEGS))
    for number, leg in enumerate(LEGS, 1):
        strike(silos, victim, number, leg)
    row = finished(silos, before, len(LEGS))
    places, _, _ = spent(silos.coordinator.home, row["id"])
    verify(silos)
    check_books(silos)
    store = Store(Home(silos.coordinator.home))
    seconds = {r["round"]: r["seconds"] for r in store.rounds(row["id"])}
    store.close()
    with capsys.disabled():
        for number, leg in enumerate(LEGS, 1):
            charges = sum(p[:2] == ("CHARGE", number) for p in places)
            print(f"\n| {victim} | {leg} | released | {charges} | {seconds[number]:.0f} |", end="")


@deep
def test_a_serverapp_killed_before_its_release(silos: Deployment) -> None:
    before = began(silos, rounds=2)
    silos.wait_for_step("round 1: query.reveal")
    app = silos.app()
    assert app is not None
    while app.is_running() and "round 1: release" not in silos.told():
        time.sleep(0.001)
    silos.kill_app(app)
    silos.start("run", silos.rows()[-1]["id"])
    finished(silos, before, 2)
    check_books(silos)
