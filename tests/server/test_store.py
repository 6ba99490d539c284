"""The database: what has returned is committed, what failed has changed nothing."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from postgres import BOTH

from tacit.privacy.errors import StorageError
from tacit.server.home import Home
from tacit.server.store import Store

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["crashing"])


def new_run(store: Store, identifier: str = "r1") -> str:
    store.create_run(
        {
            "id": identifier,
            "name": "m",
            "population": "p",
            "spec": "{}",
            "spec_digest": "s",
            "plan": "{}",
            "plan_digest": "p",
            "code": "c",
        }
    )
    return identifier


def charge(run: str, round: int, attempt: int = 0, purpose: str = "train") -> dict[str, Any]:
    return {
        "kind": "CHARGE",
        "run": run,
        "round": round,
        "attempt": attempt,
        "purpose": purpose,
        "claims": [],
    }


def release(store: Store, run: str, round: int, name: str = "m") -> dict[str, Any]:
    index = store.append(charge(run, round))
    body = {
        "kind": "RELEASE",
        "run": run,
        "round": round,
        "attempt": 0,
        "purpose": "train",
        "charge": index,
    }
    version = {
        "name": name,
        "run": run,
        "round": round,
        "artifact": "a" * 64,
        "charge": index,
        "plan_digest": "p",
        "spec_digest": "s",
        "code": "c",
        "metrics": "{}",
    }
    row = {
        "run": run,
        "round": round,
        "metrics": "{}",
        "epsilon": "{}",
        "asked": 1,
        "accepted": 1,
        "rejected": "{}",
        "seconds": 0.1,
    }
    return store.release([body], version, row, "state")


@BOTH
def test_leaves_are_contiguous_and_hashed_as_stored(store: Store) -> None:
    run = new_run(store)
    first = len(store.leaves())
    assert [store.append(charge(run, i)) for i in range(5)] == list(range(first, first + 5))
    with store.database.reading() as c:
        raw = c.exec_driver_sql('select "index", body, hash from leaves').all()
    assert sorted(index for index, _, _ in raw) == list(range(first + 5))
    for index, body, digest in raw:
        assert digest == hashlib.sha256(b"\x00" + body.encode()).hexdigest()
        assert json.loads(body).get("round", index - first) == index - first


@BOTH
def test_versions_number_by_name_and_chain_by_run(store: Store) -> None:
    new_run(store, "r1")
    new_run(store, "r2")
    first, other, second = (
        release(store, "r1", 1),
        release(store, "r2", 1),
        release(store, "r1", 2),
    )
    assert [v["number"] for v in (first, other, second)] == [1, 2, 3]
    assert second["parent"] == first["id"]
    assert other["parent"] is None
    assert store.run("r1")["round"] == 2


@BOTH
def test_a_round_is_released_once(store: Store) -> None:
    run = new_run(store)
    release(store, run, 1)
    before = len(store.spending())
    with pytest.raises(StorageError, match="double entry"):
        release(store, run, 1)
    # The second CHARGE stands; nothing of the failed release does.
    assert len(store.spending()) == before + 1
    assert len(store.versions()) == 1


@BOTH
def test_a_failed_release_leaves_no_trace(store: Store) -> None:
    run = new_run(store)
    index = store.append(charge(run, 1))
    body = {**charge(run, 1), "kind": "RELEASE", "charge": index}
    with pytest.raises(StorageError):
        store.release([body], {"name": "m", "run": run, "round": 1, "artifact": "a"}, {}, "s")
    assert [leaf["kind"] for leaf in store.spending()] == ["CHARGE"]
    assert store.versions() == []
    assert store.run(run)["state"] is None


@BOTH
def test_open_charges_are_abandoned_once(store: Store) -> None:
    run = new_run(store)
    release(store, run, 1)
    store.append(charge(run, 2))
    store.append(charge(run, 2, purpose="evaluate"))
    assert store.abandon_open_charges(run, "crash") == 2
    assert store.abandon_open_charges(run, "crash") == 0
    kinds = [leaf["kind"] for leaf in store.spending(run)]
    assert kinds == ["CHARGE", "RELEASE", "CHARGE", "CHARGE", "ABANDON", "ABANDON"]


def all_succeed(target: Callable[..., None], arguments: Sequence[tuple[object, ...]]) -> None:
    """Runs processes at once, to their ends."""
    processes = [_FORKS.Process(target=target, args=args) for args in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def append_many(root: Path) -> None:
    store = Store(Home(root))
    for round in range(40):
        store.append(charge("r1", round))


@BOTH
def test_two_processes_append_without_gap_or_double(home: Home, store: Store) -> None:
    new_run(store)
    all_succeed(append_many, [(home.root,)] * 2)
    assert len(store.spending()) == 80
    assert [leaf["index"] for leaf in store.leaves()] == list(range(len(store.leaves())))


def open_store(root: Path, url: str | None) -> None:
    Store(Home(root, url))


@BOTH
def test_processes_may_make_the_same_home(tmp_path: Path, url: str | None) -> None:
    all_succeed(open_store, [(tmp_path / "new", url)] * 3)
    store = Store(Home(tmp_path / "new"))
    assert [leaf["kind"] for leaf in store.leaves()] == ["KEY"]
    store.close()


@BOTH
def test_run_is_found_by_prefix_and_last(store: Store) -> None:
    new_run(store, "20260101-aaa")
    new_run(store, "20260101-bbb")
    assert store.run("20260101-a")["id"] == "20260101-aaa"
    assert store.run("last")["id"] == "20260101-bbb"
    with pytest.raises(StorageError, match="several"):
        store.run("2026")
    with pytest.raises(StorageError, match="no run"):
        store.run("nope")
    with pytest.raises(StorageError, match="no run"):
        store.run("%")


@BOTH
def test_runs_are_in_the_order_they_began(store: Store) -> None:
    begun = [new_run(store, name) for name in ("z", "a", "m")]
    assert [row["id"] for row in store.runs()] == begun
    assert store.run("last")["id"] == "m"


@BOTH
def test_a_run_is_shown_without_its_key(store: Store) -> None:
    run = new_run(store)
    for row in (store.run(run), store.run("last"), *store.runs()):
        assert row["id"] == run
        assert "key" not in row


@BOTH
def test_a_newer_database_is_refused(home: Home, store: Store) -> None:
    with store.database.writing() as c:
        c.exec_driver_sql("update alembic_version set version_num = '9999'")
    store.close()
    with pytest.raises(StorageError, match="newer tacit"):
        Store(home)


def test_a_file_that_is_no_database_is_refused(home: Home) -> None:
    home.database.write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="database"):
        Store(home)


def test_database_is_the_owners(home: Home, store: Store) -> None:
    assert home.database.stat().st_mode & 0o077 == 0
    assert home.root.stat().st_mode & 0o077 == 0


@BOTH
def test_cohorts_open_their_commitments(store: Store) -> None:
    from tacit.privacy.log.leaves import commit

    run = new_run(store)
    salt, members = b"s" * 32, [3, 1, 2]
    body = {**charge(run, 1), "cohort": commit(salt, members)}
    store.append(body, (salt, members))
    assert store.cohorts(run) == [("train", members)]
    assert "members" not in json.dumps(store.spending()[0]["body"])


@BOTH
def test_tables_match_the_migrations(store: Store) -> None:
    """What queries are written against is what Alembic makes."""
    from tacit.server.tables import metadata

    inspector = sa.inspect(store.database.engine)
    for table in metadata.sorted_tables:
        made = {c["name"]: c["nullable"] for c in inspector.get_columns(table.name)}
        assert made == {c.name: c.nullable for c in table.columns}
        indexes = {i["name"] for i in inspector.get_indexes(table.name)}
        assert {i.name for i in table.indexes} <= indexes
