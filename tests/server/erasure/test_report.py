"""What is handed over verifies with the ledger's key alone; what was changed of it doesn't."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from erasing import asked, train
from postgres import BOTH

from tacit.privacy import erasure
from tacit.privacy.errors import ConflictError, MessageError, StorageError
from tacit.privacy.log.command import run as tacit_verify
from tacit.server.erasure import proof, report
from tacit.server.erasure.cases import Cases
from tacit.server.home import Home
from tacit.server.store import Store


def handed(store: Store, case: str) -> dict[str, Any]:
    """The report as it is read from its file."""
    found: dict[str, Any] = json.loads(json.dumps(report.make(store, Cases(store).get(case))))
    return found


@BOTH
def test_it_verifies_at_every_stage(store: Store, run: str, cases: Cases, tmp_path: Path) -> None:
    key = str(store.signer.verifier)
    case = cases.open(asked(3), "me").id
    made = handed(store, case)
    assert [leaf["stage"] for leaf in erasure.check(made, [key])] == ["opened"]
    assert len(made["files"]["opened"]["found"]["charges"]) == 3
    cases.choose(case, "keep", "it is `little` | <b>", "me")
    assert handed(store, case)["choice"]["choice"] == "keep"
    cases.close(case, "me")
    made = handed(store, case)
    assert [leaf["stage"] for leaf in erasure.check(made, [key])] == ["opened", "closed"]
    assert set(made["files"]) == {"closed"}
    # Leaves that come after change nothing.
    store.set_status(run, "finished")
    erasure.check(handed(store, case), [key])
    text, beside = report.write(made, tmp_path / "to.md")
    assert tacit_verify([str(beside), "--key", key]) == 0
    assert tacit_verify([str(beside), "--key", key, "--checkpoint", str(beside)]) == 2
    said = text.read_text()
    assert f"Case {case}" in said
    assert "it is \\`little\\` \\| \\<b\\>" in said
    for version in made["files"]["closed"]["versions"]:
        assert version["artifact"] in said
    for row in made["files"]["closed"]["choice"]["evidence"]:
        assert row["epsilon"] is None or f"{row['epsilon']:.4g}" in said
    assert made["files"]["closed"]["runs"] == [run]
    assert f"Whatever run {run} released after that, or releases yet, came of it too" in said
    assert "came from a seed" in said
    assert "by elimination" in said
    with pytest.raises(StorageError, match="there already"):
        report.write(made, tmp_path / "to.json")
    cases.forget(case)
    with pytest.raises(ConflictError, match="was forgotten"):
        report.make(store, cases.get(case))


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "the choice": lambda r: r["files"]["closed"]["choice"].update(choice="retrain"),
    "an epsilon": lambda r: r["files"]["closed"]["choice"]["evidence"][1].update(epsilon=0.1),
    "a version": lambda r: r["files"]["closed"]["versions"].pop(),
    "the opening": lambda r: r["openings"].update(closed="00" * 32),
    "the population": lambda r: r.update(population="others"),
    "the case": lambda r: r.update(case="ff"),
    "a leaf": lambda r: r["proofs"]["closed"].update(
        leaf=r["proofs"]["closed"]["leaf"].replace("keep", "kept")
    ),
    "the stages": lambda r: r["proofs"].update(
        opened=r["proofs"]["closed"], closed=r["proofs"]["opened"]
    ),
    "the proofs": lambda r: r["proofs"].clear(),
    "an opening's place": lambda r: r["openings"].clear(),
    "the kind": lambda r: r.update(tacit="report"),
    "a type": lambda r: r.update(proofs=[1]),
}


def test_what_was_changed_doesnt_verify(store: Store, run: str, cases: Cases) -> None:
    case = cases.open(asked(3), "me").id
    cases.choose(case, "keep", "little", "me")
    cases.close(case, "me")
    made, key = handed(store, case), str(store.signer.verifier)
    erasure.check(made, [key])
    taken = []
    for what, change in CHANGES.items():
        wrong = copy.deepcopy(made)
        change(wrong)
        assert wrong != made
        with contextlib.suppress(MessageError):
            erasure.check(wrong, [key])
            taken.append(what)
    assert not taken
    with pytest.raises(MessageError):
        erasure.check(made, [key[:-4] + "AAA="])
    for other in (None, [], "x", {}):
        with pytest.raises(MessageError):
            erasure.check(other, [key])  # type: ignore[arg-type]


def test_files_that_arent_reports(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(StorageError):
        erasure.is_report(path)
    path.write_text('{"tacit": "erasure", broken')
    assert erasure.is_report(path)
    with pytest.raises(MessageError, match="isn't JSON"):
        erasure.check_file(path, [])
    path.write_text('{"tacit": "proof"}')
    assert not erasure.is_report(path)


def test_the_command_from_the_clients_file_to_the_report(
    store: Store,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tacit.cli import main
    from tacit.privacy.secagg.directory import enrol

    def tacit(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["tacit", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        assert (caught.value.code or 0) == code, said.err
        return said.out + said.err

    train(home, "cohort=20", "minimum_survivors=5")
    enrol(home.root / "clients", 20)
    at = ("--home", str(home.root))
    tacit("ledger", "checkpoint", "--to", str(tmp_path / "note"), *at)
    folder, to = str(home.root / "clients"), str(tmp_path / "withdrawal")
    who = ("--client-home", folder, "--population", "tiny", "--client", "3", "--to", to)
    tacit("withdraw", *who, "--checkpoint", str(tmp_path / "note"))
    assert "have keys" in tacit("erase", "open", "--simulated", "tiny:4", *at, code=2)
    assert "who withdraws" in tacit("erase", "open", *at, code=2)
    made = json.loads(tacit("erase", "open", to, "--json", *at))
    case = made["case"]
    assert (made["client"], made["asked"], made["state"]) == (3, "key", "opened")
    assert "withdrawn already" in tacit("erase", "open", to, *at, code=2)
    assert "tiny@3" in tacit("erase", "show", case[:6], *at)
    assert "nothing is chosen" in tacit("erase", "close", case, *at, code=2)
    assert "without initial=" in tacit("erase", "choose", case, "retrain", "--reason", "r", *at)
    assert "epsilon" in tacit("erase", "choose", case, "keep", "--reason", "little", *at)
    assert "is closed" in tacit("erase", "close", case, *at)
    assert json.loads(tacit("erase", "show", case, "--json", *at))["file"]["choice"]
    said = tacit("erase", "report", case, "--to", str(tmp_path / "r.md"), *at).split()
    key = tacit("ledger", "checkpoint", "--key", *at).strip()
    assert tacit_verify([said[1], "--key", key, "--json"]) == 0
    capsys.readouterr()
    (row,) = json.loads(tacit("erase", "list", "--json", *at))
    assert (row["case"], row["state"], row["choice"]) == (case, "closed", "keep")
    assert "all holds" in tacit("ledger", "verify", *at)
    assert "forgotten" in tacit("erase", "forget", case, *at)
    assert "all holds" in tacit("ledger", "verify", *at)
    assert case in tacit("erase", "list", *at)
    # And without any proof, said to be so.
    more = ("--without-proof", "tiny:5", "--reason", "by letter", "--json")
    assert json.loads(tacit("erase", "open", *more, *at))["asked"] == "none"
    assert proof.public(store, "tiny", 5) is not None
