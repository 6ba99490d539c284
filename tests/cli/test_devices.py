"""``tacit devices`` and what ``tacit serve`` refuses before it does anything."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tacit.cli import main
from tacit.privacy.secagg.directory import PinnedDirectory
from tacit.privacy.secagg.keys import Identity
from tacit.server.gateway.devices import Devices
from tacit.server.home import Home
from tacit.server.store import Store

AT = ("--gateway", "127.0.0.1:9443", "--enrol", "127.0.0.1:9444", "--population", "p")


class Command:
    """Runs tacit in this process."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._home, self._patch, self._capsys = home, monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["tacit", *arguments, "--home", str(self._home)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *arguments: str) -> Any:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def tacit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    return Command(tmp_path / "home", monkeypatch, capsys)


def test_a_bundle_has_what_a_device_pins_and_is_its_owners(tacit: Command, tmp_path: Path) -> None:
    made = tacit.json("devices", "invite", "--count", "2", "--to", str(tmp_path / "to"), *AT)
    assert len(made["bundles"]) == 2
    bundles = [json.loads(Path(path).read_text()) for path in made["bundles"]]
    assert set(bundles[0]) == {
        *("version", "population", "enrol", "gateway"),
        *("ca", "authority", "coordinator", "token"),
    }
    assert bundles[0]["gateway"] == "127.0.0.1:9443"
    assert bundles[0]["token"] != bundles[1]["token"]
    assert bundles[0]["ca"] == bundles[1]["ca"]
    for path in made["bundles"]:
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    listed = tacit.json("devices", "list", "--population", "p")
    assert (listed["devices"], listed["invited"]) == ([], 2)


def test_what_is_missing_is_asked_for(tacit: Command, tmp_path: Path) -> None:
    to = ("--to", str(tmp_path / "to"))
    for arguments, said in (
        (("devices", "list"), "whose devices"),
        (("devices", "invite", *to, "--population", "p"), "enrol port"),
        (("devices", "invite", *to, *AT, "--client", "1", "--count", "2"), "--client"),
        (("devices", "invite", *to, *AT, "--days", "-1"), "lifetime"),
        (("devices", "revoke", "3", "--population", "p"), "client=3"),
        (("serve", "--resume", "last", "rounds=1"), "--resume takes no settings"),
        (("serve", "rounds=1", "--population", "p"), "--enrol-only"),
        (("serve", "rouns=1"), "did you mean rounds"),
        (("serve", "seed=1"), "seed=1"),
        (("serve", "--enrol-only", "--population", "p", "--listen", "here"), "host:port"),
    ):
        code, _, err = tacit(*arguments)
        assert code == 2, arguments
        assert said in err


def test_silos_are_attested_and_everybodys_keys_written(tacit: Command, tmp_path: Path) -> None:
    silos = {k: Identity.generate().public for k in (3, 4)}
    PinnedDirectory(silos).save(tmp_path / "silos.json")
    done = tacit.json("devices", "adopt", str(tmp_path / "silos.json"), "--population", "p")
    assert done["adopted"] == [3, 4]
    store = Store(Home(tmp_path / "home"))
    found = Devices(store.database, "p").some([3, 4])
    store.close()
    assert {k: d.identity for k, d in found.items()} == silos
    to = tmp_path / "directory.json"
    assert tacit("devices", "directory", "--to", str(to), "--population", "p")[0] == 0
    assert PinnedDirectory.load(to).public(4) == silos[4]
    code, _, err = tacit("devices", "directory", "--to", str(to), "--population", "p")
    assert code == 2
    assert "there already" in err
    assert tacit("devices", "list", "--population", "p")[0] == 0
    assert tacit.json("devices", "revoke", "3", "--population", "p")["revoked"] == 3
