"""kill -9 at every step of a rollout's round, then resume: same counts, nothing under-counted."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from rolling import dying, guarded, trained

from tacit.server import check
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

STEPS = [
    "draw for evaluate",
    "charge for evaluate",
    "charged for evaluate",
    "split",
    "evaluate arm 0",
    "evaluate arm 1",
    "release",
    "released",
]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["rolling"])


def run(home: Path, line: str, resume: str | None = None, watch: bool = False) -> int:
    """A rollout in a process of its own; its exit code."""
    mode = "watch" if watch else "ab"
    process = _FORKS.Process(target=dying, args=(str(home), line, resume, mode, watch))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode


def state(home: Path) -> dict[str, Any]:
    """What must hold at any moment, and what a rollout is compared by."""
    store = Store(Home(home))
    try:
        report = check.verify(store)
        assert report.holds, report.findings
        row = store.run("last")
        bodies = [leaf["body"] for leaf in store.spending(row["id"])]
        released = [b for b in bodies if b["kind"] == "RELEASE"]
        assert [b["round"] for b in released] == list(range(1, row["round"] + 1))
        return {
            "status": row["status"],
            "counts": [[arm["counts"] for arm in b["arms"]] for b in released],
            "epsilon": [b["epsilon"]["client_unamplified"] for b in released],
            "charges": sum(b["kind"] == "CHARGE" for b in bodies),
            "champion": Lifecycle(store).aliases("tiny")["champion"].number,
        }
    finally:
        store.close()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for kind in ("central", "secure"):
        found[kind] = tmp_path_factory.mktemp(kind) / "home"
        trained(found[kind], kind)
    return found


@pytest.fixture(scope="module")
def undisturbed(homes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for kind, home in homes.items():
        place = tmp_path_factory.mktemp(f"whole-{kind}") / "home"
        shutil.copytree(home, place)
        assert run(place, "never") == 0
        found[kind] = state(place)
    return found


def killed(
    kind: str, step: str, home: Path, tmp_path: Path, whole: dict[str, Any]
) -> dict[str, Any]:
    place = Path(shutil.copytree(home, tmp_path / "home"))
    assert run(place, f"round 2: {step}") == -signal.SIGKILL
    before = state(place)
    assert run(place, "never", "last") == 0
    after = state(place)
    assert after["status"] == "finished"
    assert before["counts"] == after["counts"][: len(before["counts"])]
    assert after["counts"] == whole["counts"], kind
    for counted, least in zip(after["epsilon"], whole["epsilon"], strict=True):
        assert counted >= least * (1 - 1e-9)
    return after


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_rollout_resumes_to_the_same_counts(
    step: str, homes: dict[str, Path], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    whole = undisturbed["central"]
    after = killed("central", step, homes["central"], tmp_path, whole)
    # What was charged and may have been seen is paid for.
    paid = STEPS.index("charged for evaluate") <= STEPS.index(step) < STEPS.index("released")
    assert after["charges"] == whole["charges"] + paid
    assert (after["epsilon"][-1] > whole["epsilon"][-1]) is paid


@pytest.mark.parametrize("step", ["query.share", "query.reveal", "evaluate arm 1"])
def test_a_killed_session_of_an_arm_is_never_gone_on_with(
    step: str, homes: dict[str, Path], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    whole = undisturbed["secure"]
    after = killed("secure", step, homes["secure"], tmp_path, whole)
    assert after["charges"] == whole["charges"] + 1


def test_a_fallback_that_a_kill_prevented_is_made_first(
    homes: dict[str, Path], tmp_path: Path
) -> None:
    """Killed between the release that asks for it and the move."""
    place = Path(shutil.copytree(homes["central"], tmp_path / "home"))
    store = Store(Home(place))
    life = Lifecycle(store)
    seen = life.current("tiny", "champion")
    assert seen is not None
    life.move("tiny", "champion", 6, expected=seen.leaf, actor="me", reason="better")
    guarded(store, margin=None, at_least=0.75, fallback_rounds=2)
    store.close()
    assert run(place, "round 2: released", watch=True) == -signal.SIGKILL
    assert state(place)["champion"] == 6
    assert run(place, "never", "last", watch=True) == 0
    after = state(place)
    assert (after["champion"], after["status"], after["charges"]) == (1, "stopped", 2)
