"""A withdrawal from beginning to end, on both engines: excluded, decided about, unlinked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
import sqlalchemy as sa
from erasing import asked, draws, train
from postgres import BOTH
from tiny import TINY, TINY_SECURE, make_tiny

from tacit import simulate
from tacit.privacy import ledger
from tacit.privacy.errors import ConfigError, ConflictError, MissingError, StorageError
from tacit.server import check
from tacit.server import tables as t
from tacit.server.cohort import Sampler
from tacit.server.erasure import handles, unlinking
from tacit.server.erasure.cases import Cases
from tacit.server.erasure.withdrawals import withdrawn
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

EVERYBODY = ("cohort=20", "rounds=3", "minimum_survivors=5")


def findings(store: Store) -> list[str]:
    return [str(finding) for finding in check.verify(store).findings]


def closed(cases: Cases, client: int, choice: str = "keep") -> str:
    case = cases.open(asked(client), "me").id
    cases.choose(case, choice, "as asked", "me")
    return cases.close(case, "me").id


# Excluded


@BOTH
def test_who_withdraws_between_rounds_is_never_drawn_again(store: Store, home: Home) -> None:
    """Another process opens the case, while a run is between two rounds."""
    said: list[str] = []

    def elsewhere(result: Any) -> None:
        if result.round == 1:
            command = [sys.executable, "-c", "from tacit.cli import main; main()", "erase", "open"]
            more = ["--simulated", "tiny:3", "--json", "--home", str(home.root)]
            done = subprocess.run([*command, *more], capture_output=True, check=True)
            said.append(json.loads(done.stdout)["state"])

    settings = [*TINY, *EVERYBODY, "evaluation=federated"]
    run = simulate(settings, task=make_tiny(), home=home.root, progress=elsewhere).run
    assert said == ["opened"]
    drawn = store.cohorts(run)
    everybody = set(range(20))
    assert [set(m) for _, m in drawn[:2]] == [everybody] * 2
    assert [set(m) for _, m in drawn[2:]] == [everybody - {3}] * 4
    assert withdrawn(store, "tiny") == {3}
    assert not findings(store)


def test_who_withdraws_between_draw_and_charge_is_left_out(
    store: Store, home: Home, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Sampler.draw

    def slow(sampler: Sampler, purpose: str, round: int, aborts: int) -> list[int]:
        found = draw(sampler, purpose, round, aborts)
        if round == 2 and 3 not in withdrawn(store, "tiny"):
            assert 3 in found
            cases.open(asked(3), "me")
        return found

    monkeypatch.setattr(Sampler, "draw", slow)
    run = train(home, *EVERYBODY, "evaluation=none")
    assert [3 in members for _, members in store.cohorts(run)] == [True, False, False]
    rows = store.rounds(run)
    assert [row["asked"] for row in rows] == [20, 19, 19]
    assert not findings(store)


def test_everybody_elses_draw_is_what_it_was(store: Store, home: Home, cases: Cases) -> None:
    train(home, "rounds=1")
    cases.open(asked(3), "me")
    run = train(home, "seed=5", "cohort=10")
    for (purpose, members), (due, _, drawn) in zip(
        store.cohorts(run), draws(store, run), strict=True
    ):
        assert purpose == due
        assert sorted(members) == [client for client in drawn if client != 3]


def test_too_few_are_left(store: Store, home: Home, cases: Cases) -> None:
    train(home, "rounds=1")
    cases.open(asked(3), "me")
    from tacit.privacy.errors import ShortfallError

    with pytest.raises(ShortfallError, match="minimum_survivors"):
        train(home, "cohort=20", "rounds=1", "minimum_survivors=20")


# Decided


@BOTH
def test_keeping_states_what_it_cost_that_client(store: Store, home: Home, cases: Cases) -> None:
    run = simulate([*TINY_SECURE, "rounds=4"], task=make_tiny(), home=home.root).run
    plan = json.loads(store.run(run)["plan"])
    taken = [sum(client in m for _, m in store.cohorts(run)) for client in range(20)]
    bodies = [row["body"] for row in store.spending(run)]
    charges = [body for body in bodies if body["kind"] == "CHARGE"]
    deltas = {"client": plan["client_delta"], "record": plan["record_delta"]}
    few, many = taken.index(min(taken)), taken.index(max(taken))
    assert taken[few] < taken[many]
    for client in (few, many):
        case = cases.open(asked(client), "me").id
        made = cases.choose(case, "keep", "little", "me").body["choice"]["evidence"]
        rows = {(row["adversary"], row["amplified"]): row["epsilon"] for row in made}
        # As if the run had had so many rounds and no more.
        due = ledger.Spending(deltas)
        for count, body in enumerate(charges[: taken[client]], 1):
            due.add({**body, "participations": count})
        whole = ledger.replay(bodies, deltas)
        for adversary in ("public", "coordinator"):
            own = due.epsilon("client", adversary, False) if taken[client] else 0.0
            assert rows[adversary, False] == pytest.approx(own, rel=1e-6)
        assert rows["public", True] == pytest.approx(whole.epsilon("client", "public", True))


def test_of_central_noise_the_cost_is_of_so_many_gaussians(
    store: Store, home: Home, cases: Cases
) -> None:
    run = train(home, "rounds=4", "evaluation=none")
    client = 3
    taken = sum(client in members for _, members in store.cohorts(run))
    case = cases.open(asked(client), "me").id
    rows = cases.choose(case, "keep", "little", "me").body["choice"]["evidence"]
    found = {(row["adversary"], row["amplified"]): row for row in rows}
    z = json.loads(store.run(run)["plan"])["client"]["noise_multiplier"]
    oracle = dp_accounting.pld.PLDAccountant()
    oracle.compose(dp_accounting.GaussianDpEvent(z), taken)
    row = found["public", False]
    assert row["epsilon"] == pytest.approx(oracle.get_epsilon(row["delta"]), rel=1e-3)
    # Who holds every vector is trusted: nothing is claimed.
    assert found["coordinator", False]["epsilon"] is None


def test_charges_after_the_withdrawal_are_no_part_of_it(
    store: Store, home: Home, run: str, cases: Cases
) -> None:
    case = cases.open(asked(3), "me").id
    before = cases.choose(case, "keep", "little", "me").body["choice"]["evidence"]
    train(home)
    assert cases.choose(case, "keep", "again", "me").body["choice"]["evidence"] == before


@BOTH
def test_retraining_isnt_closed_while_an_alias_names_what_came_of_it(
    store: Store, home: Home, cases: Cases
) -> None:
    train(home, *EVERYBODY)
    life = Lifecycle(store)
    move = life.move("tiny", "champion", 3, expected=None, actor="a", reason="r")
    case = cases.open(asked(3), "me").id
    cases.choose(case, "retrain", "as asked", "me")
    with pytest.raises(ConflictError, match=r"tiny@champion \(3\)") as caught:
        cases.close(case, "me")
    assert [a["alias"] for a in caught.value.current] == ["champion"]  # type: ignore[attr-defined]
    assert cases.get(case).state == "chosen"
    train(home, *EVERYBODY)
    life.move("tiny", "champion", 6, expected=move.leaf, actor="a", reason="trained anew")
    file = cases.close(case, "me").body["closed"]
    assert file["aliases"] == []
    assert file["clean"] == {"tiny": 6}
    assert [v["number"] for v in file["versions"]] == [1, 2, 3]
    assert not findings(store)


def test_it_is_closed_anyway_and_the_file_says_so(store: Store, home: Home, cases: Cases) -> None:
    train(home, *EVERYBODY)
    Lifecycle(store).move("tiny", "champion", 3, expected=None, actor="a", reason="r")
    case = cases.open(asked(3), "me").id
    cases.choose(case, "retrain", "as asked", "me")
    file = cases.close(case, "me", anyway=True).body["closed"]
    assert file["aliases"] == [{"model": "tiny", "alias": "champion", "number": 3}]


# Unlinked


def files(home: Home) -> dict[Path, bytes]:
    """All files of the database."""
    return {path: path.read_bytes() for path in home.root.glob("tacit.db*")}


def rows(store: Store) -> dict[str, list[dict[str, Any]]]:
    """All rows of the database."""
    found = sa.MetaData()
    found.reflect(store.database.engine)
    with store.database.reading() as c:
        return {
            name: [dict(row._mapping) for row in c.execute(sa.select(table))]
            for name, table in found.tables.items()
        }


@BOTH
def test_nothing_links_the_number_and_the_cohorts_any_more(store: Store, home: Home) -> None:
    cases, url = Cases(store), store.database.url
    run = train(home, *EVERYBODY)
    with store.database.reading() as c:
        before = handles.load(c, "tiny")
    handle = str(before.handle(run, 3))
    case = cases.open(asked(3), "me")
    cases.choose(case.id, "keep", "little", "me")
    opened = json.dumps(case.body["opened"]["found"])[:40]
    if url.get_backend_name() == "sqlite":
        # What is searched for is there to be found.
        for what in (before.seeds[0, 0], opened.encode(), b'"client": 3'):
            assert any(what in data for data in files(home).values())
    cases.close(case.id, "me")

    everything = rows(store)
    assert handle in {m for row in everything["cohorts"] for m in json.loads(row["members"])}
    elsewhere = {k: v for k, v in everything.items() if k != "cohorts"}
    assert handle not in repr(elsewhere)
    assert repr(before.seeds[0, 0]) not in repr(everything)
    # No seed that is left gives a handle of a cohort's that is the client's.
    with store.database.reading() as c:
        left = handles.load(c, "tiny")
    assert left.handle(run, 3) is None
    assert handle not in left.clients(run, 20)
    assert len(left.clients(run, 20)) == 19
    assert all(3 not in members for _, members in store.cohorts(run))
    # The number is withdrawn, and its case is nobody's.
    (row,) = everything["withdrawals"]
    assert (row["client"], row["case"]) == (3, None)
    body = json.loads(everything["cases"][0]["body"])
    assert set(body) == {"leaves", "closed"}
    assert not {"client", "charges", "found"} & set(body["closed"])
    assert '"round"' not in json.dumps(body)
    if url.get_backend_name() == "sqlite":
        for path, data in files(home).items():
            assert before.seeds[0, 0] not in data, path
            assert opened.encode() not in data, path
            assert b'"client": 3' not in data, path
    assert not findings(store)


@BOTH
def test_several_are_erased_and_the_rest_can_be_looked_up(store: Store, home: Home) -> None:
    cases, run = Cases(store), train(home, *EVERYBODY)
    for client in (3, 4, 19):
        closed(cases, client)
    assert sorted(store.cohorts(run)[0][1]) == sorted(set(range(20)) - {3, 4, 19})
    case = cases.open(asked(5), "me")
    assert len(cases.affected(case.id).charges) == 6
    assert not findings(store)


@BOTH
def test_a_run_that_goes_on_takes_back_no_participations(
    store: Store, home: Home, cases: Cases
) -> None:
    """The most-drawn client is erased before a run is resumed: no later charge is for fewer."""

    class Stop(Exception):
        pass

    def stop(result: Any) -> None:
        if result.round == 3:
            raise Stop

    settings = [*TINY, "cohort=10", "rounds=5", "minimum_survivors=3"]
    with pytest.raises(Stop):
        simulate(settings, task=make_tiny(), home=home.root, progress=stop)
    run = store.run("last")["id"]
    taken = [sum(client in members for _, members in store.cohorts(run)) for client in range(20)]
    closed(cases, taken.index(max(taken)))
    simulate(resume=run, task=make_tiny(), home=home.root)
    bounds = [row["body"]["participations"] for row in store.leaves(run, ("CHARGE",))]
    assert bounds == sorted(bounds)
    assert not findings(store)


@BOTH
def test_who_was_never_drawn_withdraws(store: Store, home: Home, cases: Cases) -> None:
    run = train(home, "cohort=1", "rounds=1", "minimum_survivors=1", "seed=3")
    drawn = {client for _, members in store.cohorts(run) for client in members}
    client = min(set(range(20)) - drawn)
    case = closed(cases, client)
    file = cases.get(case).body["closed"]
    assert file["versions"] == []
    assert file["participations"] == {"train": 0, "evaluate": 0}
    assert not findings(store)


@BOTH
def test_with_everybodys_links_gone_nobody_is_told_by_elimination(
    store: Store, home: Home, cases: Cases
) -> None:
    train(home, *EVERYBODY, "cohort=10")
    old = store.runs()[0]["id"]
    case, other = cases.open(asked(3), "me").id, cases.open(asked(4), "me").id
    cases.choose(case, "keep", "little", "me")
    with pytest.raises(ConflictError, match=other):
        cases.close(case, "me", everyone=True)
    cases.choose(other, "keep", "little", "me")
    cases.close(other, "me")
    assert cases.close(case, "me", everyone=True).state == "closed"
    assert all(members == [] for _, members in store.cohorts(old))
    assert not findings(store)
    # Later cohorts are looked up as ever; of the older ones each counts.
    new = train(home, *EVERYBODY, "cohort=5", "minimum_survivors=1")
    drawn = {client for _, members in store.cohorts(new) for client in members}
    assert drawn
    assert not drawn & {3, 4}
    later = cases.open(asked(min(drawn)), "me").id
    found = cases.affected(later)
    mine = [members for _, members in store.cohorts(new) if min(drawn) in members]
    assert found.uncertain == 6
    assert len(found.charges) == 6 + len(mine)
    assert {v["number"] for v in found.versions} >= {1, 2, 3}
    # As much as everybody is promised, or more: of all the charges that it may have been in.
    evidence = cases.choose(later, "keep", "little", "me").body["choice"]["evidence"]
    own = next(r for r in evidence if (r["adversary"], r["amplified"]) == ("public", False))
    claims = store.claims(old)
    whole = next(r for r in claims if (r["unit"], r["adversary"]) == ("client", "public"))
    assert not whole["amplified"]
    assert own["epsilon"] >= whole["epsilon"]
    cases.close(later, "me")
    assert not findings(store)
    for one in (case, other, later):
        cases.forget(one)
    assert not findings(store)
    assert cases.affected(cases.open(asked(9), "me").id).uncertain == 6


# States


def test_what_isnt_the_next_step_is_refused(store: Store, run: str, cases: Cases) -> None:
    case = cases.open(asked(3), "me").id
    with pytest.raises(ConflictError, match="withdrawn already"):
        cases.open(asked(3), "me")
    with pytest.raises(ConflictError, match="nothing is chosen"):
        cases.close(case, "me")
    with pytest.raises(ConflictError, match="close it first"):
        cases.forget(case)
    with pytest.raises(ConfigError, match="choice="):
        cases.choose(case, "burn", "no", "me")
    with pytest.raises(ConfigError, match="reason="):
        cases.choose(case, "keep", " ", "me")
    cases.choose(case, "retrain", "first", "me")
    cases.choose(case, "keep", "then", "me")
    assert cases.close(case, "me").state == "closed"
    for again in (
        lambda: cases.close(case, "me"),
        lambda: cases.choose(case, "keep", "no", "me"),
        lambda: cases.affected(case),
    ):
        with pytest.raises(ConflictError, match="is closed"):
            again()  # type: ignore[no-untyped-call]
    with pytest.raises(ConflictError, match="withdrawn already"):
        cases.open(asked(3), "me")
    assert cases.forget(case).state == "forgotten"
    assert cases.get(case).body == {"leaves": cases.get(case).body["leaves"]}
    assert [found.id for found in cases.list()] == [case]
    with pytest.raises(MissingError, match="case="):
        cases.get("")
    with pytest.raises(MissingError, match="case="):
        cases.get("ffff" * 4)
    assert not findings(store)


def test_while_others_read_the_files_wait(store: Store, run: str, cases: Cases) -> None:
    """The rows are gone; the files are scrubbed once the reader has ended."""
    case = cases.open(asked(3), "me").id
    cases.choose(case, "keep", "little", "me")
    reader = Store(store.home)
    with reader.database.reading() as c:
        c.execute(sa.select(t.leaves.c.index)).first()
        # A minute's patience is for operators.
        store.database.engine.dispose()
        sa.event.listen(
            store.database.engine, "connect", lambda d, _: d.execute("PRAGMA busy_timeout=50")
        )
        with pytest.raises(StorageError, match="another process reads"):
            cases.close(case, "me")
    reader.close()
    assert cases.get(case).state == "closing"
    assert cases.get(case).client is None
    assert not findings(store)
    assert cases.close(case, "me").state == "closed"


# Killed


def at_commit(store: Store) -> None:
    """Dies as a transaction is about to commit."""
    sa.event.listen(store.database.engine, "commit", lambda c: _die())


def after_commit(store: Store) -> None:
    """Dies once a transaction that wrote has been committed."""
    dialect = store.database.engine.dialect
    commit = dialect.do_commit

    def deadly(connection: Any) -> None:
        commit(connection)
        _die()

    dialect.do_commit = deadly  # type: ignore[method-assign]


def scrubbing(store: Store) -> None:
    """Dies before the database's files are scrubbed."""
    unlinking.scrub = lambda database: _die()  # type: ignore[assignment]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


STEPS: dict[str, Callable[[Cases, str], object]] = {
    "open": lambda cases, _: cases.open(asked(4), "me"),
    "choose": lambda cases, case: cases.choose(case, "retrain", "changed", "me"),
    "close": lambda cases, case: cases.close(case, "me"),
    "forget": lambda cases, case: cases.forget(case),
}


def killed(home: Path, step: str, case: str, how: Callable[[Store], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            store = Store(Home(home))
            how(store)
            STEPS[step](Cases(store), case)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{step} wasn't killed"


@pytest.mark.parametrize("how", [at_commit, after_commit, scrubbing])
@pytest.mark.parametrize("step", list(STEPS))
def test_killed_in_a_step_it_is_done_or_not(
    ready: Path, tmp_path: Path, step: str, how: Callable[[Store], None]
) -> None:
    if how is scrubbing and step not in ("close", "forget"):
        return
    root = tmp_path / "home"
    shutil.copytree(ready, root)
    store = Store(Home(root))
    cases = Cases(store)
    case = cases.open(asked(3), "me").id
    cases.choose(case, "keep", "little", "me")
    if step == "forget":
        cases.close(case, "me")
    before = (cases.get(case), withdrawn(store, "tiny"), len(store.leaves()))
    store.close()

    killed(root, step, case, how)

    store = Store(Home(root))
    cases = Cases(store)
    now = (cases.get(case), withdrawn(store, "tiny"), len(store.leaves()))
    assert (now != before) == (how is not at_commit)
    assert not findings(store)
    if step == "open" and how is at_commit:
        STEPS["open"](cases, case)
    assert withdrawn(store, "tiny") == ({3, 4} if step == "open" else {3})
    # Whatever it was cut off at, it can go on to the end.
    if step != "forget":
        assert cases.close(case, "me").state == "closed"
    elif now[0].state != "forgotten":
        cases.forget(case)
    assert not findings(store)
    store.close()
