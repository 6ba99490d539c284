"""The log in the database: what is signed covers what is there, and neither can be changed."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from checking import check_log
from postgres import BOTH

from tacit.privacy.errors import StorageError
from tacit.privacy.log import merkle
from tacit.privacy.log.notes import Checkpoint
from tacit.server import keys
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.home import Home
from tacit.server.store import Store

pytestmark = BOTH

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["crashing"])


def new_run(store: Store, identifier: str) -> None:
    digests = {"spec_digest": "s", "plan_digest": "p", "code": "c"}
    row = {"id": identifier, "name": "m", "population": "p", "spec": "{}", "plan": "{}"}
    store.create_run({**row, **digests})


def body(kind: str, run: str, round: int, **more: Any) -> dict[str, Any]:
    same = {"run": run, "round": round, "attempt": 0, "purpose": "train"}
    return {"kind": kind, **same, **more}


def release(store: Store, run: str, round: int) -> None:
    """A charge, then a version with two leaves."""
    charge = store.append(body("CHARGE", run, round), (b"salt", [2, 1]))
    digests = {"plan_digest": "p", "spec_digest": "s", "code": "c"}
    version = {"name": "m", "run": run, "round": round, "artifact": "a", "charge": charge}
    counts = {"asked": 1, "accepted": 1, "rejected": "{}", "seconds": 0.1}
    row = {"run": run, "round": round, "metrics": "{}", "epsilon": "{}", **counts}
    store.release(
        [body("RELEASE", run, round, purpose="evaluate"), body("RELEASE", run, round)],
        {**version, **digests, "metrics": "{}"},
        row,
        "state",
    )


def some(store: Store) -> None:
    """A row in every table."""
    new_run(store, "r0")
    new_run(store, "r1")
    for round in (1, 2):
        release(store, "r0", round)


def test_any_sequence_of_transactions_leaves_one_tree(store: Store) -> None:
    """Built anew from the leaves, its nodes and signed roots are those in the database."""
    draw = random.Random(5)
    check_log(store)
    sizes = {len(store.leaves())}
    for number in range(40):
        run = f"r{number // 8}"
        if number % 8 == 0:
            new_run(store, run)
        else:
            choices: list[Callable[[], object]] = [
                lambda run=run, number=number: release(store, run, number),
                lambda run=run, number=number: store.append(body("CHARGE", run, number)),
                lambda run=run: store.set_status(run, "waiting", "for nobody"),
                lambda run=run: store.abandon_open_charges(run, "crash"),
            ]
            draw.choice(choices)()
        sizes.add(len(store.leaves()))
        if number % 7 == 0:
            check_log(store)
    bodies = check_log(store)
    with store.database.reading() as c:
        signed = {size for (size,) in c.execute(sa.select(t.checkpoints.c.size))}
    # `release` is two transactions, and one of them may append several leaves.
    assert sizes <= signed < set(range(1, len(bodies) + 1))


def test_the_newest_checkpoint_covers_every_leaf(store: Store) -> None:
    some(store)
    found = Checkpoint.parse(store.checkpoint().split("\n\n")[0] + "\n")
    assert found.size == len(store.leaves())
    assert found.origin == store.signer.name


def test_proofs_between_all_checkpoints_verify(store: Store) -> None:
    """Made from the database's nodes alone."""
    for number in range(3):
        new_run(store, f"r{number}")
        release(store, f"r{number}", 1)
    with store.database.reading() as c:
        notes = [note for (note,) in c.execute(sa.select(t.checkpoints.c.note))]
        found = [Checkpoint.parse(note.split("\n\n")[0] + "\n") for note in notes]

        def node(level: int, index: int) -> bytes:
            return logs.node(c, level, index)

        for old in found:
            for new in (n for n in found if n.size >= old.size):
                proof = merkle.consistency_proof(old.size, new.size, node)
                assert merkle.verify_consistency(old.size, new.size, old.root, new.root, proof)
        last = max(found, key=lambda checkpoint: checkpoint.size)
        for index in range(last.size):
            path = merkle.inclusion_proof(index, last.size, node)
            leaf = node(0, index)
            assert merkle.verify_inclusion(index, last.size, leaf, path, last.root)


def everything(store: Store) -> dict[str, list[Any]]:
    with store.database.reading() as c:
        return {
            table.name: sorted(map(tuple, c.execute(sa.select(table))), key=repr)
            for table in t.metadata.sorted_tables
        }


def sealed_and_failed(store: Store) -> None:
    with store.appending() as (_, log):
        for round in range(5):
            log.append(body("CHARGE", "r1", round))
        log.seal()
        raise ZeroDivisionError


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    some(store)
    before = everything(store)

    def refuse(*_: object) -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        store.append(body("CHARGE", "r1", 1), guard=refuse)
    with pytest.raises(StorageError, match="no run"):
        store.set_status("r9", "failed")
    with pytest.raises(StorageError, match="double entry"):
        new_run(store, "r1")
    with pytest.raises(ZeroDivisionError):
        sealed_and_failed(store)
    assert everything(store) == before
    with pytest.raises(StorageError, match="double entry"):
        release(store, "r0", 2)
    after = everything(store)
    # Only the charge of the release that failed, and its checkpoint.
    assert len(after["leaves"]) == len(before["leaves"]) + 1
    assert len(after["checkpoints"]) == len(before["checkpoints"]) + 1
    for name in ("versions", "rounds", "runs"):
        assert after[name] == before[name]
    check_log(store)


def appender(root: str, run: str, count: int) -> None:
    """A process that appends, and now and then ends with several leaves at once."""
    store = Store(Home(root))
    for round in range(count):
        store.append(body("CHARGE", run, round))
        if round % 5 == 4:
            store.abandon_open_charges(run, "crash")


def test_times_are_of_the_hour_and_never_fall(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logs.now().endswith(":00:00Z")
    new_run(store, "r0")
    times = ["2100-01-01T02:00:00Z", "2100-01-01T01:00:00Z", "2100-01-01T03:00:00Z"]
    for number, time in enumerate(times):
        monkeypatch.setattr(logs, "now", lambda time=time: time)
        store.append(body("CHARGE", "r0", number))
    said = [b["at"] for b in check_log(store)]
    assert said[-3:] == [times[0], times[0], times[2]]


def test_processes_append_to_one_tree(store: Store, home: Home) -> None:
    for number in range(3):
        new_run(store, f"r{number}")
    before = len(store.leaves())
    processes = [
        _FORKS.Process(target=appender, args=(str(home.root), f"r{number}", 25))
        for number in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    bodies = check_log(store)
    assert len(bodies) == before + 3 * (25 + 25)
    for number in range(3):
        mine = [b["round"] for b in bodies if b["run"] == f"r{number}" and b["kind"] == "CHARGE"]
        assert mine == list(range(25))


def test_a_process_with_the_old_key_may_not_sign(store: Store, home: Home) -> None:
    other = Store(home)
    made = keys.rotate(home, other.database, other.signer)
    with pytest.raises(StorageError, match="key was changed") as caught:
        new_run(store, "r0")
    assert "--resume" in caught.value.hint
    other.signer = made
    new_run(other, "r0")
    assert [b["kind"] for b in check_log(store)] == ["KEY", "KEY", "PLAN"]
    other.close()


# What was written stays: statements that somebody with the database's password may try.

FROZEN = ["leaves", "nodes", "checkpoints", "cohorts", "versions", "rounds"]
FIXED = ["name", "created_at", "spec", "spec_digest", "plan", "plan_digest", "code", "population"]


def refused(store: Store, statement: str) -> None:
    before = everything(store)
    with (
        pytest.raises(StorageError, match="append-only"),
        store.database.writing() as c,
    ):
        c.exec_driver_sql(statement)
    assert everything(store) == before


@pytest.mark.parametrize("table", FROZEN)
def test_a_row_is_neither_changed_nor_deleted(table: str, store: Store) -> None:
    some(store)
    columns = [column.name for column in t.metadata.tables[table].columns]
    for column in columns:
        refused(store, f'UPDATE {table} SET "{column}" = "{column}"')
    refused(store, f"DELETE FROM {table}")
    names = ", ".join(f'"{name}"' for name in columns)
    same = f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}"
    if store.database.engine.dialect.name == "sqlite":
        for verb in ("INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL"):
            refused(store, same.replace("INSERT", verb, 1))
        refused(store, f"{same} WHERE true ON CONFLICT DO UPDATE SET {names.split(',')[0]} = 0")
        refused(store, f"UPDATE OR REPLACE {table} SET rowid = rowid + 1")
        if table in ("nodes", "rounds"):  # Elsewhere it is the key.
            refused(
                store,
                f"INSERT OR REPLACE INTO {table} (rowid, {names}) "
                f"SELECT rowid, {shifted(columns)} FROM {table}",
            )
    else:
        key = ", ".join(f'"{c.name}"' for c in t.metadata.tables[table].primary_key)
        first = names.split(",")[0]
        refused(store, f"{same} ON CONFLICT ({key}) DO UPDATE SET {first} = excluded.{first}")
        refused(store, f"TRUNCATE {table} CASCADE")
        # Harmless, and so not refused.
        with store.database.writing() as c:
            assert c.exec_driver_sql(f"{same} ON CONFLICT DO NOTHING").rowcount == 0
    check_log(store)


def shifted(columns: list[str]) -> str:
    """The columns, with another value in those of a key."""
    return ", ".join(f'"{n}" + 1000' if n in ("level", "round") else f'"{n}"' for n in columns)


def test_a_version_isnt_replaced_by_one_that_shares_its_number(store: Store) -> None:
    some(store)
    names = [column.name for column in t.versions.columns if column.name != "id"]
    columns = ", ".join(names)
    # Each unique constraint alone: what isn't shared is made different.
    changed = {"release": "release - 1", "number": "number + 9", "round": "round + 9"}
    verb = "INSERT OR REPLACE" if store.database.engine.dialect.name == "sqlite" else "INSERT"
    for shared in changed:
        values = ", ".join(
            changed[name] if name in changed and name != shared else name for name in names
        )
        before = everything(store)
        with pytest.raises(StorageError, match="double entry"), store.database.writing() as c:
            c.exec_driver_sql(
                f"{verb} INTO versions ({columns}) SELECT {values} FROM versions WHERE number = 2"
            )
        assert everything(store) == before


@pytest.mark.parametrize("column", ["id", *FIXED, "key"])
def test_a_run_keeps_what_it_was_started_with(column: str, store: Store) -> None:
    new_run(store, "r0")
    value = "'\\x00'" if column == "key" else "'other'"
    if store.database.engine.dialect.name == "sqlite":
        value = value.replace("'\\x00'", "x'00'")
    refused(store, f"UPDATE runs SET {column} = {value}")
    refused(store, f"UPDATE runs SET round = 5, {column} = {value}")


def test_a_run_is_neither_deleted_nor_replaced(store: Store) -> None:
    new_run(store, "r0")
    new_run(store, "r1")
    refused(store, "DELETE FROM runs")
    names = ", ".join(column.name for column in t.runs.columns)
    values = names.replace("plan,", "'{\"other\": 1}',")
    same = f"INSERT INTO runs ({names}) SELECT {values} FROM runs"
    if store.database.engine.dialect.name == "sqlite":
        refused(store, same.replace("INSERT", "INSERT OR REPLACE"))
        refused(store, f"{same} WHERE true ON CONFLICT DO UPDATE SET plan = excluded.plan")
        refused(store, "UPDATE OR REPLACE runs SET rowid = 1 WHERE id = 'r1'")
        refused(
            store,
            f"INSERT OR REPLACE INTO runs (rowid, {names}) "
            f"SELECT rowid, {names.replace('id,', '7,', 1)} FROM runs",
        )
    else:
        refused(store, f"{same} ON CONFLICT (id) DO UPDATE SET plan = excluded.plan")
        refused(store, "TRUNCATE runs CASCADE")


def test_a_runs_progress_may_change(store: Store) -> None:
    new_run(store, "r0")
    with store.database.writing() as c:
        c.exec_driver_sql(
            "UPDATE runs SET status = 'waiting', message = 'm', round = 3, state = 's'"
        )
    row = store.run("r0")
    found = tuple(row[name] for name in ("status", "message", "round", "state"))
    assert found == ("waiting", "m", 3, "s")
