"""kill -9 at every step of a round, then resume: nothing lost, doubled or under-counted."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest
from crashing import federation

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
