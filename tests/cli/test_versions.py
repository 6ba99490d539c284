"""``tacit models`` from promotion to retirement, as a script sees it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions")
    simulate(TINY, task=make_tiny(), home=folder)
    simulate([*TINY, "seed=9", "name=other"], task=make_tiny(), home=folder)
    return folder


def test_the_life_of_a_version(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TACIT_ACTOR", "ann")

    def tacit(*words: str, status: int = 0) -> Any:
        monkeypatch.setattr(sys, "argv", ["tacit", *words, "--json", "--home", str(place)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code or 0) == status, said.err
        return json.loads(said.out) if status == 0 else said.err

    def models(*words: str, status: int = 0) -> Any:
        return tacit("models", *words, status=status)

    first = models("promote", "tiny@1", "--reason", "first")
    assert (first["replaced"], first["actor"]) == (None, "ann")
    second = models("promote", "tiny@2", "--reason", "better")
    assert second["replaced"]["leaf"] == first["leaf"]
    late = ["promote", "tiny@3", "--reason", "late", "--expect", str(first["leaf"])]
    assert f"was moved by leaf {second['leaf']} (ann)" in models(*late, status=2)
    models("alias", "tiny", "shadow", "3", "--reason", "look")
    models("alias", "tiny", "shadow", "none", "--reason", "enough")
    assert "is what champion names" in models("retire", "tiny@2", "--reason", "r", status=2)
    assert models("rollback", "tiny", "--reason", "it fails")["number"] == 1
    models("retire", "tiny@3", "--reason", "broken")
    assert "names no version" in models("promote", "tiny", "--reason", "r", status=2)
    listed = {row["number"]: row for row in models("list", "tiny")}
    assert {n: row["stage"] for n, row in listed.items()} == {
        1: "champion",
        2: "released",
        3: "retired",
    }
    assert [b["kind"] for b in models("history", "tiny@3")] == ["DEPLOY", "DEPLOY", "RETIRE"]

    line = models("lineage", "tiny@champion")
    assert (line["number"], line["stage"], line["parents"]) == (1, "champion", [])
    older = models("lineage", "tiny@2")
    assert [p["number"] for p in older["parents"]] == [1]
    leaves = {leaf["index"]: leaf["body"] for leaf in tacit("ledger", "show")["leaves"]}
    for charge in older["charges"]:
        assert leaves[charge["leaf"]]["cohort"] == charge["cohort"]
        assert charge["outcome"] == "released"
    assert [c["round"] for c in older["charges"]] == [1, 2]

    assert models("diff", "tiny@2", "tiny@2")["arrays"][0]["distance"] == 0
    other = models("diff", "tiny@2", "other@2")
    assert any(name == "seed" for name, _, _ in other["configuration"])
    assert all(array["distance"] > 0 for array in other["arrays"])

    file = tmp_path / "model"
    key = models("export", "tiny@2", "--to", str(file))["key"]
    assert models("verify", str(file), "--key", key)["subject"] == "tiny@2"
    assert models("verify", "tiny@2", "--key", key)["stage"] == "released"
    assert "--key is missing" in models("verify", str(file), status=2)
    file.write_bytes(file.read_bytes() + b"x")
    assert "isn't tiny@2" in models("verify", str(file), "--key", key, status=2)

    models("show", "other@1")
    rows = models("access-log", "tiny")
    subjects = {row["body"]["subject"].partition("@")[0] for row in rows}
    assert subjects == {"model tiny"}
    assert tacit("ledger", "verify")["holds"]
