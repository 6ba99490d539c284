"""Agents at a real gateway: whole runs, lost connections, and processes that are killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import agents
import devices
import pytest
from agents import Federation, agent_process, enrolled, running, tiny_federation, until

from tacit.client.edge.home import Home as DeviceHome
from tacit.client.floors import Floors
from tacit.client.ledger import ClientLedger
from tacit.configs import build
from tacit.privacy.errors import RoundError
from tacit.privacy.secagg.vault import Vault
from tacit.protocol.document import RunDocument
from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home
from tacit.tasks import task as tasks
from tacit.tasks.device.bundle import build as export

DYING = Path(agents.__file__).with_name("dying.py")
LEGS = ("query.advertise", "query.share", "train", "query.confirm", "query.reveal")


@pytest.fixture
def paths(grid: GatewayGrid, tmp_path: Path) -> dict[int, Path]:
    """Six enrolled devices with records."""
    task = devices.exported()[0]
    return {k: enrolled(grid, tmp_path, k, task) for k in range(6)}


def participations(path: Path) -> int:
    ledger = ClientLedger(DeviceHome(path).ledger, Floors().caps())
    try:
        return ledger.spent().participations
    finally:
        ledger.close()


def test_devices_train_and_evaluate(grid: GatewayGrid, home: Home, paths: dict[int, Path]) -> None:
    more = ("rounds=2", "evaluation=federated", "evaluation.every=2")
    federation = tiny_federation(grid, home, *more)
    with running(paths):
        results = federation.rounds()
    assert [r.accepted for r in results] == [6, 6]
    assert set(results[1].metrics) >= {"accuracy", "loss"}
    assert {participations(path) for path in paths.values()} == {3}
    for path in paths.values():
        assert not any(f.suffix == ".part" for f in DeviceHome(path).blobs.iterdir())
        assert DeviceHome(path).vault.stat().st_mode & 0o777 == 0o600
        assert DeviceHome(path).peers.stat().st_mode & 0o777 == 0o600


def test_vectors_that_are_seen_are_signed_too(
    grid: GatewayGrid, home: Home, paths: dict[int, Path]
) -> None:
    federation = tiny_federation(grid, home, "rounds=1", "mechanism=central", "aggregation=plain")
    with running(paths):
        (result,) = federation.rounds()
    assert result.accepted == 6


def test_a_device_that_refuses_is_left_out_and_says_why(
    grid: GatewayGrid, home: Home, paths: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    toml = agents.TOML.replace("[limits]", "[limits]\nrounds = 0")
    (paths[5] / "agent.toml").write_text(toml)
    more = ("rounds=1", "minimum_survivors=4", "secure.dropout=0.2")
    federation = tiny_federation(grid, home, *more)
    with running(paths):
        (result,) = federation.rounds()
    assert (result.asked, result.accepted) == (6, 5)
    assert result.rejected == {"error": 1}
    assert participations(paths[5]) == 0


@pytest.mark.slow
def test_a_process_that_is_killed_in_every_leg_goes_on(
    grid: GatewayGrid, home: Home, paths: dict[int, Path]
) -> None:
    federation = tiny_federation(grid, home, "rounds=1")
    deaths: list[int] = []

    def live() -> None:
        for kind in LEGS:
            for when in ("before", "written", "sent"):
                child = agent_process(paths[0], str(DYING), str(paths[0]), kind, when)
                child.communicate(timeout=60)
                deaths.append(child.returncode)

    keeper = threading.Thread(target=live)
    with running({k: path for k, path in paths.items() if k > 0}):
        keeper.start()
        (result,) = federation.rounds(deadline=120.0)
        keeper.join(60)
    assert deaths == [-9] * 15, "each died where it was meant to, and none twice"
    assert result.accepted == 6
    assert participations(paths[0]) == 1
    vault = Vault(DeviceHome(paths[0]).vault)
    phases = vault._db.execute("SELECT phase FROM sessions").fetchall()
    assert phases == [("revealed",)]


def test_a_gateway_that_comes_back_finds_its_devices(
    home: Home, tmp_path: Path, settings: Settings
) -> None:
    task = devices.exported()[0]
    with opened(home, settings) as grid:
        port = grid.port
        paths = {k: enrolled(grid, tmp_path, k, task) for k in range(6)}
        with running(paths) as crowd:
            until(lambda: len(list(grid.get_node_ids())) == 6)
            crowd.stop(5)
            until(lambda: len(list(grid.get_node_ids())) == 5)
            crowd.start(5)
            until(lambda: len(list(grid.get_node_ids())) == 6)
    with running(paths) as crowd:
        time.sleep(0.5)
        assert not any(agent.online for agent in crowd.agents.values())
        with opened(home, replace(settings, listen=f"127.0.0.1:{port}")) as grid:
            until(lambda: len(list(grid.get_node_ids())) == 6)
            federation = tiny_federation(grid, home, "rounds=1")
            (result,) = federation.rounds()
    assert result.accepted == 6


def test_ineligible_devices_stay_and_are_not_asked(
    grid: GatewayGrid, home: Home, paths: dict[int, Path]
) -> None:
    report = paths[5] / "state.json"
    toml = agents.TOML.replace("always = true", 'file = "state.json"\npoll = 1')
    (paths[5] / "agent.toml").write_text(toml)
    report.write_text('{"idle": true, "charging": true, "unmetered": false}')
    federation = tiny_federation(grid, home, "rounds=1", "secure.dropout=0.2")
    with running(paths):
        until(lambda: len(list(grid.get_node_ids())) == 6)
        (result,) = federation.rounds(deadline=3.0)
    assert result.accepted == 5
    assert participations(paths[5]) == 0


@pytest.mark.slow
def test_memory_on_digits(
    grid: GatewayGrid, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [x for x in devices.settings("rounds=1") if x != "experiment=none"]
    spec = build.compose(settings)
    assert spec.task == "digits"
    task = tasks.load(spec)
    made = export(task, spec, "later", devices.POPULATION)
    paths = {k: enrolled(grid, tmp_path, k, task) for k in range(6)}

    def document(run: str) -> tuple[RunDocument, Iterable[bytes]]:
        return replace(made.document, run=run), made.blobs.values()

    federation = Federation(grid, home, task, settings, document)
    with running({k: path for k, path in paths.items() if k > 0}):
        child = agent_process(paths[0])
        try:
            (result,) = federation.rounds(deadline=120.0)
            status = Path(f"/proc/{child.pid}/status").read_text()
        finally:
            child.terminate()
            _, said = child.communicate(timeout=30)
    assert result.accepted == 6, said
    assert child.returncode == 0
    peak = next(int(x.split()[1]) / 1024 for x in status.splitlines() if x.startswith("VmHWM"))
    with capsys.disabled():
        print(f"peak resident memory of tacit-edge on digits: {peak:.0f} MiB")
    assert peak < 200
    for word in ("records", "npz", str(tmp_path)):
        assert word not in said


def test_two_agents_of_one_folder_are_one_too_many(paths: dict[int, Path]) -> None:
    child = agent_process(paths[0])
    try:
        assert child.stderr is not None
        assert "connected" in child.stderr.readline()
        other = agent_process(paths[0])
        _, said = other.communicate(timeout=60)
        assert other.returncode == 2
        assert "another agent runs" in said
    finally:
        child.terminate()
        child.communicate(timeout=30)
    assert child.returncode == 0


def test_too_few_devices_end_a_round_without_a_release(
    grid: GatewayGrid, home: Home, paths: dict[int, Path]
) -> None:
    federation = tiny_federation(grid, home, "rounds=1")
    with running({k: paths[k] for k in range(3)}), pytest.raises(RoundError):
        federation.rounds(deadline=1.0)
