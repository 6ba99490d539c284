"""Between tenants, and between models of one: nothing by listing, by guessing or by error text.

Asked of every route that the app describes, so that a new one is asked too.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.policy import Policy, best_order
from tacit.server import check
from tacit.server.access.tenants import Tenants
from tacit.server.api.app import make_app
from tacit.server.api.settings import Limits, Settings
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

SECRET, OPEN, NOBODY = "cardiology", "tiny", "astrology"
MANY = Limits(rate=1e6, burst=1e6, strange_rate=1e6, strange_burst=1e6)
BODIES: dict[str, dict[str, Any]] = {
    "rollback": {"expected": None, "reason": "because"},
    "retire": {"reason": "because"},
    "aliases": {"number": 1, "expected": None, "reason": "because"},
    "score": {"records": [[0.0, 0.0, 0.0, 0.0]]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tenants: one with a model, one with that and another; aliases at both."""
    folder = tmp_path_factory.mktemp("walls")
    simulate([*TINY, "rounds=1"], task=make_tiny(), home=folder / "tenants" / "acme")
    beta = folder / "tenants" / "beta"
    simulate([*TINY, "rounds=2"], task=make_tiny(), home=beta)
    simulate([*TINY, "rounds=2"], task=replace(make_tiny(), name=SECRET), home=beta)
    store = Store(Home(beta))
    for model in (OPEN, SECRET):
        move = Lifecycle(store).move
        move(model, "champion", 2, expected=None, actor="ann", reason="the first")
    store.close()
    return folder


class Api:
    """An app over a copy of the tenants."""

    def __init__(self, root: Path) -> None:
        self.app = make_app(root, Settings(limits=MANY))
        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.tokens = self.app.state.tokens
        store = Store(Tenants(root).home("beta"))
        rows = store.runs()
        self.runs = {row["name"]: row["id"] for row in rows}
        self.leaves = store.leaves()
        store.close()

    def bearer(self, tenant: str, role: str = "admin", *globs: str) -> dict[str, str]:
        more = {"tenant": tenant, "models": globs or ("*",), "lifetime": timedelta(days=1)}
        return {"Authorization": f"Bearer {self.tokens.issue('ann', role, **more)[0]}"}

    def ask(self, method: str, path: str, headers: dict[str, str], **values: Any) -> Response:
        address = path.format(**values)
        body = next((v for k, v in BODIES.items() if k in address), {})
        more = {} if method in ("get", "delete") else {"json": body}
        query = {"verdict": "approved", "key": "a+b+c"} if "statement" in path else {}
        return self.client.request(method, address, headers=headers, params=query, **more)

    def routes(self) -> list[tuple[str, str]]:
        """Method and path of all there is."""
        return [
            (method, path)
            for path, methods in self.app.openapi()["paths"].items()
            for method in methods
        ]


@pytest.fixture
def api(root: Path, tmp_path: Path) -> Iterator[Api]:
    made = Api(Path(shutil.copytree(root, tmp_path / "root")))
    with made.client:
        yield made


def bare(found: Response) -> tuple[int, str]:
    """An answer but for the request's id."""
    return found.status_code, re.sub(r'"request": "[0-9a-f]{32}"', "", found.text)


def names(path: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", path))


def values(model: str, run: str, token: str = "f" * 16) -> dict[str, Any]:
    """What stands in paths; a leaf that no ledger here has."""
    more = {"index": 10**6, "identifier": token, "request_id": "f" * 32, "population": model}
    case = {"case": "f" * 32, "id": "f" * 32}
    return (
        {"name": model, "model": model, "run": run, "number": 2, "alias": "champion"} | more | case
    )


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_anothers_and_nobodys_are_one(api: Api, role: str) -> None:
    mine = api.bearer("acme", role)
    theirs = api.client.get("/v1/whoami", headers=api.bearer("beta")).json()["token"]
    asked = 0
    for method, path in api.routes():
        if not names(path):
            continue
        one = api.ask(method, path, mine, **values(SECRET, api.runs[SECRET], theirs))
        two = api.ask(method, path, mine, **values(NOBODY, "20250101-000000-beef"))
        assert bare(one) == bare(two), (method, path)
        assert one.status_code in (403, 404, 405, 422), (method, path, one.text)
        assert SECRET not in one.text, (method, path)
        asked += one.status_code == 404
    assert asked > 5


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_a_model_beyond_the_globs_and_nobodys_are_one(api: Api, role: str) -> None:
    mine = api.bearer("beta", role, "tin*")
    asked = 0
    for method, path in api.routes():
        if not names(path) & {"name", "model", "run"}:
            continue
        one = api.ask(method, path, mine, **values(SECRET, api.runs[SECRET]))
        two = api.ask(method, path, mine, **values(NOBODY, "20250101-000000-beef"))
        assert bare(one) == bare(two), (method, path)
        assert one.status_code in (403, 404, 422), (method, path, one.text)
        asked += one.status_code == 404
    assert asked > 5
    # What is asked is there for who may know of it.
    wide = api.bearer("beta", role)
    assert api.client.get(f"/v1/models/{SECRET}", headers=wide).status_code == 200


def test_no_list_names_what_isnt_the_callers(api: Api) -> None:
    for headers in (api.bearer("acme"), api.bearer("beta", "admin", "tin*")):
        seen = 0
        for method, path in api.routes():
            if method == "get" and not names(path):
                found = api.ask(method, path, headers)
                assert SECRET not in found.text, path
                assert api.runs[SECRET] not in found.text, path
                seen += found.status_code == 200
        assert seen > 5


def test_leaves_of_a_model_beyond_the_globs_arent_shown(api: Api) -> None:
    mine, wide = api.bearer("beta", "viewer", "tin*"), api.bearer("beta", "viewer")
    hidden = 0
    for leaf in api.leaves:
        path = f"/v1/ledger/leaves/{leaf['index']}"
        found = api.client.get(path, headers=mine)
        assert SECRET not in found.text
        assert SECRET not in api.client.get(f"{path}/proof", headers=mine).text
        assert api.client.get(path, headers=wide).status_code == 200
        hidden += found.status_code == 404
    of_secret = [leaf for leaf in api.leaves if SECRET in json.dumps(leaf["body"])]
    assert hidden >= len(of_secret) > 2


def test_both_have_the_same_name_and_see_their_own(api: Api) -> None:
    found = [
        api.client.get(f"/v1/models/{OPEN}", headers=api.bearer(tenant, "viewer")).json()
        for tenant in ("acme", "beta")
    ]
    one, two = ([row["number"] for row in each["versions"]] for each in found)
    assert (one, two) == ([1], [1, 2])
    assert not {row["run"] for row in found[0]["versions"]} & set(api.runs.values())


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_a_viewer_cant_promote(api: Api, role: str) -> None:
    path = f"/v1/models/{OPEN}/aliases/champion"
    seen = api.client.get(path, headers=api.bearer("beta")).json()
    wanted = {"number": 1, "expected": seen["expected"], "reason": "because"}
    for method, place, body in (
        ("put", path, wanted),
        ("put", path, {**wanted, "force": True}),
        ("post", f"{path}/rollback", {"expected": seen["expected"], "reason": "because"}),
        ("post", f"/v1/models/{OPEN}/versions/1/retire", {"reason": "because"}),
    ):
        found = api.client.request(method, place, json=body, headers=api.bearer("beta", role))
        assert found.status_code == 403, place
    assert api.client.get(path, headers=api.bearer("beta")).json() == seen
    moved = api.client.put(path, json=wanted, headers=api.bearer("beta", "operator"))
    assert moved.status_code == 200, moved.text


def test_every_read_is_recorded_before_and_sealed_at_the_end(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "root"))
    api = Api(copy)
    ids = []
    with api.client as client:
        headers = api.bearer("beta", "viewer")
        for path in ("models", f"models/{OPEN}", f"models/{OPEN}/versions/1", "ledger/leaves"):
            found = client.get(f"/v1/{path}", headers=headers)
            assert found.status_code == 200
            ids.append(found.headers["X-Request-Id"])
        place = api.app.state.places.open("beta")
        rows = [place.recorder.find(each) for each in ids]
        assert {row["body"]["actor"] for row in rows} == {"ann"}
        assert rows[1]["body"]["subject"] == f"model {OPEN}"
        assert rows[2]["body"]["subject"] == f"model {OPEN}@1"
        token = client.get("/v1/whoami", headers=headers).json()["token"]
        assert {row["body"]["via"] for row in rows} == {token}
    store = Store(Tenants(copy).home("beta"))
    assert store.leaves(kinds=["ACCESS"])[-1]["body"]["last"] >= 4
    assert check.verify(store).findings == []
    store.close()
    # Nothing of it is with the other tenant.
    other = Store(Tenants(copy).home("acme"))
    assert other.leaves(kinds=["ACCESS"]) == []
    other.close()


# The dashboard


def pages(api: Api) -> list[str]:
    """The paths of its pages."""
    found = [
        context.path
        for route in api.app.routes
        for context in getattr(route, "effective_route_contexts", list)()
        if "GET" in (context.methods or ()) and not context.path.startswith("/v1")
    ]
    return [
        path for path in found if path not in ("/static/{name}", "/login", "/healthz", "/readyz")
    ]


def logged_in(api: Api, headers: dict[str, str]) -> None:
    form = {"token": headers["Authorization"].removeprefix("Bearer ")}
    api.client.cookies.clear()
    assert api.client.post("/login", data=form, follow_redirects=False).status_code == 303


def looked(api: Api, path: str, values: dict[str, Any]) -> tuple[int, str]:
    """A page, but for what it repeats of its address."""
    query = {k: v for k, v in values.items() if k not in names(path)}
    found = api.client.get(path.format(**values), params=query, follow_redirects=False)
    text = found.text
    for word in (found.headers["X-Request-Id"], *map(str, values.values())):
        text = text.replace(word, "")
    return found.status_code, text


def test_pages_tell_no_more_than_the_api(api: Api) -> None:
    # One of them repeats what its reader asked for before; there is a test of that below.
    paths = [path for path in pages(api) if path != "/access"]
    assert {"/model", "/version", "/run", "/ledger/{index}"} <= set(paths)
    for tenant, globs in (("acme", ["*"]), ("beta", ["tin*"])):
        logged_in(api, api.bearer(tenant, "admin", *globs))
        missing = 0
        for path in paths:
            one = looked(api, path, values(SECRET, api.runs[SECRET]))
            two = looked(api, path, values(NOBODY, "20250101-000000-beef"))
            # Pages that don't ask for a name may tell what goes on meanwhile.
            assert one == two or one[0] == two[0] == 200, (tenant, path)
            assert one[0] < 500, (tenant, path)
            missing += one[0] == 404
            plain = api.client.get(path.format(**values(OPEN, "x")), follow_redirects=False)
            assert SECRET not in plain.text, (tenant, path)
            assert api.runs[SECRET] not in plain.text, (tenant, path)
        assert missing > 3


def test_who_read_what_isnt_shown_to_who_may_not_know_of_it(api: Api) -> None:
    wide, narrow = api.bearer("beta"), api.bearer("beta", "admin", "tin*")
    found = api.client.get(f"/v1/models/{SECRET}", headers=wide)
    request = found.headers["X-Request-Id"]
    path = f"/v1/accesses/{request}"
    assert SECRET in api.client.get("/v1/accesses", headers=wide).text
    assert SECRET in api.client.get(path, headers=wide).text
    for headers in (narrow, api.bearer("acme"), api.bearer("beta", "operator")):
        for place in ("/v1/accesses", path, f"{path}/proof"):
            assert SECRET not in api.client.get(place, headers=headers).text
        logged_in(api, headers)
        assert SECRET not in api.client.get("/access").text
        api.client.cookies.clear()


def test_pages_are_for_who_is_known(api: Api) -> None:
    for path in pages(api):
        found = api.client.get(path.format(**values(OPEN, "x")), follow_redirects=False)
        assert found.status_code in (303, 401), path
        assert OPEN not in found.text


def test_policies_and_who_withdrew_arent_for_who_sees_some_models(
    root: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "root"))
    store = Store(Tenants(copy).home("beta"))
    terms = {"epsilon": 9.0, "delta": 1e-5, "order": best_order(9.0, 1e-5)}
    hidden = [Governance(store).adopt(Policy(population="oncology", **terms), None)]
    seen = Governance(store).adopt(Policy(population=store.runs()[0]["population"], **terms), None)
    body = {"kind": "ERASURE", "run": "", "population": "oncology", "case": "ab" * 8}
    hidden.append(store.append({**body, "stage": "opened", "choice": None, "file": "cd" * 32}))
    store.close()
    api = Api(copy)
    with api.client as client:
        for globs, knows in (("*",), True), (("tin*",), False):
            headers = api.bearer("beta", "operator", *globs)
            for path in ("/v1/policies", "/v1/ledger/leaves"):
                found = client.get(path, headers=headers)
                assert (found.status_code, "oncology" in found.text) == (200, knows), path
            for leaf in hidden:
                found = client.get(f"/v1/ledger/leaves/{leaf}", headers=headers)
                assert found.status_code == (200 if knows else 404)
            assert client.get(f"/v1/ledger/leaves/{seen}", headers=headers).status_code == 200
            logged_in(api, headers)
            assert client.get("/erasures").status_code == (200 if knows else 404)
            client.cookies.clear()


def test_what_pages_show_of_a_model_is_among_its_reads(api: Api) -> None:
    logged_in(api, api.bearer("beta", "operator"))
    form = {"csrf": "", "expected": "7", "reason": "because"}
    for path in ("/version", "/version/artifact", "/moves", "/model"):
        query = {"name": OPEN, "number": "1"} | ({"alias": "champion"} if path == "/moves" else {})
        found = api.client.get(path, params=query)
        assert found.status_code == 200, path
        token = re.search(r'name="csrf" value="([^"]+)"', found.text)
        form |= {"csrf": token[1]} if token else {}
    refused = api.client.post(f"/moves?name={OPEN}&alias=champion&number=1", data=form)
    assert refused.status_code == 409
    reads = api.app.state.places.open("beta").recorder.reads(f"model {OPEN}")
    assert [(row["body"]["action"], row["body"]["subject"]) for row in reads[::-1]] == [
        ("read", f"model {OPEN}@1"),
        ("export", f"model {OPEN}@1"),
        ("read", f"model {OPEN}@champion"),
        ("read", f"model {OPEN}"),
        ("read", f"model {OPEN}@champion"),
    ]
