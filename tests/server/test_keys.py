"""A home goes on with the database and the key it began with, or not at all."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from checking import check_log
from postgres import BOTH, Postgres

from tacit.privacy.errors import ConfigError, StorageError, TacitError
from tacit.privacy.log import keyfile
from tacit.privacy.log.leaves import sealed
from tacit.server import database, keys
from tacit.server import tables as t
from tacit.server.database import Database
from tacit.server.home import Home
from tacit.server.store import Store

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["crashing"])


def begun(home: Home) -> str:
    """Begins the home's ledger; its key."""
    store = Store(home)
    store.close()
    return str(store.signer.verifier)


def again(home: Home) -> Home:
    """As another process would find it: what the home remembers is all that is known."""
    return Home(home.root)


def refusal(home: Home) -> TacitError:
    with pytest.raises(TacitError) as caught:
        Store(home)
    return caught.value


# The key file


@BOTH
def test_a_ledger_goes_on_with_its_key(home: Home) -> None:
    first = begun(home)
    store = Store(again(home))
    assert str(store.signer.verifier) == first
    assert [b["kind"] for b in check_log(store)] == ["KEY"]
    assert home.signing_key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.keys.iterdir()] == ["ledger.key"]
    store.close()


@BOTH
def test_without_its_key_a_ledger_isnt_opened(home: Home) -> None:
    begun(home)
    kept = home.signing_key.read_bytes()
    home.signing_key.unlink()
    error = refusal(home)
    assert "is gone" in error.message
    assert "backup" in error.hint
    assert not home.signing_key.exists()
    home.signing_key.write_bytes(kept)
    home.signing_key.chmod(0o600)
    begun(home)


@BOTH
def test_with_another_key_a_ledger_isnt_opened(home: Home) -> None:
    wanted = begun(home)
    name = keyfile.load(home.signing_key).name
    home.signing_key.unlink()
    keyfile.create(home.signing_key, name)
    error = refusal(home)
    assert f"isn't the key of this ledger, {wanted}" in error.message


def test_a_key_that_others_may_read_isnt_used(home: Home) -> None:
    begun(home)
    home.signing_key.chmod(0o640)
    error = refusal(home)
    assert isinstance(error, ConfigError)
    assert "chmod 600" in error.hint


@BOTH
def test_an_emptied_database_doesnt_begin_another_ledger(
    home: Home, url: str | None, request: pytest.FixtureRequest
) -> None:
    """The key says that there was one."""
    begun(home)
    if url is None:
        for path in home.root.glob("tacit.db*"):
            path.unlink()
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        postgres.empty(url)
    error = refusal(home)
    assert "is the key of a ledger that isn't in" in error.message
    assert "backup" in error.hint


# A crash between the log and the key file


def interrupted(root: str, step: str, rotates: bool) -> None:
    """Dies in the midst of beginning the ledger, or of changing its key."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    home = Home(root)
    store = Store(home) if rotates else None
    if step == "before the leaf":
        logs = keys.Log
        logs.seal = die  # type: ignore[method-assign]
    else:
        keys._settle = die
    if store is None:
        Store(home)
    else:
        keys.rotate(home, store.database, store.signer)


@BOTH
@pytest.mark.parametrize("rotates", [False, True], ids=["beginning", "rotating"])
@pytest.mark.parametrize("step", ["before the leaf", "before the rename"])
def test_a_crash_loses_no_key(step: str, rotates: bool, home: Home, url: str | None) -> None:
    before = begun(home) if rotates else None
    if url is not None:
        keys.remember(home, database.parse(url))  # The process has only the folder.
    process = _FORKS.Process(target=interrupted, args=(str(home.root), step, rotates))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (home.keys / "ledger.next").exists()
    waiting = str(keyfile.load(home.keys / "ledger.next").verifier)
    for _ in range(2):
        store = Store(again(home))
        key = str(store.signer.verifier)
        if step == "before the rename":
            assert key == waiting
        else:
            assert (key == before) == rotates
            assert key != waiting
        store.append({"kind": "AUDIT", "run": ""})
        kinds = [b["kind"] for b in check_log(store)]
        assert kinds.count("KEY") == 1 + (rotates and step == "before the rename")
        store.close()


@BOTH
def test_a_key_is_rotated_and_the_chain_verifies(store: Store, home: Home) -> None:
    old = [str(store.signer.verifier)]
    for _ in range(3):
        store.append({"kind": "AUDIT", "run": ""})
        store.signer = keys.rotate(home, store.database, store.signer)
        old.append(str(store.signer.verifier))
        store.append({"kind": "AUDIT", "run": ""})
    assert len(set(old)) == 4
    bodies = [b for b in check_log(store) if b["kind"] == "KEY"]
    assert [b["key"] for b in bodies] == old
    assert [b["previous"] for b in bodies] == [None, *old[:-1]]
    assert begun(again(home)) == old[-1]
    assert [path.name for path in home.keys.iterdir()] == ["ledger.key"]


@BOTH
def test_a_key_that_was_replaced_rotates_nothing(store: Store, home: Home) -> None:
    """Of two processes that rotate, the second is refused, and the first's key isn't lost."""
    first = keys.rotate(home, store.database, store.signer)
    with pytest.raises(StorageError, match="key was changed"):
        keys.rotate(home, store.database, store.signer)
    assert begun(again(home)) == str(first.verifier)


@BOTH
def test_a_rotation_whose_commit_was_lost_may_be_tried_again(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed, whatever the process was told: its key must not be written over."""

    def lost(_: Home) -> None:
        raise StorageError("the database failed: the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr(keys, "_settle", lost)
        with pytest.raises(StorageError, match="lost"):
            keys.rotate(home, store.database, store.signer)
    made = str(keyfile.load(home.keys / "ledger.next").verifier)
    with pytest.raises(StorageError, match="key was changed"):
        keys.rotate(home, store.database, store.signer)
    assert begun(again(home)) == made


# Which database


def test_another_database_than_the_homes_is_refused(
    home: Home, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = postgres.fresh(), postgres.fresh()
    begun(Home(home.root, first))
    monkeypatch.setenv("TACIT_DATABASE", second)
    error = refusal(Home(home.root))
    assert isinstance(error, ConfigError)
    assert "isn't this home's" in error.message
    assert "TACIT_DATABASE" in error.hint
    monkeypatch.setenv("TACIT_DATABASE", first)
    begun(Home(home.root))
    monkeypatch.setenv("TACIT_DATABASE", f"sqlite:///{home.database}")
    assert "isn't this home's" in refusal(Home(home.root)).message
    with Database(database.parse(second)).reading() as c:
        assert sa.inspect(c).get_table_names() == []


def test_a_home_remembers_its_database_without_the_password(
    home: Home, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test's server asks for none, and so takes any.
    url = postgres.fresh().replace("tacit@", "tacit:hush-hush@") + "&sslpassword=hush-hush"
    monkeypatch.setenv("TACIT_DATABASE", url)
    first = begun(Home(home.root))
    kept = [path.read_bytes() for path in home.root.rglob("*") if path.is_file()]
    assert not any(b"hush-hush" in data for data in kept)
    assert home.remembered.stat().st_mode & 0o777 == 0o600
    assert begun(Home(home.root)) == first  # With a password again,
    monkeypatch.delenv("TACIT_DATABASE")
    assert begun(Home(home.root)) == first  # or without.
    other = postgres.fresh().replace("tacit@", "tacit:hush-hush@")
    error = refusal(Home(home.root, other))
    assert "hush-hush" not in str(error)


def test_a_ledger_in_sqlite_stays_there(home: Home, postgres: Postgres) -> None:
    first = begun(home)
    error = refusal(Home(home.root, postgres.fresh()))
    assert isinstance(error, ConfigError)
    assert "keeps its ledger in SQLite" in error.message
    assert not home.remembered.exists()
    assert begun(again(home)) == first
    assert begun(Home(home.root, f"sqlite:///{home.database}")) == first


def test_sqlite_elsewhere_is_refused(home: Home, tmp_path: Path) -> None:
    error = refusal(Home(home.root, f"sqlite:///{tmp_path}/other.db"))
    assert "must be PostgreSQL" in error.message
    assert not (tmp_path / "other.db").exists()


def test_two_homes_dont_share_a_ledger(home: Home, tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.fresh()
    begun(Home(home.root, url))
    other = Home(tmp_path / "other", url)
    error = refusal(other)
    assert "another home" in error.hint
    assert not other.remembered.exists()
    store = Store(Home(home.root))
    assert [b["kind"] for b in check_log(store)] == ["KEY"]
    store.close()


def starter(root: str, url: str, gate: Any, results: Any) -> None:
    gate.wait(60)
    try:
        results.put(begun(Home(root, url)))
    except TacitError as error:
        results.put(error.message)


def test_two_homes_cant_begin_one_ledger_at_once(tmp_path: Path, postgres: Postgres) -> None:
    for attempt in range(4):
        url = postgres.fresh()
        gate, results = _FORKS.Barrier(3), _FORKS.Queue()
        roots = [str(tmp_path / f"{attempt}-{number}") for number in range(3)]
        processes = [
            _FORKS.Process(target=starter, args=(root, url, gate, results)) for root in roots
        ]
        for process in processes:
            process.start()
        said = [results.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
        won = [text for text in said if text.startswith("tacit.ledger/")]
        assert len(won) == 1, said
        opened = []
        for root in roots:
            try:
                opened.append(begun(Home(root, url)))
            except StorageError:
                continue
        assert opened == won


# A home from before there was a log


def old_row(number: int) -> dict[str, Any]:
    plan = {"name": f"plan {number}", "z": 1.1, "client": None, "delta": 1e-5}
    text = json.dumps(plan)
    return {
        "id": f"20260101-00000{number}-abc",
        "name": "digits",
        "status": ["finished", "running", "refused"][number],
        "message": ["", "", "budget.epsilon=1 is too small"][number],
        "created_at": "2026-01-01T00:00:00Z",
        "spec": json.dumps({"rounds": 2, "name": "ä"}),
        "spec_digest": "5" * 64,
        "plan": text,
        "plan_digest": hashlib.sha256(text.encode()).hexdigest(),
        "code": "tacit 0.1.0+src.0123456789ab",
        "round": [2, 1, 0][number],
        "state": ["6" * 64, "7" * 64, None][number],
    }


class Old:
    """What revision 0001's store wrote: no tree, no key, no PLAN, integers from 0."""

    def __init__(self, place: Database) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        folder = Path(database.__file__).parent / "migrations"
        config.set_main_option("script_location", str(folder))
        with place.writing() as self.c:
            config.attributes["connection"] = self.c
            command.upgrade(config, "0001")
            self.tables = sa.MetaData()
            self.tables.reflect(self.c)
            self.size = 0
            self._fill()

    def _insert(self, table: str, **row: Any) -> Any:
        return self.c.execute(self.tables.tables[table].insert().values(**row))

    def _leaf(self, kind: str, run: str, round: int, purpose: str, **more: Any) -> int:
        body = {"kind": kind, "run": run, "round": round, "attempt": 0, "purpose": purpose}
        stamped = {**body, **more, "at": f"2026-01-01T00:00:0{round}Z"}
        text = json.dumps(stamped, sort_keys=True, separators=(",", ":"))
        hashed = hashlib.sha256(b"\x00" + text.encode()).hexdigest()
        index, self.size = self.size, self.size + 1
        self._insert("leaves", index=index, run=run, kind=kind, body=text, hash=hashed)
        if kind == "CHARGE":
            same = {"leaf": index, "run": run, "purpose": purpose}
            self._insert("cohorts", **same, salt=b"s" * 32, members="[3, 1]")
        return index

    def _round(self, run: str, round: int, number: int) -> None:
        charge = self._leaf("CHARGE", run, round, "train", plan="p", claims=[])
        evaluation = self._leaf("CHARGE", run, round, "evaluate", plan="p", claims=[])
        self._leaf("RELEASE", run, round, "evaluate", plan="p", charge=evaluation)
        more = {"plan": "p", "charge": charge, "name": "digits", "number": number}
        release = self._leaf("RELEASE", run, round, "train", **more, artifact="a" * 64)
        row = {"name": "digits", "number": number, "run": run, "round": round}
        digests = {"artifact": "a" * 64, "plan_digest": "p", "spec_digest": "s", "code": "c"}
        self._insert(
            "versions",
            **row,
            **digests,
            parent=number - 1 if round > 1 else None,
            charge=charge,
            release=release,
            metrics=json.dumps({"accuracy": 0.5}),
            created_at="2026-01-01T00:00:01Z",
        )
        counts = {"asked": 3, "accepted": 2, "rejected": '{"error": 1}', "seconds": 0.25}
        values = {"metrics": "{}", "epsilon": '{"client": 1.5}', **counts}
        self._insert("rounds", run=run, round=round, **values)

    def _fill(self) -> None:
        for number in range(3):
            self._insert("runs", **old_row(number))
        first, second, _ = (old_row(number)["id"] for number in range(3))
        self._round(first, 1, 1)
        self._round(second, 1, 2)
        self._round(first, 2, 3)
        self._leaf("CHARGE", second, 2, "train", plan="p", claims=[])


@pytest.fixture
def old(home: Home, url: str | None) -> dict[str, list[Any]]:
    """Fills the home's database as the old code did; all its rows."""
    place = Database(keys.place(home))
    Old(place)
    found = rows(place)
    place.close()
    return found


NEW = ("population", "key")


def rows(place: Database) -> dict[str, list[Any]]:
    """What revision 0001 knew of every table."""
    names = ("runs", "leaves", "cohorts", "versions", "rounds")
    with place.reading() as c:
        found = {}
        for name in names:
            columns = [k.name for k in t.metadata.tables[name].c if k.name not in NEW]
            text = ", ".join(f'"{column}"' for column in columns)
            query = c.exec_driver_sql(f"SELECT {text} FROM {name} ORDER BY 1, 2")
            found[name] = [tuple(map(plain, row)) for row in query]
        return found


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


@BOTH
def test_a_home_without_a_log_is_adopted(home: Home, old: dict[str, list[Any]]) -> None:
    store = Store(home)
    now = rows(store.database)
    count = len(old["leaves"])
    assert now["leaves"][:count] == old["leaves"]  # Byte for byte.
    for name in ("runs", "cohorts", "versions", "rounds"):
        assert now[name] == old[name]
    bodies = check_log(store)  # Nodes, hashes, key, checkpoint.
    added, secrets = bodies[count:], set[bytes]()
    assert [b["kind"] for b in added] == ["KEY", "PLAN", "PLAN", "PLAN"]
    for number, body in enumerate(added[1:]):
        row = old_row(number)
        assert body["run"] == row["id"]
        assert body["population"] == row["name"]
        assert body["plan"] == row["plan_digest"]
        assert body["body"] == json.loads(row["plan"])
        progress = {name: body["adopted"][name] for name in ("status", "round", "state")}
        assert progress == {name: row[name] for name in progress}
        with store.database.reading() as c:
            query = sa.select(t.runs).where(t.runs.c.id == row["id"])
            run = dict(c.execute(query).mappings().one())
            said = keys.adopted(c, run)
        secrets.add(run["key"])
        assert len(run["key"]) == 32
        assert body["adopted"]["rows"] == sealed(run["key"], "adopted", said)
        assert len(said["versions"]) == len(said["rounds"]) == row["round"]
    assert len(secrets) == 3
    spending = [leaf["body"] for leaf in store.spending()]
    assert spending == [json.loads(text) for _, _, _, text, _ in old["leaves"]]
    store.close()


@BOTH
def test_an_adopted_home_goes_on(home: Home, old: dict[str, list[Any]]) -> None:
    first = begun(home)
    store = Store(again(home))
    assert str(store.signer.verifier) == first
    count = len(store.leaves())
    run = old_row(1)["id"]
    assert store.abandon_open_charges(run, "crash") == 1
    store.set_status(run, "running")
    version = {"name": "digits", "run": run, "round": 2, "artifact": "b", "charge": count}
    digests = {"plan_digest": "p", "spec_digest": "s", "code": "c", "metrics": "{}"}
    row = {"metrics": "{}", "epsilon": "{}", "asked": 1, "accepted": 1, "rejected": "{}"}
    body = {"run": run, "round": 2, "attempt": 1, "purpose": "train", "plan": "p", "claims": []}
    version["charge"] = store.append({"kind": "CHARGE", **body})
    made = store.release(
        [{"kind": "RELEASE", **body, "charge": version["charge"]}],
        {**version, **digests},
        {"run": run, "round": 2, **row, "seconds": 0.5},
        "8" * 64,
    )
    # Its number and its parent go on from the old rows.
    assert (made["number"], made["id"], made["parent"]) == (4, 4, 2)
    bodies = check_log(store)
    assert bodies[made["release"]]["parent"] == store.versions(id=2)[0]["release"]
    assert len(old["leaves"]) + 4 == count
    store.close()


@BOTH
def test_an_old_home_is_adopted_once_by_processes_at_once(
    home: Home, old: dict[str, list[Any]], url: str | None
) -> None:
    gate, results = _FORKS.Barrier(3), _FORKS.Queue()
    args = (str(home.root), url or f"sqlite:///{home.database}", gate, results)
    processes = [_FORKS.Process(target=starter, args=args) for _ in range(3)]
    for process in processes:
        process.start()
    said = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(said) == 1
    store = Store(again(home) if url is None else home)
    assert {str(store.signer.verifier)} == said
    assert len(check_log(store)) == len(old["leaves"]) + 4
    store.close()
