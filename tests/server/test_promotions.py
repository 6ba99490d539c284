"""Who promotes at once, and who is killed in it: one wins; old or new, never between."""

from __future__ import annotations

import multiprocessing
import signal

import pytest
from postgres import BOTH
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.server import check
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["crashing", "promoting"])
pytestmark = pytest.mark.usefixtures("remembered")


@pytest.fixture
def held(home: Home, url: str | None) -> Store:
    Store(home).close()  # From here on the home knows its database.
    simulate([*TINY, "rounds=2"], task=make_tiny(), home=home.root)
    return Store(Home(home.root, url))


@BOTH
def test_of_two_processes_that_promote_at_once_exactly_one_wins(
    held: Store, url: str | None
) -> None:
    from promoting import race

    life, racers = Lifecycle(held), []
    for number in (1, 2):
        mine, theirs = _FORKS.Pipe()
        process = _FORKS.Process(target=race, args=(str(held.home.root), url, number, theirs))
        process.start()
        racers.append((number, mine, process))
    for _, pipe, _ in racers:
        assert pipe.recv() == "ready"
    expected, wins = None, set()
    for _ in range(30):
        for _, pipe, _ in racers:
            pipe.send(expected)
        said = {number: pipe.recv() for number, pipe, _ in racers}
        (winner,) = [number for number, (how, _) in said.items() if how == "won"]
        # The other is shown the very move that won.
        assert {leaf for _, leaf in said.values()} == {said[winner][1]}
        move = life.current("tiny", "champion")
        assert move is not None
        assert (move.leaf, move.number, move.previous) == (said[winner][1], winner, expected)
        expected, wins = move.leaf, wins | {winner}
    for _, pipe, process in racers:
        pipe.send("end")
        process.join(30)
        assert process.exitcode == 0
    assert len(life.history("tiny")) == 30
    assert check.verify(held).findings == []
    held.close()


@BOTH
def test_a_promotion_killed_at_any_step_is_made_or_not(held: Store, url: str | None) -> None:
    from promoting import doomed

    life, step, made = Lifecycle(held), 0, []
    while True:
        before = life.current("tiny", "champion")
        number = 2 if before is not None and before.number == 1 else 1
        count = len(held.leaves())
        process = _FORKS.Process(target=doomed, args=(str(held.home.root), url, number, step))
        process.start()
        process.join(60)
        after = life.current("tiny", "champion")
        assert process.exitcode == -signal.SIGKILL
        if after == before:
            assert len(held.leaves()) == count
        else:
            assert after is not None
            assert (after.number, len(held.leaves())) == (number, count + 1)
        made.append(after != before)
        assert check.verify(held).findings == []
        if made[-1]:
            break
        step += 1
    # Only the last, which was killed after its commit, is made; there was much to be killed at.
    assert len(made) > 8
    held.close()
