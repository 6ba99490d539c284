"""What a client took part in and what came of it, against the draws made again from seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from erasing import asked, draws, train
from postgres import BOTH
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.log import leaves
from tacit.server import check
from tacit.server import tables as t
from tacit.server.erasure import affected, report
from tacit.server.erasure.affected import Affected
from tacit.server.erasure.cases import Cases
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store


def find(store: Store, client: int, population: str = "tiny") -> Affected:
    with store.database.reading() as c:
        return affected.find(c, population, client)


def due(store: Store, client: int, chain: list[tuple[str, str | None]]) -> set[tuple[str, int]]:
    """Versions that came of a client, by brute force: run and round."""
    found: set[tuple[str, int]] = set()
    for run, began in chain:
        out = began is not None and any(place[0] == began for place in found)
        for purpose, number, members in draws(store, run):
            if purpose == "train":
                out = out or client in members
                if out:
                    found.add((run, number))
    return found


@BOTH
def test_equals_the_draws_made_again_from_the_seeds(store: Store, home: Home) -> None:
    settings = ("cohort=3", "rounds=3", "seed=4")
    first = train(home, *settings)
    newest = max(row["number"] for row in store.versions(run=first))
    second = train(home, "cohort=2", "rounds=2", "seed=5", f"initial=tiny@{newest}")
    third = train(home, *settings[:2], "seed=6")
    chain = [(first, None), (second, first), (third, None)]
    several = set()
    for client in range(20):
        found = find(store, client)
        drawn = {
            (run, purpose, number)
            for run, _ in chain
            for purpose, number, members in draws(store, run)
            if client in members
        }
        assert {(x["run"], x["purpose"], x["round"]) for x in found.charges} == drawn
        assert {(v["run"], v["round"]) for v in found.versions} == due(store, client, chain)
        assert not found.pending
        releases = {row["release"]: row for row in store.versions()}
        for version in found.versions:
            row = releases[version["release"]]
            assert (row["number"], row["artifact"]) == (version["number"], version["artifact"])
        clean = {row["number"] for row in releases.values()}
        clean -= {v["number"] for v in found.versions}
        if found.versions:
            assert found.clean == {"tiny": max(clean, default=None)}
        several.add((len(found.charges), len(found.versions), found.clean.get("tiny")))
    # The settings tell clients apart: else this shows nothing.
    assert len(several) > 4


@BOTH
def test_a_run_that_began_with_an_affected_version_follows(store: Store, home: Home) -> None:
    everybody = ("cohort=20", "rounds=1", "seed=1", "minimum_survivors=5")
    train(home, *everybody)
    case = Cases(store).open(asked(3), "me")
    train(home, *everybody, "initial=tiny@1")
    train(home, *everybody)
    train(home, *everybody, "initial=tiny@2")
    found = Cases(store).affected(case.id)
    assert {v["number"]: v["why"] for v in found.versions} == {
        1: "trained",
        2: "follows",
        4: "follows",
    }
    assert found.clean == {"tiny": 3}


@BOTH
def test_aliases_that_name_affected_versions(store: Store, home: Home, run: str) -> None:
    life = Lifecycle(store)
    train(home, "seed=9")
    life.move("tiny", "champion", 1, expected=None, actor="a", reason="r")
    moved = life.move("tiny", "old", 2, expected=None, actor="a", reason="r")
    life.move("tiny", "old", None, expected=moved.leaf, actor="a", reason="r")
    trained = next(m for p, n, m in draws(store, run) if p == "train" and n == 1)
    found = find(store, trained[0])
    assert [(a["alias"], a["number"]) for a in found.aliases] == [("champion", 1)]
    other = next(k for k in range(20) if k not in trained)
    assert not find(store, other).aliases


def test_of_a_round_under_way(store: Store, home: Home) -> None:
    """Drawn, charged and not yet released: what it will release is affected."""
    run = train(home, "cohort=20", "rounds=1")
    with store.appending() as (c, log):
        tree = affected.handles.planted(c, "tiny")
        members = sorted(str(tree.handle(run, k)) for k in (2, 3))
        body = {"kind": "CHARGE", "run": run, "round": 2, "attempt": 0, "purpose": "train"}
        log.append({**body, "cohort": leaves.commit(b"s", members)}, (b"s", members))
    found = find(store, 3)
    assert found.pending == [{"run": run, "round": 2}]
    assert not find(store, 4).pending
    told = report.markdown(report.make(store, Cases(store).open(asked(3), "me")))
    assert f"Round 2 of run {run} was under way" in told
    store.abandon_open_charges(run, "crash")
    assert not find(store, 3).pending


@BOTH
def test_cohorts_that_name_numbers_are_found_and_said(store: Store, run: str) -> None:
    body = {"kind": "CHARGE", "run": run, "round": 9, "attempt": 0, "purpose": "train"}
    for members in ([3, 11], [13, 1], []):
        body["round"] += 1
        store.append({**body, "cohort": leaves.commit(b"s", members)}, (b"s", members))
    assert find(store, 3).numbered == 1
    assert find(store, 11).numbered == 1
    assert find(store, 4).numbered == 0
    assert [x["round"] for x in find(store, 1).charges if x["round"] > 9] == [11]


def test_another_populations_client_of_that_number_isnt_meant(store: Store, home: Home) -> None:
    train(home, "population=here", "cohort=20", "rounds=1")
    train(home, "population=there", "cohort=20", "rounds=1")
    assert len(find(store, 3, "here").charges) == len(find(store, 3, "there").charges) == 2
    assert len(find(store, 3, "here").versions) == 1
    assert not find(store, 3, "nowhere").charges


def test_handles_in_rows_are_those_that_were_committed_to(store: Store, run: str) -> None:
    with store.database.reading() as c:
        rows = c.execute(sa.select(t.cohorts)).all()
    assert rows
    for row in rows:
        members = json.loads(row.members)
        assert members == sorted(members)
        assert all(isinstance(m, str) and len(m) == 32 for m in members)
    assert check.verify(store).holds


def test_resumed_runs_draw_and_charge_the_same(tmp_path: Path) -> None:
    """Participations are counted from handles as they were from numbers."""

    class Stop(Exception):
        pass

    def stop(_: object) -> None:
        raise Stop

    whole = simulate([*TINY, "cohort=20"], task=make_tiny(), home=tmp_path / "whole")
    with pytest.raises(Stop):
        simulate([*TINY, "cohort=20"], task=make_tiny(), home=tmp_path / "cut", progress=stop)
    cut = simulate(resume="last", task=make_tiny(), home=tmp_path / "cut")
    assert cut.artifact_sha256 == whole.artifact_sha256
    assert cut.epsilon == whole.epsilon
