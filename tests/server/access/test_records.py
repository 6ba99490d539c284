"""Records of reads and receipts: durable before, sealed after, found when they were changed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import rfc8785
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres import BOTH
from tampering import Unguarded

from tacit.privacy.errors import ConfigError, MissingError, StorageError
from tacit.privacy.log.custody import covered
from tacit.privacy.log.verify import Verifier
from tacit.server import check
from tacit.server import tables as t
from tacit.server.access.records import Recorder, Sealer
from tacit.server.home import Home
from tacit.server.store import Store


def rows(store: Store) -> list[dict[str, Any]]:
    with store.database.reading() as c:
        found = c.execute(sa.select(t.accesses).order_by(t.accesses.c.id)).mappings()
        return [dict(row) for row in found]


def access(store: Store) -> list[dict[str, Any]]:
    return [leaf["body"] for leaf in store.leaves(kinds=["ACCESS"])]


def said(store: Store) -> list[str]:
    return [str(finding) for finding in check.verify(store).findings]


@BOTH
def test_a_read_is_a_row_then_a_leaf(store: Store) -> None:
    recorder = Recorder(store)
    assert recorder.seal() is None
    request = recorder.read("ann", "read", "model digits@3", via="a1")
    found = recorder.find(request)
    assert found is not None
    assert found["leaf"] is None
    assert {k: found["body"][k] for k in ("actor", "action", "subject", "via", "kind")} == {
        "actor": "ann",
        "action": "read",
        "subject": "model digits@3",
        "via": "a1",
        "kind": "read",
    }
    recorder.score([{"request": f"request-{i}", "version": 3} for i in range(9)])
    leaf = recorder.seal()
    assert leaf is not None
    body = store.leaves()[leaf]["body"]
    assert (body["first"], body["last"], body["count"]) == (1, 10, 10)
    assert "ann" not in json.dumps(store.leaves())
    assert recorder.seal() is None
    assert said(store) == []
    for each in (request, *(f"request-{i}" for i in range(9))):
        proof = recorder.inclusion(each)
        assert proof["leaf"] == leaf
        assert covered(proof, body)
        assert not covered({**proof, "row": proof["row"].replace("3", "4")}, body)
        assert not covered({**proof, "index": proof["index"] + 1}, body)
        assert recorder.find(each)["leaf"] == leaf  # type: ignore[index]


def test_a_proof_is_of_its_own_leaf(store: Store) -> None:
    recorder = Recorder(store)
    first = recorder.read("ann", "read", "models")
    recorder.seal()
    recorder.read("ann", "read", "models")
    recorder.seal()
    one, two = access(store)
    assert covered(recorder.inclusion(first), one)
    assert not covered(recorder.inclusion(first), two)
    assert not covered({}, one)
    assert not covered(recorder.inclusion(first), {})


def test_what_is_under_no_leaf_has_no_proof(store: Store) -> None:
    recorder = Recorder(store)
    request = recorder.read("ann", "read", "models")
    with pytest.raises(MissingError, match="no leaf yet"):
        recorder.inclusion(request)
    with pytest.raises(MissingError, match="isn't here"):
        recorder.inclusion("another-request")
    assert recorder.find("another-request") is None


def test_reads_of_a_model_are_those_of_its_versions(store: Store) -> None:
    recorder = Recorder(store)
    for subject in ("model a", "model a@1", "model ab", "ledger", "model a@champion"):
        recorder.read("ann", "read", subject)
    found = [row["body"]["subject"] for row in recorder.reads("model a")]
    assert found == ["model a@champion", "model a@1", "model a"]
    assert [row["body"]["subject"] for row in recorder.reads("model a@1")] == ["model a@1"]
    assert len(recorder.reads(limit=2)) == 2


@BOTH
def test_a_request_is_recorded_once(store: Store) -> None:
    recorder = Recorder(store)
    recorder.score([{"request": "request-1"}])
    with pytest.raises(StorageError, match="double"):
        recorder.score([{"request": "request-2"}, {"request": "request-1"}])
    assert [row["request"] for row in rows(store)] == ["request-1"]
    recorder.score([{"request": "request-3"}])
    assert [row["id"] for row in rows(store)] == [1, 2]


@pytest.mark.parametrize(
    ("actor", "subject"), [("", "x"), ("a", ""), ("a" * 501, "x"), ("a", "b\nc"), ("\x00", "x")]
)
def test_texts_that_no_record_has(store: Store, actor: str, subject: str) -> None:
    with pytest.raises(ConfigError):
        Recorder(store).read(actor, "read", subject)
    assert rows(store) == []


@pytest.mark.parametrize(
    "receipt",
    [{}, {"request": 7}, {"request": "short"}, {"request": "a b c d e f"}]
    + [{"request": "request-1", "x": x} for x in (float("nan"), 2**60, "\ud800", b"x")],
)
def test_receipts_that_arent_json(store: Store, receipt: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Recorder(store).score([{"request": "request-0"}, receipt])
    assert rows(store) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@BOTH
def test_any_receipt_is_kept_as_it_is(store: Store) -> None:
    recorder = Recorder(store)
    count = 0

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(["a", "b", "ü", "\x00"]), JSON))
    def kept(receipt: dict[str, Any]) -> None:
        nonlocal count
        try:
            rfc8785.dumps(receipt)
        except (rfc8785.CanonicalizationError, UnicodeEncodeError):
            return
        count += 1
        name = f"request-{count}"
        recorder.score([{**receipt, "request": name}])
        found = recorder.find(name)
        assert found is not None
        due = {**receipt, "request": name, "kind": "score"}
        assert rfc8785.dumps(found["body"]) == rfc8785.dumps(due)

    kept()
    recorder.seal()
    assert said(store) == []
    assert covered(recorder.inclusion("request-1"), access(store)[0])


# Many at once


@BOTH
def test_many_threads_share_commits(store: Store) -> None:
    recorder, failed = Recorder(store), list[BaseException]()
    sealer = Sealer(recorder, 0.01, rows=20)

    def work(who: int) -> None:
        try:
            for i in range(10):
                if i % 3:
                    recorder.read(f"t{who}", "read", "models")
                else:
                    recorder.score([{"request": f"request-{who}-{i}-{k}"} for k in range(3)])
                assert any(row["body"].find(f"t{who}") > 0 for row in rows(store)) or i == 0
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sealer.stop()
    sealer.stop()
    assert failed == []
    assert [row["id"] for row in rows(store)] == list(range(1, 8 * (6 + 4 * 3) + 1))
    assert recorder.unsealed() == 0
    assert said(store) == []


def test_one_that_is_refused_takes_no_other_with_it(store: Store) -> None:
    recorder = Recorder(store)
    recorder.score([{"request": "request-1"}])
    refused: list[str] = []
    with recorder._turn:  # So that all three wait, and are written at once.
        threads = [
            threading.Thread(target=_tried, args=(recorder, name, refused))
            for name in ("request-1", "request-2", "request-3")
        ]
        for thread in threads:
            thread.start()
        while len(recorder._waiting) < 3:
            pass
    for thread in threads:
        thread.join()
    assert refused == ["request-1"]
    assert sorted(row["request"] for row in rows(store)) == [f"request-{i}" for i in (1, 2, 3)]


def test_what_fails_after_a_refusal_leaves_nobody_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, failed = Recorder(store), list[str]()

    def failing(self: Recorder, given: list[Any]) -> None:
        if len(given) > 1:
            raise StorageError("the disk is full")
        raise sa.exc.TimeoutError("no connection is left")

    def tried(name: str) -> None:
        try:
            recorder.read("ann", "read", name)
        except (StorageError, sa.exc.TimeoutError):
            failed.append(name)

    monkeypatch.setattr(Recorder, "_insert", failing)
    with recorder._turn:  # So that all wait, and are written at once.
        threads = [threading.Thread(target=tried, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        while len(recorder._waiting) < 3:
            pass
    for thread in threads:
        thread.join()
    assert sorted(failed) == ["a", "b", "c"]
    assert rows(store) == []


def _tried(recorder: Recorder, name: str, refused: list[str]) -> None:
    try:
        recorder.score([{"request": name}])
    except StorageError:
        refused.append(name)


WORKER = """
import sys
from tacit.server.access.records import Recorder
from tacit.server.home import Home
from tacit.server.store import Store
store = Store(Home(sys.argv[1]))
recorder = Recorder(store)
print("ready", flush=True)
sys.stdin.readline()
for i in range(30):
    recorder.read(sys.argv[2], "read", "models")
    if i % 4 == 0:
        recorder.seal()
"""


def begun(program: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@BOTH
def test_two_processes_seal_each_row_once(
    home: Home, store: Store, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url is not None:
        monkeypatch.setenv("TACIT_DATABASE", url)
    workers = [begun(WORKER, str(home.root), name) for name in ("one", "two")]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("\n", timeout=120)
    assert [worker.returncode for worker in workers] == [0, 0]
    Recorder(store).seal()
    leaves = access(store)
    assert sum(body["count"] for body in leaves) == 60
    assert [row["id"] for row in rows(store)] == list(range(1, 61))
    assert said(store) == []


KILLED = """
import os, signal, sys
from tacit.server.access.records import Recorder
from tacit.server.home import Home
from tacit.server.log import Log
from tacit.server.store import Store
recorder = Recorder(Store(Home(sys.argv[1])))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
print(recorder.read("ann", "read", "models"), flush=True)
if sys.argv[2] == "sealing":
    Log.seal = die  # The leaf and the batch are written, and not committed.
    recorder.seal()
die()
"""


@pytest.mark.parametrize("when", ["read", "sealing"])
def test_what_a_killed_process_recorded_is_sealed_by_the_next(
    home: Home, store: Store, when: str
) -> None:
    worker = begun(KILLED, str(home.root), when)
    out, _ = worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL
    recorder = Recorder(store)
    found = recorder.find(out.strip())
    assert found is not None
    assert found["leaf"] is None
    assert access(store) == []
    assert said(store) == []
    Sealer(recorder, 600.0).stop()
    assert recorder.find(out.strip())["leaf"] == 1  # type: ignore[index]
    assert said(store) == []


@pytest.mark.parametrize(
    "error", [StorageError("the disk is full"), sa.exc.TimeoutError("no connection is left")]
)
def test_a_sealer_that_fails_tries_again(
    error: Exception, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, honest, calls = Recorder(store), Recorder.seal, []
    recorder.read("ann", "read", "models")

    def failing(self: Recorder) -> int | None:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return honest(self)

    monkeypatch.setattr(Recorder, "seal", failing)
    sealer = Sealer(recorder, 0.01)
    while len(calls) < 2:
        pass
    sealer.stop()
    assert recorder.unsealed() == 0


# What was changed


@pytest.fixture
def sealed(home: Home, store: Store) -> Path:
    recorder = Recorder(store)
    for i in range(3):
        recorder.score([{"request": f"request-{i}{k}", "v": k} for k in range(4)])
        recorder.seal()
    recorder.read("ann", "read", "models")
    store.close()
    return home.database


BODY = '{"kind":"score","request":"request-99","v":1}'


def new(place: int) -> str:
    return f"INSERT INTO accesses VALUES ({place}, 'score', 'request-99', '{BODY}')"


TAMPERED = {
    "altered": "UPDATE accesses SET body = replace(body, '\"v\":1', '\"v\":2') WHERE id = 6",
    "removed": "DELETE FROM accesses WHERE id = 6",
    "the first removed": "DELETE FROM accesses WHERE id = 1",
    "the last of a leaf removed": "DELETE FROM accesses WHERE id = 8",
    "all of the last leaf removed": "DELETE FROM accesses WHERE id >= 9",
    "added before": new(0),
    "swapped": "UPDATE accesses SET body = (SELECT body FROM accesses WHERE id = 7) WHERE id = 6",
    "found by another": "UPDATE accesses SET request = 'request-98' WHERE id = 6",
    "of another kind": "UPDATE accesses SET kind = 'read' WHERE id = 6",
    "put elsewhere": "UPDATE accesses SET id = 40 WHERE id = 6",
    "not canonical": "UPDATE accesses SET body = body || ' ' WHERE id = 6",
    "a gap where no leaf is": "UPDATE accesses SET id = 20 WHERE id = 13",
    "a batch removed": "DELETE FROM batches WHERE first = 5",
    "a batch widened": "UPDATE batches SET last = 9 WHERE first = 5",
    "a batch of no leaf": "INSERT INTO batches VALUES (0, 13, 13)",
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_changed_is_found(home: Home, sealed: Path, how: str) -> None:
    store = Store(home)
    assert said(store) == []
    with Unguarded(sealed) as c:
        assert c.execute(TAMPERED[how]).rowcount > 0
    assert said(store)
    store.close()


def test_a_row_put_in_between_is_found(home: Home, sealed: Path) -> None:
    with Unguarded(sealed) as c:
        for i in range(13, 5, -1):
            c.execute("UPDATE accesses SET id = ? WHERE id = ?", [i + 1, i])
        c.execute(new(6))
    store = Store(home)
    assert any("sealed" in line for line in said(store))
    store.close()


@pytest.mark.parametrize(("first", "last"), [(6, 7), (4, 5), (5, 4)])
def test_a_leaf_that_covers_others_is_found_without_rows(
    store: Store, first: int, last: int
) -> None:
    """By whoever has the leaves alone, in order, as `tacit-verify` does."""
    recorder = Recorder(store)
    recorder.score([{"request": f"request-{i}"} for i in range(4)])
    recorder.seal()
    body = {"kind": "ACCESS", "run": "", "first": first, "last": last, "root": "0" * 64}
    store.append({**body, "count": last - first + 1})
    verifier = Verifier()
    for leaf in store.leaves():
        verifier.add(rfc8785.dumps(leaf["body"]).decode())
    report = verifier.finish(store.checkpoint())
    assert [finding.leaf for finding in report.findings] == [2]


@pytest.mark.parametrize("verb", ["UPDATE accesses SET body = ''", "DELETE FROM accesses"])
def test_the_database_refuses_to_change_them(sealed: Path, verb: str) -> None:
    with closing(sqlite3.connect(sealed)) as c, pytest.raises(sqlite3.Error, match="append-only"):
        c.execute(verb)


@BOTH
@pytest.mark.parametrize("subject", ['model "x"', "model %", "model a_b", "model ü\\"])
def test_a_subject_is_taken_as_it_is(store: Store, subject: str) -> None:
    recorder = Recorder(store)
    for each in (subject, "model x", "model ab", "model acb", f"{subject}@1"):
        recorder.read("ann", "read", each)
    found = [row["body"]["subject"] for row in recorder.reads(subject)]
    assert found == [f"{subject}@1", subject]
