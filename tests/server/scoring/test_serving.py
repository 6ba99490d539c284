"""A real server under load from another process: nothing lost, each answer with its receipt."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import scoring

from tacit.privacy import receipts
from tacit.server import check
from tacit.server.access.records import Recorder
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.scoring.receipts import envelope
from tacit.server.store import Store

MODEL = scoring.MODEL
WHO = {"actor": "ann", "reason": "because"}
ROW = [[0.5, -1.0, 2.0, 0.25]]


def moved(life: Lifecycle, number: int, alias: str = "champion") -> int:
    before = life.current(MODEL, alias)
    leaf = before.leaf if before else None
    return life.move(MODEL, alias, number, expected=leaf, **WHO).leaf


def until(at: scoring.Serving, number: int) -> dict[str, Any]:
    """Asks until a version answers."""
    for _ in range(300):
        status, found = at.score(ROW)
        if status == 200 and found["version"] == number:
            return dict(found)
        time.sleep(0.05)
    raise AssertionError(f"version {number} never answered")


def held(store: Store, answers: list[dict[str, Any]]) -> None:
    """Each answer's receipt is signed, stored as it was given, and opens with its key."""
    pinned, recorder = [str(store.signer.verifier)], Recorder(store)
    for answer in answers:
        found = answer["found"]
        receipt = found["receipt"]["receipt"]
        receipts.check(receipt, pinned)
        for name, field in (("version", "number"), ("artifact", "artifact"), ("role", "role")):
            assert found[name] == receipt[field]
        row = recorder.find(found["request"])
        assert row is not None
        assert receipts.of_row(row["body"]) == receipt


@pytest.mark.slow
def test_a_champion_swapped_under_load_loses_no_request(root: Path, tmp_path: Path) -> None:
    store, to = Store(Home(root)), tmp_path / "answers.jsonl"
    life = Lifecycle(store)
    first = life.current(MODEL, "champion")
    assert first is not None
    moves = {first.leaf: 1}
    began = {first.leaf: time.time()}
    # A budget that this machine keeps whoever else uses it: it isn't the budget that is tried.
    with scoring.serving(root, budget=20.0, seal=0.5) as at:
        until(at, 1)
        with scoring.loading(at, to, 4.0):
            for number in itertools.islice(itertools.cycle((2, 3, 1)), 20):
                before = time.time()
                leaf = moved(life, number)
                moves[leaf], began[leaf] = number, before
                time.sleep(0.2)
        until(at, number)
    answers = scoring.answers(to)
    assert Counter(a["status"] for a in answers) == {200: len(answers)}
    assert len(answers) > 100
    assert {a["found"]["version"] for a in answers} == {1, 2, 3}
    assert len({a["found"]["request"] for a in answers}) == len(answers)
    for answer in answers:
        receipt = answer["found"]["receipt"]["receipt"]
        assert receipt["role"] == "champion"
        assert receipt["number"] == moves[receipt["leaf"]]
        assert began[receipt["leaf"]] <= answer["ended"]
    # No client of ours ever went back to a champion before the one that it had seen.
    seen: dict[int, int] = {}
    for answer in sorted(answers, key=lambda a: a["began"]):
        leaf = answer["found"]["receipt"]["receipt"]["leaf"]
        newest = max((n for ended, n in seen.items() if ended < answer["began"]), default=0)
        assert leaf >= newest
        seen[answer["ended"]] = max(leaf, newest)
    held(store, answers[:: max(1, len(answers) // 50)])
    assert check.verify(store).findings == []
    # The seals came while it ran, and the last at its end.
    assert len(store.leaves(kinds=["ACCESS"])) > 1
    some = answers[len(answers) // 2]["found"]
    kept = tmp_path / "receipt.json"
    kept.write_text(json.dumps(envelope(store, Recorder(store), some["request"])))
    found = receipts.check_file(kept, [str(store.signer.verifier)])
    assert found["leaf"] is not None
    store.close()


@pytest.mark.slow
def test_a_slow_shadow_is_dropped_and_holds_nobody_up(root: Path, tmp_path: Path) -> None:
    store, to = Store(Home(root)), tmp_path / "answers.jsonl"
    life = Lifecycle(store)
    moved(life, 2, "shadow")
    moved(life, 3, "challenger")
    with scoring.serving(root, budget=20.0, slow=1.0, slowed=2, lag=5) as at:
        until(at, 1)
        with scoring.loading(at, to, 2.0):
            pass
        _, _, state = at.ask("GET", f"/v1/models/{MODEL}/champion/serving")
    answers = scoring.answers(to)
    assert {a["status"] for a in answers} == {200}
    assert {a["found"]["version"] for a in answers} == {1}
    shadow, challenger = state["beside"]["shadow"], state["beside"]["challenger"]
    done = shadow["agreed"] + shadow["differed"]
    # The rest are in the queue, or dropped: were they waited for, there would be as many.
    assert done <= 12
    assert shadow["dropped"] >= len(answers) - done - 8
    assert challenger["agreed"] + challenger["differed"] > done
    store.close()


@pytest.mark.slow
def test_a_damaged_champion_never_answers_and_the_last_good_one_goes_on(
    root: Path, tmp_path: Path
) -> None:
    store, to = Store(Home(root)), tmp_path / "answers.jsonl"
    life, registry = Lifecycle(store), ModelRegistry(store.home, store)
    path = registry.path(registry.find(f"{MODEL}@2")["artifact"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with scoring.serving(root, budget=20.0) as at:
        until(at, 1)
        with scoring.loading(at, to, 2.0):
            leaf = moved(life, 2)
        for _ in range(300):
            _, _, state = at.ask("GET", f"/v1/models/{MODEL}/champion/serving")
            if state["aliases"]["champion"]["leaf"] == leaf:
                break
            time.sleep(0.05)
        stand = state["aliases"]["champion"]
        assert (stand["names"], stand["serves"]) == (2, 1)
        assert "corrupted" in stand["problem"]
        # Whoever may score isn't told where the home is.
        assert str(root) not in json.dumps(state)
        status, found = at.score(ROW)
        assert (status, found["version"], found["role"]) == (200, 1, "fallback")
        assert found["receipt"]["receipt"]["leaf"] == leaf
        assert found["problem"] == stand["problem"]
        # And mended it answers, once somebody says so.
        path.write_bytes(whole)
        moved(life, 3)
        until(at, 3)
        moved(life, 2)
        until(at, 2)
    answers = scoring.answers(to)
    assert {a["status"] for a in answers} == {200}
    assert {a["found"]["version"] for a in answers} == {1}
    store.close()


def test_every_answer_of_a_killed_server_has_its_receipt(root: Path, tmp_path: Path) -> None:
    store, to = Store(Home(root)), tmp_path / "answers.jsonl"
    with scoring.serving(root, budget=20.0) as at:
        until(at, 1)
        with scoring.loading(at, to, 30.0):
            for _ in range(600):
                if to.is_file() and len(scoring.answers(to)) >= 200:
                    break
                time.sleep(0.05)
            at.process.send_signal(signal.SIGKILL)
    answers = [a for a in scoring.answers(to) if a["status"] == 200]
    assert len(answers) >= 200
    held(store, answers)
    # What it left unsealed, the next one seals.
    recorder = Recorder(store)
    assert recorder.seal() is not None
    assert check.verify(store).findings == []
    store.close()
