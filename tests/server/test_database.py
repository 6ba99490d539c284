"""The two engines under one contract: turns of writers, states of readers, errors that help."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from checking import check_log
from postgres import BOTH, Postgres

from tacit.privacy.errors import ConfigError, StorageError
from tacit.server import database as databases
from tacit.server import keys
from tacit.server.database import Database
from tacit.server.home import Home
from tacit.server.store import Store

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["crashing"])

CHARGE = {"kind": "CHARGE", "run": "r", "round": 1, "attempt": 0, "purpose": "train"}


@pytest.fixture
def place(home: Home) -> Any:
    """The home's database with a counter in it, and no ledger."""
    made = Database(keys.place(home))
    with made.writing() as c:
        c.exec_driver_sql("CREATE TABLE counter (value INTEGER NOT NULL)")
        c.exec_driver_sql("INSERT INTO counter VALUES (0)")
    yield made
    made.close()


def count(c: sa.Connection) -> int:
    return int(c.exec_driver_sql("SELECT value FROM counter").scalar_one())


def add(place: Database) -> None:
    """Reads, and then writes what it read: lost updates if two may do that at once."""
    with place.writing() as c:
        value = count(c)
        c.exec_driver_sql(f"UPDATE counter SET value = {value + 1}")


# Turns


def counter(url: str, times: int, gate: Any) -> None:
    place = Database(databases.parse(url))
    gate.wait(60)
    for _ in range(times):
        add(place)


@BOTH
def test_read_then_write_is_exact_over_processes(place: Database) -> None:
    url = place.url.render_as_string(hide_password=False)
    gate = _FORKS.Barrier(3)
    processes = [_FORKS.Process(target=counter, args=(url, 60, gate)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with place.reading() as c:
        assert count(c) == 180


@BOTH
def test_a_writer_waits_for_the_one_before(place: Database) -> None:
    """Also if the one before has written nothing yet, and the other has."""
    order = []
    other = Database(place.url)

    def second() -> None:
        with other.writing() as c:
            order.append(("second", count(c)))

    with place.writing() as c:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        order.append(("first", count(c)))
        c.exec_driver_sql("UPDATE counter SET value = 9")
    thread.join(60)
    assert order == [("first", 0), ("second", 9)]
    other.close()


@BOTH
def test_a_reader_sees_one_state_and_waits_for_nobody(place: Database) -> None:
    other = Database(place.url)
    with other.reading() as c:
        assert count(c) == 0
        add(place)
        with place.writing() as w:
            w.exec_driver_sql("UPDATE counter SET value = 50")
            assert count(c) == 0  # Nor does a writer keep it waiting.
        assert count(c) == 0
        add(place)
        assert count(c) == 0
    with other.reading() as c:
        assert count(c) == 51
    other.close()


@BOTH
def test_what_a_writer_did_before_it_failed_is_undone(place: Database) -> None:
    def fail() -> None:
        with place.writing() as c:
            c.exec_driver_sql("UPDATE counter SET value = 7")
            c.exec_driver_sql("CREATE TABLE more (value INTEGER)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with place.reading() as c:
        assert count(c) == 0
        assert sa.inspect(c).get_table_names() == ["counter"]
    add(place)  # Its turn is over.


@BOTH
def test_a_writer_gives_up_in_the_end(place: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_PATIENCE", 1)
    other = Database(place.url)
    with place.writing(), pytest.raises(StorageError, match="lock") as caught:
        add(other)
    assert "another process" in caught.value.hint
    add(other)
    other.close()


@BOTH
def test_commits_are_durable(place: Database) -> None:
    """As far as settings say so: a test can't pull the plug."""
    with place.writing() as c:
        if place.engine.dialect.name == "sqlite":
            assert c.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert c.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        else:
            for setting in ("synchronous_commit", "fsync", "full_page_writes"):
                assert c.exec_driver_sql(f"SHOW {setting}").scalar() == "on"


def test_commits_are_durable_where_the_server_would_rather_not(
    home: Home, postgres: Postgres
) -> None:
    url = postgres.fresh()
    place = Database(databases.parse(url))
    with place.engine.begin() as c:
        c.exec_driver_sql("ALTER ROLE tacit SET synchronous_commit TO off")
    place.engine.dispose()
    try:
        with place.writing() as c:
            assert c.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    finally:
        with place.engine.begin() as c:
            c.exec_driver_sql("ALTER ROLE tacit RESET synchronous_commit")
        place.close()


# What goes wrong, and what is said of it


def test_a_postgresql_that_isnt_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="failed") as caught:
        Store(Home(tmp_path, f"postgresql://tacit@/x?host={tmp_path}"))
    assert "is PostgreSQL up?" in caught.value.hint
    assert not (tmp_path / "database.url").exists()


def test_a_missing_database_is_explained(tmp_path: Path, postgres: Postgres) -> None:
    with pytest.raises(StorageError, match='"absent" does not exist') as caught:
        Store(Home(tmp_path, postgres.url("absent")))
    assert "createdb" in caught.value.hint


def test_a_missing_user_is_explained(tmp_path: Path, postgres: Postgres) -> None:
    with pytest.raises(StorageError, match='"nobody-here" does not exist') as caught:
        Store(Home(tmp_path, postgres.url("postgres", user="nobody-here")))
    assert "createuser" in caught.value.hint


def test_a_user_without_rights_is_explained(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.fresh()
    place = Database(databases.parse(url))
    with place.engine.begin() as c:
        c.exec_driver_sql("CREATE ROLE guest LOGIN")
    words = ["permission denied", "no schema has been selected"]
    for number, said in enumerate(words):
        with pytest.raises(StorageError, match=said) as caught:
            Store(Home(tmp_path / str(number), url.replace("tacit@", "guest@")))
        assert "owner" in caught.value.hint
        with place.engine.begin() as c:
            c.exec_driver_sql("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    place.close()


@pytest.fixture
def lost(tmp_path: Path) -> Any:
    """A PostgreSQL to lose, and a store in it."""
    server = Postgres()
    try:
        server.start()
        store = Store(Home(tmp_path / "home", server.fresh()))
        yield server, store
        store.close()
    finally:
        server.stop()


def test_a_lost_server_is_explained_and_found_again(lost: tuple[Postgres, Store]) -> None:
    server, store = lost
    first = store.append(CHARGE)
    server.kill()
    for _ in range(2):
        with pytest.raises(StorageError, match="failed") as caught:
            store.append(CHARGE)
        assert "is PostgreSQL up?" in caught.value.hint
        with pytest.raises(StorageError, match="failed"):
            store.leaves()
    server.start()
    assert store.append(CHARGE) == first + 1
    check_log(store)


def read_from(store: Store, meanwhile: Callable[[], None]) -> None:
    with store.database.reading() as c:
        meanwhile()
        c.exec_driver_sql("SELECT 1")


def test_a_server_that_is_lost_within_a_transaction_undoes_it(
    lost: tuple[Postgres, Store],
) -> None:
    server, store = lost

    def killed(*_: object) -> None:
        store.leaves()
        server.kill()

    before = len(store.leaves())
    with pytest.raises(StorageError, match="failed") as caught:
        store.append(CHARGE, guard=killed)
    assert "is PostgreSQL up?" in caught.value.hint
    server.start()
    assert len(check_log(store)) == before
    # A reader in the midst of it, too.
    with pytest.raises(StorageError) as caught:
        read_from(store, server.kill)
    assert "is PostgreSQL up?" in caught.value.hint
    server.start()
    assert store.append(CHARGE) == before


def test_the_words_of_a_full_disk_under_postgresql_are_known() -> None:
    text = 'could not extend file "base/1/2": No space left on device'
    with pytest.raises(StorageError) as caught, databases.explained():
        raise sa.exc.OperationalError("COMMIT", {}, Exception(text))
    assert "free space and use --resume" in caught.value.hint


def test_an_error_without_words_is_still_explained() -> None:
    with pytest.raises(StorageError, match="ConnectionError"), databases.explained():
        raise sa.exc.OperationalError("COMMIT", {}, ConnectionError())


FULL = """
import sys
from tacit.privacy.errors import StorageError
from tacit.server.home import Home
from tacit.server.store import Store

store, done = Store(Home(sys.argv[1])), 0
try:
    while True:
        store.append({"kind": "AUDIT", "run": "", "much": "x" * 4000})
        done += 1
except StorageError as error:
    print(done, error.message, error.hint, sep="\\n")
assert len(store.leaves()) == done + 1
"""


def test_a_full_disk_under_sqlite_loses_nothing(tmp_path: Path) -> None:
    """Every append that returned is there, after the one that found no room."""
    script = tmp_path / "script.py"
    script.write_text(FULL)
    disk = tmp_path / "disk"
    disk.mkdir()
    home, files = disk / "home", tmp_path / "kept"
    command = (
        f"mount -t tmpfs -o size=800k tmpfs {disk} || exit 99; "
        f"{sys.executable} {script} {home} && cp -r {home} {files}"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--user", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    appended, message, hint = done.stdout.splitlines()
    assert int(appended) > 5
    assert "the database failed" in message
    assert hint == "free space and use --resume; nothing that was committed is lost"
    store = Store(Home(files))
    assert len(check_log(store)) == int(appended) + 1
    store.close()


# URLs


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "postgresql//tacit:hush@host/x",
        "postgresql://tacit:hush@host:port/x",
        "mysql://tacit:hush@host/x",
    ],
)
def test_what_isnt_a_url_is_refused_unquoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        databases.parse(text)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "postgresql://" in caught.value.hint


@pytest.mark.parametrize("driver", ["", "+psycopg", "+psycopg2", "+asyncpg"])
def test_the_driver_is_tacits_to_choose(driver: str) -> None:
    url = databases.parse(f"postgresql{driver}://tacit@host/x")
    assert url.drivername == "postgresql+psycopg"
    assert not databases.is_sqlite(url)
