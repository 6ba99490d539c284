"""``tacit ledger policy|approve|keygen|rotate`` as an operator and a reviewer meet them."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import governing
import pytest
from governing import PLAN

from tacit.cli import main
from tacit.privacy.errors import BudgetError
from tacit.privacy.log import keyfile
from tacit.privacy.log.notes import VerifierKey
from tacit.privacy.policy import Policy, best_order
from tacit.server.check import verify
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.store import Store

CAP = ["--epsilon", "3", "--delta", "1e-5"]


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Ledger = Callable[..., Said]


@pytest.fixture
def ledger(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ledger:
    """Runs ``tacit ledger`` on the home."""

    def run(*arguments: str) -> Said:
        command = ["tacit", "ledger", *arguments]
        if arguments[0] != "keygen":
            command += ["--home", str(home.root)]
        monkeypatch.setattr(sys, "argv", command)
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def alice(ledger: Ledger, tmp_path: Path) -> tuple[str, str]:
    """A reviewer's key file, and its public half."""
    path = str(tmp_path / "alice.key")
    return path, ledger("keygen", path, "--name", "alice").out.strip()


def refused(said: Said, *words: str) -> None:
    assert said.code == 2
    assert said.out == ""
    assert len([line for line in said.err.splitlines() if line.startswith("tacit: ")]) == 1
    for word in words:
        assert word in said.err


def in_force(home: Home, population: str = "p") -> Policy | None:
    store = Store(home)
    try:
        return Governance(store).policy(population)
    finally:
        store.close()


# Policies


def test_a_policy_is_set_and_shown(ledger: Ledger, home: Home, alice: tuple[str, str]) -> None:
    _, key = alice
    options = {
        "window_days": 30.0,
        "run_epsilon": 1.5,
        "separation_hours": 12.0,
        "review_epsilon": 1.0,
    }
    given = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", str(v))]
    given += ["--no-amplified", "--reviewer", key]
    done = ledger("policy", "p", *CAP, *given, "--json").json
    expected = Policy(
        population="p",
        amplified=False,
        epsilon=3.0,
        delta=1e-5,
        order=best_order(3.0, 1e-5),
        reviewers=(key,),
        **options,
    )
    assert done == {"leaf": 1, "policy": expected.to_json()}
    assert in_force(home) == expected
    assert ledger("policy", "p").json == expected.to_json()
    assert ledger("policy", "p", "--json").json == expected.to_json()
    assert ledger("policy", "q").json is None


def test_a_policy_in_words(ledger: Ledger, home: Home) -> None:
    done = ledger("policy", "p", "--unit", "record", *CAP)
    assert (done.code, done.err) == (0, "")
    assert done.out == "leaf 1: the policy of population=p is in force\n"
    found = in_force(home)
    assert found is not None
    assert (found.unit, found.amplified, found.epsilon) == ("record", True, 3.0)
    shown = ledger("show")
    assert shown.code == 0
    assert "POLICY" in shown.out
    store = Store(home)
    assert verify(store).holds


def test_looking_makes_no_home(ledger: Ledger, home: Home) -> None:
    refused(ledger("policy", "p"), "holds no tacit database")
    refused(ledger("rotate"), "holds no tacit database")
    assert not home.database.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epsilon", "3"], ["epsilon=3 and delta=None"]),
        (["--run-epsilon", "2"], ["run_epsilon=2 and delta=None"]),
        (["--run-epsilon", "2", "--epsilon", "3"], ["epsilon=3, run_epsilon=2 and delta=None"]),
        (["--delta", "1e-5"], ["no epsilon and delta=1e-05"]),
        (["--delta", "1e-5", "--separation-hours", "1"], ["no epsilon and delta=1e-05"]),
        (["--epsilon", "-3", "--delta", "1e-5"], ["epsilon=-3"]),
        (["--epsilon", "nan", "--delta", "1e-5"], ["epsilon=nan"]),
        (["--epsilon", "3", "--delta", "-1"], ["delta=-1"]),
        (["--epsilon", "3", "--delta", "0"], ["delta=0"]),
        (["--epsilon", "3", "--delta", "1e-12"], ["delta=1e-12", "1e-10"]),
        (["--epsilon", "0.001", "--delta", "1e-10"], ["epsilon=0.001", "allows nothing"]),
        (["--window-days", "3"], ["window_days=3", "epsilon"]),
        ([*CAP, "--window-days", "3", "--unit", "record"], ["window_days=3", "unit=record"]),
        ([*CAP, "--unit", "user"], ["unit=user", "client, record"]),
        (["--unit", "record"], ["no cap to set"]),
        (["--no-amplified"], ["no cap to set"]),
        (["--run-epsilon", "0"], ["run_epsilon=0"]),
        (["--separation-hours", "-1"], ["separation_hours=-1"]),
        (["--review-epsilon", "1"], ["review_epsilon=1 and delta=None"]),
        (
            ["--review-epsilon", "1", "--delta", "1e-5"],
            ["review_epsilon=1 needs", "tacit ledger keygen"],
        ),
        (["--reviewer", "alice"], ["reviewer=alice", "isn't a key"]),
        ([*CAP, "--key", "/nowhere/key"], ["/nowhere/key", "can't be read"]),
    ],
)
def test_a_policy_that_cant_be_is_refused_and_makes_no_home(
    arguments: list[str], words: list[str], ledger: Ledger, home: Home
) -> None:
    refused(ledger("policy", "p", *arguments), *words)
    assert not home.database.exists()
    assert not home.signing_key.exists()


def test_an_empty_population_is_refused(ledger: Ledger) -> None:
    refused(ledger("policy", "", *CAP), "population=")


def test_a_policy_with_reviewers_is_changed_by_one_of_them(
    ledger: Ledger, home: Home, alice: tuple[str, str], tmp_path: Path
) -> None:
    path, key = alice
    bob = str(tmp_path / "bob.key")
    ledger("keygen", bob, "--name", "bob")
    assert ledger("policy", "p", *CAP, "--reviewer", key).code == 0
    before = in_force(home)
    looser = ["policy", "p", "--epsilon", "9", "--delta", "1e-5", "--reviewer", key]
    refused(ledger(*looser), "isn't a reviewer's", "alice")
    refused(ledger(*looser, "--key", bob), "key=bob", "isn't a reviewer's")
    refused(ledger(*looser, "--key", str(home.signing_key)), "isn't a reviewer's")
    refused(ledger("policy", "p", "--key", path), "no cap to set")
    assert in_force(home) == before
    assert ledger(*looser, "--key", path).code == 0
    after = in_force(home)
    assert after is not None
    assert after.epsilon == 9.0
    assert verify(Store(home)).holds


def test_the_ledgers_own_key_is_no_reviewers(ledger: Ledger, home: Home, store: Store) -> None:
    own = str(store.signer.verifier)
    refused(ledger("policy", "p", *CAP, "--reviewer", own), "the ledger's own key")
    assert in_force(home) is None


# Approvals


def reviewed(store: Store, key: str) -> Governance:
    governing.new_run(store, "20260101-run", PLAN)
    governance = Governance(store)
    policy = Policy(population="p", review_epsilon=0.1, delta=1e-5, reviewers=(key,))
    governance.adopt(policy, None)
    return governance


@pytest.mark.parametrize("name", ["20260101-run", "2026", "last"])
def test_a_run_is_approved(name: str, ledger: Ledger, alice: tuple[str, str], store: Store) -> None:
    path, key = alice
    governance = reviewed(store, key)
    assert governance.awaits_review("20260101-run")
    done = ledger("approve", name, "--key", path, "--note", "fine")
    assert done.out == "leaf 3: run 20260101-run is approved\n"
    assert governance.awaits_review("20260101-run") is None
    (leaf,) = store.leaves(kinds=["APPROVAL"])
    assert (leaf["body"]["note"], leaf["body"]["key"]) == ("fine", key)
    governing.charge(store, governance, "20260101-run")


def test_a_run_is_refused(ledger: Ledger, alice: tuple[str, str], store: Store) -> None:
    path, key = alice
    governance = reviewed(store, key)
    done = ledger("approve", "last", "--refuse", "--key", path, "--json").json
    assert done == {"leaf": 3, "run": "20260101-run", "verdict": "refused"}
    with pytest.raises(BudgetError, match="a reviewer refused"):
        governance.awaits_review("20260101-run")


def test_an_audit_is_lifted(ledger: Ledger, alice: tuple[str, str], store: Store) -> None:
    path, key = alice
    governance = reviewed(store, key)
    body = {"kind": "AUDIT", "run": "20260101-run", "stage": "result", "violated": True}
    index = str(store.append({**body, "lower_bound": 4.0, "charged": 2.0}))
    ledger("approve", "last", "--key", path)
    with pytest.raises(BudgetError, match=f"--lifts {index} "):
        governing.charge(store, governance, "20260101-run")
    refused(ledger("approve", "last", "--lifts", "1", "--key", path), "leaf 1 is no audit")
    done = ledger("approve", "last", "--lifts", index, "--key", path)
    assert done.out == f"leaf {int(index) + 2}: going on after leaf {index} is approved\n"
    governing.charge(store, governance, "20260101-run")


def test_an_approval_that_counts_for_nothing_is_refused(
    ledger: Ledger, alice: tuple[str, str], store: Store, tmp_path: Path
) -> None:
    path, key = alice
    reviewed(store, key)
    bob = str(tmp_path / "bob.key")
    ledger("keygen", bob, "--name", "bob")
    governing.new_run(store, "other", PLAN, "q")
    size = len(store.leaves())
    refused(ledger("approve", "nobody", "--key", path), "run=nobody", "tacit runs list")
    refused(ledger("approve", "other", "--key", path), "population=q", "no policy")
    refused(ledger("approve", "2026", "--key", bob), "key=bob", "isn't a reviewer's")
    refused(ledger("approve", "2026", "--key", str(tmp_path / "none")), "can't be read")
    own = str(store.home.signing_key)
    refused(ledger("approve", "2026", "--key", own), "isn't a reviewer's")
    assert len(store.leaves()) == size


def test_an_approval_needs_a_key(ledger: Ledger, store: Store) -> None:
    assert store.runs() == []
    done = ledger("approve", "last")
    assert done.code == 2
    assert "--key" in done.err


# Keys


def test_a_key_is_made_for_its_owner_alone(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "key"
    done = ledger("keygen", str(path), "--name", "example.org/alice")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    public = VerifierKey.parse(done.out.strip())
    assert public == keyfile.load(path).verifier
    assert public.name == "example.org/alice"
    assert "PRIVATE" in path.read_text()
    assert "PRIVATE" not in done.out + done.err
    other = tmp_path / "other"
    said = ledger("keygen", str(other), "--name", "bob", "--json").json
    assert said == {"key": str(keyfile.load(other).verifier), "file": str(other)}
    # Nothing else is left, and no home was needed.
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["key", "other"]


def test_a_key_is_never_overwritten(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("precious")
    refused(ledger("keygen", str(path), "--name", "alice"), f"{path} exists", "never overwritten")
    assert path.read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    refused(ledger("keygen", str(link), "--name", "alice"), "exists")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("name", ["", "a b", "a+b"])
def test_a_name_that_no_key_can_have_is_refused(name: str, ledger: Ledger, tmp_path: Path) -> None:
    refused(ledger("keygen", str(tmp_path / "key"), "--name", name))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_key_in_a_folder_that_isnt_there_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    refused(ledger("keygen", str(tmp_path / "no" / "key"), "--name", "a"), "can't be written")


def test_a_key_that_others_can_read_signs_nothing(
    ledger: Ledger, alice: tuple[str, str], store: Store
) -> None:
    path, key = alice
    reviewed(store, key)
    Path(path).chmod(0o640)
    refused(ledger("approve", "last", "--key", path), "640", "chmod 600")


def test_the_ledgers_key_is_rotated(ledger: Ledger, home: Home, alice: tuple[str, str]) -> None:
    path, key = alice
    policy = ["policy", "p", "--run-epsilon", "2", "--delta", "1e-5", "--reviewer", key]
    assert ledger(*policy).code == 0
    old = str(keyfile.load(home.signing_key).verifier)
    said = ledger("rotate", "--json").json
    new = str(keyfile.load(home.signing_key).verifier)
    assert said == {"key": new}
    assert new != old
    assert stat.S_IMODE(home.signing_key.stat().st_mode) == 0o600
    third = ledger("rotate").out.strip()
    assert third == str(keyfile.load(home.signing_key).verifier)
    # What reviewers sign still counts, and the ledger still holds.
    refused(ledger(*policy), "isn't a reviewer's")
    assert ledger(*policy, "--key", path).code == 0
    store = Store(home)
    report = verify(store)
    assert report.findings == []
    assert report.keys == [old, new, third]


def test_help_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-c", "from tacit.cli import main; main()", "ledger", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for name in ("policy", "approve", "keygen", "rotate"):
        assert name in done.stdout
