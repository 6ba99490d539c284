"""``tacit access`` as an operator uses it, and reads by the command line that leave a record."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.cli import main
from tacit.privacy.log.custody import covered
from tacit.server.access.tokens import Tokens
from tacit.server.home import Home
from tacit.server.store import Store


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; what isn't a `TacitError` escapes, and fails the test."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setenv("TACIT_ACTOR", "olga")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_tenant_and_its_tokens(tacit: Any, tmp_path: Path) -> None:
    root = ("--home", tmp_path / "root")
    assert tacit("access", "tenant", "list", "--json", *root).out == "[]\n"
    assert tacit("access", "token", "list", *root).status == 2
    assert not (tmp_path / "root").exists()
    assert tacit("access", "tenant", "add", "acme", *root).status == 0
    assert tacit("access", "tenant", "add", "acme", *root).status == 2
    assert tacit("access", "tenant", "add", "../acme", *root).status == 2
    rows = json.loads(tacit("access", "tenant", "list", "--json", *root).out)
    assert rows == [{"tenant": "acme", "home": str(tmp_path / "root" / "tenants" / "acme")}]
    wanted = ("access", "token", "issue", "ann", "--role", "viewer", "--days", 7)
    status, out, err = tacit(*wanted, "--tenant", "acme", "--models", "d*", *root)
    assert status == 0
    held = Tokens(tmp_path / "root")
    caller = held.authenticate(out.strip())
    assert (caller.name, caller.models) == ("ann", ("d*",))
    assert caller.token in err
    assert out.strip() not in err
    listed = tacit("access", "token", "list", "--json", *root).out
    assert [row["id"] for row in json.loads(listed)] == [caller.token]
    assert out.strip().split("_", 2)[2] not in listed + tacit("access", "token", "list", *root).out
    assert tacit("access", "token", "revoke", caller.token, *root).status == 0
    assert held.valid(caller.token) is None
    assert tacit("access", "token", "revoke", "f" * 16, *root).status == 2
    held.close()


@pytest.mark.parametrize(
    "more",
    [
        ("--role", "root", "--days", 7),
        ("--role", "viewer", "--days", 0),
        ("--role", "viewer", "--days", 367),
        ("--role", "viewer", "--days", 7, "--tenant", "nobody"),
    ],
)
def test_tokens_that_arent_issued(tacit: Any, tmp_path: Path, more: tuple[object, ...]) -> None:
    tacit("access", "tenant", "add", "default", "--home", tmp_path)
    found = tacit("access", "token", "issue", "ann", *more, "--home", tmp_path)
    assert (found.status, found.out) == (2, "")
    assert "=" in found.err


def test_a_root_that_isnt_there_isnt_made(tacit: Any, tmp_path: Path) -> None:
    root = ("--home", tmp_path / "typo")
    more = ("ann", "--role", "viewer", "--days", 7)
    assert tacit("access", "token", "issue", *more, *root).status == 2
    assert not (tmp_path / "typo").exists()


def test_who_is_shown_a_ledger_is_recorded(tacit: Any, home: Home, store: Store) -> None:
    where = ("--home", home.root)
    tacit("ledger", "show", "--json", *where)
    tacit("ledger", "export", "--to", home.root / "bundle", "--json", *where)
    tacit("ledger", "show", "no-such-run", *where)
    rows = json.loads(tacit("access", "log", "--json", *where).out)
    assert [(r["body"]["action"], r["body"]["subject"]) for r in rows] == [
        ("export", "ledger"),
        ("show", "ledger"),
    ]
    assert {(r["body"]["actor"], r["body"]["via"]) for r in rows} == {("olga", "cli")}
    request = rows[0]["body"]["request"]
    assert tacit("access", "find", request, "--proof", *where).status == 2
    leaf = json.loads(tacit("access", "seal", "--json", *where).out)["leaf"]
    assert json.loads(tacit("access", "seal", "--json", *where).out) == {"leaf": None}
    found = json.loads(tacit("access", "find", request, "--json", *where).out)
    assert found["leaf"] == leaf
    proof = json.loads(tacit("access", "find", request, "--proof", *where).out)
    assert covered(proof, store.leaves()[leaf]["body"])
    assert tacit("access", "find", "no-such-request", *where).status == 2
    assert "2 reads and scores" in tacit("ledger", "show", *where).out
    assert "olga" in tacit("access", "log", "ledger", "--limit", 1, *where).out
    assert tacit("access", "log", "--limit", 0, *where).status == 2
    assert tacit("ledger", "verify", *where).status == 0


def test_who_is_shown_a_model_is_recorded(tacit: Any, tmp_path: Path) -> None:
    where = ("--home", tmp_path / "home")
    simulate([*TINY, "rounds=1"], task=make_tiny(), home=tmp_path / "home")
    assert tacit("models", "show", "tiny", "--json", *where).status == 0
    assert tacit("models", "export", "tiny@1", "--to", tmp_path / "m", *where).status == 0
    assert tacit("models", "show", "tiny@2", *where).status == 2
    rows = json.loads(tacit("access", "log", "model tiny", "--json", *where).out)
    assert [(r["body"]["action"], r["body"]["subject"]) for r in rows] == [
        ("export", "model tiny@1"),
        ("show", "model tiny@1"),
    ]


def test_every_hundredth_command_seals(tacit: Any, home: Home, store: Store) -> None:
    from tacit.cli.common import recorded

    for _ in range(100):
        assert store.leaves(kinds=["ACCESS"]) == []
        recorded(store, "show", "ledger")
    assert [leaf["body"]["count"] for leaf in store.leaves(kinds=["ACCESS"])] == [100]
