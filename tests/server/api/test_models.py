"""Versions through the API: artifacts that check out, what a model of another model tells."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import safetensors.numpy
from fastapi.testclient import TestClient
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.server.api.app import make_app
from tacit.server.api.settings import Limits, Settings
from tacit.server.check import verify
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry

MANY = Limits(rate=1e6, burst=1e6)
SECRET = "cardiology"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model, and two of another that began with one of them."""
    home = tmp_path_factory.mktemp("models") / "home"
    simulate([*TINY, "rounds=2", "population=p"], task=replace(make_tiny(), name=SECRET), home=home)
    simulate(
        [*TINY, "rounds=2", "population=p", f"initial={SECRET}@2"], task=make_tiny(), home=home
    )
    return home


class Api:
    """An app over a copy of a home."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app = make_app(root, Settings(limits=MANY))
        self.client = TestClient(self.app)

    def token(self, role: str, *models: str) -> dict[str, str]:
        held, day = self.app.state.tokens, timedelta(days=1)
        text, _ = held.issue(
            f"a {role}", role, tenant="default", models=models or ("*",), lifetime=day
        )
        return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def api(origin: Path, tmp_path: Path) -> Iterator[Api]:
    shutil.copytree(origin, tmp_path / "home")
    made = Api(tmp_path / "home")
    with made.client:
        yield made


def test_a_version_is_its_artifact(api: Api) -> None:
    headers = api.token("viewer")
    found = api.client.get("/v1/models/tiny/versions/2", headers=headers).json()
    file = api.client.get("/v1/models/tiny/versions/2/artifact", headers=headers)
    assert hashlib.sha256(file.content).hexdigest() == found["artifact"]
    assert file.headers["etag"] == f'"{found["artifact"]}"'
    assert set(safetensors.numpy.load(file.content)) == {"weight", "bias"}
    envelope = api.client.get("/v1/models/tiny/versions/2/envelope", headers=headers).json()
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    assert found["attested"]
    assert found["begun_with"]["model"] == SECRET
    assert {row["leaf"] for row in found["epsilon"]} == {found["leaf"]}


def test_an_artifact_that_was_changed_isnt_handed_over(api: Api) -> None:
    store = api.app.state.places.open("default").store
    (row,) = store.versions(name="tiny", number=2)
    path = ModelRegistry(Home(api.root), store).path(row["artifact"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = api.client.get("/v1/models/tiny/versions/2/artifact", headers=api.token("admin"))
    assert found.status_code == 503
    assert str(path) not in found.text
    assert api.client.get("/v1/models/tiny", headers=api.token("admin")).status_code == 200


def test_what_came_of_another_model_doesnt_tell_which(api: Api) -> None:
    """Every route of a model whose parent the token may not know of."""
    store = api.app.state.places.open("default").store
    (run,) = (run["id"] for run in store.runs() if run["name"] == "tiny")
    template = api.app.openapi()["paths"]
    known = {"name": "tiny", "number": "2", "run": run, "alias": "champion", "index": "1"}
    headers, asked = api.token("admin", "tiny"), 0
    for path, methods in template.items():
        if "get" not in methods:
            continue
        required = [p for p in methods["get"].get("parameters", []) if p["required"]]
        query = {p["name"]: _example(p) for p in required if p["in"] == "query"}
        filled = path
        for name, value in known.items():
            filled = filled.replace(f"{{{name}}}", value)
        if "{" in filled:
            continue
        found = api.client.get(filled, params=query, headers=headers)
        assert SECRET not in found.text, filled
        asked += found.status_code == 200
    assert asked > 15
    for leaf in store.leaves():
        found = api.client.get(f"/v1/ledger/leaves/{leaf['index']}", headers=headers)
        assert SECRET not in found.text
    whole = api.token("viewer")
    for path in ("lineage", "diff?to=1", "statement"):
        statuses = [
            api.client.get(f"/v1/models/tiny/versions/2/{path}", headers=each).status_code
            for each in (whole, headers)
        ]
        assert statuses == [200, 403]
    other = f"/v1/models/{SECRET}/versions/2"
    lineage = api.client.get("/v1/models/tiny/versions/2/lineage", headers=whole).json()
    assert [p["model"] for p in lineage["parents"]] == ["tiny", SECRET, SECRET]
    mine = api.token("viewer", SECRET)
    markdown = api.client.get(f"{other}/statement?format=markdown", headers=mine)
    assert markdown.text.startswith(f"# Privacy statement of {SECRET}@2")
    assert "tiny" not in markdown.text


def _example(parameter: dict[str, object]) -> str:
    return {"verdict": "approved", "to": "1"}.get(str(parameter["name"]), "x")


def test_figures_of_a_run_are_the_verifiers(api: Api) -> None:
    headers = api.token("viewer")
    store = api.app.state.places.open("default").store
    report = verify(store)
    assert report.findings == []
    names = ("unit", "adversary", "amplified", "epsilon")
    for run in report.runs:
        found = api.client.get(f"/v1/runs/{run['run']}/spending", headers=headers).json()
        assert [[row[n] for n in names] for row in found["rows"]] == [
            [row[n] for n in names] for row in run["rows"]
        ]
        charges = store.leaves(run["run"], ("CHARGE",))
        assert found["charges"] == [leaf["index"] for leaf in charges]
    (population,) = api.client.get("/v1/populations", headers=headers).json()["populations"]
    (due,) = report.populations
    assert [[row[n] for n in names] for row in population["rows"]] == [
        [row[n] for n in names] for row in due["rows"]
    ]


def test_a_version_is_retired_once_nothing_names_it(api: Api) -> None:
    operator = api.token("operator")
    path = "/v1/models/tiny/aliases/champion"

    def put(number: int | None, expected: int | None) -> tuple[int, dict[str, object]]:
        body = {"number": number, "expected": expected, "reason": "because"}
        found = api.client.put(path, json=body, headers=operator)
        return found.status_code, found.json()

    def retire(number: int) -> int:
        found = api.client.post(
            f"/v1/models/tiny/versions/{number}/retire",
            json={"reason": "old"},
            headers=operator,
        )
        return found.status_code

    assert put(3, None)[0] == 404
    status, first = put(1, None)
    assert (status, first["number"]) == (200, 1)
    assert retire(1) == 409
    status, second = put(2, first["expected"])  # type: ignore[arg-type]
    assert status == 200
    body = {"expected": second["expected"], "reason": "it decayed"}
    back = api.client.post(f"{path}/rollback", json=body, headers=operator).json()
    assert (back["number"], back["move"]["kind"]) == (1, "ROLLBACK")
    assert retire(2) == 200
    assert put(2, back["expected"])[0] == 409
    assert put(None, back["expected"])[0] == 200
    history = api.client.get("/v1/models/tiny/history", headers=operator).json()["history"]
    assert [e["kind"] for e in history] == ["DEPLOY", "DEPLOY", "ROLLBACK", "RETIRE", "DEPLOY"]
    assert {e["actor"] for e in history} == {"a operator"}
    stages = api.client.get("/v1/models/tiny", headers=operator).json()["versions"]
    assert [v["stage"] for v in stages] == ["released", "retired"]
    assert verify(api.app.state.places.open("default").store).findings == []


def test_pages_of_versions(api: Api) -> None:
    headers = api.token("viewer")
    first = api.client.get("/v1/models/tiny?limit=1", headers=headers).json()
    assert ([v["number"] for v in first["versions"]], first["next"]) == ([1], 2)
    last = api.client.get("/v1/models/tiny?limit=1&start=2", headers=headers).json()
    assert ([v["number"] for v in last["versions"]], last["next"]) == ([2], None)
    assert last["versions"][0]["parent"]["number"] == 1
    beyond = api.client.get("/v1/models/tiny?start=3", headers=headers)
    assert json.loads(beyond.text) == {"versions": [], "next": None}


def test_pages_tell_nothing_of_where_a_version_came_from_either(api: Api) -> None:
    def log_in(*models: str) -> None:
        text = api.token("viewer", *models)["Authorization"].removeprefix("Bearer ")
        api.client.cookies.clear()
        answer = api.client.post("/login", data={"token": text}, follow_redirects=False)
        assert answer.status_code == 303

    files = [f"/version/{what}?name=tiny&number=1" for what in ("lineage", "card", "bom")]
    files += [f"/version/statement?name=tiny&number=1&form={x}" for x in ("json", "html", "x")]
    shown = ["/model?name=tiny", "/version?name=tiny&number=1"]
    log_in("*")
    for path in shown + files:
        found = api.client.get(path)
        assert (found.status_code, SECRET in found.text) == (200, True), path
    log_in("tin*")
    for path in shown + files:
        found = api.client.get(path)
        assert SECRET not in found.text, path
        assert found.status_code == (200 if path in shown else 403), path
    # The other way: who shares its people isn't named.
    run = api.client.get("/v1/models/tiny", headers=api.token("viewer")).json()["versions"][0][
        "run"
    ]
    log_in(f"{SECRET}*")
    for form in ("json", "html", "x"):
        found = api.client.get(f"/version/statement?name={SECRET}&number=2&form={form}")
        assert (found.status_code, run in found.text) == (200, False), form
