"""kill -9 at every step of a round, then resume: nothing lost, doubled or under-counted.

At named steps, at random moments on either database, and to PostgreSQL itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from checking import check_exposures, check_log
from crashing import append, federation, toil
from postgres import BOTH, Postgres

from tacit.privacy.ledger import replay
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store

STEPS = [
    "draw for train",
    "charge for train",
    "charged for train",
    "train",
    "noise",
    "optimize",
    "evaluate",
    "draw for evaluate",
    "charge for evaluate",
    "charged for evaluate",
    "write",
    "release",
    "released",
]
DELTAS = {"client": 20**-1.1, "record": 120**-1.1}


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["crashing"])


def run(
    home: Path,
    step: str,
    number: int,
    resume: str | None = None,
    kind: str = "central",
    count: int = 1,
) -> int:
    """Runs the federation in a process of its own; its exit code."""
    line = f"round {number}: {step}"
    process = _FORKS.Process(target=federation, args=(str(home), line, resume, kind, count))
    process.start()
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


def audit(home: Path) -> dict[str, object]:
    """What must hold at any moment; returns what a finished run is compared by."""
    place = Home(home)
    store = Store(place)
    (row,) = store.runs()
    bodies = [leaf["body"] for leaf in store.spending()]
    assert [leaf["index"] for leaf in store.leaves()] == list(range(len(store.leaves())))
    versions = store.versions()
    assert [v["number"] for v in versions] == list(range(1, len(versions) + 1))
    assert [v["round"] for v in versions] == list(range(1, row["round"] + 1))
    registry = ModelRegistry(place, store)
    for version in versions:
        registry.get(version["artifact"])
    charges = [b for b in bodies if b["kind"] == "CHARGE" and b["purpose"] == "train"]
    assert len(charges) >= len(versions)
    replay(bodies, DELTAS)  # Raises on a release without its charge.
    epsilons = [r["epsilon"]["client"] for r in store.rounds(row["id"])]
    assert epsilons == sorted(epsilons)
    against = [r["epsilon"]["client_coordinator"] or 0.0 for r in store.rounds(row["id"])]
    assert against == sorted(against)
    return {
        "status": row["status"],
        "artifacts": [v["artifact"] for v in versions],
        "epsilon": epsilons,
        "coordinator": against,
        "charges": len(charges),
        "open": sum(b["kind"] == "CHARGE" for b in bodies)
        - sum(b["kind"] in ("RELEASE", "ABANDON") for b in bodies),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    assert run(home, "never", 0) == 0
    return audit(home)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_run_resumes_to_the_same_models(
    step: str, tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    home = tmp_path / "home"
    assert run(home, step, 2) == -signal.SIGKILL
    before = audit(home)
    # Killed again while it resumes, one step later than the first time.
    later = STEPS[(STEPS.index(step) + 1) % len(STEPS)]
    assert run(home, later, 3, "last") == -signal.SIGKILL
    audit(home)
    assert run(home, "never", 0, "last") == 0
    after = audit(home)
    assert after["status"] == "finished"
    assert after["open"] == 0
    assert after["artifacts"] == undisturbed["artifacts"]
    assert before["artifacts"] == after["artifacts"][: len(before["artifacts"])]
    # Never under-counted: every round's epsilon is at least the undisturbed run's.
    for counted, least in zip(after["epsilon"], undisturbed["epsilon"], strict=True):
        assert counted >= least * (1 - 1e-9)
    if step in ("charged for train", "train", "evaluate", "release"):
        assert after["charges"] > undisturbed["charges"]
        assert after["epsilon"][-1] > undisturbed["epsilon"][-1]


# With secure aggregation a round has more steps: those of the session for the updates, and
# of the one for the counts of the evaluation. "train" is logged by the coordinator first.
SESSIONS = [
    ("query.advertise", 1),
    ("query.share", 1),
    ("train", 2),
    ("query.confirm", 1),
    ("query.reveal", 1),
    ("noise", 1),
    ("query.advertise", 2),
    ("query.share", 2),
    ("evaluate", 2),
    ("query.confirm", 2),
    ("query.reveal", 2),
    ("write", 1),
    ("release", 1),
    ("released", 1),
]


@pytest.fixture(scope="module")
def undisturbed_secure(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    home = tmp_path_factory.mktemp("secure") / "home"
    assert run(home, "never", 0, kind="secure") == 0
    return audit(home)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "count"), SESSIONS, ids=lambda part: str(part))
def test_a_session_that_is_killed_is_never_gone_on_with(
    step: str, count: int, tmp_path: Path, undisturbed_secure: dict[str, object]
) -> None:
    """Resuming charges again and begins a session with new keys, to the same models."""
    home = tmp_path / "home"
    assert run(home, step, 2, kind="secure", count=count) == -signal.SIGKILL
    before = audit(home)
    assert before["status"] == "running"
    later, again = SESSIONS[(SESSIONS.index((step, count)) + 1) % len(SESSIONS)]
    assert run(home, later, 3, "last", count=again) == -signal.SIGKILL
    audit(home)
    assert run(home, "never", 0, "last") == 0
    after = audit(home)
    assert (after["status"], after["open"]) == ("finished", 0)
    assert after["artifacts"] == undisturbed_secure["artifacts"]
    assert before["artifacts"] == after["artifacts"][: len(before["artifacts"])]
    for who in ("epsilon", "coordinator"):
        for counted, least in zip(after[who], undisturbed_secure[who], strict=True):
            assert counted >= least * (1 - 1e-9)
    if step != "released":
        # What the killed session may have shown is paid for.
        assert after["charges"] > undisturbed_secure["charges"]
        assert after["epsilon"][-1] > undisturbed_secure["epsilon"][-1]


# At random moments: those between two log lines too, in a commit or in a file's writing.

KILLS = 110
SEED = 20
COMMITS = ["charge for train", "charge for evaluate", "release", "draw for train"]


@contextlib.contextmanager
def working(target: Callable[..., None], *args: object) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process at work, and what it says; killed in the end."""
    heard, says = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=target, args=(*args, says))
    process.start()
    says.close()
    try:
        yield process, heard
    finally:
        process.kill()
        process.join(60)
        heard.close()


def check(home: Home) -> tuple[int, int, int]:
    """Everything that a kill may not break; how many leaves, charges and versions there are."""
    store = Store(home)
    bodies = check_log(store)
    check_exposures(store, bodies)
    registry = ModelRegistry(home, store)
    for version in store.versions():
        registry.data(version["artifact"])
    store.close()
    charges = sum(b["kind"] == "CHARGE" for b in bodies)
    return len(bodies), charges, len(store.versions())


def finish(home: Home) -> None:
    """What the last kill left can still be gone on with, to the end."""
    store = Store(home)
    left = [row["id"] for row in store.runs() if row["status"] != "finished"]
    for identifier in left:
        assert run(home.root, "never", 0, identifier) == 0
    assert {row["status"] for row in store.runs()} == {"finished"}
    kinds = [b["kind"] for b in check_log(store)]
    assert kinds.count("CHARGE") == kinds.count("RELEASE") + kinds.count("ABANDON")
    store.close()


@pytest.mark.slow
@BOTH
def test_killed_at_random_moments_it_never_exposes_more_than_it_charged(
    home: Home, url: str | None
) -> None:
    draw = random.Random(SEED)
    before = (0, 0, 0)
    Store(home).close()
    for kill in range(KILLS):
        # Half of them anywhere, half where something is committed soon.
        step, left = (draw.choice(COMMITS), draw.randrange(1, 3)) if kill % 2 else ("start", 0)
        delay = draw.uniform(0.0, 0.02 if left else 0.7)
        print(f"kill {kill}, {delay:.4f} s after {step}, time {left}")  # Shown on failure.
        with working(toil, str(home.root), left > 0) as (process, heard):
            assert heard.recv() == "ready"
            while left:
                left -= heard.recv().endswith(f": {step}")
            time.sleep(delay)
            process.kill()
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        if kill % 3 == 0:
            after = check(home)
            assert all(new >= old for new, old in zip(after, before, strict=True))
            before = after
    leaves, charges, versions = check(home)
    print(f"{leaves} leaves, {charges} charges, {versions} versions")
    assert charges > versions > 0
    finish(home)


# PostgreSQL dies, with all its processes.


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[tuple[Postgres, Home]]:
    """A PostgreSQL of the test's own, and a home whose ledger it keeps."""
    server = Postgres()
    try:
        server.start()
        home = Home(tmp_path / "home", server.fresh())
        Store(home).close()
        yield server, home
    finally:
        server.stop()


Said = list[tuple[object, object]]


def until_acknowledged(pipe: Connection) -> Said:
    """What was said, to the next leaf that was acknowledged, and all that is there."""
    found = Said()
    while not found or not isinstance(found[-1][0], int) or pipe.poll():
        assert pipe.poll(60)
        found.append(pipe.recv())
    return found


@pytest.mark.slow
def test_what_was_acknowledged_outlives_a_killed_postgresql(
    killable: tuple[Postgres, Home],
) -> None:
    """Of two processes that append: each leaf is there at its index, and the log verifies."""
    server, home = killable
    draw = random.Random(SEED)
    store = Store(home)
    names, said = ("r0", "r1"), (Said(), Said())
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(working(append, str(home.root), n))[1] for n in names]
        for kill in range(15):
            for pipe, known in zip(pipes, said, strict=True):
                known += until_acknowledged(pipe)
            delay = draw.uniform(0.0, 0.3)
            print(f"kill {kill} after {delay:.4f} s")
            time.sleep(delay)
            server.kill()
            time.sleep(draw.uniform(0.0, 0.1))
            server.start()
            for pipe, known in zip(pipes, said, strict=True):
                while pipe.poll():
                    known.append(pipe.recv())
            bodies = check_log(store)
            for name, known in zip(names, said, strict=True):
                for number, index in (pair for pair in known if isinstance(pair[0], int)):
                    assert (bodies[index]["run"], bodies[index]["round"]) == (name, number)
    for name, known in zip(names, said, strict=True):
        numbers = [number for number, _ in known if isinstance(number, int)]
        failures = [pair for pair in known if isinstance(pair[0], str)]
        print(f"{name}: {len(numbers)} acknowledged, {len(failures)} failed")
        assert len(numbers) >= 15
        assert all("is PostgreSQL up?" in hint for _, hint in failures), failures
        # What wasn't acknowledged is there once or not at all, and nothing else is.
        found = [b["round"] for b in check_log(store) if b["run"] == name]
        assert len(set(found)) == len(found)
        assert sorted(found) == found
        assert set(numbers) <= set(found)
    store.close()


@pytest.mark.slow
def test_a_federation_outlives_a_killed_postgresql(killable: tuple[Postgres, Home]) -> None:
    server, home = killable
    draw = random.Random(SEED)
    messages = []
    for kill in range(15):
        with working(toil, str(home.root), False) as (process, heard):
            assert heard.recv() == "ready"
            delay = draw.uniform(0.1, 1.2)
            print(f"kill {kill} after {delay:.4f} s")
            time.sleep(delay)
            assert not heard.poll()
            server.kill()
            gone = bool(kill % 2)  # Not back yet when the federation asks for it.
            if gone:
                process.join(60)
                assert process.exitcode == 0
            server.start()
            # One that is connected again goes on, and would write while this reads.
            process.kill()
            process.join(60)
            check(home)
            if gone:
                messages.append(heard.recv())
            elif heard.poll():
                # Killed before it had anything to say, it has hung up.
                with contextlib.suppress(EOFError):
                    messages.append(heard.recv())
    assert all("is PostgreSQL up?" in hint for _, hint in messages), messages
    assert len(messages) >= 7
    _, charges, versions = check(home)
    assert charges > versions > 0
    finish(home)
