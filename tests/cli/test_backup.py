"""``tacit backup`` and ``tacit restore``: what comes back, and what is never claimed of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import governing
import pytest
from postgres import Postgres, binaries
from tiny import TINY, make_tiny

import tacit
from tacit.cli import main
from tacit.privacy.errors import BudgetError, MessageError, StorageError, TacitError
from tacit.privacy.log import keyfile, leaves
from tacit.privacy.policy import Policy
from tacit.server import backup, check, restore
from tacit.server.coordinator import RoundResult
from tacit.server.gateway.authority import Authority
from tacit.server.gateway.devices import Devices
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.store import Store


class Said(NamedTuple):
    status: int
    out: str
    err: str


class Interrupted(Exception):
    pass


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*line: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["tacit", *line])
        with pytest.raises(SystemExit) as left:
            main()
        return Said(int(left.value.code or 0), *capsys.readouterr())

    return run


def interrupt(after: int) -> Any:
    def progress(result: RoundResult) -> None:
        if result.round == after:
            raise Interrupted

    return progress


def begun(home: Path, rounds: int = 1) -> str:
    """A run that was interrupted after some of its three rounds; its id."""
    with pytest.raises(Interrupted):
        tacit.simulate(TINY, task=make_tiny(), home=home, progress=interrupt(rounds))
    return run_of(home)


def run_of(home: Path) -> str:
    store = Store(Home(home))
    found = str(store.run("last")["id"])
    store.close()
    return found


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``home``, of whose run one round more was released than in ``backup``.

    ``early`` is a checkpoint as old as the backup, ``newest`` one of the home.
    """
    folder = tmp_path_factory.mktemp("backup")
    home = folder / "home"
    begun(home)
    store = Store(Home(home))
    backup.make(store, str(folder / "backup"))
    (folder / "early").write_text(store.checkpoint())
    with pytest.raises(Interrupted):
        tacit.simulate(task=make_tiny(), home=home, resume="last", progress=interrupt(2))
    (folder / "newest").write_text(store.checkpoint())
    store.close()
    return folder


def put_back(folder: Path, to: Path, *, newest: str | None = None, lossy: bool = False) -> Any:
    note = (folder / newest).read_text() if newest else None
    return restore.restore(str(folder / "backup"), str(to), note, lossy)


def files(home: Path) -> dict[str, bytes]:
    """Models and states of a home; the database is compared through its log."""
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for name in ("artifacts", "runs", "keys")
        for path in (home / name).rglob("*")
        if path.is_file() and path.name != "lock"
    }


def report(home: Path) -> Any:
    store = Store(Home(home))
    try:
        return check.verify(store)
    finally:
        store.close()


def test_a_home_comes_back_and_its_run_goes_on(tmp_path: Path, command: Any) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    begun(home)
    to, note = tmp_path / "backup", tmp_path / "note"
    said = command("backup", "--to", str(to), "--json", "--home", str(home))
    assert said.status == 0, said.err
    made = json.loads(said.out)
    assert to.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    command("ledger", "checkpoint", "--to", str(note), "--home", str(home))
    before = files(home)
    shutil.rmtree(home)
    said = command("restore", str(to), "--to", str(copy), "--checkpoint", str(note), "--json")
    assert said.status == 0, said.err
    found = json.loads(said.out)
    assert found["leaves"] == found["known"] == found["leaf"] == made["leaves"]
    assert found["runs"] == []
    assert files(copy) == before
    assert not [p for p in copy.rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
    assert tacit.simulate(task=make_tiny(), home=copy, resume="last").rounds == 3
    result = report(copy)
    assert result.holds, result.findings
    assert "no newer checkpoint was known" in " ".join(result.notes)
    shown = command("ledger", "show", "--home", str(copy))
    assert "RESTORE" in shown.out


@pytest.mark.parametrize(
    ("newest", "why"),
    [(None, "nobody knows"), ("newest", "aren't in the backup")],
)
def test_what_may_be_lost_is_not_put_back_silently(
    older: Path, tmp_path: Path, newest: str | None, why: str
) -> None:
    with pytest.raises(StorageError, match=why):
        put_back(older, tmp_path / "copy", newest=newest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("newest", [None, "newest"])
def test_after_a_loss_runs_are_over_and_new_ones_begin(
    older: Path, tmp_path: Path, newest: str | None
) -> None:
    copy = tmp_path / "copy"
    found = put_back(older, copy, newest=newest, lossy=True)
    run = run_of(copy)
    assert found["runs"] == [run]
    stopped = tacit.simulate(task=make_tiny(), home=copy, resume="last")
    assert (stopped.status, stopped.rounds) == ("stopped", 1)
    assert "put back from a backup" in stopped.message
    assert tacit.simulate(TINY, task=make_tiny(), home=copy).rounds == 3
    result = report(copy)
    assert result.holds, result.findings
    assert "is in no figure" in " ".join(result.notes)
    # Whoever kept a checkpoint finds out, whatever the operator says.
    store = Store(Home(copy))
    assert not check.verify(store, [(older / "newest").read_text()]).holds
    store.close()


def test_a_lossless_word_is_held_against_whoever_gave_it(older: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    put_back(older, copy, newest="early")
    store = Store(Home(copy))
    try:
        assert check.verify(store).holds
        assert not check.verify(store, [(older / "newest").read_text()]).holds
    finally:
        store.close()


def test_policies_are_said_anew_after_a_loss(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    store = Store(Home(home))
    governing.new_run(store, "a", governing.PLAN)
    policy = Policy(population="p", run_epsilon=100.0, delta=governing.DELTA)
    Governance(store).adopt(policy, None)
    backup.make(store, str(tmp_path / "backup"))
    store.close()
    put_back(tmp_path, copy, lossy=True)
    store = Store(Home(copy))
    governance = Governance(store)
    governing.new_run(store, "b", governing.PLAN)
    with pytest.raises(BudgetError, match="set it anew") as refused:
        governing.charge(store, governance, "b")
    assert "population=p" in refused.value.message
    governance.adopt(policy, None)
    governing.charge(store, governance, "b")
    with pytest.raises(BudgetError, match="run=a"):
        governing.charge(store, governance, "a")
    store.close()


def test_a_verifier_finds_a_charge_of_a_run_that_is_over(home: Home, store: Store) -> None:
    governing.new_run(store, "a", governing.PLAN)
    governing.charge(store, Governance(store), "a")
    size = len(store.leaves())
    store.append(leaves.restore(size, None))
    body = next(leaf["body"] for leaf in store.leaves(kinds=["CHARGE"]))
    store.append({k: v for k, v in {**body, "attempt": 1}.items() if k != "at"}, (bytes(32), []))
    found = [str(f) for f in check.verify(store).findings]
    assert any("should have been refused" in f and "put back" in f for f in found), found


def test_a_verifier_finds_a_restore_of_another_size(home: Home, store: Store) -> None:
    store.append(leaves.restore(len(store.leaves()) + 3, None))
    found = [str(f) for f in check.verify(store).findings]
    assert any("was put back" in f for f in found), found


def test_backups_while_a_run_goes_on(tmp_path: Path) -> None:
    home, made, failed = tmp_path / "home", list[int](), list[BaseException]()
    Store(Home(home)).close()
    over = threading.Event()

    def work() -> None:
        store = Store(Home(home))
        try:
            while not over.is_set():
                to = tmp_path / f"backup-{len(made)}"
                made.append(backup.make(store, str(to))["leaves"])
        except BaseException as error:
            failed.append(error)
        finally:
            store.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        result = tacit.simulate([*TINY, "rounds=12"], task=make_tiny(), home=home)
    finally:
        over.set()
        thread.join()
    assert not failed, failed
    assert result.rounds == 12
    assert len(set(made)) > 1, "no backup was taken in between"
    for number in {made.index(size) for size in made}:
        copy = tmp_path / f"copy-{number}"
        restore.restore(str(tmp_path / f"backup-{number}"), str(copy), accept_loss=True)
        assert report(copy).holds


@pytest.mark.parametrize("lossy", [True, False])
def test_invitations_that_may_have_been_used_are_void(tmp_path: Path, lossy: bool) -> None:
    store = Store(Home(tmp_path / "home"))
    token = Devices(store.database, "p").invite(3600.0)
    backup.make(store, str(tmp_path / "backup"))
    (tmp_path / "newest").write_text(store.checkpoint())
    store.close()
    put_back(tmp_path, tmp_path / "copy", newest=None if lossy else "newest", lossy=lossy)
    store = Store(Home(tmp_path / "copy"))
    try:
        assert Devices(store.database, "p").invited() == (0 if lossy else 1)
        assert token
    finally:
        store.close()


def test_keys_are_kept_apart(tmp_path: Path, command: Any) -> None:
    home, to = tmp_path / "home", tmp_path / "backup"
    begun(home)
    said = command("backup", "--to", str(to), "--without-keys", "--home", str(home))
    assert said.status == 0, said.err
    secret = (home / "keys" / "ledger.key").read_bytes().strip()
    assert secret not in to.read_bytes()
    line = ["restore", str(to), "--to", str(tmp_path / "copy"), "--accept-loss"]
    said = command(*line)
    assert said.status == 2
    assert "--key" in said.err
    keyfile.create(tmp_path / "other", "other")
    said = command(*line, "--key", str(tmp_path / "other"))
    assert said.status == 2
    assert not (tmp_path / "copy").exists()
    said = command(*line, "--key", str(home / "keys" / "ledger.key"))
    assert said.status == 0, said.err
    assert "is over" in said.out


def test_nothing_is_overwritten(older: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there already"):
        put_back(older, older / "home", newest="early")
    store = Store(Home(older / "home"))
    with pytest.raises(StorageError, match="there already"):
        backup.make(store, str(older / "backup"))
    store.close()
    (tmp_path / "empty").mkdir()
    put_back(older, tmp_path / "empty", newest="early")
    assert report(tmp_path / "empty").holds


def test_clients_secrets_are_never_in_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    begun(home)
    clients = home / "clients"
    clients.mkdir()
    for name in ("directory.json", "3.key", "3.vault", "3.ledger", "floors.json"):
        (clients / name).write_text("{}")
    (home / "runs" / run_of(home) / ".passing.part").write_text("")
    (home / "gateway.json").write_text("{}")
    Authority(Home(home), "p")
    store = Store(Home(home))
    backup.make(store, str(tmp_path / "backup"))
    store.close()
    with tarfile.open(tmp_path / "backup") as tar:
        names = tar.getnames()
    assert [name for name in names if name.startswith("clients")] == ["clients/directory.json"]
    assert not [name for name in names if "lock" in name or ".part" in name]
    # The operator's own are.
    ours = {"ledger.key", "ca.key", "ca.crt", "authority.key", "coordinator.key"}
    assert {*(f"keys/{name}" for name in ours), "gateway.json"} <= set(names)


def test_a_checkpoint_of_another_ledger(older: Path, tmp_path: Path, store: Store) -> None:
    with pytest.raises(MessageError, match="of the ledger"):
        restore.restore(str(older / "backup"), str(tmp_path / "copy"), store.checkpoint())
    with pytest.raises(MessageError, match="isn't a checkpoint"):
        restore.restore(str(older / "backup"), str(tmp_path / "copy"), "hello")


def test_a_home_that_doesnt_hold_isnt_backed_up(tmp_path: Path) -> None:
    home = tmp_path / "home"
    begun(home)
    model = next(path for path in (home / "artifacts").rglob("*") if path.is_file())
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    store = Store(Home(home))
    with pytest.raises(StorageError, match="doesn't hold"):
        backup.make(store, str(tmp_path / "backup"))
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def changed(archive: Path, to: Path, change: Any) -> None:
    """An archive whose members went through ``change``, which may add or drop some."""
    with tarfile.open(archive) as old, tarfile.open(to, "w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            for info, data in change(member, file.read()):
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))


def _flipped(member: tarfile.TarInfo, data: bytes) -> Any:
    yield member, data[:-1] + bytes([data[-1] ^ 1]) if member.name == "tacit.db" else data


def _shorter(member: tarfile.TarInfo, data: bytes) -> Any:
    if not member.name.startswith("artifacts"):
        yield member, data


def _unlisted(member: tarfile.TarInfo, data: bytes) -> Any:
    yield member, data
    if member.name == "tacit.db":
        yield tarfile.TarInfo("keys/other.key"), b"x"


def _twice(member: tarfile.TarInfo, data: bytes) -> Any:
    yield member, data
    if member.name == "tacit.db":
        yield member, data


def _elsewhere(member: tarfile.TarInfo, data: bytes) -> Any:
    if member.name == restore.MANIFEST:
        found = json.loads(data)
        found["files"]["runs/../../outside"] = found["files"]["tacit.db"]
        data = json.dumps(found).encode()
    yield member, data


def _linked(member: tarfile.TarInfo, data: bytes) -> Any:
    if member.name == "tacit.db":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
    yield member, data


def _newer(member: tarfile.TarInfo, data: bytes) -> Any:
    yield member, data.replace(b'"format": 1', b'"format": 2')


@pytest.mark.parametrize(
    "change", [_flipped, _shorter, _unlisted, _twice, _elsewhere, _linked, _newer]
)
def test_an_archive_that_was_changed(older: Path, tmp_path: Path, change: Any) -> None:
    to = tmp_path / "changed"
    changed(older / "backup", to, change)
    with pytest.raises(TacitError):
        restore.restore(str(to), str(tmp_path / "copy"), accept_loss=True)
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.99])
def test_a_piece_of_an_archive(older: Path, tmp_path: Path, part: float) -> None:
    whole = (older / "backup").read_bytes()
    to = tmp_path / "piece"
    # The last blocks of an archive are empty.
    to.write_bytes(whole[: int(part * len(whole.rstrip(b"\x00")))])
    with pytest.raises(TacitError):
        restore.restore(str(to), str(tmp_path / "copy"), accept_loss=True)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_postgresql_has_its_own_tools(
    store: Store, postgres: Postgres, tmp_path: Path, command: Any
) -> None:
    with pytest.raises(TacitError, match="isn't in the home") as refused:
        backup.make(store, str(tmp_path / "backup"))
    assert "pg_dump" in refused.value.hint
    governing.new_run(store, "a", governing.PLAN)
    dumped(postgres, "pg_dump", "-Fc", "-f", postgres.folder / "dump", named(store))
    kept = shutil.copytree(store.home.root, tmp_path / "kept")
    governing.charge(store, Governance(store), "a")
    (tmp_path / "newest").write_text(store.checkpoint())
    other = postgres.fresh()
    dumped(
        postgres,
        "pg_restore",
        "-d",
        other.split("?")[0].rsplit("/", 1)[1],
        postgres.folder / "dump",
    )
    (kept / "database.url").write_text(f"{other}\n")
    line = ["ledger", "restored", "--checkpoint", str(tmp_path / "newest"), "--home", str(kept)]
    said = command(*line)
    assert said.status == 2
    assert "aren't in the backup" in said.err
    said = command(*line, "--accept-loss")
    assert said.status == 0, said.err
    again = Store(Home(kept))
    assert again.run("a")["status"] == "failed"
    assert check.verify(again).holds
    again.close()


def named(store: Store) -> str:
    return str(store.database.url.database)


def dumped(postgres: Postgres, program: str, *arguments: str | Path) -> None:
    """One of PostgreSQL's own programs, as who runs the server."""
    user = "postgres" if os.geteuid() == 0 else None
    command = [str(binaries() / program), "-h", str(postgres.folder), "-U", "tacit"]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        user=user,
        cwd=postgres.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
