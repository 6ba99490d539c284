"""What every request passes: headers, limits, sessions, and answers that tell nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse

from tacit.privacy.errors import BudgetError, ConfigError, ConflictError, StorageError
from tacit.server.access.tenants import Tenants
from tacit.server.api.app import make_app
from tacit.server.api.context import Known, allowed, place
from tacit.server.api.security import Rates
from tacit.server.api.sessions import Sessions
from tacit.server.api.settings import Limits, Settings

DAY = timedelta(days=1)
LIMITS = Limits(rate=1.0, burst=5.0, strange_rate=0.5, strange_burst=3.0, remembered=4, body=2000)


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def date(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


def failing() -> APIRouter:
    """Routes that go wrong in every way there is."""
    router = APIRouter()
    conflict = ConflictError("it was moved")
    conflict.current = {"leaf": 7}
    errors: dict[str, Exception] = {
        "config": ConfigError("cohort=0 must be at least 1", "say more"),
        "conflict": conflict,
        "state": StorageError("digits@3 was retired, by leaf 4"),
        "path": StorageError("artifact /srv/tacit/artifacts/ab is corrupted"),
        "budget": BudgetError("the policy allows epsilon=1"),
        "busy": sa.exc.TimeoutError("QueuePool limit of size 5"),
        "bug": ZeroDivisionError("secret of /srv/tacit"),
    }

    @router.get("/fails/{how}")
    def fails(how: str) -> None:
        raise errors[how]

    @router.get("/fails-inside")
    def inside(_: Annotated[Any, Depends(place)]) -> None:
        try:
            raise OSError(28, "No space left on device: /srv/tacit")
        except OSError as error:
            raise StorageError("the ledger can't be written", "free space") from error

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise StorageError("the other half is gone")

    @router.get("/breaks")
    def breaks() -> StreamingResponse:
        return StreamingResponse(pieces())

    @router.post("/form")
    def form(caller: Known) -> str:
        return caller.name

    for action in ("read", "score", "review", "operate", "erase", "administer"):
        router.get(f"/may/{action}", dependencies=[Depends(allowed(action))])(lambda: "yes")
    return router


class Api:
    """An app of one tenant, with a token of each role."""

    def __init__(self, root: Path, tls: bool = False, limits: Limits = LIMITS) -> None:
        Tenants(root).create("acme")
        self.clock = Clock()
        rates = Rates(limits, self.clock)
        self.app = make_app(root, Settings(tls=tls, limits=limits), self.clock.date, rates)
        self.app.include_router(failing(), prefix="/v1")
        self.client = TestClient(self.app, base_url="https://test" if tls else "http://test")

    def token(self, role: str = "admin", name: str = "ann") -> str:
        return self.app.state.tokens.issue(name, role, tenant="acme", lifetime=30 * DAY)[0]

    def bearer(self, role: str = "admin") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(role)}"}

    def session(self, token: str) -> dict[str, str]:
        """A cookie, as the dashboard's login sets it."""
        from starlette.responses import Response

        response = Response()
        sessions: Sessions = self.app.state.sessions
        sessions.begin(token, response)
        self.cookie = response.headers["set-cookie"]
        name, _, value = self.cookie.partition(";")[0].partition("=")
        self.client.cookies.clear()
        self.client.cookies.set(name, value)
        return {name: value}

    def csrf(self) -> str:
        """What the pages of the client's session carry."""
        from starlette.requests import Request

        ((name, value),) = self.client.cookies.items()
        headers = [(b"cookie", f"{name}={value}".encode())]
        request = Request({"type": "http", "method": "GET", "headers": headers})
        return str(self.app.state.sessions.csrf(request))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path)
    with made.client:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    limits = Limits(strange_burst=10_000.0, burst=10_000.0, body=2000)
    made = Api(tmp_path_factory.mktemp("security"), limits=limits)
    with made.client:
        yield made


@pytest.fixture
def generous(shared: Api) -> Api:
    """One app for many tests, whose callers may ask as often as they like."""
    shared.client.cookies.clear()
    return shared


# Headers


@pytest.mark.parametrize("path", ["/v1/whoami", "/v1/nothing", "/v1/openapi.json", "/v1/fails/bug"])
def test_every_answer_has_the_headers(generous: Api, path: str) -> None:
    found = generous.client.get(path).headers
    csp = found["Content-Security-Policy"]
    assert "default-src 'self'" in csp
    assert "frame-ancestors 'none'" in csp
    assert "unsafe" not in csp
    assert "http" not in csp
    assert found["X-Content-Type-Options"] == "nosniff"
    assert found["X-Frame-Options"] == "DENY"
    assert found["Referrer-Policy"] == "no-referrer"
    assert found["Cache-Control"] == "no-store"
    assert re.fullmatch("[0-9a-f]{32}", found["X-Request-Id"])
    assert "Strict-Transport-Security" not in found
    assert "server" not in found


def test_a_request_has_an_id_of_the_servers_own(generous: Api) -> None:
    mine = {"X-Request-Id": "f" * 32}
    ids = {
        generous.client.get("/v1/whoami", headers=mine).headers["X-Request-Id"] for _ in range(3)
    }
    assert len(ids) == 3
    assert mine["X-Request-Id"] not in ids


def test_with_tls_a_browser_keeps_to_it(tmp_path: Path) -> None:
    made = Api(tmp_path, tls=True)
    with made.client:
        assert "Strict-Transport-Security" in made.client.get("/v1/whoami").headers
        assert list(made.session(made.token())) == ["__Host-tacit"]
        assert made.client.get("/v1/whoami").status_code == 200
    assert all(word in made.cookie for word in ("Secure", "HttpOnly", "SameSite=strict", "Path=/"))
    assert "Domain" not in made.cookie


# Answers


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("fails/config", 400, "cohort=0"),
        ("fails/conflict", 409, "it was moved"),
        ("fails/state", 409, "retired"),
        ("fails/budget", 409, "epsilon=1"),
        ("fails/path", 503, "the operator's log"),
        ("fails-inside", 503, "the operator's log"),
        ("fails/busy", 503, "the operator's log"),
        ("fails/bug", 500, "the operator's log"),
    ],
)
def test_errors_are_problems(generous: Api, path: str, status: int, said: str) -> None:
    found = generous.client.get(f"/v1/{path}", headers=generous.bearer())
    assert found.status_code == status
    assert found.headers["Content-Type"] == "application/problem+json"
    body = found.json()
    assert body["status"] == status
    assert body["request"] == found.headers["X-Request-Id"]
    assert said in body["detail"]
    assert not any(word in found.text for word in ("/srv", "Traceback", "secret", "File"))
    if status == 409 and "moved" in said:
        assert body["current"] == {"leaf": 7}


def test_what_isnt_of_the_form_isnt_repeated(generous: Api) -> None:
    wanted = {"name": "x", "role": "somesecret", "days": 1}
    found = generous.client.post("/v1/tokens", json=wanted, headers=generous.bearer())
    assert found.status_code == 422
    assert found.json()["errors"][0]["where"] == "body.role"
    assert "somesecret" not in found.text


@pytest.mark.parametrize("text", ["", "{", "[1", "null", '"x"', "\xff", '{"days": 1e999}'])
def test_bodies_that_cant_be_read(generous: Api, text: str) -> None:
    headers = {**generous.bearer(), "Content-Type": "application/json"}
    found = generous.client.post("/v1/tokens", content=text.encode("latin-1"), headers=headers)
    assert found.status_code in (400, 422)
    assert found.headers["Content-Type"] == "application/problem+json"


# Who calls


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic YTpi", "bearer  ", "\xe9"])
def test_whoever_isnt_known_hears_so(generous: Api, header: str) -> None:
    headers = {"Authorization": header.encode("latin-1")}
    found = generous.client.get("/v1/whoami", headers=headers)  # type: ignore[arg-type]
    assert found.status_code == 401
    assert found.headers["WWW-Authenticate"].startswith("Bearer")
    other = generous.client.get("/v1/whoami")
    assert _bare(found.text) == _bare(other.text)


def _bare(text: str) -> str:
    return re.sub(r'"request": "[0-9a-f]{32}"', "", text)


@pytest.mark.parametrize("role", ["viewer", "reviewer", "operator", "admin"])
def test_each_role_may_what_it_may(generous: Api, role: str) -> None:
    due = {"viewer": 2, "reviewer": 3, "operator": 5, "admin": 6}[role]
    actions = ("read", "score", "review", "operate", "erase", "administer")
    headers = generous.bearer(role)
    statuses = [
        generous.client.get(f"/v1/may/{each}", headers=headers).status_code for each in actions
    ]
    assert statuses == [200] * due + [403] * (6 - due)


def test_a_token_that_is_revoked_is_nobodys_at_once(generous: Api) -> None:
    headers = generous.bearer()
    me = generous.client.get("/v1/whoami", headers=headers).json()
    generous.app.state.tokens.revoke(me["token"])
    assert generous.client.get("/v1/whoami", headers=headers).status_code == 401


def test_a_token_expires(api: Api) -> None:
    headers = api.bearer()
    api.clock.seconds = 30 * 86400.0 - 1
    assert api.client.get("/v1/whoami", headers=headers).status_code == 200
    api.clock.seconds += 1
    assert api.client.get("/v1/whoami", headers=headers).status_code == 401


# Limits


def test_a_token_asks_so_often(api: Api) -> None:
    mine, other = api.bearer(), api.bearer()
    statuses = [api.client.get("/v1/whoami", headers=mine).status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    found = api.client.get("/v1/whoami", headers=mine)
    assert found.headers["Retry-After"].isdecimal()
    assert int(found.headers["Retry-After"]) >= 1
    assert api.client.get("/v1/whoami", headers=other).status_code == 200
    api.clock.seconds += 2.0
    statuses = [api.client.get("/v1/whoami", headers=mine).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_strangers_ask_less_often_and_hold_nobody_back(api: Api) -> None:
    known = api.bearer()
    guess = {"Authorization": f"Bearer tacit_{'0' * 16}_{'A' * 43}"}
    statuses = [api.client.get("/v1/whoami", headers=guess).status_code for _ in range(5)]
    assert statuses == [401] * 3 + [429] * 2
    assert api.client.get("/v1/openapi.json").status_code == 429
    assert api.client.get("/v1/whoami", headers=known).status_code == 200
    # Of a token with the right id and a wrong secret it is the address that pays.
    wrong = {"Authorization": known["Authorization"][:-1] + "_"}
    assert api.client.get("/v1/whoami", headers=wrong).status_code == 429
    api.clock.seconds += 2.0
    assert api.client.get("/v1/whoami", headers=guess).status_code == 401


def test_rates_remember_so_many_and_no_more() -> None:
    rates = Rates(LIMITS, lambda: 0.0)
    for k in range(1000):
        rates.token(f"t{k}")
        rates.stranger(f"10.0.{k // 256}.{k % 256}")
    assert len(rates._known) == len(rates._strange) == 4


def test_an_ipv6_network_is_one_stranger() -> None:
    rates = Rates(LIMITS, lambda: 0.0)
    for k in range(3):
        rates.stranger(f"2001:db8::{k}")
    with pytest.raises(Exception, match="too many"):
        rates.stranger("2001:db8::ffff")
    rates.stranger("2001:db8:1::")


def test_what_is_too_large_isnt_read(generous: Api) -> None:
    headers = {**generous.bearer(), "Content-Type": "application/json"}
    declared = generous.client.post("/v1/tokens", content=b"x" * 2001, headers=headers)
    assert declared.status_code == 413
    pieces: list[int] = []

    def streamed() -> Iterator[bytes]:
        for k in range(1000):
            pieces.append(k)
            yield b"x" * 1000

    found = generous.client.post("/v1/tokens", content=streamed(), headers=headers)
    assert found.status_code == 413
    assert found.json()["detail"] == "a request has at most 2000 bytes"


async def _slow(api: Api) -> tuple[list[dict[str, Any]], int]:
    """A request whose body stops after its first piece; what is sent back."""
    sent: list[dict[str, Any]] = []
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = {**api.bearer(), "Content-Type": "application/json"}
    headers = [(k.lower().encode(), v.encode()) for k, v in pairs.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/tokens", "headers": headers}
    scope |= {"query_string": b"", "raw_path": b"/v1/tokens", "root_path": "", "scheme": "http"}
    scope |= {"http_version": "1.1", "client": ("127.0.0.1", 9), "server": ("test", 80)}
    await api.app({**scope, "asgi": {"version": "3.0"}}, receive, send)
    return sent, asked


def test_what_takes_too_long_isnt_waited_for(tmp_path: Path) -> None:
    api = Api(tmp_path, limits=replace(LIMITS, patience=0.05))
    sent, asked = asyncio.run(_slow(api))
    assert (sent[0]["status"], asked) == (408, 2)
    assert b"too long" in sent[1]["body"]


def test_an_answer_that_fails_midway_is_cut_off(generous: Api) -> None:
    with pytest.raises(RuntimeError, match="had begun"):
        generous.client.get("/v1/breaks")


def test_who_waits_for_a_busy_ledger_holds_up_nobody_else(generous: Api) -> None:
    client, headers = generous.client, generous.bearer()
    assert client.get("/v1/models", headers=headers).status_code == 200
    here = generous.app.state.places.open("acme")
    waiting: anyio.CapacityLimiter = here.shared("recording", lambda: anyio.CapacityLimiter(1))
    # More than there are threads for requests.
    with ThreadPoolExecutor(60) as pool:
        with here.store.database.writing():
            asked = [pool.submit(client.get, "/v1/models", headers=headers) for _ in range(60)]
            while waiting.borrowed_tokens < waiting.total_tokens:
                pass
            assert client.get("/v1/whoami", headers=headers).status_code == 200
            assert not any(each.done() for each in asked)
        assert {each.result().status_code for each in asked} == {200}


# Sessions


def test_a_session_is_its_token(generous: Api) -> None:
    token = generous.token("operator", "olga")
    generous.session(token)
    assert all(word in generous.cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert "Secure" not in generous.cookie
    assert token not in generous.cookie
    me = generous.client.get("/v1/whoami").json()
    assert (me["name"], me["role"]) == ("olga", "operator")
    generous.app.state.tokens.revoke(me["token"])
    assert generous.client.get("/v1/whoami").status_code == 401


def test_a_session_ends_by_itself(api: Api) -> None:
    api.session(api.token())
    api.clock.seconds += LIMITS.session - 1
    assert api.client.get("/v1/whoami").status_code == 200
    api.clock.seconds += 1
    assert api.client.get("/v1/whoami").status_code == 401


def test_a_session_ends_when_told(generous: Api) -> None:
    from starlette.requests import Request
    from starlette.responses import Response

    cookie = generous.session(generous.token())
    ((name, value),) = cookie.items()
    request = Request({"type": "http", "headers": [(b"cookie", f"{name}={value}".encode())]})
    generous.app.state.sessions.end(request, Response())
    assert generous.client.get("/v1/whoami").status_code == 401


def test_a_token_has_so_many_sessions(generous: Api) -> None:
    token = generous.token()
    cookies = []
    for _ in range(18):
        cookies.append(generous.session(token))
        generous.clock.seconds += 1
    alive = []
    for cookie in cookies:
        generous.client.cookies.clear()
        for name, value in cookie.items():
            generous.client.cookies.set(name, value)
        alive.append(generous.client.get("/v1/whoami").status_code == 200)
    assert alive == [False] * 2 + [True] * 16


def test_the_database_has_no_cookie(api: Api, tmp_path: Path) -> None:
    ((_, value),) = api.session(api.token()).items()
    csrf = api.csrf()
    data = b"".join(path.read_bytes() for path in tmp_path.glob("access.db*"))
    assert value.encode() not in data
    assert csrf.encode() not in data


def test_a_form_has_to_be_the_sessions(generous: Api) -> None:
    client = generous.client
    generous.session(generous.token("viewer", "eve"))
    stranger = generous.csrf()
    generous.session(generous.token("admin", "ann"))
    assert client.post("/v1/form", data={}).status_code == 403
    assert client.post("/v1/form", data={"csrf": stranger}).status_code == 403
    assert client.post("/v1/form", json={"csrf": generous.csrf()}).status_code == 403
    assert client.post("/v1/form", data={"csrf": generous.csrf()}).json() == "ann"
    assert client.post("/v1/form", headers={"X-CSRF-Token": generous.csrf()}).json() == "ann"
    files = {"csrf": (None, generous.csrf())}
    assert client.post("/v1/form", files=files).json() == "ann"
    # A token that is shown in a header was put there by who knows it.
    client.cookies.clear()
    assert client.post("/v1/form", headers=generous.bearer()).json() == "ann"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_sends_changes_nothing(generous: Api, site: str) -> None:
    headers = {**generous.bearer(), "Sec-Fetch-Site": site}
    assert generous.client.post("/v1/form", headers=headers).status_code == 403
    assert generous.client.get("/v1/whoami", headers=headers).status_code == 200


def test_no_cookie_of_another_make_is_a_session(generous: Api) -> None:
    for value in ("", "x", "A" * 43, "A" * 10_000):
        generous.client.cookies.clear()
        generous.client.cookies.set("tacit", value)
        assert generous.client.get("/v1/whoami").status_code in (401, 429)


# Tokens by the API


def test_an_admin_issues_within_its_tenant_and_globs(generous: Api) -> None:
    client = generous.client
    tokens = generous.app.state.tokens
    Tenants(tokens.root).create("beta")
    theirs, row = tokens.issue("bob", "viewer", tenant="beta", lifetime=DAY)
    some = {"tenant": "acme", "models": ["d*"], "lifetime": DAY}
    narrow = {"Authorization": f"Bearer {tokens.issue('ann', 'admin', **some)[0]}"}
    wanted = {"name": "new", "role": "viewer", "days": 3}
    assert client.post("/v1/tokens", json=wanted, headers=narrow).status_code == 403
    made = client.post("/v1/tokens", json={**wanted, "models": ["digits"]}, headers=narrow)
    assert made.status_code == 201
    assert tokens.authenticate(made.json()["token"]).tenant == "acme"
    wide = client.post("/v1/tokens", json=wanted, headers=generous.bearer()).json()
    listed = client.get("/v1/tokens", headers=narrow).json()["tokens"]
    assert {each["name"] for each in listed} == {"ann", "new"}
    assert "digest" not in json.dumps(listed)
    gone = [
        client.delete(f"/v1/tokens/{identifier}", headers=narrow)
        for identifier in (row["id"], wide["id"], "f" * 16, "x")
    ]
    assert {found.status_code for found in gone} == {404}
    assert len({_bare(found.text) for found in gone}) == 1
    tokens.authenticate(theirs)
    mine = made.json()["id"]
    assert client.delete(f"/v1/tokens/{mine}", headers=narrow).json()["revoked"]


@pytest.mark.parametrize("role", ["viewer", "reviewer", "operator"])
def test_nobody_else_issues(generous: Api, role: str) -> None:
    wanted = {"name": "new", "role": "admin", "days": 3}
    headers = generous.bearer(role)
    assert generous.client.post("/v1/tokens", json=wanted, headers=headers).status_code == 403
    assert generous.client.get("/v1/tokens", headers=headers).status_code == 403
    assert generous.client.delete("/v1/tokens/x", headers=headers).status_code == 403
