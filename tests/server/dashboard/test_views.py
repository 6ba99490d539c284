"""What the pages show as numbers is what the ledger's own rules come to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import governing
import pytest
from dashboards import REVIEWER
from governing import DELTA, PLAN

from tacit.privacy.errors import BudgetError
from tacit.privacy.gates import Gate
from tacit.privacy.policy import Policy, best_order
from tacit.privacy.units import Evaluation
from tacit.server import log as logs
from tacit.server.governance import Governance
from tacit.server.store import Store
from tacit.server.views import audits, drift, runs
from tacit.server.views.budgets import Books


def capped(store: Store, epsilon: float = 6.0, **terms: Any) -> Governance:
    governance = Governance(store)
    order = best_order(epsilon, DELTA)
    made = Policy(population="p", epsilon=epsilon, delta=DELTA, order=order, **terms)
    governance.adopt(made, None)
    return governance


def budget(books: Books) -> dict[str, Any]:
    found = books.population("p")
    assert found is not None
    return found


def admitted(store: Store, governance: Governance, run: str, attempt: int) -> int:
    """How many more charges of a run are let through."""
    for count in range(100):
        try:
            governing.charge(store, governance, run, attempt + count)
        except BudgetError:
            return count
    raise AssertionError("it is never refused")


def test_what_is_left_is_what_the_governor_admits(store: Store) -> None:
    governance, books = capped(store), Books(store)
    governing.new_run(store, "r", PLAN)
    assert budget(books)["spent"] == 0.0
    governing.charge(store, governance, "r")
    after = budget(books)
    assert after["like"]["leaf"] == after["last"] == store.leaves(kinds=("CHARGE",))[-1]["index"]
    assert 0 < after["spent"] < after["cap"] == 6.0
    more = admitted(store, governance, "r", 1)
    assert after["like"]["charges"] == more > 3
    full = budget(books)
    assert full["like"]["charges"] == 0
    assert full["spent"] <= 6.0
    assert full["left"] < after["left"]
    epsilons = [point["epsilon"] for point in full["points"]]
    assert epsilons == sorted(epsilons)
    assert len(epsilons) == more + 1
    # A second reader, who follows all of it at once, has the same.
    assert budget(Books(store)) == full


def test_a_window_lets_go_of_what_is_older(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    governance, books = capped(store, window_days=1.0), Books(store)
    governing.new_run(store, "r", PLAN)
    for attempt, at in enumerate(("2027-01-01T00:00:00Z", "2027-01-01T12:00:00Z")):
        monkeypatch.setattr(logs, "now", lambda at=at: at)
        governing.charge(store, governance, "r", attempt)
    both = budget(books)
    assert both["frees"] == "2027-01-02T00:00:00Z"
    monkeypatch.setattr(logs, "now", lambda: "2027-01-02T00:00:00Z")
    one = budget(books)
    assert one["spent"] == pytest.approx(both["points"][0]["epsilon"])
    assert one["left"] > both["left"]
    monkeypatch.setattr(logs, "now", lambda: "2027-01-03T00:00:00Z")
    assert budget(books)["left"] == 1.0


def test_a_charge_that_claims_nothing_is_said(store: Store) -> None:
    governance, books = Governance(store), Books(store)
    bare = replace(PLAN, client=None)
    governing.new_run(store, "bare", bare)
    governing.charge(store, governance, "bare")
    capped(store)
    found = budget(books)
    assert not found["claimed"]
    assert found["spent"] is found["left"] is found["like"] is None


def test_running_runs_are_projected_by_their_plans(store: Store) -> None:
    governance, books = capped(store, epsilon=20.0), Books(store)
    governing.new_run(store, "r", PLAN)
    governing.charge(store, governance, "r")
    planned = budget(books)["projected"]
    assert planned["runs"] == 1
    assert planned["fits"]
    for attempt in range(1, 11):
        governing.charge(store, governance, "r", attempt)
    # Ten rounds are planned; the eleventh charge is the one that the round begun was charged.
    assert budget(books)["spent"] == pytest.approx(planned["epsilon"])
    store.set_status("r", "finished")
    assert budget(books)["projected"] is None


def test_runs_of_other_models_count_and_have_no_name(store: Store) -> None:
    governance, books = capped(store), Books(store)
    governing.new_run(store, "a", PLAN)
    governing.new_run(store, "b", PLAN)
    for run in ("a", "b"):
        governing.charge(store, governance, run)
    found = books.population("p", lambda name: name == "model-a")
    assert found is not None
    assert found["spent"] == budget(books)["spent"]
    assert [run["run"] for run in found["runs"]] == ["a"]
    assert found["others"] == 1
    assert "model-b" not in json.dumps(found)
    assert [point["run"] for point in found["points"]] == ["a", None]
    assert books.populations(lambda name: False) == []


def test_a_lifted_audit_says_who_and_why(store: Store) -> None:
    capped(store, review_epsilon=5.0, reviewers=(str(REVIEWER.verifier),))
    governing.new_run(store, "r", PLAN)
    body = {"kind": "AUDIT", "run": "r", "commitment": "c" * 64, "method": "one-run"}
    more = {"stage": "result", "lower_bound": 9.0, "charged": 1.0, "violated": True}
    first = store.append({**body, "stage": "commitment"})
    (row,) = audits.listed(store)
    assert (row["state"], row["commitment"], row["leaf"]) == ("committed", first, None)
    result = store.append({**body, **more})
    assert audits.listed(store)[0]["state"] == "frozen"
    Governance(store).approve("r", "refused", "not yet", result, REVIEWER)
    assert audits.listed(store)[0]["state"] == "frozen"
    leaf = Governance(store).approve("r", "approved", "a bug", result, REVIEWER)
    (row,) = audits.listed(store)
    assert row["state"] == "lifted"
    assert (row["lifted"]["leaf"], row["lifted"]["note"]) == (leaf, "a bug")
    assert row["found"]["lower_bound"] == 9.0
    assert audits.listed(store, lambda name: False) == []


def test_what_a_charge_came_to(store: Store) -> None:
    governance = Governance(store)
    governing.new_run(store, "r", PLAN)
    first = governing.charge(store, governance, "r")
    store.abandon_open_charges("r", "crash")
    second = governing.charge(store, governance, "r", 1)
    made = runs.detail(store, "r")
    came = {charge["leaf"]: charge["came"] for charge in made["charges"]}
    assert came == {first: {"leaf": first + 1, "kind": "ABANDON"}, second: None}
    assert made["planned"] == PLAN.rounds
    assert "cohort" not in json.dumps([made["charges"], made["rounds"], made["statuses"]])


def test_drift_is_held_against_the_newest_gate(store: Store) -> None:
    how = Evaluation(noise_multiplier=1.0, cap=10, loss_cap=10.0, every=1)
    plan = replace(PLAN, evaluation=how)
    rollout = {"model": "model-w", "mode": "watch", "alias": "champion"}
    arm = {"number": 3, "release": 0, "artifact": "a" * 64}
    body = {**rollout, "arms": [{**arm, "share": 1.0}]}
    run = {"id": "w", "name": "model-w", "population": "p", "code": "c", "spec": "{}"}
    run |= {"spec_digest": "d", "plan": json.dumps(plan.to_json()), "plan_digest": plan.digest()}
    with store.appending() as (_, log):
        planned = {"kind": "PLAN", "run": "w", "name": "model-w", "population": "p", "code": "c"}
        planned |= {"spec": "d", "plan": plan.digest(), "body": plan.to_json(), "rollout": body}
        log.append(planned)
    for at_least in (0.3, 0.7):
        gate = Gate(model="model-w", alias="champion", at_least=at_least)
        said = {"kind": "GATE", "run": "", "model": "model-w", "alias": "champion", "actor": "a"}
        store.append({**said, "gate": gate.to_json(), "reason": "r"})
    released = {"kind": "RELEASE", "run": "w", "attempt": 0, "purpose": "evaluate", "charge": 1}
    released |= {"plan": plan.digest(), "metrics": {}, "evaluation": "federated"}
    leaves = []
    for number, correct in ((1, 90.0), (2, 40.0)):
        counts = {"number": 3, "artifact": "a" * 64, "counts": [correct, 100.0, 5.0]}
        arms = [{**counts, "metrics": {}}]
        leaves.append(store.append({**released, "round": number, "arms": arms}))
    _row(store, run)
    made = drift.model(store, "model-w")
    (series,) = made["series"]
    assert (series["kind"], series["label"]) == ("watch", "version 3")
    good, bad = series["points"]
    assert [good["leaf"], bad["leaf"]] == leaves
    assert good["low"] < good["estimate"] == 0.9 < good["high"]
    assert (good["breached"], bad["breached"]) == (False, True)
    assert made["gate"]["bound"] == 0.7
    assert drift.models(store)[0]["evaluations"] == 2
    assert drift.models(store, lambda name: False) == []


def _row(store: Store, run: dict[str, Any]) -> None:
    from tacit.server import tables as t

    more = {"status": "running", "created_at": "", "round": 0, "message": "", "key": b"k" * 32}
    with store.database.writing() as c:
        c.execute(t.runs.insert().values(**run, **more))


def test_no_budget_without_a_ledger(store: Store, tmp_path: Path) -> None:
    del tmp_path
    books = Books(store)
    assert books.populations() == []
    assert books.population("p") is None
