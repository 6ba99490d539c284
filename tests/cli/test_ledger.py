"""``tacit ledger`` as somebody meets it who wants to know whether it is true."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tampering import note_of, owned, rehashed, texts_of
from tiny import TINY, make_tiny

import tacit
from tacit.cli import main
from tacit.privacy.audit.canaries import Canaries
from tacit.privacy.log import bundle, command, keyfile
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.policy import Policy
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.store import Store

KINDS = {"KEY", "PLAN", "STATUS", "CHARGE", "RELEASE", "ABANDON", "POLICY", "APPROVAL", "AUDIT"}
PUBLIC = ("client", "public")


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with leaves of all kinds."""
    folder = tmp_path_factory.mktemp("ledger")
    home = Home(folder / "home")
    canaries = Canaries("client", "one-run", 10, bytes(32))

    def started(run: dict[str, Any], _: object) -> None:
        store = Store(home)
        common = {"kind": "AUDIT", "run": run["id"], "commitment": canaries.commitment()}
        store.append({**common, "stage": "commitment", **canaries.to_json()})
        store.close()

    overrides = ["evaluation=federated", *TINY, "rounds=2"]
    tacit.simulate(overrides, task=make_tiny(), home=home.root, started=started)
    store = Store(home)
    run, reviewer = store.run("last"), keyfile.create(folder / "reviewer", "reviewer")
    store.set_status(run["id"], "running")
    result = {"kind": "AUDIT", "stage": "result", "run": run["id"], "method": "one-run"}
    result |= {"unit": "client", "canaries": 10, "secret": bytes(32).hex(), "violated": False}
    result |= {"commitment": canaries.commitment(), "lower_bound": 0.1}
    row = next(r for r in store.claims(run["id"]) if (r["unit"], r["adversary"]) == PUBLIC)
    result |= {"charged": row["epsilon"]} | {k: row[k] for k in ("delta", "amplified")}
    store.append(result)
    terms = {"review_epsilon": 0.1, "delta": 1e-3, "reviewers": (str(reviewer.verifier),)}
    policy = Policy(population="tiny", **terms)
    governance = Governance(store)
    governance.adopt(policy, None)
    governance.approve(run["id"], "approved", "[/fine] [bold]", None, reviewer)
    store.set_status(run["id"], "finished")
    store.close()
    return home.root


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "home"))


@pytest.fixture
def ledger(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; what isn't a `TacitError` escapes, and fails the test."""

    def run(*arguments: object) -> Said:
        said = ["tacit", "ledger", *map(str, arguments), "--home", str(home)]
        monkeypatch.setattr(sys, "argv", said)
        monkeypatch.setenv("COLUMNS", "300")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    return run


def alter(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(home / "tacit.db")) as c:
        for name, _ in c.execute(TRIGGERS).fetchall():
            c.execute(f"DROP TRIGGER {name}")
        c.execute(statement)
        c.commit()


TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"


def test_all_kinds_are_shown(ledger: Any, home: Path) -> None:
    status, out, _ = ledger("show", "--json")
    shown = json.loads(out)
    kinds = {leaf["kind"] for leaf in shown["leaves"]}
    assert (status, kinds) == (0, KINDS - {"ABANDON"})
    status, out, err = ledger("show")
    assert (status, err) == (0, "")
    for word in (*kinds, "approved by reviewer: [/fine] [bold]", "review_epsilon=0.1", "one-run"):
        assert word in out
    one = ledger("show", "last", "--json")
    assert len(json.loads(one.out)["leaves"]) == len(shown["leaves"]) - 2  # KEY and POLICY
    assert ledger("show", "nothing").status == 2


def test_runs_are_listed_without_their_keys(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(home / "tacit.db")) as c:
        ((key,),) = c.execute("SELECT key FROM runs").fetchall()
    monkeypatch.setattr(sys, "argv", ["tacit", "runs", "list", "--json", "--home", str(home)])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr().out
    (run,) = json.loads(out)
    assert (ended.value.code or 0, run["status"]) == (0, "finished")
    assert "key" not in run
    assert key.hex() not in out


def test_abandoned_charges_are_shown(ledger: Any, home: Path) -> None:
    store = Store(Home(home))
    run = store.run("last")["id"]
    body = next(leaf["body"] for leaf in store.leaves() if leaf["kind"] == "CHARGE")
    store.append({**body, "round": 3}, (b"s" * 32, []))
    store.abandon_open_charges(run, "crash")
    store.close()
    status, out, _ = ledger("show", "last")
    assert (status, "nothing revealed: crash" in out) == (0, True)


def test_verify_exits_with_what_it_found(ledger: Any, home: Path, tmp_path: Path) -> None:
    assert ledger("verify").status == 0
    status, out, _ = ledger("verify", "--json")
    report = json.loads(out)
    assert (status, report["holds"], len(report["keys"])) == (0, True, 1)
    assert ledger("verify", "--key", report["keys"][0]).status == 0
    assert ledger("verify", "--key", "another").status == 1
    kept = tmp_path / "kept"
    assert ledger("checkpoint", "--to", kept).status == 0
    assert ledger("verify", "--checkpoint", kept).status == 0
    kept.write_text("not a note")
    assert ledger("verify", "--checkpoint", kept).status == 1
    kept.write_bytes(b"\xff\xfe")
    assert ledger("verify", "--checkpoint", kept).status == 2
    assert ledger("verify", "--checkpoint", tmp_path / "nowhere").status == 2
    alter(home, "UPDATE rounds SET accepted = accepted + 1 WHERE round = 2")
    status, out, _ = ledger("verify")
    assert status == 1
    assert "the report of round 2 isn't the one committed to" in out
    assert "trigger rounds_no_update isn't what the migrations make" in out
    status, out, _ = ledger("verify", "--json")
    assert (status, json.loads(out)["holds"]) == (1, False)


def test_leaves_that_are_gone_are_found_with_a_checkpoint(
    ledger: Any, home: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    assert ledger("checkpoint").out == (ledger("checkpoint", "--to", kept), kept.read_text())[1]
    assert ledger("checkpoint", "--to", kept).status == 2
    old = ledger("show", "--json").out
    size = len(json.loads(old)["leaves"])
    store = Store(Home(home))
    store.set_status(store.run("last")["id"], "finished")
    store.close()
    newer = tmp_path / "newer"
    ledger("checkpoint", "--to", newer)
    assert ledger("verify", "--checkpoint", kept, "--checkpoint", newer).status == 0
    alter(home, f'DELETE FROM leaves WHERE "index" >= {size}')
    alter(home, f"DELETE FROM checkpoints WHERE size > {size}")
    assert "newest 1 of them are gone" not in ledger("verify", "--checkpoint", kept).out
    assert "newest 1 of them are gone" in ledger("verify", "--checkpoint", newer).out


def test_a_leaf_is_proved(ledger: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = json.loads(ledger("verify", "--json").out)["keys"][0]
    path = tmp_path / "proof.json"
    assert ledger("prove", 3, "--to", path).status == 0
    assert json.loads(path.read_text()) == json.loads(ledger("prove", 3).out)
    assert command.run([str(path), "--key", key]) == 0
    assert ledger("prove", 3, "--to", path).status == 2
    said = ledger("prove", 3000)
    assert said.status == 2
    assert "leaf=3000 isn't in the ledger" in said.err


def test_growth_is_proved(
    ledger: Any, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ledger("checkpoint", "--key").out.strip()
    kept, path = tmp_path / "kept", tmp_path / "growth.json"
    assert ledger("checkpoint", "--to", kept).status == 0
    store = Store(Home(home))
    store.set_status(store.run("last")["id"], "finished")
    store.close()
    assert ledger("prove", "--since", kept, "--to", path).status == 0
    assert json.loads(path.read_text()) == json.loads(ledger("prove", "--since", kept).out)
    assert ledger("prove", "--since", kept, "--to", path).status == 2
    capsys.readouterr()
    assert command.run([str(path), "--key", key, "--checkpoint", str(kept), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["since"]["size"] + 1 == said["now"]["size"]
    for arguments in ((), (3, "--since", kept)):
        said = ledger("prove", *arguments)
        assert (said.status, "prove takes one of them" in said.err) == (2, True)
    for data in (b"", b"x", b"\xff"):
        kept.write_bytes(data)
        said = ledger("prove", "--since", kept)
        assert (said.status, "isn't a checkpoint" in said.err) == (2, True)
    said = ledger("prove", "--since", tmp_path / "nowhere")
    assert (said.status, "can't be read" in said.err) == (2, True)


@pytest.mark.parametrize("artifacts", ["none", "newest", "all"])
def test_a_bundle_is_exported_and_holds(ledger: Any, tmp_path: Path, artifacts: str) -> None:
    path = tmp_path / "ledger.bundle"
    status, out, _ = ledger("export", "--to", path, "--artifacts", artifacts)
    assert status == 0
    assert f"tacit-verify {path} --key 'tacit.ledger/" in out
    assert command.run([str(path), "--key", out.split("'")[1]]) == 0
    assert ledger("export", "--to", path).status == 2
    found = json.loads(ledger("export", "--to", tmp_path / "b", "--json").out)
    assert set(found) == {"sha256", "leaves", "key", "path"}
    assert ledger("export", "--to", tmp_path / "c", "--artifacts", "some").status == 2


def test_a_difference_is_shown(ledger: Any, home: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    ledger("export", "--to", old)
    assert json.loads(ledger("diff", old, "--json").out) == {
        "appended": [],
        "spent": [],
        "problems": [],
    }
    tacit.simulate([*TINY, "rounds=1", "population=other"], task=make_tiny(), home=home)
    ledger("export", "--to", new)
    status, out, _ = ledger("diff", old, "--json")
    found = json.loads(out)
    assert status == 0
    kinds = [x["kind"] for x in found["appended"]]
    assert kinds == ["PLAN", "STATUS", "CHARGE", "RELEASE", "STATUS"]
    assert all(row["epsilon"][0] is None for row in found["spent"])
    assert json.loads(ledger("diff", old, new, "--json").out) == found
    status, out, _ = ledger("diff", old)
    assert (status, "5 leaves were appended" in out, "RELEASE" in out) == (0, True, True)
    status, out, _ = ledger("diff", new, old)
    assert (status, "WRONG" in out, "are gone" in out) == (1, True, True)
    assert ledger("diff", tmp_path / "nowhere").status == 2
    assert ledger("diff", rehashed(tmp_path / "junk", [b"{}\n"])).status == 2


def test_a_rewritten_log_is_a_difference(ledger: Any, home: Path, tmp_path: Path) -> None:
    old, mine, me = tmp_path / "old", tmp_path / "mine", SignerKey.generate("ledger")
    ledger("export", "--to", old)
    store = Store(Home(home))
    texts = texts_of(owned([leaf["body"] for leaf in store.leaves()], me))
    store.close()
    with mine.open("wb") as file:
        bundle.write(file, note_of(texts, me), texts, [])
    status, out, _ = ledger("diff", old, mine)
    assert status == 1
    assert "WRONG the checkpoint that was kept" in out
