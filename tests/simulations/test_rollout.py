"""Rollouts end to end: what passes, what doesn't, what it costs, and what falls back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rolling import SETTINGS, guarded, task, trained

from tacit import simulate
from tacit.privacy.budget import planned
from tacit.privacy.errors import ConfigError, MissingError, ShortfallError, StorageError
from tacit.privacy.plans import read
from tacit.server import check, rollouts
from tacit.server import rollout as rounds
from tacit.server.gates import Gates
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle, Move
from tacit.server.store import Store
from tacit.simulations.rollout import Outcome, rollout

pytestmark = pytest.mark.usefixtures("remembered")
KINDS = ["central", "secure"]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained once; tests work on copies."""
    found = {}
    for kind in KINDS:
        found[kind] = tmp_path_factory.mktemp(kind) / "home"
        trained(found[kind], kind)
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(homes: dict[str, Path], kind: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(homes[kind], tmp_path / "home"))


@pytest.fixture
def central(homes: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(homes["central"], tmp_path / "home"))


@pytest.fixture
def opened() -> Iterator[list[Store]]:
    stores: list[Store] = []
    yield stores
    for store in stores:
        store.close()


def at(home: Path, opened: list[Store]) -> Store:
    opened.append(Store(Home(home)))
    return opened[-1]


def rolled(home: Path, mode: str, challenger: int | None, *overrides: str, **more: Any) -> Outcome:
    more = {"rounds": 10 if mode == "shadow" else 5, **more}
    given = {"task": task(), "overrides": overrides, "challenger": challenger, "mode": mode}
    return rollout("tiny", home=home, **{**given, **more})


def promoted(store: Store, number: int, evidence: list[int], **more: Any) -> Move:
    life = Lifecycle(store)
    seen = life.current("tiny", "champion")
    assert seen is not None
    terms: dict[str, Any] = {"expected": seen.leaf, "actor": "me", "reason": "as it showed"}
    return life.move("tiny", "champion", number, evidence=evidence, **terms, **more)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("central", "shadow"), ("central", "ab"), ("central", "canary"), ("secure", "ab")],
)
def test_a_better_challenger_passes_and_may_be_promoted(
    mode: str, place: Path, opened: list[Store]
) -> None:
    store = at(place, opened)
    guarded(store)
    share = 0.3 if mode == "canary" else None
    found = rolled(place, mode, 6, "minimum_survivors=5", share=share)
    assert (found.status, found.verdict) == ("finished", "pass"), found.why
    assert [len(arm["windows"]) for arm in found.rollout["arms"]] == [5, 5]
    assert len(found.evidence) == (10 if mode == "shadow" else 5)
    assert promoted(store, 6, found.evidence).number == 6
    report = check.verify(store)
    assert report.holds, report.findings
    run = next(run for run in report.runs if run["kind"] == "rollout")
    assert (run["released"], run["charges"]) == (store.run(found.run)["round"],) * 2


def test_an_equal_challenger_under_noise_is_undecided(central: Path, opened: list[Store]) -> None:
    store, place = at(central, opened), central
    guarded(store, margin=0.0)
    promoted(store, 5, [], forced=True)
    found = rolled(place, "ab", 6, "minimum_survivors=5", "evaluation.noise_multiplier=10")
    assert found.verdict == "undecided"
    with pytest.raises(ConfigError, match="undecided"):
        promoted(store, 6, found.evidence)


def test_a_worse_challenger_fails(central: Path, opened: list[Store]) -> None:
    store, place = at(central, opened), central
    guarded(store, margin=0.02)
    promoted(store, 6, [], forced=True)
    found = rolled(place, "shadow", 1)
    assert found.verdict == "fail", found.why
    with pytest.raises(ConfigError, match="says fail"):
        promoted(store, 1, found.evidence)
    # Going back is never held up.
    life = Lifecycle(store)
    seen = life.current("tiny", "champion")
    assert seen is not None
    back = life.rollback("tiny", "champion", expected=seen.leaf, actor="me", reason="in a hurry")
    assert back.number == 1
    assert check.verify(store).holds


def test_a_promotion_needs_the_evidence_that_its_gate_reads(
    central: Path, opened: list[Store]
) -> None:
    store = at(central, opened)
    early = rolled(central, "ab", 6)
    guarded(store)
    with pytest.raises(ConfigError, match="isn't the evaluations of one rollout"):
        promoted(store, 6, [])
    with pytest.raises(ConfigError, match="before the gate was set"):
        promoted(store, 6, [row["index"] for row in store.leaves(early.run, ("RELEASE",))])
    found = rolled(central, "ab", 6, rounds=7)
    assert found.verdict == "pass"
    for wrong in (found.evidence[:-1], [*found.evidence, found.evidence[-1] + 2], [0]):
        with pytest.raises(ConfigError, match="evidence"):
            promoted(store, 6, wrong)
    with pytest.raises(ConfigError, match="doesn't evaluate versions 5"):
        promoted(store, 5, found.evidence)
    short = rolled(central, "ab", 4, rounds=2)
    with pytest.raises(ConfigError, match="2 of 5 of the challenger"):
        promoted(store, 4, short.evidence)
    # The alias moves: what was held against the one before says nothing of the one now.
    promoted(store, 5, [], forced=True)
    with pytest.raises(ConfigError, match="doesn't evaluate versions 6, 5"):
        promoted(store, 6, found.evidence)
    assert Gates(store).verdict("tiny", "champion", 6) is None


def test_a_forced_promotion_is_made_and_noted(central: Path, opened: list[Store]) -> None:
    store = at(central, opened)
    guarded(store)
    assert promoted(store, 6, [], forced=True).forced
    report = check.verify(store)
    assert report.holds
    assert any("moved to 6 past its gate: as it showed" in note for note in report.notes)


def test_each_further_rollout_of_a_pair_is_decided_more_carefully(
    central: Path, opened: list[Store]
) -> None:
    store = at(central, opened)
    guarded(store)
    for look in (1, 2):
        rolled(central, "ab", 6)
        found = Gates(store).verdict("tiny", "champion", 6)
        assert found is not None
        assert found.decision.confidence == pytest.approx(1 - 0.05 / (look * (look + 1)) / 2)


# What it costs


@pytest.mark.parametrize("mode", ["shadow", "ab", "canary", "watch"])
def test_a_rollout_costs_as_many_federated_evaluations(
    mode: str, place: Path, opened: list[Store]
) -> None:
    store = at(place, opened)
    overrides = ["minimum_survivors=4", "cohort=24", "evaluation.noise_multiplier=1"]
    share = 0.4 if mode == "canary" else None
    challenger = None if mode == "watch" else 6
    found = rolled(place, mode, challenger, *overrides, rounds=4, share=share)
    plan = read(json.loads(store.run(found.run)["plan"]))
    due = planned(plan, trains=False)
    assert found.epsilon == pytest.approx(due.stated())
    assert found.epsilon["client"] is not None
    assert found.epsilon["client"] < (found.epsilon["client_unamplified"] or 0)
    bodies = [row["body"] for row in store.spending(found.run)]
    assert [b["purpose"] for b in bodies] == ["evaluate"] * 8
    assert [b["kind"] for b in bodies] == ["CHARGE", "RELEASE"] * 4


def test_leaves_name_no_client_and_no_cohorts_size(place: Path, opened: list[Store]) -> None:
    store = at(place, opened)
    found = rolled(place, "ab", 6, "minimum_survivors=5", rounds=2)
    for row in store.leaves(found.run, ("RELEASE",)):
        assert set(row["body"]) == {
            *("kind", "run", "at", "round", "attempt", "purpose", "charge", "plan", "metrics"),
            *("evaluation", "arms", "epsilon", "accountant", "report"),
        }
        for arm in row["body"]["arms"]:
            assert set(arm) == {"number", "artifact", "counts", "metrics"}
            # Noised: no sum of so many records over the cap is exact.
            assert arm["counts"][1] * 6 % 1 != 0


# When it goes wrong


def test_arms_that_are_too_small_are_refused_before_there_is_a_run(
    place: Path, opened: list[Store]
) -> None:
    store = at(place, opened)
    before = len(store.leaves())
    with pytest.raises(ConfigError, match="minimum_survivors=8"):
        rolled(place, "canary", 6, "minimum_survivors=8")
    with pytest.raises(MissingError, match="names no version"):
        rolled(place, "ab", 6, alias="staging")
    with pytest.raises(ConfigError, match="compares two"):
        rolled(place, "ab", 1)
    with pytest.raises(ConfigError, match="did you mean cohort"):
        rolled(place, "ab", 6, "cohrt=30")
    with pytest.raises(ConfigError, match="evaluates on clients"):
        rolled(place, "ab", 6, "evaluation.kind=public")
    with pytest.raises(StorageError):
        rolled(place, "ab", 77)
    assert len(store.leaves()) == before


def test_a_round_whose_arm_falls_short_is_abandoned_and_stays_charged(
    place: Path, opened: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failing = rounds.split, [True]

    def lopsided(*args: Any) -> list[list[int]]:
        parts = real(*args)
        if failing:
            failing.pop()
            return [[*parts[0], *parts[1][2:]], parts[1][:2]]
        return parts

    monkeypatch.setattr(rounds, "split", lopsided)
    store = at(place, opened)
    with pytest.raises(ShortfallError, match="an arm of 2 clients"):
        rolled(place, "ab", 6, "minimum_survivors=5", rounds=2)
    run = store.run("last")
    assert (run["status"], run["round"]) == ("failed", 0)
    found = rollout(resume="last", home=place, task=task())
    kinds = [row["kind"] for row in store.spending(run["id"])]
    assert kinds == ["CHARGE", "ABANDON", "CHARGE", "RELEASE", "CHARGE", "RELEASE"]
    due = planned(read(json.loads(run["plan"])), trains=False).stated()
    assert (found.epsilon["client"] or 0) > (due["client"] or 0)
    assert check.verify(store).holds


def test_a_rollout_and_a_training_are_not_resumed_as_each_other(
    central: Path, opened: list[Store]
) -> None:
    training = at(central, opened).run("last")["id"]
    with pytest.raises(ConfigError, match="isn't a rollout"):
        rollout(resume=training, home=central, task=task())
    found = rolled(central, "ab", 6, rounds=1)
    at(central, opened).set_status(found.run, "failed", "as if")
    with pytest.raises(ConfigError, match="tacit rollout --resume"):
        simulate(resume=found.run, task=task(), home=central)
    at(central, opened).set_status(found.run, "finished")
    with pytest.raises(StorageError, match="is finished"):
        rollout(resume=found.run, home=central, task=task())


def test_a_budget_stops_a_rollout(central: Path, opened: list[Store]) -> None:
    store = at(central, opened)
    quiet = ["cohort=30", "evaluation.noise_multiplier=3", "delta=0.01"]
    one = rolled(central, "watch", None, *quiet, rounds=1).epsilon["client"]
    assert one is not None
    found = rolled(central, "watch", None, *quiet, f"budget.epsilon={1.2 * one}", rounds=9)
    assert found.status == "stopped"
    assert "budget.epsilon" in found.message
    assert 1 <= store.run(found.run)["round"] < 9


def test_an_altered_version_isnt_evaluated(central: Path, opened: list[Store]) -> None:
    store = at(central, opened)
    digest = store.versions(number=6)[0]["artifact"]
    path = store.home.artifacts / digest[:2] / f"{digest}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError):
        rolled(central, "ab", 6)


# Decay


def watched(home: Path, decayed: bool, many: int) -> Outcome:
    return rolled(home, "watch", None, task=task(decayed), rounds=many)


def test_a_champion_that_decays_falls_back_after_so_many_rounds_and_not_before(
    place: Path, opened: list[Store]
) -> None:
    store = at(place, opened)
    promoted(store, 5, [])
    guarded(store, margin=None, at_least=0.75)
    promoted(store, 6, [], forced=True)
    assert watched(place, False, 2).fallback is None
    two = watched(place, True, 2)
    assert (two.status, two.fallback) == ("finished", None)
    found = watched(place, True, 9)
    assert found.fallback is not None
    move = found.fallback
    assert (move.kind, move.number, move.automatic) == ("ROLLBACK", 5, True)
    # Two rounds of the watch before count, since they were in a row.
    assert (found.status, found.rollout["rounds"]) == ("stopped", 1)
    assert move.evidence[-1] == store.leaves(found.run, ("RELEASE",))[-1]["index"]
    assert len(move.evidence) == 3
    report = check.verify(store)
    assert report.holds, report.findings


def test_a_retired_version_isnt_gone_back_to(central: Path, opened: list[Store]) -> None:
    store = at(central, opened)
    promoted(store, 5, [])
    promoted(store, 6, [])
    Lifecycle(store).retire("tiny", 5, actor="me", reason="it leaked")
    guarded(store, margin=None, at_least=0.75, fallback_rounds=1)
    found = watched(central, True, 2)
    assert found.fallback is not None
    assert found.fallback.number == 1
    assert check.verify(store).holds


def test_noise_alone_doesnt_make_it_fall_back(central: Path, opened: list[Store]) -> None:
    store = at(central, opened)
    promoted(store, 6, [])
    guarded(store, margin=None, at_least=0.75, fallback_rounds=1)
    found = rolled(central, "watch", None, "evaluation.noise_multiplier=20", rounds=12)
    assert (found.status, found.fallback) == ("finished", None)


def test_a_gate_of_losses_falls_back_too(central: Path, opened: list[Store]) -> None:
    store = at(central, opened)
    promoted(store, 6, [])
    guarded(store, margin=None, metric="loss", at_most=0.6, fallback_rounds=2)
    assert watched(central, False, 3).fallback is None
    found = watched(central, True, 3)
    assert found.fallback is not None
    assert check.verify(store).holds


# Planning


def test_settings_are_the_trainings_but_for_those_said(central: Path, opened: list[Store]) -> None:
    store = at(central, opened)
    plan = rollouts.plan(store, "tiny", "ab", challenger=6)
    spec = rollouts.spec(store, plan, 7, ["cohort=30", "evaluation.noise_multiplier=2"])
    assert (spec.rounds, spec.cohort, spec.clients, spec.seed) == (7, 30.0, 40, 3)
    assert (spec.evaluation.kind, spec.evaluation.every) == ("federated", 1)
    assert spec.privacy.client.clip == 0.5
    assert spec.minimum_survivors == 0
    assert SETTINGS["central"]  # What they were trained with.
