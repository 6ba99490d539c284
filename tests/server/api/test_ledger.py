"""The ledger through the API: approvals signed elsewhere, what is hostile, who sees what."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import governing
import pytest
from fastapi.testclient import TestClient
from governing import PLAN
from postgres import BOTH

from tacit.cli import main
from tacit.privacy.log import keyfile, leaves
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.policy import Policy
from tacit.server.api.app import make_app
from tacit.server.api.settings import Limits, Settings
from tacit.server.check import verify
from tacit.server.governance import Governance, signed
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.server.views import ledger as views

MANY = Limits(rate=1e6, burst=1e6)
ALICE, BOB = SignerKey("alice", b"a" * 32), SignerKey("bob", b"b" * 32)


class Api:
    """An app over a home in which a run waits for alice."""

    def __init__(self, home: Home) -> None:
        store = Store(home)
        policy = Policy(
            population="p", review_epsilon=0.01, delta=1e-5, reviewers=(str(ALICE.verifier),)
        )
        Governance(store).adopt(policy, None)
        governing.new_run(store, "waits", PLAN)
        store.set_status("waits", "waiting", "of 20 clients asked, 3 answered")
        governing.new_run(store, "free", replace(PLAN, rounds=9), population="q")
        store.close()
        self.app = make_app(home.root, Settings(limits=MANY))
        self.client = TestClient(self.app)

    @property
    def store(self) -> Store:
        found: Store = self.app.state.places.open("default").store
        return found

    def token(self, role: str, *models: str) -> dict[str, str]:
        held = self.app.state.tokens
        text, _ = held.issue(
            f"a {role}",
            role,
            tenant="default",
            models=models or ("*",),
            lifetime=timedelta(days=1),
        )
        return {"Authorization": f"Bearer {text}"}

    def draft(self, key: SignerKey, **asked: Any) -> dict[str, Any]:
        query = {"verdict": "approved", "key": str(key.verifier), **asked}
        found = self.client.get(
            "/v1/approvals/waits/statement", params=query, headers=self.token("reviewer")
        )
        assert found.status_code == 200, found.text
        made: dict[str, Any] = found.json()
        return made

    def post(self, body: Any, role: str = "reviewer") -> Any:
        return self.client.post("/v1/approvals", json=body, headers=self.token(role))


@pytest.fixture
def api(home: Home) -> Iterator[Api]:
    made = Api(home)
    with made.client:
        yield made


def test_a_run_waits_until_its_reviewer_signed(api: Api) -> None:
    viewer = api.token("viewer")
    (row,) = api.client.get("/v1/approvals", headers=viewer).json()["waiting"]
    assert (row["run"], row["model"], row["lifts"]) == ("waits", "model-waits", None)
    assert row["reviewers"] == [str(ALICE.verifier)]
    assert "review_epsilon=0.01" in row["why"]
    assert api.store.leaves("waits")[0]["index"] == row["leaf"]
    draft = api.draft(ALICE, note="looked at it")
    assert leaves.statement(draft["body"]).decode() == draft["statement"]
    found = api.post(signed(draft["body"], ALICE))
    assert found.status_code == 201
    (leaf,) = api.store.leaves(kinds=["APPROVAL"])
    assert leaf["index"] == found.json()["leaf"]
    assert leaf["body"]["note"] == "looked at it"
    assert api.client.get("/v1/approvals", headers=viewer).json()["waiting"] == []
    assert Governance(api.store).awaits_review("waits") is None
    assert verify(api.store).findings == []


def _altered(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda body: {**signed(body, ALICE), name: value}


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (lambda body: signed({**body, "verdict": "maybe"}, ALICE), 422),
        (lambda body: signed(body, BOB), 400),
        (_altered("note", "another"), 400),
        (_altered("verdict", "refused"), 400),
        (_altered("nonce", "f" * 32), 400),
        (_altered("plan", "f" * 64), 400),
        (_altered("run", "free"), 400),
        (_altered("run", "nobody's"), 404),
        (_altered("ledger", "tacit.ledger/other"), 400),
        (_altered("lifts", 0), 400),
        (_altered("lifts", 2**63), 422),
        (_altered("signature", ""), 422),
        (_altered("signature", "%%%"), 400),
        (_altered("at", "2020-01-01T00:00:00Z"), 422),
        (_altered("note", "\x00"), 422),
        (lambda body: signed({**body, "ledger": "tacit.ledger/other"}, ALICE), 400),
    ],
)
def test_what_no_reviewer_signed_is_no_approval(
    api: Api, made: Callable[[dict[str, Any]], Any], status: int
) -> None:
    body = api.draft(ALICE)["body"]
    found = api.post(made(body))
    assert found.status_code == status, found.text
    assert api.store.leaves(kinds=["APPROVAL"]) == []


def test_an_approval_counts_once(api: Api) -> None:
    body = signed(api.draft(ALICE)["body"], ALICE)
    assert api.post(body).status_code == 201
    assert api.post(body).status_code == 400
    assert api.post(body, "viewer").status_code == 403
    assert len(api.store.leaves(kinds=["APPROVAL"])) == 1


def test_a_reviewer_signs_on_their_own_machine(
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "alice.key").parent.mkdir(exist_ok=True)
    mallory = keyfile.create(tmp_path / "mallory.key", "mallory")
    draft = tmp_path / "draft.json"
    draft.write_text(json.dumps(api.draft(mallory)))

    def sign(key: str) -> tuple[int, str, str]:
        words = ["tacit", "ledger", "sign", str(draft), "--key", str(tmp_path / key)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    status, out, err = sign("mallory.key")
    assert status == 0
    assert err == "run waits: approved, by mallory\n"
    # Signed as asked; that mallory is no reviewer is the ledger's to say.
    assert api.post(json.loads(out)).status_code == 400
    keyfile.create(tmp_path / "other.key", "other")
    assert sign("other.key")[0] == 2
    draft.write_text('{"body": 7}')
    assert sign("mallory.key")[0] == 2


def test_messages_are_for_operators(api: Api) -> None:
    for role, shown in (("viewer", False), ("reviewer", False), ("operator", True)):
        headers = api.token(role)
        rows = api.client.get("/v1/runs", headers=headers).json()["runs"]
        one = api.client.get("/v1/runs/waits", headers=headers).json()
        assert [row["id"] for row in rows] == ["waits", "free"]
        assert [bool(rows[0]["message"]), bool(one["message"])] == [shown, shown]


def test_who_sees_one_model_sees_its_leaves_alone(api: Api) -> None:
    headers = api.token("admin", "model-free")
    get = api.client.get
    runs = get("/v1/runs", headers=headers).json()["runs"]
    assert [row["id"] for row in runs] == ["free"]
    page = get("/v1/ledger/leaves", headers=headers).json()["leaves"]
    assert {leaf["run"] for leaf in page} == {"", "free"}
    hidden = next(leaf["index"] for leaf in api.store.leaves("waits"))
    for path in (f"/v1/ledger/leaves/{hidden}", f"/v1/ledger/leaves/{hidden}/proof"):
        assert get(path, headers=headers).status_code == 404
    for path in ("/v1/runs/waits", "/v1/runs/waits/spending", "/v1/runs/wait", "/v1/runs/last"):
        assert get(path, headers=headers).status_code == 404
    assert get("/v1/approvals", headers=headers).json()["waiting"] == []
    assert get("/v1/ledger/export", headers=headers).status_code == 403
    query = {"verdict": "approved", "key": str(ALICE.verifier)}
    asked = get("/v1/approvals/waits/statement", params=query, headers=headers)
    assert asked.status_code == 404


def test_pages_of_leaves_are_all_leaves(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_PAGE", 2)
    for limit in (1, 2, 3, 100):
        for kinds in ((), ("PLAN", "POLICY")):
            place: int | None = 0
            found: list[int] = []
            while place is not None:
                page = views.leaves(api.store, place, limit, kinds=kinds)
                assert len(page["leaves"]) <= limit
                found += [leaf["leaf"] for leaf in page["leaves"]]
                place = page["next"]
            assert found == [leaf["index"] for leaf in api.store.leaves(kinds=kinds)]


HUGE = "x" * 100_000
HOSTILE = [
    ("GET", "/v1/ledger/leaves/9223372036854775808", None, 422),
    ("GET", "/v1/ledger/leaves/-1", None, 422),
    ("GET", "/v1/ledger/leaves/2147483647", None, 404),
    ("GET", "/v1/ledger/leaves?start=1e400", None, 422),
    ("GET", "/v1/ledger/leaves?limit=NaN", None, 422),
    ("GET", "/v1/ledger/leaves?run=%00", None, 422),
    ("GET", "/v1/ledger/leaves?kind=EVERYTHING", None, 422),
    ("GET", "/v1/ledger/leaves?kinds=PLAN", None, 422),
    ("GET", "/v1/models/%00", None, 404),
    ("GET", "/v1/models/%ff%fe", None, 404),
    ("GET", "/v1/models/%ed%a0%80", None, 404),
    ("GET", f"/v1/models/{HUGE[:5000]}", None, 404),
    ("GET", "/v1/models/a%0ab", None, 404),
    ("GET", "/v1/models/x/versions/9223372036854775808", None, 422),
    ("GET", "/v1/runs/%00", None, 404),
    ("GET", "/v1/runs/%25", None, 404),
    ("PUT", "/v1/models/x/aliases/a", '{"number": 1e999, "expected": null, "reason": "r"}', 422),
    ("PUT", "/v1/models/x/aliases/a", '{"number": NaN, "expected": null, "reason": "r"}', 422),
    ("PUT", "/v1/models/x/aliases/a", '{"number": 1, "expected": null, "reason": "\\ud800"}', 422),
    ("PUT", "/v1/models/x/aliases/a", '{"number": 1, "expected": null, "reason": "\\u0000"}', 422),
    ("PUT", "/v1/models/x/aliases/a", '{"number": 99999999999, "expected": 0, "reason": "r"}', 422),
    ("PUT", "/v1/models/x/aliases/A", '{"number": 1, "expected": null, "reason": "r"}', 422),
    ("PUT", "/v1/models/%00/aliases/a", '{"number": 1, "expected": null, "reason": "r"}', 422),
    ("PUT", "/v1/models/x/aliases/a", "[" * 100_000, 422),
    ("POST", "/v1/ledger/consistency", json.dumps({"checkpoint": HUGE}), 422),
    ("POST", "/v1/ledger/consistency", '{"checkpoint": "\\ud800"}', 422),
    ("POST", "/v1/ledger/consistency", '{"checkpoint": "no\\n1\\nAAAA\\n"}', 400),
]


@BOTH
def test_what_is_hostile_is_the_callers_fault(api: Api) -> None:
    """On either engine: PostgreSQL has no NUL in texts and 32 bits in integers."""
    headers = {**api.token("admin"), "Content-Type": "application/json"}
    for method, path, body, status in HOSTILE:
        found = api.client.request(method, path, content=body, headers=headers)
        assert 400 <= found.status_code < 500, (path[:80], found.text)
        # A body that is too deep is refused by whoever meets it first.
        assert found.status_code in (status, 400), (path[:80], body and body[:60], found.text)
        assert found.headers["content-type"] == "application/problem+json"
        assert "Traceback" not in found.text
        assert HUGE[:2000] not in found.text
    assert verify(api.store).findings == []
