"""``tacit-edge`` as its owner uses it."""

from __future__ import annotations

import json
from pathlib import Path

import agents
import devices
import pytest
import walled
from agents import agent_process, enrolled, invitation, running, tiny_federation

from tacit.client.edge import command
from tacit.privacy.errors import StorageError
from tacit.server.gateway.grid import GatewayGrid
from tacit.server.home import Home


def test_a_device_from_its_bundle_to_its_status(
    grid: GatewayGrid, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, path = tmp_path / "bundle.json", tmp_path / "device"
    bundle.write_text(json.dumps(invitation(grid, 0)))
    assert command.run(["enrol", str(bundle), "--home", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["client"] == 0
    with pytest.raises(StorageError, match="enrolled already"):
        command.run(["enrol", str(bundle), "--home", str(path)])
    assert command.run(["check", "--home", str(path)]) == 1
    said = capsys.readouterr().out
    assert "no data is set" in said
    assert '"reported": false' in said
    task = devices.exported()[0]
    paths = {k: enrolled(grid, tmp_path, k, task) for k in range(1, 6)}
    (path / "agent.toml").write_text(agents.TOML)
    (path / "records.npz").write_bytes((paths[1] / "records.npz").read_bytes())
    assert command.run(["check", "--home", str(path)]) == 0
    assert "always" in capsys.readouterr().out
    federation = tiny_federation(grid, home, "rounds=1")
    # With nothing but what its extra brings.
    words = ("tacit.client.edge.command:main", "run", "--home", str(path))
    child = agent_process(path, *walled.command(walled.EDGE, *words))
    try:
        with running(paths):
            assert federation.rounds()[0].accepted == 6
    finally:
        child.terminate()
        _, log = child.communicate(timeout=30)
    for line in log.splitlines():
        assert {"time", "level", "event"} <= json.loads(line).keys()
    assert command.run(["status", "--home", str(path), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["client"] == 0
    assert status["spent"]["participations"] == 1
    assert status["spent"]["client"]["epsilon"] > 0
    assert command.run(["status", "--home", str(path)]) == 0
    assert "participations       1" in capsys.readouterr().out


def test_check_finds_what_is_wrong(
    grid: GatewayGrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["check", "--home", str(tmp_path / "nowhere")]) == 1
    assert "isn't enrolled" in capsys.readouterr().out
    path = enrolled(grid, tmp_path, 0, devices.exported()[0])
    (path / "agent.toml").write_text(agents.TOML + "\nmisspelt = 1")
    (path / "identity.key").chmod(0o644)
    assert command.run(["check", "--home", str(path)]) == 1
    said = capsys.readouterr().out
    assert "misspelt is unknown" in said
    assert "others may read" in said
    assert "identity.key" in said


def test_once_ends_when_the_gateway_sends_the_device_away(
    grid: GatewayGrid, tmp_path: Path
) -> None:
    path = enrolled(grid, tmp_path, 0)
    (path / "agent.toml").write_text(agents.TOML.replace('data = "records.npz"', ""))
    run = ("-m", "tacit.client.edge.command", "run", "--once", "--home", str(path))
    child = agent_process(path, *run)
    agents.until(lambda: list(grid.get_node_ids()) != [])
    grid.devices.revoke(0)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "REVOKED" in said
    child = agent_process(path, *run)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "tacit-edge: " in said
    assert "Traceback" not in said


def test_a_mistake_is_a_message_and_a_hint(tmp_path: Path) -> None:
    child = agent_process(
        tmp_path, "-m", "tacit.client.edge.command", "status", "--home", str(tmp_path)
    )
    _, said = child.communicate(timeout=60)
    assert child.returncode == 2
    assert said.splitlines()[1].strip() == "tacit-edge enrol BUNDLE --home DIR"
