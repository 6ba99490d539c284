"""What leaves a home is whole, and says what was spent since."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from tampering import Unguarded, lines_of, note_of, owned, rehashed, texts_of
from tiny import TINY, make_tiny

import tacit
from tacit.privacy.errors import ConfigError, MessageError, StorageError
from tacit.privacy.log import bundle, command, proofs
from tacit.privacy.log.bundle import Bundle
from tacit.privacy.log.notes import SignerKey, signed
from tacit.server import keys
from tacit.server import tables as t
from tacit.server.exports import difference, export, prove, prove_since
from tacit.server.home import Home
from tacit.server.store import Store

RUN = ["evaluation=federated", *TINY, "rounds=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home with two runs, and a bundle from after the first."""
    folder = tmp_path_factory.mktemp("exports")
    tacit.simulate(RUN, task=make_tiny(), home=folder / "home")
    store = Store(Home(folder / "home"))
    export(store, str(folder / "earlier"))
    store.close()
    tacit.simulate([*RUN, "seed=3"], task=make_tiny(), home=folder / "home")
    return folder / "home", folder / "earlier"


@pytest.fixture
def store(made: tuple[Path, Path], tmp_path: Path) -> Iterator[Store]:
    """Of a copy of the home."""
    opened = Store(Home(shutil.copytree(made[0], tmp_path / "home")))
    yield opened
    opened.close()


def notes_of(store: Store) -> list[str]:
    """Every checkpoint, oldest first."""
    with store.database.reading() as c:
        return list(
            c.execute(sa.select(t.checkpoints.c.note).order_by(t.checkpoints.c.size)).scalars()
        )


@pytest.mark.parametrize(("which", "count"), [("none", 0), ("newest", 2), ("all", 4)])
def test_a_bundle_has_the_models_asked_for(
    store: Store, tmp_path: Path, which: str, count: int
) -> None:
    path = tmp_path / "new" / "ledger.bundle"
    said = export(store, str(path), which)
    found = Bundle(path)
    assert said["sha256"] == found.sha256
    assert said["key"] == str(store.signer.verifier)
    assert said["leaves"] == len(list(found.leaves())) == len(store.leaves())
    artifacts = [digest for digest, _ in found.artifacts()]
    assert len(artifacts) == count
    if which == "newest":
        assert artifacts == [store.versions(run=run["id"])[-1]["artifact"] for run in store.runs()]
    assert command.verify(path, [store.checkpoint()], [said["key"]]).holds
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_there_is_not_written_over(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    with pytest.raises(StorageError, match="there already"):
        export(store, str(path))
    assert path.read_text() == "mine"
    with pytest.raises(StorageError, match="there already"):
        export(store, str(tmp_path))
    with pytest.raises(StorageError, match="can't be written"):
        export(store, str(path / "below"))
    with pytest.raises(ConfigError, match="artifacts=some"):
        export(store, str(tmp_path / "x"), "some")


def test_a_model_that_is_damaged_is_not_exported(store: Store, tmp_path: Path) -> None:
    artifact = next(store.home.artifacts.glob("*/*"))
    artifact.write_bytes(b"x")
    with pytest.raises(StorageError, match="corrupted"):
        export(store, str(tmp_path / "x"), "all")
    assert not list(tmp_path.glob("*x*"))


def test_every_leaf_is_proved(store: Store, tmp_path: Path) -> None:
    path, key = tmp_path / "proof", str(store.signer.verifier)
    for leaf in store.leaves():
        path.write_text(json.dumps(prove(store, leaf["index"])))
        assert proofs.check(path, [key]) == leaf["body"]
    for index in (-1, len(store.leaves()), 10**9):
        with pytest.raises(StorageError, match=f"leaf={index} isn't in the ledger"):
            prove(store, index)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM nodes WHERE level = 1",
        "UPDATE nodes SET hash = x'00'",
        "UPDATE nodes SET hash = zeroblob(32)",
        "UPDATE leaves SET hash = 'x'",
        "UPDATE leaves SET body = body || ' ' WHERE \"index\" = 3",
        "DELETE FROM checkpoints",
        "DELETE FROM checkpoints WHERE size > 2",
    ],
)
def test_a_damaged_tree_proves_nothing(store: Store, statement: str) -> None:
    with Unguarded(store.home.database) as c:
        c.execute(statement)
    with pytest.raises(StorageError, match=r"leaf=3|no checkpoint"):
        prove(store, 3)


def test_growth_is_proved_since_every_checkpoint(store: Store, tmp_path: Path) -> None:
    path, key = tmp_path / "proof", str(store.signer.verifier)
    notes = notes_of(store)
    assert len(notes) > 10
    for note in notes:
        path.write_text(json.dumps(prove_since(store, note)))
        older, newer = proofs.check_growth(path, [key], [note])
        assert (older, newer) == (signed(note), signed(notes[-1]))
    with Unguarded(store.home.database) as c:
        c.execute("DELETE FROM checkpoints WHERE size <> ?", [older.size])
    # What was kept needn't be stored any more.
    assert prove_since(store, notes[0])["since"] == notes[0]


def test_growth_over_a_new_key_takes_both(store: Store, tmp_path: Path) -> None:
    path, old = tmp_path / "proof", str(store.signer.verifier)
    kept = store.checkpoint()
    new = str(keys.rotate(store.home, store.database, store.signer).verifier)
    path.write_text(json.dumps(prove_since(store, kept)))
    assert [c.size for c in proofs.check_growth(path, [old, new])] == [
        signed(kept).size,
        signed(kept).size + 1,
    ]
    for known in (old, new):
        with pytest.raises(MessageError, match="isn't signed by a known key"):
            proofs.check_growth(path, [known])


def test_growth_is_refused_since_what_is_no_checkpoint_of_it(store: Store, tmp_path: Path) -> None:
    kept = store.checkpoint()
    for junk in ("", "x", "a\nb\nc\n\nd", kept[:20], "\ud800"):
        with pytest.raises(MessageError, match="isn't a checkpoint"):
            prove_since(store, junk)
    other = Store(Home(tmp_path / "other"))
    with pytest.raises(MessageError, match="is of the ledger"):
        prove_since(store, other.checkpoint())
    other.close()
    size, me = signed(kept).size, SignerKey.generate(store.signer.name)
    mine = texts_of([leaf["body"] for leaf in store.leaves()])
    for note in (note_of(mine, me), kept[:-10], kept.replace(f"\n{size}\n", f"\n{size - 1}\n")):
        with pytest.raises(MessageError, match="isn't this ledger's"):
            prove_since(store, note)


@pytest.mark.parametrize("gone", [1, 3])
def test_growth_is_refused_since_more_than_there_is(store: Store, gone: int) -> None:
    kept, size = store.checkpoint(), len(store.leaves())
    with Unguarded(store.home.database) as c:
        c.execute('DELETE FROM leaves WHERE "index" >= ?', [size - gone])
        c.execute("DELETE FROM checkpoints WHERE size > ?", [size - gone])
    left = signed(store.checkpoint()).size
    with pytest.raises(
        StorageError, match=f"of {size} leaves; the newest {size - left} of them are gone"
    ):
        prove_since(store, kept)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM nodes WHERE level = 1", "growth can't be proved"),
        ("DELETE FROM leaves", "the newest checkpoint can't be checked"),
        ("UPDATE leaves SET body = 'x' WHERE kind = 'KEY'", "the newest checkpoint can't be"),
        ("UPDATE leaves SET body = '[]' WHERE kind = 'KEY'", "the newest checkpoint can't be"),
        ("UPDATE nodes SET hash = x'00'", "the first"),
        ("UPDATE nodes SET hash = zeroblob(32)", "the first"),
        ("UPDATE leaves SET hash = 'x'", "growth can't be proved"),
        ("UPDATE leaves SET hash = '00' WHERE \"index\" > 12", "the tree isn't the one"),
        ("DELETE FROM checkpoints", "no checkpoint"),
        ("UPDATE checkpoints SET note = 'x'", "the newest checkpoint can't be checked"),
        ("UPDATE checkpoints SET note = replace(note, 'tacit', 'other')", "can't be checked"),
    ],
)
def test_a_damaged_tree_proves_no_growth(store: Store, statement: str, said: str) -> None:
    kept = next(note for note in notes_of(store) if signed(note).size > 6)
    assert signed(kept).size < 12
    with Unguarded(store.home.database) as c:
        c.execute(statement)
    with pytest.raises(StorageError, match=said) as refused:
        prove_since(store, kept)
    assert "tacit ledger verify" in refused.value.hint


def test_growth_is_refused_since_another_past(store: Store) -> None:
    """Signed with the ledger's own key: somebody was shown another history."""
    texts = texts_of([leaf["body"] for leaf in store.leaves()])
    kept = note_of([*texts[:4], "{}"], store.signer)
    with pytest.raises(StorageError, match="the first 5 leaves aren't those of the checkpoint"):
        prove_since(store, kept)


def test_a_ledger_without_a_checkpoint_is_not_exported(store: Store, tmp_path: Path) -> None:
    with Unguarded(store.home.database) as c:
        c.execute("DELETE FROM checkpoints")
    with pytest.raises(StorageError, match="no checkpoint"):
        export(store, str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


# Differences


def test_the_difference_is_what_was_appended_and_spent(
    store: Store, made: tuple[Path, Path], tmp_path: Path
) -> None:
    _, earlier = made
    found = difference(str(earlier), None, store)
    assert found["problems"] == []
    before = len(list(Bundle(earlier).leaves()))
    after = store.leaves()
    assert [x["leaf"] for x in found["appended"]] == list(range(before, len(after)))
    assert [x["kind"] for x in found["appended"]] == [leaf["kind"] for leaf in after[before:]]
    first, second = (run["id"] for run in store.runs())
    assert {x["run"] for x in found["spent"]} == {second}
    claims = {
        (c["unit"], c["adversary"], c["amplified"]): c["epsilon"] for c in store.claims(second)
    }
    for row in found["spent"]:
        was, now = row["epsilon"]
        assert was is None
        assert now == pytest.approx(claims[row["unit"], row["adversary"], row["amplified"]])
    later = tmp_path / "later"
    export(store, str(later))
    assert difference(str(earlier), str(later), None) == found
    same = difference(str(later), str(later), None)
    assert same == {"appended": [], "spent": [], "problems": []}
    (problem,) = difference(str(later), str(earlier), None)["problems"]
    assert "are gone" in problem
    assert first


def test_a_charge_more_is_an_epsilon_more(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Two states of one run."""
    me = SignerKey("ledger", bytes(32))
    with closing(sqlite3.connect(made[0] / "tacit.db")) as c:
        log = [json.loads(x) for (x,) in c.execute('SELECT body FROM leaves ORDER BY "index"')]
    texts = texts_of(owned(log, me))
    stops = [i + 1 for i, body in enumerate(log) if "artifact" in body][:2]
    paths = [tmp_path / str(stop) for stop in stops]
    for path, stop in zip(paths, stops, strict=True):
        with path.open("wb") as file:
            bundle.write(file, note_of(texts[:stop], me), texts[:stop], [])
    found = difference(str(paths[0]), str(paths[1]), None)
    assert found["problems"] == []
    rows = {(x["unit"], x["adversary"], x["amplified"]): x["epsilon"] for x in found["spent"]}
    was, now = rows["client", "public", True]
    assert was == pytest.approx(log[stops[0] - 1]["epsilon"]["client"], rel=1e-4)
    assert now == pytest.approx(log[stops[1] - 1]["epsilon"]["client"], rel=1e-4)


def test_a_rewritten_log_is_a_problem(
    store: Store, made: tuple[Path, Path], tmp_path: Path
) -> None:
    me = SignerKey.generate(store.signer.name)
    texts = texts_of(owned([leaf["body"] for leaf in store.leaves()], me))
    with (tmp_path / "mine").open("wb") as file:
        bundle.write(file, note_of(texts, me), texts, [])
    assert command.verify(tmp_path / "mine").holds
    problems = difference(str(made[1]), str(tmp_path / "mine"), None)["problems"]
    assert any("checkpoint that was kept" in problem for problem in problems)
    # What is appended may be no leaf at all.
    for junk in (b"[]\n", b"{}\n", b'{"kind":{}}\n'):
        path = rehashed(tmp_path / "junk", [*lines_of(made[1]), junk])
        assert difference(str(made[1]), str(path), None)["problems"] == []  # Not a leaf: no size.
        broken = [*texts, junk.decode().strip()]
        with path.open("wb") as file:
            bundle.write(file, note_of(broken, me), broken, [])
        found = difference(str(tmp_path / "mine"), str(path), None)
        assert found["problems"]
        assert found["appended"] == [
            {"leaf": len(texts), "at": None, "run": None, "kind": found["appended"][0]["kind"]}
        ]


def test_what_is_no_bundle_has_no_difference(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        difference(str(tmp_path / "nowhere"), None, store)
    (tmp_path / "x").write_text("x")
    with pytest.raises(MessageError):
        difference(str(tmp_path / "x"), None, store)
