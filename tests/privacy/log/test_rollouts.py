"""Whoever has the ledger's key can't doctor a rollout, a gate or a fallback unnoticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from rolling import guarded, task, trained
from tampering import ME, Body, note_of, owned, texts_of

from tacit.privacy.log.leaves import digest
from tacit.privacy.log.rollouts import Rollouts
from tacit.privacy.log.verify import Finding, Verifier
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store
from tacit.simulations.rollout import rollout

pytestmark = pytest.mark.usefixtures("remembered")
Edit = Callable[[list[Body]], object]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[Body]:
    """A promotion through a gate, decay, and a fallback, under a key that this test has."""
    home = tmp_path_factory.mktemp("rolled") / "home"
    trained(home, "central")
    store = Store(Home(home))
    life = Lifecycle(store)
    guarded(store, at_least=0.75)
    found = rollout("tiny", challenger=6, mode="ab", rounds=6, home=home, task=task())
    seen = life.current("tiny", "champion")
    assert seen is not None
    terms: dict[str, Any] = {"expected": seen.leaf, "actor": "me", "reason": "better"}
    life.move("tiny", "champion", 6, evidence=found.evidence, **terms)
    watch = rollout("tiny", mode="watch", rounds=8, home=home, task=task(decayed=True))
    assert watch.fallback is not None
    made = owned([row["body"] for row in store.leaves()], ME)
    store.close()
    return made


def findings(bodies: list[Body]) -> list[Finding]:
    verifier = Verifier()
    texts = texts_of(bodies)
    for text in texts:
        verifier.add(text)
    return verifier.finish(note_of(texts, ME, ME.name)).findings


def place(bodies: list[Body], nth: int = 0, **wanted: Any) -> int:
    return [i for i, b in enumerate(bodies) if wanted.items() <= b.items()][nth]


def rolled(bodies: list[Body], kind: str, nth: int = 0) -> Body:
    """A leaf of the first rollout: PLAN, CHARGE or RELEASE."""
    run = next(b["run"] for b in bodies if "rollout" in b)
    return [b for b in bodies if b["run"] == run and b["kind"] == kind][nth]


def deployed(bodies: list[Body]) -> Body:
    return bodies[place(bodies, -1, kind="DEPLOY")]


def fallen(bodies: list[Body]) -> Body:
    return bodies[place(bodies, kind="ROLLBACK")]


def set_(find: Callable[[list[Body]], Body], **values: Any) -> Edit:
    return lambda bodies: find(bodies).update(values)


def arm(bodies: list[Body], which: int = 0) -> Body:
    found: Body = rolled(bodies, "RELEASE")["arms"][which]
    return found


def planned(bodies: list[Body]) -> Body:
    found: Body = rolled(bodies, "PLAN")["rollout"]
    return found


def without_an_arm(bodies: list[Body]) -> None:
    rolled(bodies, "RELEASE")["arms"].pop()


def without_counts(bodies: list[Body]) -> None:
    del arm(bodies)["counts"]


def in_another_order(bodies: list[Body]) -> None:
    rolled(bodies, "RELEASE")["arms"].reverse()


def other_share(bodies: list[Body]) -> None:
    planned(bodies)["arms"][0]["share"] = 0.7


def not_the_champion(bodies: list[Body]) -> None:
    planned(bodies)["arms"].reverse()


def every_other_round(bodies: list[Body]) -> None:
    body = rolled(bodies, "PLAN")
    body["body"]["evaluation"]["every"] = 2
    body["plan"] = digest(body["body"])


def swapped(bodies: list[Body]) -> None:
    """Counts exchanged between arms, with the metrics that are theirs: the gate shows it."""
    for nth in range(5):
        one, two = rolled(bodies, "RELEASE", nth)["arms"]
        for name in ("counts", "metrics"):
            one[name], two[name] = two[name], one[name]


def harder(bodies: list[Body]) -> None:
    bodies[place(bodies, kind="GATE")]["gate"]["at_least"] = 0.9999


def cherries(bodies: list[Body]) -> None:
    last = place(bodies, 5, kind="RELEASE", run=rolled(bodies, "PLAN")["run"])
    deployed(bodies)["evidence"][0] = last
    deployed(bodies)["evidence"].sort()


def watches_of_before(bodies: list[Body]) -> None:
    fallen(bodies)["evidence"] = deployed(bodies)["evidence"][:3]


def trains(bodies: list[Body]) -> None:
    rolled(bodies, "CHARGE")["purpose"] = "train"


def arms_of_a_training(bodies: list[Body]) -> None:
    first = bodies[place(bodies, kind="RELEASE")]
    first["arms"] = copy.deepcopy(rolled(bodies, "RELEASE")["arms"])


def late(bodies: list[Body]) -> None:
    """The gate set after the rollout whose evidence it reads: the leaf is exchanged for one."""
    gate, plan = place(bodies, kind="GATE"), bodies.index(rolled(bodies, "PLAN"))
    bodies[gate], bodies[plan] = bodies[plan], bodies[gate]


DOCTORED: list[tuple[Edit, str]] = [
    (lambda b: arm(b)["counts"].__setitem__(0, 99.0), "aren't its counts'"),
    (lambda b: arm(b)["metrics"].__setitem__("accuracy", 0.99), "aren't its counts'"),
    (without_an_arm, "other arms than its plan's"),
    (in_another_order, "other arms than its plan's"),
    (lambda b: arm(b).__setitem__("number", 4), "other arms than its plan's"),
    (lambda b: arm(b).__setitem__("artifact", "0" * 64), "other arms than its plan's"),
    (without_counts, "is malformed: KeyError 'counts'"),
    (lambda b: arm(b).__setitem__("counts", [1.0, 2.0]), "aren't three numbers"),
    (set_(lambda b: rolled(b, "RELEASE"), metrics={"accuracy": 1}), "more than evaluations"),
    (lambda b: rolled(b, "RELEASE")["epsilon"].__setitem__("client", 0.1), "epsilon.client"),
    (lambda b: rolled(b, "CHARGE")["claims"].pop(0), "claims other than its plan"),
    (set_(lambda b: rolled(b, "CHARGE", 3), participations=1), "participations"),
    (trains, "in a rollout, which only evaluates"),
    (other_share, "add up to 1"),
    (not_the_champion, "champion named 1, not 6"),
    (set_(planned, model="other"), "rolls out versions of other"),
    (lambda b: planned(b)["arms"][1].__setitem__("artifact", "0" * 64), "isn't a version"),
    (every_other_round, "doesn't evaluate each round"),
    (arms_of_a_training, "its run isn't a rollout"),
    (set_(deployed, evidence=[]), "isn't the evaluations of one rollout"),
    (set_(deployed, evidence=[1, 2]), "isn't the evaluations of one rollout"),
    (cherries, "isn't the first 5 evaluations"),
    (swapped, "the gate of tiny@champion says undecided"),
    (harder, "the gate of tiny@champion says undecided"),
    (late, "before the gate was set"),
    (lambda b: fallen(b)["evidence"].pop(), "evidence that doesn't ask for it"),
    (watches_of_before, "evidence that doesn't ask for it"),
    (lambda b: b[place(b, kind="GATE")]["gate"].__setitem__("at_least", 0.01), "doesn't ask"),
    (lambda b: b[place(b, kind="GATE")]["gate"].__setitem__("windows", 0), "windows=0"),
    (lambda b: b[place(b, kind="GATE")]["gate"].__setitem__("alias", "other"), "is for tiny@other"),
]


def test_the_real_log_holds(log: list[Body]) -> None:
    assert findings(log) == []
    assert fallen(log)["automatic"] is True


@pytest.mark.parametrize(
    ("edit", "said"), DOCTORED, ids=[f"{i} {said}" for i, (_, said) in enumerate(DOCTORED)]
)
def test_what_is_doctored_is_found(log: list[Body], edit: Edit, said: str) -> None:
    bodies = copy.deepcopy(log)
    edit(bodies)
    found = findings(bodies)
    assert any(said in str(finding) for finding in found), found


def test_a_forced_move_is_noted_and_not_wrong(log: list[Body]) -> None:
    bodies = copy.deepcopy(log)
    deployed(bodies).update(evidence=[], forced=True)
    assert findings(bodies) == []


def test_a_lifted_gate_asks_nothing(log: list[Body]) -> None:
    bodies = copy.deepcopy(log)
    bodies[place(bodies, kind="GATE")]["gate"] = None
    deployed(bodies)["evidence"] = []
    assert [str(f).partition(": ")[2] for f in findings(bodies)] == [
        "tiny@champion: tiny@champion has no gate"
    ]


def test_what_a_version_fell_back_from_isnt_passed_on_what_was_shown_before(
    log: list[Body],
) -> None:
    bodies = copy.deepcopy(log)
    bodies.append(deployed(bodies) | {"previous": bodies.index(fallen(bodies))})
    (found,) = findings(bodies)
    assert "was planned before tiny@champion fell back, by leaf" in found.problem


def test_no_alias_falls_back_twice_on_the_same_evaluations(log: list[Body]) -> None:
    bodies = copy.deepcopy(log)
    again, back = deployed(bodies), fallen(bodies)
    again = again | {"previous": bodies.index(back), "evidence": [], "forced": True}
    bodies.append(again)
    assert findings(bodies) == []
    bodies.append(back | {"previous": len(bodies) - 1})
    (found,) = findings(bodies)
    assert "on evidence that doesn't ask for it" in found.problem


def test_only_a_fallback_of_the_model_asks_for_a_run_of_it(log: list[Body]) -> None:
    bodies, first = copy.deepcopy(log), log[place(log, kind="PLAN")]
    bodies.append({**first, "run": "retrained", "cause": bodies.index(fallen(bodies))})
    assert findings(bodies) == []
    bodies[-1]["name"] = "other"
    (found,) = findings(bodies)
    assert "which is no fallback" in found.problem
    at = place(bodies, -1, kind="DEPLOY")
    bodies[at]["automatic"] = True
    bodies[-1] = {**first, "run": "retrained", "cause": at}
    assert any("which is no fallback" in found.problem for found in findings(bodies))


@pytest.mark.parametrize("named", [[0], [9999], "charge", "twice"])
def test_what_is_named_as_evidence_is_an_evaluation(log: list[Body], named: Any) -> None:
    """Also where no gate asks for any."""
    bodies = copy.deepcopy(log)
    move, first = deployed(bodies), bodies.index(rolled(bodies, "RELEASE"))
    given = {"charge": [bodies.index(rolled(bodies, "CHARGE"))], "twice": [first, first]}
    move |= {"forced": True, "evidence": [first]}
    assert findings(bodies) == []
    move["evidence"] = named if isinstance(named, list) else given[named]
    (found,) = findings(bodies)
    assert "isn't evaluations of rollouts of tiny" in found.problem


def test_rollouts_of_a_pair_are_counted_as_they_are_seen(log: list[Body]) -> None:
    """Planned all at once and run in any order, no two are decided as the same try."""
    plan, release = rolled(log, "PLAN"), rolled(log, "RELEASE")
    found = Rollouts()
    for index, run in enumerate("abc"):
        found.note(index, {**plan, "run": run})
    for index, run in ((10, "c"), (11, "b"), (12, "a")):
        found.note(index, {**release, "run": run})
    looks = {run: found.look(found.runs[run], "tiny", (6, 1)) for run in "abc"}
    assert looks == {"c": 1, "b": 2, "a": 3}


def test_what_explains_a_version_is_no_evidence_for_it(log: list[Body]) -> None:
    found, plan = Rollouts(), copy.deepcopy(rolled(log, "PLAN"))
    whole = plan["rollout"]["arms"][1] | {"share": 0.5}
    arms = [whole, whole | {"ablation": {"feature": "age"}}]
    plan["rollout"] |= {"mode": "explain", "alias": None, "arms": arms}
    found.note(0, plan)
    assert not found.runs[plan["run"]].compares("tiny", 6)
