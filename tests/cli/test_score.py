"""``tacit score``: files in, scores and receipts out; any record shown, none by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.cli import main
from tacit.privacy.log import command
from tacit.server import check
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store

WHO = {"actor": "ann", "reason": "because"}
RECORDS = np.random.default_rng(5).normal(size=(25, 4)).astype(np.float32)


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("score") / "home"
    simulate([*TINY, "task=served:task"], home=root)
    store = Store(Home(root))
    Lifecycle(store).move("tiny", "champion", 2, expected=None, **WHO)
    store.close()
    return root


@pytest.fixture
def tacit(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in the home."""

    def run(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["tacit", *words, "--home", str(root)])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Said(status, *capsys.readouterr())

    return run


def torch_of(root: Path, number: int) -> np.ndarray:
    store = Store(Home(root))
    registry = ModelRegistry(store.home, store)
    arrays = registry.get(registry.find(f"tiny@{number}")["artifact"])
    store.close()
    model = make_tiny().model()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(RECORDS)).numpy())


def test_a_file_is_scored_and_any_record_of_it_can_be_shown(
    root: Path, tacit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, to = tmp_path / "in.npy", tmp_path / "out.npz"
    np.save(given, RECORDS)
    said = tacit("score", "tiny", "--input", str(given), "--to", str(to), "--batch", "10", "--json")
    assert said.status == 0, said.err
    found = json.loads(said.out)
    assert (found["version"], found["alias"], found["records"]) == (2, "champion", 25)
    with np.load(to) as made:
        assert np.allclose(made["outputs"], torch_of(root, 2), atol=1e-5)
        assert (made["labels"] == made["outputs"].argmax(1)).all()
    kept = Path(found["receipts"])
    assert kept.stat().st_mode & 0o77 == 0
    assert len(kept.read_text().splitlines()) == len(found["requests"]) == 3

    # Which version scored it, by the request alone; checked elsewhere.
    one = tmp_path / "receipt.json"
    request = found["requests"][1]
    assert "tiny" in tacit("score", "--receipt", request).out
    assert tacit("score", "--receipt", request, "--to", str(one)).status == 0
    store = Store(Home(root))
    key = str(store.signer.verifier)
    assert check.verify(store).findings == []
    store.close()
    assert command.run([str(one), "--key", key, "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held["receipt"]["artifact"] == found["artifact"]
    assert held["receipt"]["count"] == 10
    assert held["leaf"] is not None

    # One row of it is shown; another file has no such row.
    shown = tmp_path / "shown.json"
    args = ["--show", "17", "--input", str(given), "--receipts", str(kept)]
    said = tacit("score", *args, "--to", str(shown))
    assert said.status == 0, said.err
    assert command.run([str(shown), "--key", key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shown"] == 1
    body = json.loads(shown.read_text())
    assert body["shown"][0]["index"] == 7
    keys = [json.loads(line)["key"] for line in kept.read_text().splitlines()]
    assert not any(key in shown.read_text() for key in keys)
    np.save(given, RECORDS + 1)
    said = tacit("score", *args, "--to", str(tmp_path / "other.json"))
    assert said.status == 2
    assert "isn't what request=" in said.err
    assert "row=99" in tacit("score", *args[:1], "99", *args[2:], "--to", "x").err


def test_every_kind_of_file_gives_the_same_scores(root: Path, tacit: Any, tmp_path: Path) -> None:
    rows = RECORDS.tolist()
    np.savez(tmp_path / "in.npz", inputs=RECORDS)
    table = ["a,b,c,d", *(",".join(map(repr, row)) for row in rows)]
    (tmp_path / "in.csv").write_text("\n".join(table))
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"inputs": row}) for row in rows))
    want = torch_of(root, 3)
    for kind in ("npz", "csv", "jsonl"):
        to = tmp_path / f"out.{kind}"
        given = str(tmp_path / f"in.{kind}")
        said = tacit("score", "tiny@3", "--input", given, "--to", str(to))
        assert said.status == 0, said.err
        if kind == "csv":
            lines = [line.split(",") for line in to.read_text().splitlines()[1:]]
            got = np.array([line[1:] for line in lines], dtype=np.float32)
            labels = [int(line[0]) for line in lines]
            assert labels == got.argmax(1).tolist()
        elif kind == "jsonl":
            got = np.array([json.loads(line)["outputs"] for line in to.read_text().splitlines()])
        else:
            got = np.load(to)["outputs"]
        assert np.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("in.csv", "1,2,3\n", "must be [n, 4]"),
        ("in.csv", "1,2,3,4\n1,2,x,4\n", "record 1 isn't 4 numbers"),
        ("in.csv", "1,2,3,nan\n", "inputs[0] has a number that isn't finite"),
        ("in.csv", "", "must be [n, 4]"),
        ("in.jsonl", "[1, 2, 3, 4]\nno\n", "doesn't hold records"),
        ("in.jsonl", '[1, 2, 3, "4"]\n', "something else than numbers"),
        ("in.npy", "x", "doesn't hold records"),
        ("in.parquet", "x", "must end in"),
    ],
)
def test_bad_files_are_errors_that_lose_nothing(
    name: str, data: str, said: str, tacit: Any, tmp_path: Path
) -> None:
    given, to = tmp_path / name, tmp_path / "out.csv"
    given.write_text(data)
    found = tacit("score", "tiny", "--input", str(given), "--to", str(to))
    assert found.status == 2
    assert said in found.err.replace("\n", " ")
    assert not to.exists()


def test_what_is_missing_or_there_already_is_said(tacit: Any, tmp_path: Path) -> None:
    given, to = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(given, RECORDS)
    args = ["--input", str(given), "--to", str(to)]
    assert "model=nobody" in tacit("score", "nobody", *args).err
    assert "model=tiny@9" in tacit("score", "tiny@9", *args).err
    assert "MODEL, --input and --to" in tacit("score", "tiny").err
    assert "wasn't scored here" in tacit("score", "--receipt", "nothing-1").err
    assert tacit("score", "tiny", *args, "--request", "mine-0001").status == 0
    assert "there already" in tacit("score", "tiny", *args).err
    to.unlink()
    Path(f"{to}.receipts.jsonl").unlink()
    # The id was used; the scores aren't handed over without a receipt.
    assert tacit("score", "tiny", *args, "--request", "mine-0001").status == 2
    assert not to.exists()
