"""Promises outlive the process: real files, killed children, full disks."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killing import Killed
from masking import Session

from tacit.privacy.errors import RoundError, StorageError
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg import messages as m
from tacit.privacy.secagg.messages import Confirmation, pack_members
from tacit.privacy.secagg.vault import Said, Vault

PLACE = ("run", "train", 1, 0)


def begun(path: Path | None = None) -> Vault:
    vault = Vault(path)
    vault.open(0, PLACE, "first", b"body")
    return vault


# The order of sessions


def test_a_session_moves_forward_once() -> None:
    vault = begun()
    assert vault.read(0, "first") == ("advertised", b"body")
    vault.advance(0, "first", "advertised", "shared", b"more")
    assert vault.read(0, "first") == ("shared", b"more")
    for before, after in (("advertised", "shared"), ("advertised", "masked"), ("masked", "x")):
        with pytest.raises(RoundError, match=f"isn't in the phase '{before}'"):
            vault.advance(0, "first", before, after, b"other")
    assert vault.read(0, "first") == ("shared", b"more")


@pytest.mark.parametrize(
    ("round_", "attempt", "newer"),
    [(3, 2, False), (3, 1, False), (2, 9, False), (1, 0, False), (3, 3, True), (4, 0, True)],
)
def test_only_newer_sessions_begin(round_: int, attempt: int, newer: bool) -> None:
    vault = Vault(None)
    vault.open(0, ("run", "train", 3, 2), "s", b"")
    if newer:
        vault.open(0, ("run", "train", round_, attempt), "t", b"")
        assert vault.read(0, "t") == ("advertised", b"")
        with pytest.raises(RoundError):
            vault.read(0, "s")
    else:
        with pytest.raises(RoundError, match="was seen before"):
            vault.open(0, ("run", "train", round_, attempt), "t", b"")
        assert vault.read(0, "s") == ("advertised", b"")


def test_in_memory_only_the_newest_round_is_kept() -> None:
    # Else a simulation's memory would grow with its population.
    vault = begun()
    vault.open(1, ("run", "train", 2, 0), "second", b"x")
    vault.open(2, ("run", "train", 2, 0), "second", b"y")
    assert vault.read(1, "second") == ("advertised", b"x")
    with pytest.raises(RoundError, match="isn't one that client 0 is in"):
        vault.read(0, "first")
    with pytest.raises(RoundError, match="seen before"):
        vault.open(0, ("run", "train", 1, 0), "again", b"z")


def test_runs_purposes_and_clients_are_apart(tmp_path: Path) -> None:
    vault = begun(tmp_path / "v")
    for client, run, purpose in (
        (0, "other", "train"),
        (0, "run", "evaluate"),
        (1, "run", "train"),
    ):
        vault.open(client, (run, purpose, 1, 0), f"{client}{run}{purpose}", b"x")
    assert vault.read(0, "first") == ("advertised", b"body")
    vault.advance(0, "first", "advertised", "shared", b"y")
    assert vault.read(1, "1runtrain") == ("advertised", b"x")
    with pytest.raises(RoundError, match="client 1"):
        vault.read(1, "first")
    with pytest.raises(RoundError):
        vault.advance(1, "first", "shared", "masked", b"")


# The file


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "v"
    before = os.umask(0)
    try:
        vault = begun(path)
        assert path.stat().st_mode & 0o777 == 0o600
        # The journal too, which has what was there before.
        with vault._writing() as db:
            db.execute("UPDATE sessions SET phase = 'x'")
            beside = [p for p in tmp_path.iterdir() if p != path]
            assert beside
            assert all(p.stat().st_mode & 0o777 == 0o600 for p in beside)
    finally:
        os.umask(before)


def test_a_file_that_others_could_read_no_longer_is(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.touch(0o644)
    path.chmod(0o644)
    Vault(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_settings_that_durability_rests_on(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    found = {
        name: vault._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "journal_mode", "secure_delete")
    }
    assert found == {"synchronous": 3, "journal_mode": "delete", "secure_delete": 1}


def test_it_is_there_for_the_next_process(tmp_path: Path) -> None:
    first = begun(tmp_path / "v")
    first.advance(0, "first", "advertised", "shared", b"kept")
    first.close()
    second = Vault(tmp_path / "v")
    assert second.read(0, "first") == ("shared", b"kept")
    with pytest.raises(RoundError, match="seen before"):
        second.open(0, PLACE, "again", b"")


def test_two_at_once_and_one_of_them_wins(tmp_path: Path) -> None:
    one, two = begun(tmp_path / "v"), Vault(tmp_path / "v")
    assert two.read(0, "first") == one.read(0, "first")
    one.advance(0, "first", "advertised", "shared", b"one")
    with pytest.raises(RoundError):
        two.advance(0, "first", "advertised", "shared", b"two")
    assert two.read(0, "first") == ("shared", b"one")


def test_many_processes_and_one_of_them_wins(tmp_path: Path) -> None:
    begun(tmp_path / "v").close()
    code = """
import sys
from pathlib import Path
from tacit.privacy.errors import RoundError
from tacit.privacy.secagg.vault import Said, Vault
vault = Vault(Path(sys.argv[1]))
sys.stdin.readline()
try:
    vault.advance(0, "first", "advertised", "shared", sys.argv[2].encode())
except RoundError:
    sys.exit(3)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "v")]
    racing = [subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE) for i in range(4)]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    codes = [process.wait(timeout=60) for process in racing]
    for process in racing:
        assert process.stdin is not None
        process.stdin.close()
    assert sorted(codes) == [0, 3, 3, 3]
    assert Vault(tmp_path / "v").read(0, "first") == ("shared", str(codes.index(0)).encode())


# Killed


def test_killed_after_every_answer(tmp_path: Path) -> None:
    session = Session(5)
    killed = Killed(session, tmp_path)
    server, others = session.server, [k for k in session.clients if k]

    def play(say: str, data: bytes, kind: Any) -> Any:
        answer = kind.decode(killed.ask(say, data))
        if say != "confirm":
            # The same is refused afterwards, by a process that knows nothing but the file.
            with pytest.raises(RoundError):
                killed.ask(say, data, again=False)
        return answer

    server.advertised(play("advertise", session.invitation.encode(), m.Advertisement))
    for k in others:
        server.advertised(session.clients[k].advertise(session.invitation))
    roster = server.roster()
    server.shared(play("share", roster.encode(), m.Shares))
    for k in others:
        server.shared(session.clients[k].share(roster, SystemSource()))
    session.members = server.close_shares()
    server.masked(play("mask", session.members, m.Masked))
    for k in others:
        server.masked(session.masked(k))
    survivors = server.close_masked()
    server.confirmed(Confirmation.decode(killed.ask("confirm", survivors.encode())))
    for k in others:
        server.confirmed(session.clients[k].confirm(survivors))
    fewer = type(survivors)("r", 1, 0, session.id, pack_members([0, 1, 2, 3]))
    with pytest.raises(RoundError, match="a second set"):
        killed.ask("confirm", fewer.encode())
    requests = server.close_confirmed()
    server.revealed(m.Revealed.decode(killed.ask("reveal", requests[0].encode())))
    for k in others:
        server.revealed(session.clients[k].reveal(requests[k]))
    total, _, _ = server.total()
    assert (total == session.plain(others) + range(8)).all()


def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    # A transaction that wasn't committed leaves the old phase.
    path = tmp_path / "v"
    begun(path).close()
    code = """
import os, signal, sys
from pathlib import Path
from tacit.privacy.secagg.vault import Said, Vault
vault = Vault(Path(sys.argv[1]))
vault._db.execute("PRAGMA cache_size=1")
with vault._writing() as db:
    db.execute("UPDATE sessions SET phase = 'shared', body = ?", (b"x" * 100_000,))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert Vault(path).read(0, "first") == ("advertised", b"body")


# What was said


def test_the_last_answer_is_kept_for_the_same_request(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    asked, other = b"r" * 32, b"o" * 32
    vault.open(0, PLACE, "first", b"body", Said("query.advertise", asked, b"keys"))
    assert vault.said(0, "first", "query.advertise", asked) == b"keys"
    vault.close()
    vault = Vault(tmp_path / "v")
    assert vault.said(0, "first", "query.advertise", asked) == b"keys"
    for elsewhere in (
        (1, "first", "query.advertise", asked),
        (0, "second", "query.advertise", asked),
        (0, "first", "query.share", asked),
        (0, "first", "query.advertise", other),
    ):
        assert vault.said(*elsewhere) is None
    vault.advance(0, "first", "advertised", "shared", b"", Said("query.share", other, b"shares"))
    assert vault.said(0, "first", "query.advertise", asked) is None
    assert vault.said(0, "first", "query.share", other) == b"shares"
    with pytest.raises(RoundError):
        vault.advance(0, "first", "advertised", "shared", b"", Said("query.share", asked, b"no"))
    assert vault.said(0, "first", "query.share", other) == b"shares"
    vault.advance(0, "first", "shared", "masked", b"")
    assert vault.said(0, "first", "query.share", other) is None


def test_what_was_said_in_a_session_is_off_the_disk_when_it_has_gone_on(tmp_path: Path) -> None:
    path = tmp_path / "v"
    vault = Vault(path)
    marks = [os.urandom(16).hex().encode() * 5000 for _ in range(3)]
    vault.open(0, PLACE, "first", b"", Said("query.advertise", b"1", marks[0]))
    assert marks[0][:32] in path.read_bytes()
    vault.advance(0, "first", "advertised", "shared", b"", Said("query.share", b"2", marks[1]))
    raw = path.read_bytes()
    assert marks[0][:32] not in raw
    assert marks[1][:32] in raw
    vault.open(0, ("run", "train", 2, 0), "second", b"", Said("query.advertise", b"3", marks[2]))
    raw = path.read_bytes()
    assert marks[1][:32] not in raw
    assert marks[2][:32] in raw


def test_in_memory_nothing_said_is_kept() -> None:
    vault = Vault(None)
    vault.open(0, PLACE, "first", b"body", Said("query.advertise", b"r", b"keys"))
    assert vault.said(0, "first", "query.advertise", b"r") is None
    assert not vault._db.execute("SELECT * FROM answers").fetchall()


def test_a_vault_of_before_there_were_answers_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "v"
    begun(path).close()
    old = sqlite3.connect(path)
    old.execute("DROP TABLE answers")
    old.commit()
    old.close()
    vault = Vault(path)
    assert vault.read(0, "first") == ("advertised", b"body")
    vault.advance(0, "first", "advertised", "shared", b"", Said("query.share", b"r", b"shares"))
    assert vault.said(0, "first", "query.share", b"r") == b"shares"


# What is erased


def secrets_of(session: Session, k: int = 0) -> dict[str, bytes]:
    found = session.clients[k]._load(session.id)[1]
    names = ("channel", "mask", "self_seed", "base", "chain", "roots")
    return {n: getattr(found, n).encode() for n in names if getattr(found, n)}


def held(raw: bytes, secret: bytes) -> bool:
    """Whether a file has a secret, or half of one that lies across two of its pages."""
    return secret[:32] in raw or secret[-32:] in raw


def test_secrets_are_off_the_disk_when_they_are_of_no_more_use(tmp_path: Path) -> None:
    session = Session(6, folder=tmp_path)
    path = tmp_path / "0.vault"
    session.advertise()
    first = secrets_of(session)
    assert set(first) == {"channel", "mask", "self_seed"}
    assert all(held(path.read_bytes(), secret) for secret in first.values())
    session.share()
    second = secrets_of(session)
    assert set(second) == {"mask", "self_seed", "base", "chain", "roots"}
    raw = path.read_bytes()
    assert not held(raw, first["channel"])
    assert all(held(raw, secret) for secret in second.values())
    session.mask()
    raw = path.read_bytes()
    for name in ("mask", "self_seed", "base", "chain"):
        assert not held(raw, second[name])
    assert held(raw, second["roots"])
    session.confirm()
    session.reveal()
    session.finish()
    later = Session(6, earlier=session, round=2)
    later.folder = tmp_path
    later.advertise()
    raw = path.read_bytes()
    for name, secret in {**first, **second}.items():
        for part in (secret, secret[:64], secret[-64:], bytes.fromhex(secret[:64].decode())):
            assert part not in raw, name
    assert session.id.encode() not in raw
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("0.")] == ["0.vault"]


def test_large_bodies_leave_nothing_in_free_pages(tmp_path: Path) -> None:
    path = tmp_path / "v"
    vault = Vault(path)
    marks = [os.urandom(16).hex().encode() * 2000 for _ in range(3)]
    for i, mark in enumerate(marks):
        vault.open(0, ("run", "train", i + 1, 0), f"s{i}", mark)
        raw = path.read_bytes()
        assert mark[:32] in raw
        assert all(old[:32] not in raw for old in marks[:i])
    vault.advance(0, "s2", "advertised", "shared", b"short")
    assert marks[2][:32] not in path.read_bytes()


# What goes wrong with files


def test_a_folder_that_is_not_there_or_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "v", tmp_path / "file" / "v", tmp_path):
        with pytest.raises(StorageError, match="vault"):
            Vault(path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"not a database, and longer than its header would be" * 100)
    with pytest.raises(StorageError, match="not a database"):
        Vault(path)


def test_a_read_only_database_says_nothing(tmp_path: Path) -> None:
    # Root may write anywhere, so SQLite itself is told that it may not.
    vault = begun(tmp_path / "v")
    vault._db.execute("PRAGMA query_only=ON")
    with pytest.raises(StorageError, match="readonly"):
        vault.advance(0, "first", "advertised", "shared", b"")
    with pytest.raises(StorageError, match="readonly"):
        vault.open(0, ("run", "train", 2, 0), "s", b"")
    vault._db.execute("PRAGMA query_only=OFF")
    assert vault.read(0, "first") == ("advertised", b"body")


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "v"
    vault = begun(path)
    vault._db.execute(f"PRAGMA max_page_count={path.stat().st_size // 4096}")
    with pytest.raises(StorageError, match=r"full.*nothing was sent"):
        vault.advance(0, "first", "advertised", "shared", os.urandom(100_000))
    assert vault.read(0, "first") == ("advertised", b"body")
    vault.advance(0, "first", "advertised", "shared", b"small")
    assert vault.read(0, "first") == ("shared", b"small")


def test_a_file_that_cannot_grow_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "v"
    begun(path).close()

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    code = """
import os, sys
from pathlib import Path
from tacit.privacy.errors import StorageError
from tacit.privacy.secagg.vault import Said, Vault
vault = Vault(Path(sys.argv[1]))
try:
    vault.advance(0, "first", "advertised", "shared", os.urandom(500_000))
except StorageError:
    assert vault.read(0, "first") == ("advertised", b"body")
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(path)], preexec_fn=limited, timeout=60, check=False
    )
    assert done.returncode == 7
    assert Vault(path).read(0, "first") == ("advertised", b"body")


def test_a_commit_that_fails_leaves_nothing_to_be_read(tmp_path: Path) -> None:
    # A reader in another process keeps the file: what was to be written isn't on disk, so this
    # process mustn't take it for a promise that it made, nor be stuck in its transaction.
    vault = begun(tmp_path / "v")
    vault._db.execute("PRAGMA busy_timeout=0")
    reader = sqlite3.connect(tmp_path / "v", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM sessions").fetchall()
    with pytest.raises(StorageError, match="locked"):
        vault.advance(0, "first", "advertised", "shared", b"first answer")
    assert vault.read(0, "first") == ("advertised", b"body")
    reader.execute("COMMIT")
    vault.advance(0, "first", "advertised", "shared", b"second answer")
    vault.close()
    assert Vault(tmp_path / "v").read(0, "first") == ("shared", b"second answer")


def test_an_interrupted_transaction_is_rolled_back() -> None:
    vault = begun()

    def interrupted() -> None:
        with vault._writing() as db:
            db.execute("UPDATE sessions SET phase = 'x'")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert vault.read(0, "first") == ("advertised", b"body")
    vault.advance(0, "first", "advertised", "shared", b"")


def test_a_client_whose_vault_fails_says_nothing(tmp_path: Path) -> None:
    session = Session(6, folder=tmp_path).until("confirm")
    session.vaults[0]._db.execute("PRAGMA query_only=ON")
    with pytest.raises(StorageError):
        session.clients[0].confirm(session.survivors)
    session.vaults[0]._db.execute("PRAGMA query_only=OFF")
    fewer = type(session.survivors)("r", 1, 0, session.id, pack_members(range(5)))
    session.clients[0].confirm(fewer)
    with pytest.raises(RoundError, match="second set"):
        session.clients[0].confirm(session.survivors)
