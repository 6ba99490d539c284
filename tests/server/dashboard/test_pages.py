"""Every page, asked without a browser: on an empty home, a full one, and one with hostile names."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import dashboards
import pytest
from dashboards import REVIEWER
from fastapi.testclient import TestClient

from tacit.privacy.log.leaves import statement
from tacit.server.access.roles import ROLES
from tacit.server.api.app import make_app
from tacit.server.api.settings import Limits, Settings
from tacit.server.dashboard.pages import MENU
from tacit.server.dashboard.session import local
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

LIMITS = Limits(rate=1e6, burst=1e6, strange_rate=1e6, strange_burst=1e6)


class Visitor:
    """Somebody with a session."""

    def __init__(self, client: TestClient, root: Path, role: str, models: str = "*") -> None:
        self.client, self.cookies = client, {}
        token = dashboards.token(root, role, role, models)
        client.cookies.clear()
        answer = client.post("/login", data={"token": token}, follow_redirects=False)
        assert answer.status_code == 303
        self.cookies = dict(answer.cookies)

    def get(self, url: str, status: int = 200) -> str:
        self._be()
        answer = self.client.get(url, follow_redirects=False)
        assert answer.status_code == status, (url, answer.text[-600:])
        return answer.text

    def post(self, url: str, data: dict[str, str], status: int = 303, csrf: bool = True) -> str:
        self._be()
        if csrf:
            found = re.search(r'name="csrf" value="([^"]+)"', self.client.get("/").text)
            assert found
            data = {**data, "csrf": found[1]}
        answer = self.client.post(url, data=data, follow_redirects=False)
        assert answer.status_code == status, (url, answer.text[-600:])
        return answer.headers.get("location") or answer.text

    def _be(self) -> None:
        self.client.cookies.clear()
        self.client.cookies.update(self.cookies)


class Numbers(HTMLParser):
    """The cells of numbers on a page, and for each whether a link to a leaf is around it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[list[tuple[str, str]]] = []
        self.links: list[str] = []
        self._inside, self._link, self._section = False, "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "td" and "num" in (given.get("class") or "").split():
            self._inside = True
            self.cells.append([])
        if tag == "a":
            self._link = given.get("href") or ""
            self.links.append(self._link)

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._inside = False
        if tag == "a":
            self._link = ""

    def handle_data(self, data: str) -> None:
        if self._inside and any(c.isdigit() for c in data):
            self.cells[-1].append((data.strip(), self._link))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full")
    dashboards.fill(root)
    return root


@pytest.fixture(scope="module")
def client(full: Path) -> Iterator[TestClient]:
    with opened(full) as made:
        yield made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, full: Path) -> Iterator[TestClient]:
    import shutil

    root = tmp_path_factory.mktemp("hostile") / "home"
    shutil.copytree(full, root)
    dashboards.hostile(root)
    with opened(root) as made:
        yield made


def opened(root: Path) -> TestClient:
    return TestClient(make_app(root, Settings(limits=LIMITS)), base_url="http://127.0.0.1")


def root_of(client: TestClient) -> Path:
    root: Path = client.app.state.tokens.root  # type: ignore[attr-defined]
    return root


def crawl(who: Visitor, skipped: str = "-") -> dict[str, str]:
    """Every page that links lead to, each of which has to be there."""
    found: dict[str, str] = {}
    todo = ["/"]
    while todo:
        url = todo.pop(0)
        if url in found or re.match(skipped, url):
            continue
        found[url] = who.get(url)
        if "<main" in found[url]:
            links = re.findall(r'href="(/[^"#]*)', found[url])
            todo += [link for link in map(html.unescape, links) if link not in found]
    return found


def test_an_empty_home_says_what_to_do(tmp_path: Path) -> None:
    Store(Home(tmp_path)).close()
    with opened(tmp_path) as client:
        who = Visitor(client, tmp_path, "admin")
        for path, name, _ in MENU:
            page = who.get(path)
            assert f"<h1>{name}" in page
            # All but those of the ledger itself have nothing to show.
            assert 'class="empty"' in page or path in ("/ledger", "/verification", "/access")
            for column in ("<table",) if path not in ("/ledger", "/access") else ():
                assert column not in page.replace('aria-label="Epsilon', "")


def test_every_page_of_a_full_home_leads_on(client: TestClient) -> None:
    # Files have a test of their own.
    files = r"/version/|/ledger/\d+/proof|/ledger\?start"
    found = crawl(Visitor(client, root_of(client), "admin"), files)
    wanted = {"/model?name=tiny", "/version?name=tiny&number=5", "/population?id=tiny"}
    wanted |= {path for path, _, _ in MENU} | {"/quality/model?name=tiny"}
    assert wanted <= set(found)
    store = Store(Home(root_of(client)))
    size = len(store.leaves())
    store.close()
    leaves = {int(m[1]) for u in found if (m := re.fullmatch(r"/ledger/(\d+)", u))}
    assert leaves <= set(range(size))
    assert len(leaves) > 30
    page = found["/verification"]
    assert "holds" in page
    assert "doesn't hold" not in html.unescape(page)


@pytest.mark.parametrize(
    "url", ["/model?name=tiny", "/version?name=tiny&number=5", "/population?id=tiny",
            "/populations", "/quality/model?name=tiny", "/runs", "/run?id={run}", "/", "/models",
            "/approvals"],
)  # fmt: skip
def test_every_number_leads_to_a_leaf(client: TestClient, url: str) -> None:
    who = Visitor(client, root_of(client), "operator")
    store = Store(Home(root_of(client)))
    run = store.versions()[0]["run"]
    store.close()
    page = Numbers(who.get(url.format(run=run)))
    numbers = [number for cell in page.cells for number in cell]
    assert len(numbers) > 2 or url in ("/models", "/approvals")
    for text, link in numbers:
        assert re.fullmatch(r"/ledger/\d+", link), (text, link)
    for link in sorted({link for _, link in numbers})[:6]:
        who.get(link)


def test_a_figure_is_in_the_leaf_that_it_leads_to(client: TestClient) -> None:
    who = Visitor(client, root_of(client), "viewer")
    page = who.get("/version?name=tiny&number=5")
    cost = page[page.index('id="claims"') :]
    found = re.findall(r'href="(/ledger/\d+)" title="leaf \d+">(\d+\.\d{3})<', cost)
    assert len(found) >= 5
    for link, text in found:
        body = who.get(link)
        stated = [float(x) for x in re.findall(r"\d+\.\d{4,}", html.unescape(body))]
        assert any(0 <= float(text) - x < 1e-3 for x in stated), (link, text)


def test_hostile_names_are_text(hostile: TestClient) -> None:
    root = root_of(hostile)
    files = r"/version/|/ledger/\d+/proof|/ledger\?start"
    found = crawl(Visitor(hostile, root, "admin"), files)
    pages = {u: p for u, p in found.items() if "<main" in p}
    assert any("&lt;script&gt;" in page for page in pages.values())
    for url, page in pages.items():
        assert "<script" not in page, url
        assert "<b>eve" not in page, url
        assert "<i>code" not in page, url
        assert not re.search(r"[\x00\x01\u202a-\u202e\u2066-\u2069]", page), url
    named = {u for u in pages if u.startswith("/version?") and "script" in u}
    assert named
    assert any("\\u202e" in page for page in pages.values())


def test_pages_have_no_script_and_no_style_of_their_own(client: TestClient) -> None:
    who = Visitor(client, root_of(client), "admin")
    for path, _, _ in (*MENU, ("/population?id=tiny", "", ""), ("/model?name=tiny", "", "")):
        page = who.get(path)
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|javascript:", page), path
        assert not re.search(r'(src|href|action)="(https?:)?//', page), path
        assert page.count("<h1>") == 1, path
        levels = [int(x) for x in re.findall(r"<h([1-6])", page)]
        assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), path
        for name in re.findall(r'<(?:input|select|textarea)[^>]* id="([^"]+)"', page):
            assert f'<label for="{name}"' in page, (path, name)


def test_roles_see_what_they_may(client: TestClient) -> None:
    least = dict.fromkeys(("/erasures",), "operator") | {"/access": "admin"}
    for role in ROLES:
        who = Visitor(client, root_of(client), role)
        menu = who.get("/")
        for path, lowest in least.items():
            allowed = ROLES.index(role) >= ROLES.index(lowest)
            who.get(path, 200 if allowed else 403)
            assert (f'<a href="{path}"' in menu) == allowed
        page = who.get("/version?name=tiny&number=5")
        assert ("Point an alias here" in page) == (role in ("operator", "admin"))
    viewer = Visitor(client, root_of(client), "viewer")
    viewer.get("/moves?name=tiny&alias=champion&number=5", 403)
    viewer.post("/moves?name=tiny&alias=champion&number=5", {"reason": "x"}, 403)
    viewer.post("/approvals", {"signed": "{}"}, 403)


def test_what_isnt_the_callers_isnt_there(client: TestClient) -> None:
    who = Visitor(client, root_of(client), "operator", models="other*")
    store = Store(Home(root_of(client)))
    runs = [run["id"] for run in store.runs()]
    store.close()
    for path, _, action in MENU:
        if action == "read" and path != "/ledger":
            page = who.get(path)
            assert "tiny" not in page, path
            assert not any(run in page for run in runs), path
    places = [
        "/model?name={}", "/version?name={}&number=5", "/quality/model?name={}",
        "/moves?name={}&alias=champion&number=5", "/version/artifact?name={}&number=5",
        "/version/statement?name={}&number=5",
    ]  # fmt: skip
    for place in places:
        mine, nobodys = who.get(place.format("tiny"), 404), who.get(place.format("none"), 404)
        assert _said(mine) == _said(nobodys)
    assert _said(who.get(f"/run?id={runs[0]}", 404)) == _said(who.get("/run?id=none", 404))
    assert _said(who.get("/population?id=tiny", 404)) == _said(who.get("/population?id=x", 404))
    who.post("/moves?name=tiny&alias=champion&number=5", {"reason": "x"}, 404)


def _said(page: str) -> str:
    return re.sub(r"Request [0-9a-f]{32}", "", page)


def test_strangers_are_sent_to_log_in_and_back(client: TestClient) -> None:
    client.cookies.clear()
    answer = client.get("/model?name=tiny", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?to=%2Fmodel%3Fname%3Dtiny"
    wrong = client.post("/login", data={"token": "tacit_x"}, follow_redirects=False)
    assert wrong.status_code == 401
    assert "tacit_x" not in wrong.text
    token = dashboards.token(root_of(client), "viewer")
    right = client.post(
        "/login", data={"token": token, "to": "/model?name=tiny"}, follow_redirects=False
    )
    assert right.headers["location"] == "/model?name=tiny"
    assert "HttpOnly" in right.headers["set-cookie"]
    assert client.get("/runs").status_code == 200
    assert client.post("/logout", data={}).status_code == 403
    Visitor(client, root_of(client), "viewer").post("/logout", {})
    assert client.get("/runs", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("to", ["//evil", "/\\evil", "https://evil", "evil", "/\n/evil", ""])
def test_nobody_is_sent_elsewhere(to: str) -> None:
    assert local(to) == "/"


def test_an_alias_is_moved_once_and_a_second_hand_sees_the_first(
    hostile: TestClient,
) -> None:
    root = root_of(hostile)
    who = Visitor(hostile, root, "operator")
    place = "/moves?name=tiny&alias=champion&number=6"
    page = who.get(place)
    (expected,) = re.findall(r'name="expected" value="(\d+)"', page)
    store = Store(Home(root))
    life = Lifecycle(store)
    behind = life.move(
        "tiny",
        "champion",
        4,
        expected=int(expected),
        forced=True,
        actor="bob",
        reason="<b>I was first</b>",
    )
    form = {"expected": expected, "reason": "the best so far"}
    shown = who.post(place, form, 409)
    assert "Nothing was changed" in shown
    assert "&lt;b&gt;I was first" in shown
    assert f'name="expected" value="{behind.leaf}"' in shown
    assert "the best so far" in shown
    asked = {"expected": str(behind.leaf), "reason": "the best so far"}
    assert "isn&#39;t the evaluations of one rollout" in who.post(place, asked, 400)
    assert life.current("tiny", "champion") == behind
    # Past the gate: no evaluation of these was passed.
    form = {"expected": str(behind.leaf), "reason": "the best so far", "forced": "1"}
    who.post(place, form, 403, csrf=False)
    assert who.post(place, form).startswith("/model?name=tiny&moved=")
    moved = life.current("tiny", "champion")
    assert moved is not None
    assert (moved.number, moved.actor, moved.forced) == (6, "operator", True)
    back = "/moves?name=tiny&alias=champion&what=rollback"
    assert "named before" in who.get(back)
    who.post(back, {"expected": str(moved.leaf), "reason": "it was worse"})
    again = life.current("tiny", "champion")
    assert again is not None
    assert (again.kind, again.number) == ("ROLLBACK", 4)
    gone = "/moves?name=tiny&alias=champion&what=remove"
    who.post(gone, {"expected": str(again.leaf), "reason": "x", "evidence": "what"}, 400)
    who.post(gone, {"expected": str(again.leaf), "reason": " "}, 400)
    who.post(gone, {"expected": str(again.leaf), "reason": "no more"})
    assert "champion" not in life.aliases("tiny")
    who.get("/moves?name=tiny&alias=champion&number=99", 404)
    who.post("/moves?name=tiny&alias=Not+One&number=5", {"reason": "x"}, 400)
    store.close()


def test_an_approval_is_signed_elsewhere_and_handed_in(hostile: TestClient) -> None:
    root = root_of(hostile)
    who = Visitor(hostile, root, "reviewer")
    page = who.get("/approvals")
    (run,) = set(re.findall(r"tacit ledger approve (\S+) --key", page))
    key = str(REVIEWER.verifier)
    asked = f"/approvals/statement?run={run}&verdict=approved&note=go&key="
    body = json.loads(who.get(asked + key.replace("+", "%2B")))
    assert body["run"] == run
    signature = base64.b64encode(REVIEWER.sign(statement(body))).decode()
    for wrong in ("", "no", "[]", json.dumps(body), json.dumps({**body, "signature": "AAAA"})):
        assert "Nothing was taken in" in who.post("/approvals", {"signed": wrong}, 400)
    place = who.post("/approvals", {"signed": json.dumps({**body, "signature": signature})})
    assert "APPROVAL" in who.get(place)
    assert "Nothing waits" in who.get("/approvals")
    assert "go" in who.get("/approvals")
    assert "Nothing was taken in" in who.post(
        "/approvals", {"signed": json.dumps({**body, "signature": signature})}, 400
    )


def test_files_are_files(client: TestClient) -> None:
    who = Visitor(client, root_of(client), "viewer")
    proof = json.loads(who.get("/ledger/3/proof"))
    assert proof["index"] == 3
    assert who.get("/verification/checkpoint").startswith("tacit")
    assert "# Privacy statement of tiny@5" in who.get("/version/statement?name=tiny&number=5")
    for name in ("card", "bom", "lineage", "attestation", "artifact"):
        place = f"/version/{name}?name=tiny&number="
        assert f'href="{html.escape(place)}5" download' in who.get("/version?name=tiny&number=5")
        client.get(place + "5").raise_for_status()
        who.get(place + "99", 404)
    who.get("/ledger/99999", 404)
    who.get("/ledger/-1", 404)
    who.get("/ledger?kind=NONE", 404)
    # As a form sends it whose fields were left empty.
    assert "No such leaves" not in who.get("/ledger?kind=CHARGE&run=&start=")
    assert "No such leaves" in who.get("/ledger?kind=CHARGE&run=&start=99999")
    who.get("/static/none.css", 404)
    assert who.get("/model?name=tiny&number=x")
    who.get("/version?name=tiny&number=x", 422)


def test_reads_are_recorded_before_they_are_shown(client: TestClient) -> None:
    admin = Visitor(client, root_of(client), "admin")
    Visitor(client, root_of(client), "viewer").get("/version/artifact?name=tiny&number=2")
    page = admin.get("/access")
    assert "model tiny@2" in page
    assert "export" in page
    assert "model tiny" in admin.get("/access?subject=model+tiny+2")
