"""Rollouts and gates over HTTP: what is shown, who may set a gate, what a gate refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rolling import guarded, task, trained

from tacit.server import check
from tacit.server.access.tenants import Tenants
from tacit.server.api.app import make_app
from tacit.server.api.settings import Settings
from tacit.server.store import Store
from tacit.simulations.rollout import Outcome, rollout

GATE = {"at_least": 0.75, "margin": 0.05, "windows": 3, "reason": "as agreed"}
MODEL = "/v1/models/tiny"
Headers = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rolled")


@pytest.fixture(scope="module")
def outcome(root: Path) -> Outcome:
    """A rollout of one tenant's."""
    home = root / "tenants" / "acme"
    trained(home, "central")
    store = Store(Tenants(root).home("acme"))
    guarded(store)
    store.close()
    return rollout("tiny", challenger=6, mode="ab", rounds=5, home=home, task=task())


@pytest.fixture(scope="module")
def client(root: Path, outcome: Outcome) -> Iterator[TestClient]:
    with TestClient(make_app(root, Settings()), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture(scope="module")
def known(client: TestClient) -> Headers:
    def issue(role: str, *globs: str) -> dict[str, str]:
        tokens: Any = client.app.state.tokens  # type: ignore[attr-defined]
        more = {"tenant": "acme", "models": globs or ("*",), "lifetime": timedelta(days=1)}
        return {"Authorization": f"Bearer {tokens.issue('ann', role, **more)[0]}"}

    return issue


def test_rollouts_are_shown_with_intervals_and_leaves(
    client: TestClient, known: Headers, outcome: Outcome
) -> None:
    (found,) = client.get(f"{MODEL}/rollouts", headers=known("viewer")).json()["rollouts"]
    assert (found["run"], found["mode"], found["status"]) == (outcome.run, "ab", "finished")
    assert [arm["number"] for arm in found["arms"]] == [1, 6]
    for arm in found["arms"]:
        assert arm["accuracy"]["low"] < arm["accuracy"]["estimate"] < arm["accuracy"]["high"]
        assert [w["leaf"] for w in arm["windows"]] == outcome.evidence
    assert client.get(f"{MODEL}/rollouts/{outcome.run}", headers=known("viewer")).json() == found
    (gate,) = client.get(f"{MODEL}/gates", headers=known("viewer")).json()["gates"]
    (decision,) = gate["decisions"]
    assert (gate["alias"], gate["champion"]) == ("champion", 1)
    assert (decision["number"], decision["verdict"]) == (6, "pass")
    assert decision["evidence"] == outcome.evidence


def test_a_gate_is_set_by_who_may_operate(client: TestClient, known: Headers, root: Path) -> None:
    address = f"{MODEL}/gates/canary"
    assert client.put(address, json=GATE, headers=known("viewer")).status_code == 403
    assert client.put(address, json=GATE, headers=known("reviewer")).status_code == 403
    leaf = client.put(address, json=GATE, headers=known("operator"))
    assert leaf.status_code == 200
    store = Store(Tenants(root).home("acme"))
    body = store.leaves()[leaf.json()["leaf"]]["body"]
    assert (body["kind"], body["actor"], body["gate"]["windows"]) == ("GATE", "ann", 3)
    assert check.verify(store).holds
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        {"windows": 1},
        {"at_least": 2},
        {"metric": "f1"},
        {"reason": ""},
        {"more": 1},
        {"at_least": None, "margin": None},
        {"metric": "loss"},
    ],
)
def test_what_is_no_gate_is_refused(
    change: dict[str, Any], client: TestClient, known: Headers
) -> None:
    found = client.put(f"{MODEL}/gates/canary", json=GATE | change, headers=known("operator"))
    assert 400 <= found.status_code < 500
    assert found.headers["content-type"] == "application/problem+json"


def test_what_a_caller_may_not_see_isnt_there(
    client: TestClient, known: Headers, outcome: Outcome
) -> None:
    for path in ("rollouts", f"rollouts/{outcome.run}", "gates"):
        assert client.get(f"{MODEL}/{path}").status_code == 401
        assert client.get(f"{MODEL}/{path}", headers=known("admin", "other*")).status_code == 404
        unknown = client.get(f"/v1/models/nothing/{path}", headers=known("admin"))
        assert unknown.status_code == 404
    hidden = client.put(f"{MODEL}/gates/champion", json=GATE, headers=known("admin", "other*"))
    assert hidden.status_code == 404
    assert client.get(f"{MODEL}/rollouts/x", headers=known("admin")).status_code == 404


def test_an_alias_isnt_moved_past_its_gate(
    client: TestClient, known: Headers, outcome: Outcome
) -> None:
    address, headers = f"{MODEL}/aliases/champion", known("operator")
    seen = client.get(address, headers=headers).json()["expected"]
    change = {"number": 6, "expected": seen, "reason": "better"}
    refused = client.put(address, json=change, headers=headers)
    assert 400 <= refused.status_code < 500
    assert "evidence" in refused.json()["detail"]
    moved = client.put(address, json={**change, "evidence": outcome.evidence}, headers=headers)
    assert moved.status_code == 200, moved.text
    assert moved.json()["number"] == 6
