"""What was changed in a home after it was written is found, and what wasn't isn't."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from postgres import Postgres
from tampering import (
    Unguarded,
    dump,
    key_leaf,
    note_of,
    other,
    settled,
    texts_of,
)
from tiny import TINY, TINY_SECURE, make_tiny

import tacit
from tacit.privacy import dsse
from tacit.privacy.errors import TacitError
from tacit.privacy.log import merkle
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.policy import Policy
from tacit.server import check, keys
from tacit.server import tables as t
from tacit.server.access.records import Recorder
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

pytestmark = pytest.mark.usefixtures("remembered")
FEDERATED = ["evaluation=federated", *TINY, "rounds=2"]


def make(home: Home) -> None:
    """Two runs, with a policy, reads, moves and a new key between them."""
    tacit.simulate(FEDERATED, task=make_tiny(), home=home.root)
    store = Store(home)
    Governance(store).adopt(Policy(population="tiny", run_epsilon=50.0, delta=1e-3), None)
    recorder = Recorder(store)
    for subject in ("models", "ledger", "model tiny@1"):
        recorder.read("somebody", "read", subject)
    recorder.seal()
    recorder.read("somebody", "read", "ledger")
    recorder.seal()
    life, who = Lifecycle(store), {"actor": "somebody", "reason": "because"}
    first = life.move("tiny", "champion", 1, expected=None, **who)
    life.move("tiny", "champion", 2, expected=first.leaf, **who)
    life.retire("tiny", 1, **who)
    keys.rotate(home, store.database, store.signer)
    store.close()
    tacit.simulate([*FEDERATED, "seed=3"], task=make_tiny(), home=home.root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("check") / "home")
    make(home)
    settled(home.database)
    return home.root


class Trial:
    """A copy of a home that is put back after each change."""

    def __init__(self, made: Path, folder: Path) -> None:
        self.home = Home(shutil.copytree(made, folder / "home"))
        self.database = self.home.database
        self._files = {path: path.read_bytes() for path in self.home.root.rglob("*.*")}
        self.clean = dump(self.database)

    def restore(self) -> None:
        for path in [p for p in self.home.root.rglob("*") if p.is_file()]:
            if path.name.startswith("tacit.db") and path not in self._files:
                path.unlink()
        for path, data in self._files.items():
            if path.read_bytes() != data if path.exists() else True:
                path.write_bytes(data)

    def said(self, *kept: str, pinned: list[str] | None = None) -> list[str]:
        """All that is wrong; what isn't explained escapes, and fails the test."""
        try:
            store = Store(self.home)
        except TacitError as error:
            return [error.message]
        try:
            report = check.verify(store, list(kept), pinned)
            return [str(finding) for finding in report.findings]
        except TacitError as error:
            return [error.message]
        finally:
            store.close()


@pytest.fixture(scope="module")
def copied(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(made, tmp_path_factory.mktemp("trial"))


@pytest.fixture
def trial(copied: Trial) -> Iterator[Trial]:
    yield copied
    copied.restore()


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(bytes(data))


def test_what_nobody_changed_holds(trial: Trial) -> None:
    assert trial.said() == []
    kinds = {leaf["kind"] for leaf in bodies(trial)}
    spent = {"KEY", "PLAN", "STATUS", "CHARGE", "RELEASE", "POLICY"}
    assert kinds == spent | {"ACCESS", "DEPLOY", "RETIRE"}
    trial.restore()
    assert dump(trial.database) == trial.clean


def test_a_home_with_secure_aggregation_holds(tmp_path: Path) -> None:
    tacit.simulate(TINY_SECURE, task=make_tiny(), home=tmp_path / "home")
    store = Store(Home(tmp_path / "home"))
    assert check.verify(store).findings == []
    store.close()


# Bits


def flips(trial: Trial, path: Path, number: int, seed: int) -> int:
    """How many flips changed nothing that can be read; all others are found."""
    rng, size, unread = np.random.default_rng(seed), path.stat().st_size, 0
    for _ in range(number):
        position, bit = int(rng.integers(size)), int(rng.integers(8))
        flip(path, position, bit)
        said = trial.said()
        trial.restore()
        if not said:
            # Opening may have written: look at the flip alone.
            flip(path, position, bit)
            found = dump(trial.database)
            trial.restore()
            assert found == trial.clean, f"byte {position}, bit {bit} of {path.name} isn't found"
            unread += 1
    return unread


def test_a_bit_of_the_database_is_found(trial: Trial) -> None:
    unread = flips(trial, trial.database, 80, 0)
    # Many small tables leave much of SQLite's pages empty.
    assert unread < 72


@pytest.mark.parametrize("altered", [b'"key":"\x11acit', b'"kay":"tacit'])
def test_a_key_leaf_that_cannot_be_read_is_found_before_anything_is(
    trial: Trial, altered: bytes
) -> None:
    data = trial.database.read_bytes()
    assert b'"key":"tacit' in data
    trial.database.write_bytes(data.replace(b'"key":"tacit', altered))
    assert trial.said() == ["the ledger's newest KEY leaf can't be read: the database was altered"]


@pytest.mark.slow
def test_hundreds_of_bits_of_the_database_are_found(trial: Trial) -> None:
    unread = flips(trial, trial.database, 350, 1)
    assert unread < 315


def test_a_bit_of_the_schema_and_first_pages_is_found(trial: Trial) -> None:
    """Where SQLite keeps what it opens a file by."""
    for position in [*range(0, 110, 4)]:
        flip(trial.database, position, position % 8)
        said = trial.said()
        trial.restore()
        if not said:
            flip(trial.database, position, position % 8)
            assert dump(trial.database) == trial.clean
            trial.restore()


def test_a_bit_of_any_file_is_found(trial: Trial) -> None:
    root, rng = trial.home.root, np.random.default_rng(2)
    files = [*root.glob("artifacts/*/*"), *root.glob("runs/*/state-*"), trial.home.signing_key]
    assert len(files) == 7
    for path in files:
        for _ in range(5):
            flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
            assert trial.said(), path
            trial.restore()


def test_files_that_are_gone_cut_or_swapped_are_found(trial: Trial) -> None:
    root = trial.home.root
    first, second = sorted(root.glob("artifacts/*/*"))[:2]
    state = next(root.glob("runs/*/state-*"))
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    said = trial.said()
    assert len(said) == 2
    assert all("its file" in line and "isn't the one of its digest" in line for line in said)
    trial.restore()
    for path in (first, state):
        path.write_bytes(path.read_bytes()[:-1])
        assert len(trial.said()) == 1
        path.unlink()
        assert "can't be read" in trial.said()[0]
        trial.restore()


# Values


def tables(c: sqlite3.Connection) -> Iterator[tuple[str, str, list[int]]]:
    """Every column of every table with rows, and the rowids."""
    for name in t.metadata.tables:
        rows = [row for (row,) in c.execute(f'SELECT rowid FROM "{name}" ORDER BY rowid')]
        for column in t.metadata.tables[name].columns if rows else []:
            yield name, column.name, rows


def places(trial: Trial, every: bool) -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(4)
    with closing(sqlite3.connect(trial.database)) as c:
        return [
            (table, column, row)
            for table, column, rows in tables(c)
            for row in (rows if every else [rows[int(rng.integers(len(rows)))]])
        ]


def change(trial: Trial, table: str, column: str, row: int, rng: Any) -> None:
    with Unguarded(trial.database) as c:
        query = f'SELECT "{column}" FROM "{table}" WHERE rowid = ?'
        ((old,),) = c.execute(query, [row]).fetchall()
        new = other(old, column, rng)
        c.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', [new, row])


def test_a_change_in_any_column_is_found(trial: Trial) -> None:
    rng = np.random.default_rng(5)
    for place in places(trial, every=False):
        change(trial, *place, rng)
        assert trial.said(), place
        trial.restore()


@pytest.mark.slow
def test_a_change_in_any_column_of_any_row_is_found(trial: Trial) -> None:
    rng = np.random.default_rng(6)
    for place in places(trial, every=True):
        change(trial, *place, rng)
        assert trial.said(), place
        trial.restore()


ODD = (b"\xff\x00", "\u0000x", -1, 2**62, 0.5)


@pytest.mark.parametrize("first", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_a_value_of_another_type_is_explained(trial: Trial, first: int) -> None:
    """SQLite takes any value in nearly any column."""
    refused = 0
    for i, (table, column, row) in enumerate(places(trial, every=False)):
        value = ODD[(i + first) % len(ODD)]
        try:
            with Unguarded(trial.database) as c:
                where = "WHERE rowid = ?1 AND ?2 IS NOT"  # The first move follows -1.
                c.execute(f'UPDATE "{table}" SET "{column}" = ?2 {where} "{column}"', [row, value])
                ((changed,),) = c.execute("SELECT changes()").fetchall()
        except sqlite3.IntegrityError:  # A rowid is a whole number.
            refused += 1
        else:
            assert trial.said() or not changed, (table, column, value)
        trial.restore()
    assert refused <= 10


def test_a_parent_that_is_another_or_none_is_found(trial: Trial) -> None:
    for number, parent in ((1, 2), (1, 3), (1, 999), (2, None), (2, 3), (4, 1)):
        with Unguarded(trial.database) as c:
            c.execute("UPDATE versions SET parent = ? WHERE id = ?", [parent, number])
        assert any("parent" in line for line in trial.said()), (number, parent)
        trial.restore()


def test_ids_of_versions_are_found_changed(trial: Trial) -> None:
    with Unguarded(trial.database) as c:
        c.execute("UPDATE versions SET id = 9 WHERE id = 4")
    assert any("consecutive" in line for line in trial.said())


@pytest.mark.parametrize(
    ("table", "where", "words"),
    [
        ("versions", "id = 2", "is gone"),
        ("rounds", "round = 2", "is gone"),
        ("cohorts", "leaf = 3", "its cohort is gone"),
        ("nodes", 'level = 2 AND "index" = 1', "are due"),
        ("runs", "1", "is gone from the database"),
        ("leaves", '"index" = 5', "has index 6"),
        ("checkpoints", "size = (SELECT max(size) FROM checkpoints)", "newest checkpoint"),
        ("checkpoints", "1", "the checkpoint: "),
        ("leaves", "1", "ledger"),
        ("moves", "number = 1", "its row among the moves is gone"),
        ("moves", "number = 2", "its row among the moves is gone"),
        ("retirements", "1", "its row among the retirements is gone"),
        ("attestations", "version = 2", "the attestation of tiny@2 is gone"),
    ],
)
def test_a_row_that_is_gone_is_found(trial: Trial, table: str, where: str, words: str) -> None:
    with Unguarded(trial.database) as c:
        c.execute(f"DELETE FROM {table} WHERE {where}")
    assert any(words in line for line in trial.said())


@pytest.mark.parametrize(
    ("table", "changed"),
    [
        ("versions", {"id": 5, "number": 5, "round": 3, "release": 3}),
        ("versions", {"id": 5, "number": 5, "round": 3, "release": 12}),
        ("rounds", {"round": 3}),
        ("rounds", {"run": "another"}),
        ("cohorts", {"leaf": 2}),
        ("cohorts", {"leaf": 900}),
        ("checkpoints", {"size": 6}),
        ("checkpoints", {"size": 4000}),
        ("checkpoints", {"size": 0}),
        ("nodes", {"index": 900}),
        ("nodes", {"level": 60}),
        ("nodes", {"level": -1}),
        ("runs", {"id": "another"}),
        ("leaves", {"index": 900}),
        ("leaves", {"index": -1}),
        ("moves", {"leaf": 3, "previous": 900}),
        ("moves", {"leaf": 900, "alias": "shadow"}),
        ("retirements", {"leaf": 3, "number": 2}),
        ("attestations", {"version": 900}),
    ],
)
def test_a_row_too_many_is_found(trial: Trial, table: str, changed: dict[str, Any]) -> None:
    with Unguarded(trial.database) as c:
        query = f'SELECT * FROM "{table}" LIMIT 1'
        cursor = c.execute(query)
        row = dict(zip([d[0] for d in cursor.description], cursor.fetchone(), strict=True))
        values = list((row | changed).values())
        c.execute(f'INSERT INTO "{table}" VALUES ({",".join("?" * len(values))})', values)
    assert trial.said()


# The schema


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER leaves_no_update",
        "DROP TRIGGER runs_fixed",
        "DROP TRIGGER runs_fixed; CREATE TRIGGER runs_fixed BEFORE UPDATE ON runs "
        "WHEN NEW.id IS NOT OLD.id BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER mine AFTER INSERT ON leaves BEGIN SELECT 1; END",
        "CREATE TABLE mine (x)",
        "CREATE VIEW mine AS SELECT * FROM leaves",
        "DROP INDEX leaves_kind",
        "CREATE INDEX mine ON leaves (hash)",
        "ALTER TABLE rounds ADD COLUMN mine",
        "UPDATE alembic_version SET version_num = '9999'",
        "DELETE FROM alembic_version",
        "DROP TABLE rounds",
        "ALTER TABLE nodes RENAME TO mine",
    ],
)
def test_another_schema_is_found(trial: Trial, statement: str) -> None:
    with closing(sqlite3.connect(trial.database)) as c:
        c.executescript(statement)
    assert trial.said()


# Who has the key, or another one


def bodies(trial: Trial) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(trial.database)) as c:
        return [json.loads(x) for (x,) in c.execute('SELECT body FROM leaves ORDER BY "index"')]


def checkpoints(trial: Trial) -> dict[int, str]:
    with closing(sqlite3.connect(trial.database)) as c:
        return dict(c.execute("SELECT size, note FROM checkpoints"))


def rewind(c: sqlite3.Connection, size: int) -> None:
    """Deletes the newest leaves, and all that is made from them."""
    c.execute('DELETE FROM leaves WHERE "index" >= ?', [size])
    c.execute('DELETE FROM nodes WHERE (("index" + 1) << level) > ?', [size])
    c.execute("DELETE FROM checkpoints WHERE size > ?", [size])
    c.execute("DELETE FROM cohorts WHERE leaf >= ?", [size])
    of = "(SELECT id FROM versions WHERE release >= ?)"
    c.execute(f"DELETE FROM attestations WHERE version IN {of}", [size])
    c.execute("DELETE FROM versions WHERE release >= ?", [size])


def test_the_newest_leaf_taken_back_is_found_by_who_kept_a_checkpoint(trial: Trial) -> None:
    log, kept = bodies(trial), checkpoints(trial)
    size = len(log) - 1
    assert log[-1]["status"] == "finished"
    with Unguarded(trial.database) as c:
        rewind(c, size)
        c.execute("UPDATE runs SET status = 'running' WHERE id = ?", [log[-1]["run"]])
    assert trial.said() == []
    assert trial.said(kept[size]) == []
    (found,) = trial.said(kept[size], kept[size + 1])
    assert "the newest 1 of them are gone" in found


def test_a_run_taken_back_is_found_by_who_kept_a_checkpoint(trial: Trial) -> None:
    log, kept = bodies(trial), checkpoints(trial)
    size = max(i for i, body in enumerate(log) if body["kind"] == "PLAN")
    with Unguarded(trial.database) as c:
        rewind(c, size)
        for table, column in (("rounds", "run"), ("runs", "id")):
            c.execute(f"DELETE FROM {table} WHERE {column} = ?", [log[size]["run"]])
    assert trial.said() == []
    for later in range(size + 1, len(log) + 1):
        if later in kept:
            (found,) = trial.said(kept[later])
            assert f"the newest {later - size} of them are gone" in found


def rewrite(trial: Trial, log: list[dict[str, Any]], signers: dict[int, SignerKey]) -> None:
    """Writes the whole log anew, its checkpoints of the same sizes signed by these keys."""
    texts, tree, origin = texts_of(log), merkle.Tree(), log[0]["origin"]
    with Unguarded(trial.database) as c:
        sizes = [size for (size,) in c.execute("SELECT size FROM checkpoints")]
        for table in ("nodes", "checkpoints"):
            c.execute(f"DELETE FROM {table}")
        for index, text in enumerate(texts):
            hashed = merkle.leaf_hash(text.encode())
            values = [text, hashed.hex(), index]
            c.execute('UPDATE leaves SET body = ?, hash = ? WHERE "index" = ?', values)
            for row in merkle.new_nodes(index, hashed, tree.node):
                if row[0]:
                    c.execute("INSERT INTO nodes VALUES (?, ?, ?)", row)
            tree.append(hashed)
        for size in sizes:
            signer = signers[max(i for i in signers if i < size)]
            c.execute(
                "INSERT INTO checkpoints VALUES (?, ?)",
                [size, note_of(texts[:size], signer, origin)],
            )
    newest = signers[max(signers)]
    with Unguarded(trial.database) as c:
        for version, text in c.execute("SELECT * FROM attestations").fetchall():
            said = base64.b64decode(json.loads(text)["payload"])
            values = [dsse.signed(said, dsse.IN_TOTO, newest), version]
            c.execute("UPDATE attestations SET envelope = ? WHERE version = ?", values)
    trial.home.signing_key.write_text(f"{newest.text()}\n")


def resigned(trial: Trial, log: list[dict[str, Any]]) -> None:
    """A log whose keys are somebody else's from the first leaf on, under the old names."""
    first, second = (i for i, body in enumerate(log) if body["kind"] == "KEY")
    origin = log[0]["origin"]
    signers = {first: SignerKey.generate(origin), second: SignerKey.generate(origin)}
    log[first] |= key_leaf(signers[first]) | {"at": log[first]["at"]}
    log[second] |= key_leaf(signers[second], signers[first], origin) | {"at": log[second]["at"]}
    rewrite(trial, log, signers)


def test_another_key_is_found_by_who_knows_the_first(trial: Trial) -> None:
    log, kept = bodies(trial), checkpoints(trial)
    old = [body["key"] for body in log if body["kind"] == "KEY"]
    assert trial.said(*kept.values(), pinned=old) == []
    resigned(trial, log)
    assert trial.said() == []  # It is a ledger as good as any, only another one.
    for note in kept.values():
        (found,) = trial.said(note)
        assert "checkpoint that was kept" in found
    for key in old:
        (found,) = trial.said(pinned=[key])
        assert f"isn't signed by the key {key}" in found


def test_checkpoints_by_another_key_are_found(trial: Trial) -> None:
    log, stranger = bodies(trial), SignerKey.generate(bodies(trial)[0]["origin"])
    texts = texts_of(log)
    with Unguarded(trial.database) as c:
        for (size,) in c.execute("SELECT size FROM checkpoints").fetchall():
            note = note_of(texts[:size], stranger)
            c.execute("UPDATE checkpoints SET note = ? WHERE size = ?", [note, size])
    said = trial.said()
    assert len(said) == len(checkpoints(trial)) + 1
    assert all("signed by a known key" in line for line in said)


def test_a_key_that_the_old_one_did_not_sign_is_found(trial: Trial) -> None:
    log = bodies(trial)
    first, second = (i for i, body in enumerate(log) if body["kind"] == "KEY")
    origin = log[0]["origin"]
    stranger, mine = SignerKey.generate(origin), SignerKey.generate(origin)
    log[second] |= key_leaf(mine, stranger, origin) | {"previous": log[first]["key"]}
    rewrite(trial, log, {first: stranger, second: mine})
    assert any("isn't signed with the old one" in line for line in trial.said())


def test_leaves_rewritten_under_the_right_key_are_found_by_who_kept_one(trial: Trial) -> None:
    """The operator's own doing: a release's metrics made better, in leaves and row."""
    log, kept = bodies(trial), checkpoints(trial)
    first, second = (i for i, body in enumerate(log) if body["kind"] == "KEY")
    origin = log[0]["origin"]
    signers = {first: SignerKey.generate(origin), second: SignerKey.generate(origin)}
    log[first] |= key_leaf(signers[first]) | {"at": log[first]["at"]}
    log[second] |= key_leaf(signers[second], signers[first], origin) | {"at": log[second]["at"]}
    index = next(i for i, body in enumerate(log) if "artifact" in body)
    assert log[index - 1]["purpose"] == "evaluate"
    for release in log[index - 1 : index + 1]:  # Of the counts, and of the model.
        release["metrics"] = {"accuracy": 1, "accuracy_noise": 0, "loss": 0}
    rewrite(trial, log, signers)
    (found,) = trial.said()
    assert found.startswith(f"leaf {index}: tiny@1: metrics=")
    with Unguarded(trial.database) as c:
        c.execute(
            "UPDATE versions SET metrics = ? WHERE release = ?",
            [json.dumps(log[index]["metrics"]), index],
        )
    assert trial.said() == []
    assert len(trial.said(*kept.values())) == len(kept)


# While somebody writes


def test_what_is_appended_meanwhile_is_not_held_against_it(trial: Trial) -> None:
    store, writer = Store(trial.home), Store(trial.home)
    run, sizes = store.run("last")["id"], []

    def progress(count: int) -> None:
        sizes.append(count)
        writer.set_status(run, "finished", "again")

    report = check.verify(store, progress=progress)
    assert report.findings == []
    assert sizes
    assert check.verify(store).size == report.size + len(sizes)
    store.close()
    writer.close()


# PostgreSQL


@pytest.fixture(scope="module")
def served(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    url = postgres.fresh()
    home = Home(tmp_path_factory.mktemp("served") / "home", url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_DATABASE", url)
        make(home)
    store = Store(home)
    yield store
    store.close()


def wrong(store: Store) -> list[str]:
    return [str(finding) for finding in check.verify(store).findings]


Values = dict[str, Any]


def changed(store: Store, table: str, row: Values, column: str, value: Any) -> Values:
    """As a superuser can, with every trigger off for as long as it takes; the new row."""
    names = [c.name for c in t.metadata.tables[table].primary_key]
    where = " AND ".join(f'"{name}" = :k_{name}' for name in names)
    values = {f"k_{name}": row[name] for name in names}
    with store.database.writing() as c:
        c.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        c.execute(
            sa.text(f'UPDATE {table} SET "{column}" = :v WHERE {where}'), {**values, "v": value}
        )
        c.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
    return {**row, column: value}


def first_row(store: Store, table: str) -> Values:
    found = t.metadata.tables[table]
    with store.database.reading() as c:
        return dict(
            c.execute(sa.select(found).order_by(*found.primary_key)).mappings().first() or {}
        )


def test_postgresql_holds(served: Store) -> None:
    assert wrong(served) == []


@pytest.mark.slow
def test_a_change_in_any_column_is_found_on_postgresql(served: Store) -> None:
    rng = np.random.default_rng(7)
    for name, table in t.metadata.tables.items():
        row = first_row(served, name)
        for column in [c.name for c in table.columns] if row else []:
            new = changed(served, name, row, column, other(row[column], column, rng))
            assert wrong(served), (name, column)
            changed(served, name, new, column, row[column])
    assert wrong(served) == []


ON = "ALTER TABLE {} ENABLE TRIGGER ALL".format
FUNCTION = (
    "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$".format
)
RAISE = "RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME;"
FROZEN = (
    "DROP TRIGGER IF EXISTS leaves_frozen ON leaves; CREATE TRIGGER leaves_frozen BEFORE UPDATE OR "
    "DELETE ON leaves FOR EACH ROW {} EXECUTE FUNCTION tacit_append_only()".format
)
CONSTRAINT = "ALTER TABLE {} {} CONSTRAINT {}".format
LEAF = 'cohorts_leaf_fkey FOREIGN KEY (leaf) REFERENCES leaves ("index")'
DONE_AND_UNDONE = [
    ("ALTER TABLE leaves DISABLE TRIGGER leaves_frozen", ON("leaves")),
    ("ALTER TABLE leaves DISABLE TRIGGER ALL", ON("leaves")),
    ("ALTER TABLE cohorts DISABLE TRIGGER ALL", ON("cohorts")),
    ("ALTER TABLE leaves ENABLE REPLICA TRIGGER leaves_frozen", ON("leaves")),
    ("ALTER TABLE runs RENAME code TO mine", "ALTER TABLE runs RENAME mine TO code"),
    ("ALTER TABLE rounds ADD COLUMN mine INTEGER", "ALTER TABLE rounds DROP COLUMN mine"),
    ("CREATE RULE mine AS ON DELETE TO rounds DO INSTEAD NOTHING", "DROP RULE mine ON rounds"),
    (
        CONSTRAINT("versions", "DROP", "versions_release_key"),
        CONSTRAINT("versions", "ADD", "versions_release_key UNIQUE (release)"),
    ),
    (CONSTRAINT("cohorts", "DROP", "cohorts_leaf_fkey"), CONSTRAINT("cohorts", "ADD", LEAF)),
    (
        FUNCTION("mine", "RETURN NULL;")
        + "; CREATE TRIGGER mine BEFORE INSERT ON nodes FOR EACH ROW EXECUTE FUNCTION mine()",
        "DROP TRIGGER mine ON nodes; DROP FUNCTION mine",
    ),
    (FROZEN("WHEN (OLD.run = 'x')"), FROZEN("")),
    ("DROP TRIGGER leaves_frozen ON leaves", FROZEN("")),
    (
        "DROP TRIGGER nodes_no_truncate ON nodes",
        "CREATE TRIGGER nodes_no_truncate BEFORE TRUNCATE ON nodes "
        "EXECUTE FUNCTION tacit_append_only()",
    ),
    (
        FUNCTION("tacit_append_only", f"IF false THEN {RAISE} END IF; RETURN NEW;"),
        FUNCTION("tacit_append_only", RAISE),
    ),
]


@pytest.mark.parametrize(("do", "undo"), DONE_AND_UNDONE)
def test_another_schema_is_found_on_postgresql(served: Store, do: str, undo: str) -> None:
    with served.database.writing() as c:
        c.exec_driver_sql(do)
    try:
        said = wrong(served)
    except TacitError as error:
        said = [error.message]
    finally:
        with served.database.writing() as c:
            c.exec_driver_sql(undo)
    assert said
    assert wrong(served) == []


def test_a_parent_to_be_or_nowhere_is_found_on_postgresql(served: Store) -> None:
    """Where nothing checks foreign keys of rows that are there already."""
    row = first_row(served, "versions")
    for parent in (row["id"] + 1, 999):
        changed(served, "versions", row, "parent", parent)
        assert any("parent" in line for line in wrong(served))
    changed(served, "versions", row, "parent", None)
    assert wrong(served) == []
