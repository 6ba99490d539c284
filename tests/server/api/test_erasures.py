"""Withdrawals over the API: who may, what is shown to whom, and one case to its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy import erasure
from tacit.privacy.secagg.directory import enrol
from tacit.privacy.secagg.keys import Identity
from tacit.protocol.withdrawal import Withdrawal
from tacit.server import check
from tacit.server.access.tenants import Tenants
from tacit.server.api.app import make_app
from tacit.server.api.settings import Limits, Settings
from tacit.server.store import Store

MANY = Limits(rate=1e6, burst=1e6, strange_rate=1e6, strange_burst=1e6)
AT = "/v1/erasures"


class Api:
    """An app over one tenant with a finished run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app = make_app(root, Settings(limits=MANY))
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def ask(self, role: str, method: str, path: str, body: Any = None, *globs: str) -> Any:
        more = {"tenant": "acme", "models": globs or ("*",), "lifetime": timedelta(days=1)}
        token = self.app.state.tokens.issue("ann", role, **more)[0]
        headers = {"Authorization": f"Bearer {token}"}
        return self.client.request(method, f"{AT}{path}", json=body, headers=headers)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    home = tmp_path / "tenants" / "acme"
    simulate([*TINY, "cohort=20", "minimum_survivors=5"], task=make_tiny(), home=home)
    made = Api(tmp_path)
    with made.client:
        yield made


def test_one_case_to_its_end(api: Api) -> None:
    home = Tenants(api.root).home("acme")
    enrol(home.root / "clients", 20)
    store = Store(home)
    origin = store.checkpoint().splitlines()[0]
    identity = Identity.from_bytes((home.root / "clients" / "3.key").read_bytes())
    said = Withdrawal.signed(identity, "tiny", 3, origin, datetime.now(UTC)).to_json()
    forged = {**said, "client": 4}
    assert api.ask("operator", "post", "", {"withdrawal": forged}).status_code == 400
    made = api.ask("operator", "post", "", {"withdrawal": said})
    assert made.status_code == 201
    assert (made.json()["client"], made.json()["state"]) == (3, "opened")
    assert [v["number"] for v in made.json()["found"]["versions"]] == [1, 2, 3]
    assert api.ask("operator", "post", "", {"withdrawal": said}).status_code == 409
    case = f"/{made.json()['case']}"
    assert api.ask("operator", "post", f"{case}/close", {}).status_code == 409
    choice = {"choice": "keep", "reason": "little"}
    assert api.ask("operator", "post", f"{case}/choice", choice).json()["evidence"]
    assert api.ask("operator", "post", f"{case}/close", {}).json()["state"] == "closed"
    shown = api.ask("operator", "get", case).json()
    assert "client" not in shown
    assert shown["file"]["choice"]["actor"] == "ann"
    found = api.ask("operator", "get", f"{case}/report").json()
    erasure.check(found["report"], [str(store.signer.verifier)])
    assert "# Withdrawal from tiny" in found["text"]
    (row,) = api.ask("operator", "get", "").json()["cases"]
    assert (row["state"], row["choice"]) == ("closed", "keep")
    assert check.verify(store).holds
    store.close()


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_who_may_not_erase_may_not_look_either(api: Api, role: str) -> None:
    asked = {"simulated": {"population": "tiny", "client": 3}}
    assert api.ask(role, "post", "", asked).status_code == 403
    made = api.ask("operator", "post", "", asked)
    case = f"/{made.json()['case']}"
    for path in ("", case, f"{case}/report"):
        assert api.ask(role, "get", path).status_code == 403
    assert api.ask(role, "post", f"{case}/close", {}).status_code == 403


def test_who_sees_some_models_only_is_told_nothing(api: Api) -> None:
    asked = {"simulated": {"population": "tiny", "client": 3}}
    assert api.ask("operator", "post", "", asked, "other*").status_code == 404
    assert api.ask("operator", "get", "", None, "tiny").status_code == 404
    made = api.ask("operator", "post", "", asked).json()
    assert api.ask("admin", "get", f"/{made['case']}", None, "tiny").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"simulated": {"population": "tiny", "client": 20}}, 400),
        ({"simulated": {"population": "nobody", "client": 3}}, 400),
        ({"simulated": {"population": "a\x00", "client": 3}}, 422),
        ({"simulated": {"population": "tiny", "client": -1}}, 422),
        ({"without_proof": {"population": "tiny", "client": 3}}, 422),
        ({"without_proof": {"population": "tiny", "client": 3, "reason": ""}}, 422),
        ({"withdrawal": {}}, 400),
        ({"withdrawal": {"tacit": "withdrawal", "version": 1}}, 400),
        ({"withdrawal": {}, "simulated": {"population": "tiny", "client": 3}}, 400),
        ({"more": 1}, 422),
    ],
)
def test_bad_requests_change_nothing(api: Api, body: Any, status: int) -> None:
    assert api.ask("operator", "post", "", body).status_code == status
    assert api.ask("operator", "get", "").json() == {"cases": []}
    assert api.ask("operator", "get", "/0123456789abcdef").status_code == 404
    assert api.ask("operator", "get", "/nothing").status_code == 422
