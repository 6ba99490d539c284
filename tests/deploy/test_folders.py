"""What `tacit deploy` makes: who gets what, with which rights, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from typer.testing import CliRunner

from tacit.cli.root import app
from tacit.client.floors import Floors
from tacit.client.party import FolderParty
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.directory import PinnedDirectory
from tacit.server.deploy import check, coordinator, files, scripts, silo
from tacit.server.deploy.coordinator import CoordinatorFolder, Federation, Settings
from tacit.server.deploy.silo import PublicParts, SiloFolder

ROOT = Path(__file__).parents[2]
SETTINGS = Settings("hospitals", "superlink.example", 9092, "0.0.0.0")


def run(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["deploy", *map(str, arguments), "--json"])
    assert done.exit_code == status, done.output + repr(done.exception)
    found: dict[str, Any] = json.loads(done.output)
    return found


@pytest.fixture
def made(tmp_path: Path) -> Path:
    run("init", tmp_path / "d", "--silos", 3)
    return tmp_path / "d"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_each_silo_gets_its_own_and_nobody_elses(made: Path) -> None:
    for k in range(3):
        assert set(contents(made / f"silo-{k}")) == {
            "README.md",
            "ca.crt",
            f"client/{k}.key",
            "client/directory.json",
            "client/floors.json",
            "environment.sh",
            "federation.json",
            "node.key",
            "node.pub",
            "public.json",
            "supernode.sh",
            "superexec.secret",
            f"systemd/tacit-supernode-{k}.service",
        }
    # No secret is in two folders, nor any silo's at the coordinator.
    secrets = [
        p.read_bytes() for p in made.rglob("*") if p.suffix in (".key", ".secret") and p.is_file()
    ]
    assert len(set(secrets)) == len(secrets) == 3 * 3 + 3
    everything = {name: data for name, data in contents(made).items() if "silo-0/" not in name}
    identity = (made / "silo-0" / "client" / "0.key").read_bytes()
    for data in everything.values():
        assert identity not in data
        assert identity.hex().encode() not in data


def test_secrets_are_their_owners_alone(made: Path) -> None:
    for path in made.rglob("*"):
        if path.suffix in (".key", ".secret", ".vault"):
            assert files.rights(path) == 0o600, path
    for folder in (made / "coordinator", made / "silo-0", made / "silo-0" / "client"):
        assert files.rights(folder) == 0o700, folder


def test_a_clients_home_is_one_that_a_client_can_use(made: Path) -> None:
    home = made / "silo-1" / "client"
    FolderParty(home).masking(1, Rules(3, 3, 0.0, 0))
    assert Floors.load(home / "floors.json").secure
    assert not Floors.load(home / "floors.json").seeded
    known = PinnedDirectory.load(made / "coordinator" / "home" / "clients" / "directory.json")
    assert known.digest() == PinnedDirectory.load(home / "directory.json").digest()
    key = load_ssh_private_key((made / "silo-1" / "node.key").read_bytes(), None)
    assert key.curve.name == "secp384r1"  # type: ignore[union-attr]


def test_again_changes_nothing(made: Path) -> None:
    before = contents(made)
    (made / "coordinator" / "run.toml").write_text("overrides = 'mine'\n")
    said = run("init", made, "--silos", 3)
    before["coordinator/run.toml"] = b"overrides = 'mine'\n"
    assert contents(made) == before
    # What was interrupted is finished; what is added leaves the rest as it was.
    (made / "silo-2" / "client" / "directory.json").unlink()
    (made / "silo-2" / "public.json").unlink()
    assert run("init", made, "--silos", 3) == said
    assert contents(made) == before
    run("init", made, "--silos", 4)
    after = contents(made)
    assert after["silo-0/client/0.key"] == before["silo-0/client/0.key"]
    assert len(PinnedDirectory.load(made / "silo-0" / "client" / "directory.json")._keys) == 4
    assert run("check", made)["ok"]


def test_a_folder_isnt_made_into_another(made: Path) -> None:
    with pytest.raises(ConfigError, match="was made for"):
        coordinator.make(made / "coordinator", SETTINGS)
    with pytest.raises(ConfigError, match="is the folder of client 0"):
        silo.make(made / "silo-0", 1, "silos")


@pytest.mark.parametrize(
    "settings",
    [
        ("", "host", 1, "127.0.0.1"),
        ("p", "host:9", 1, "127.0.0.1"),
        ("p", "a b", 1, "127.0.0.1"),
        ("p", "host", 0, "127.0.0.1"),
        ("p", "host", 65536, "127.0.0.1"),
    ],
)
def test_settings_that_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigError):
        Settings(*settings)


# Several machines


def far_apart(tmp_path: Path, clients: int = 3) -> tuple[CoordinatorFolder, list[Path]]:
    place = coordinator.make(tmp_path / "c", SETTINGS)
    roots = [tmp_path / f"s{k}" for k in range(clients)]
    for k, root in enumerate(roots):
        silo.make(root, k, "hospitals")
    return place, roots


def test_silos_make_their_keys_and_hand_in_what_is_public(tmp_path: Path) -> None:
    place = tmp_path / "c"
    run("coordinator", place, "--host", "superlink.example", "--population", "hospitals")
    handed = []
    for k in range(3):
        said = run("silo", tmp_path / f"s{k}", "--client", k, "--population", "hospitals")
        handed.append(shutil.copy(said["public"], tmp_path / f"public-{k}.json"))
    # Handed in one after the other.
    run("collect", place, handed[0])
    said = run("collect", place, *handed[1:])
    assert said["clients"] == [0, 1, 2]
    for k in range(3):
        joined = run("join", tmp_path / f"s{k}", said["federation"])
        assert joined["fingerprint"] == said["fingerprint"]
        assert joined["superlink"] == "superlink.example:9092"
        assert run("check", tmp_path / f"s{k}") == {"ok": True, "findings": []}
        assert (
            "--superlink superlink.example:9092"
            in (tmp_path / f"s{k}" / "supernode.sh").read_text()
        )
    assert run("check", place)["ok"]


def test_public_parts_of_somebody_else_are_refused(tmp_path: Path) -> None:
    place, roots = far_apart(tmp_path)
    parts = [PublicParts.load(SiloFolder(root).public) for root in roots]
    coordinator.collect(place, parts)
    other = silo.make(tmp_path / "evil", 1, "hospitals")
    with pytest.raises(ConfigError, match="client 1 has another key already"):
        coordinator.collect(place, [other])
    with pytest.raises(ConfigError, match="population='others'"):
        coordinator.collect(place, [silo.make(tmp_path / "o", 3, "others")])
    # Another's parts under one's own number aren't signed by it.
    found = json.loads(SiloFolder(roots[0]).public.read_bytes())
    for change in ({"client": 3}, {"node": parts[1].node}, {"population": "x"}):
        path = tmp_path / "changed.json"
        path.write_text(json.dumps({**found, **change}))
        with pytest.raises(StorageError, match="isn't signed by its identity"):
            PublicParts.load(path)
    for bad in ({"client": True}, {"client": -1}, {"version": 2}, {"identity": "zz"}):
        path.write_text(json.dumps({**found, **bad}))
        with pytest.raises(StorageError, match="isn't a silo's public parts"):
            PublicParts.load(path)


def test_a_silo_keeps_what_it_pinned(tmp_path: Path) -> None:
    place, roots = far_apart(tmp_path)
    parts = [PublicParts.load(SiloFolder(root).public) for root in roots]
    federation = coordinator.collect(place, parts)
    coordinator.join(roots[0], federation)
    keys = {**federation.keys, 1: bytes(32)}
    with pytest.raises(ConfigError, match=r"other keys than those pinned here, of clients \[1\]"):
        coordinator.join(roots[0], Federation("hospitals", "h:1", federation.authority, keys))
    other = coordinator.make(tmp_path / "c2", SETTINGS).root_certificate.read_bytes()
    with pytest.raises(ConfigError, match="another authority"):
        coordinator.join(roots[0], Federation("hospitals", "h:1", other, federation.keys))
    with pytest.raises(ConfigError, match="of client 1 isn't this silo's"):
        coordinator.join(roots[1], Federation("hospitals", "h:1", other, keys))
    with pytest.raises(ConfigError, match="population"):
        coordinator.join(roots[2], Federation("x", "h:1", other, federation.keys))


# Checks


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: (d / "silo-0/node.key").chmod(0o644), "is open to others (644)"),
        (lambda d: (d / "silo-0/client").chmod(0o755), "is open to others (755)"),
        (lambda d: (d / "silo-0/superexec.secret").unlink(), "is missing"),
        (lambda d: (d / "coordinator/superlink.crt").unlink(), "is missing"),
        (
            lambda d: shutil.copy(d / "silo-1/client/1.key", d / "silo-0/client/1.key"),
            "is another client's secret",
        ),
        (lambda d: shutil.copy(d / "silo-1/node.key", d / "silo-0/node.key"), "isn't the key in"),
        (lambda d: shutil.copy(d / "silo-1/node.key", d / "coordinator/node.key"), "no place here"),
        (
            lambda d: (d / "silo-0/client/0.key").write_bytes(bytes(range(32))),
            "isn't the key in public.json",
        ),
        (lambda d: (d / "silo-0/ca.crt").write_text("no"), "isn't a PEM certificate"),
        (
            lambda d: (d / "silo-0/client/directory.json").write_text("{}"),
            "isn't the federation's",
        ),
        (lambda d: (d / "coordinator/nodes/1.pub").write_text("ssh-rsa x"), "OpenSSH's format"),
        (
            lambda d: shutil.copy(
                d / "coordinator/authority/ca.key", d / "coordinator/superlink.key"
            ),
            "isn't of the key beside it",
        ),
        (
            lambda d: shutil.copy(d / "coordinator/ca.crt", d / "coordinator/superlink.crt"),
            "isn't for 127.0.0.1",
        ),
    ],
)
def test_what_is_wrong_is_found(made: Path, change: Any, says: str) -> None:
    change(made)
    found = run("check", made, status=1)
    assert any(says in f["what"] for f in found["findings"] if f["problem"]), found


def test_certificates_expire(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "SOON_DAYS", 400)
    (finding,) = [f for f in check.check(made) if "superlink.crt" in str(f.where)]
    assert "expires in 397 days" in finding.what
    assert not finding.problem
    before = (made / "coordinator/superlink.crt").read_bytes()
    key = (made / "coordinator/superlink.key").read_bytes()
    assert run("renew", made / "coordinator")["days"] == 397
    assert (made / "coordinator/superlink.crt").read_bytes() != before
    assert (made / "coordinator/superlink.key").read_bytes() != key
    assert files.rights(made / "coordinator/superlink.key") == 0o600
    assert run("check", made)["ok"]
    (made / "coordinator/authority/ca.key").unlink()
    with pytest.raises(StorageError, match=r"ca\.key can't be read"):
        coordinator.renew(CoordinatorFolder(made / "coordinator"))
    # Nor is another authority made in its place.
    run("init", made, "--silos", 3)
    assert not (made / "coordinator/authority/ca.key").exists()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no coordinator's or silo's folder"):
        check.check(tmp_path)


# Files to start from


def test_the_app_is_the_documented_one() -> None:
    text = (ROOT / "docs" / "flower" / "pyproject.toml").read_text()
    assert scripts.render("app.toml") == text


def test_scripts_and_units_are_whole(made: Path) -> None:
    programs = list(made.rglob("*.sh"))
    assert len(programs) == 5 + 3 * 2
    for path in programs:
        subprocess.run(["sh", "-n", str(path)], check=True)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd")
    units = [str(p) for p in made.rglob("*.service")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    mine = [line for line in done.stderr.splitlines() if "tacit" in line]
    assert not mine, mine
