"""What `tacit ledger verify` finds of withdrawals that were tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from erasing import asked
from sqlalchemy.engine import Connection

from tacit.server import check
from tacit.server import tables as t
from tacit.server.erasure import handles
from tacit.server.erasure import tables as e
from tacit.server.erasure.cases import Cases
from tacit.server.home import Home
from tacit.server.store import Store


def body(c: Connection, case: str, change: Callable[[dict[str, object]], object]) -> None:
    own = e.cases.c.id == case
    found = json.loads(c.execute(sa.select(e.cases.c.body).where(own)).scalar_one())
    change(found)
    c.execute(e.cases.update().where(own).values(body=json.dumps(found)))


def drawn(c: Connection, case: str) -> None:
    """The client that withdrew is drawn again."""
    run = c.execute(sa.select(t.runs.c.id)).scalar_one()
    handle = handles.load(c, "tiny").handle(run, 4)
    leaf = c.execute(sa.select(sa.func.max(t.leaves.c.index))).scalar_one()
    row = {"leaf": leaf, "run": run, "purpose": "train", "salt": b"s"}
    c.execute(t.cohorts.insert().values(**row, members=json.dumps([handle])))


def unplanted(c: Connection, case: str) -> None:
    c.execute(e.seeds.delete())


def replanted(c: Connection, case: str) -> None:
    c.execute(e.seeds.delete())
    c.execute(e.seeds.insert().values(population="tiny", level=0, place=0, seed=b"s" * 32))


Change = Callable[[Connection, str], object]
OPENED: list[tuple[Change, str]] = [
    (lambda c, k: c.execute(e.cases.delete().where(e.cases.c.id == k)), "is gone"),
    (lambda c, k: c.execute(e.cases.update().values(state="closed")), "has leaves for"),
    (lambda c, k: c.execute(e.cases.update().values(state="odd")), "has leaves for"),
    (lambda c, k: c.execute(e.cases.update().values(population="x")), "another population"),
    (lambda c, k: c.execute(e.cases.update().values(key=b"k" * 32)), "isn't the one committed"),
    (lambda c, k: c.execute(e.cases.update().values(body="{")), "can't be read"),
    (lambda c, k: body(c, k, lambda b: b["opened"].update(client=5)), "isn't the one committed"),  # type: ignore[attr-defined]
    (lambda c, k: body(c, k, lambda b: b["leaves"].update(opened=1)), "doesn't name this leaf"),  # type: ignore[attr-defined]
    (lambda c, k: c.execute(e.withdrawals.delete()), "don't agree"),
    (lambda c, k: c.execute(e.withdrawals.update().values({"case": None})), "don't agree"),
    (drawn, "had withdrawn"),
    (unplanted, "are nobody's"),
    (replanted, "are nobody's"),
]
CLOSED: list[tuple[Change, str]] = [
    (lambda c, k: body(c, k, lambda b: b.update(opened={"client": 4})), "still links"),
    (lambda c, k: body(c, k, lambda b: b["closed"].pop("choice")), "isn't the one committed"),  # type: ignore[attr-defined]
    (lambda c, k: c.execute(e.withdrawals.update().values({"case": k})), "don't agree"),
    (replanted, "can still be told"),
    (lambda c, k: handles.erase(c, "tiny", 5), "are nobody's"),
]


@pytest.fixture(scope="module")
def opened(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("opened") / "home"
    shutil.copytree(ready, root)
    store = Store(Home(root))
    case = Cases(store).open(asked(4), "me").id
    store.set_status(store.run("last")["id"], "finished")
    store.close()
    return root, case


@pytest.fixture(scope="module")
def done(opened: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("done") / "home"
    shutil.copytree(opened[0], root)
    store = Store(Home(root))
    Cases(store).choose(opened[1], "keep", "little", "me")
    Cases(store).close(opened[1], "me")
    store.close()
    return root, opened[1]


def found(root: Path, case: str, to: Path, change: Change) -> str:
    shutil.copytree(root, to)
    store = Store(Home(to))
    try:
        assert check.verify(store).holds
        with store.database.writing() as c:
            change(c, case)
        return "; ".join(map(str, check.verify(store).findings))
    finally:
        store.close()


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("change", "problem"), OPENED)
def test_of_an_open_case(
    opened: tuple[Path, str], tmp_path: Path, change: Change, problem: str
) -> None:
    assert problem in found(*opened, tmp_path / "home", change)


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("change", "problem"), CLOSED)
def test_of_a_closed_case(
    done: tuple[Path, str], tmp_path: Path, change: Change, problem: str
) -> None:
    assert problem in found(*done, tmp_path / "home", change)
