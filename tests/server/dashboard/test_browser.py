"""The dashboard in a real browser, against a real server."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import dashboards
import pytest
from browsing import Browser, serving
from dashboards import REVIEWER
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tacit.privacy.log.leaves import statement
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

PAGES = [
    "/", "/models", "/model?name=tiny", "/version?name=tiny&number=5", "/runs", "/populations",
    "/population?id=tiny", "/quality", "/quality/model?name=tiny", "/approvals", "/audits",
    "/ledger", "/ledger/8", "/verification", "/erasures", "/access", "/login",
    "/moves?name=tiny&alias=champion&number=6",
]  # fmt: skip
# Of each text the contrast with what is behind it, and the page's width beyond the window.
_CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => { v /= 255;
  return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b; };
const parts = text => text.match(/[\\d.]+/g).map(Number);
const behind = e => { for (; e; e = e.parentElement) {
  const c = parts(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
const poor = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length || e.closest('option, datalist')) continue;
  const style = getComputedStyle(e), svg = e.closest('svg');
  const color = parts(svg ? style.fill : style.color), a = light(color.slice(0, 3));
  const b = light(behind(svg ? svg.parentElement : e));
  const found = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (found < 4.5) poor.push(e.tagName + ' ' + e.textContent.trim().slice(0, 30) + ' ' + found);
}
return poor;
"""
_SCHEME = "return getComputedStyle(document.body).backgroundColor"
_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("browsed")
    dashboards.fill(made)
    dashboards.hostile(made)
    return made


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with serving(root) as made:
        yield made


@pytest.fixture
def browser(root: Path, address: str, tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path / "profile", address)
    try:
        made.size(1280)
        yield made
        # Whatever a test does, nothing fails on the way and nobody else is asked.
        assert made.complaints() == []
        assert made.strange() == []
    finally:
        made.close()


def follow(browser: Browser, text: str) -> None:
    with browser.turning():
        browser.driver.find_element(By.LINK_TEXT, text).click()


def press(browser: Browser, *keys: str) -> None:
    for key in keys:
        browser.driver.switch_to.active_element.send_keys(key)


def focused(browser: Browser) -> str:
    found = browser.driver.switch_to.active_element
    return found.text or found.get_attribute("id") or found.get_attribute("name") or ""


def test_a_number_is_followed_to_its_leaf_and_its_proof(root: Path, browser: Browser) -> None:
    browser.log_in(dashboards.token(root, "viewer"))
    assert browser.text("h1") == "Overview"
    follow(browser, "Populations")
    follow(browser, "tiny")
    spent = browser.driver.find_element(By.CSS_SELECTOR, "#budget .tiles dd a.n")
    number = spent.text
    assert re.fullmatch(r"\d+\.\d{3}", number)
    with browser.turning():
        spent.click()
    assert re.fullmatch(r"Leaf \d+: CHARGE", browser.text("h1"))
    assert "tacit-verify leaf-" in browser.text("#proof")
    with browser.turning():
        browser.driver.back()
    dot = browser.driver.find_elements(By.CSS_SELECTOR, "svg.chart a")[-1]
    assert f": {number}, leaf" in dot.find_element(By.TAG_NAME, "title").get_attribute(
        "textContent"
    )
    with browser.turning():
        dot.find_element(By.CSS_SELECTOR, "circle").click()
    assert "CHARGE" in browser.text("h1")
    follow(browser, "Verification")
    note = browser.text("#note")
    store = Store(Home(root))
    with store.database.reading() as c:
        notes = [row[0].strip() for row in c.exec_driver_sql("SELECT note FROM checkpoints")]
    store.close()
    assert note.strip() in notes


def test_a_move_behind_its_back_is_shown_and_decided_anew(root: Path, browser: Browser) -> None:
    browser.log_in(dashboards.token(root, "operator"))
    browser.open("/version?name=tiny&number=6")
    alias = browser.driver.find_element(By.ID, "alias")
    alias.clear()
    alias.send_keys("shadow")
    browser.click("form.inline button")
    assert browser.text("h1") == "Point shadow at version 6"
    assert "shadow was never moved" in browser.text()
    store = Store(Home(root))
    life = Lifecycle(store)
    life.move("tiny", "shadow", 2, expected=None, actor="bob", reason="I was first")
    browser.driver.find_element(By.ID, "reason").send_keys("it is better")
    browser.click("main form button")
    assert "Nothing was changed" in browser.text("[role=alert]")
    assert "I was first" in browser.text()
    reason = browser.driver.find_element(By.ID, "reason").get_attribute("value")
    assert reason == "it is better"
    # The answer is 409, which a browser's console repeats.
    assert all("409" in line for line in browser.complaints())
    assert all(line.startswith("409") for line in browser.strange())
    browser.click("main form button")
    assert browser.text("h1") == "tiny"
    now = life.current("tiny", "shadow")
    store.close()
    assert now is not None
    assert (now.number, now.actor, now.reason) == (6, "olga", "it is better")
    assert f"#{now.leaf}" in browser.text()


def test_an_approval_is_explained_and_handed_in(root: Path, browser: Browser) -> None:
    browser.log_in(dashboards.token(root, "reviewer"))
    follow(browser, "Approvals")
    said = browser.text("article")
    (run,) = set(re.findall(r"tacit ledger approve (\S+) --key", said))
    assert "tacit ledger sign" in said
    assert "Your key never leaves your machine" in said
    store = Store(Home(root))
    from tacit.server.governance import Governance

    body = Governance(store).draft(run, "approved", "by hand", None, str(REVIEWER.verifier))
    store.close()
    signature = base64.b64encode(REVIEWER.sign(statement(body))).decode()
    signed = json.dumps({**body, "signature": signature})
    browser.driver.find_element(By.ID, "signed").send_keys(signed)
    browser.click("form[action='/approvals'] button")
    assert "APPROVAL" in browser.text("h1")
    follow(browser, "Approvals")
    assert "Nothing waits" in browser.text()


def test_the_keyboard_is_enough(root: Path, browser: Browser) -> None:
    browser.open("/login")
    assert focused(browser) == "token"
    press(browser, dashboards.token(root, "operator"), Keys.TAB)
    assert focused(browser) == "Log in"
    with browser.turning():
        press(browser, Keys.ENTER)
    # First comes the way past the menu, and it is seen.
    browser.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    skip = browser.driver.switch_to.active_element
    assert skip.text == "Skip to the content"
    assert skip.rect["x"] >= 0
    assert skip.value_of_css_property("outline-style") != "none"
    press(browser, Keys.ENTER)
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    inside = "return document.getElementById('main').contains(document.activeElement)"
    assert browser.driver.execute_script(inside)
    # The menu in its order.
    browser.open("/models")
    seen = []
    for _ in range(14):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(focused(browser))
    menu = ["Overview", "Models", "Runs", "Populations", "Quality", "Approvals", "Audits"]
    assert seen[:3] == ["Skip to the content", "tacit", "Log out"]
    assert seen[3:10] == menu
    # A promotion without a mouse.
    browser.open("/version?name=tiny&number=4")
    browser.driver.find_element(By.ID, "alias").click()
    press(browser, Keys.CONTROL + "a", "watched", Keys.ESCAPE, Keys.TAB)
    with browser.turning():
        press(browser, Keys.ENTER)
    assert browser.text("h1") == "Point watched at version 4"
    while focused(browser) != "reason":
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    press(browser, "by keys alone", Keys.TAB, Keys.TAB, Keys.TAB)
    assert focused(browser) == "Point watched at version 4"
    with browser.turning():
        press(browser, Keys.ENTER)
    assert "by keys alone" in browser.text()


def test_every_page_on_a_phone_in_the_dark_and_in_print(root: Path, browser: Browser) -> None:
    browser.log_in(dashboards.token(root, "admin"))
    for scheme, back in (("dark", "rgb(15, 20, 25)"), ("light", "rgb(255, 255, 255)")):
        browser.scheme(scheme)
        for width in (360, 1280):
            browser.size(width)
            for page in PAGES:
                browser.open(page)
                assert browser.driver.execute_script(_SCHEME) == back
                assert browser.driver.execute_script(_WIDE) <= 0, (page, width)
                if width == 1280:
                    assert browser.driver.execute_script(_CONTRAST) == [], (page, scheme)
    printed = base64.b64decode(browser.driver.print_page())
    assert printed.startswith(b"%PDF")


def test_a_page_that_isnt_there_says_so(root: Path, browser: Browser) -> None:
    browser.open("/runs")
    assert browser.text("h1") == "Log in"
    browser.log_in(dashboards.token(root, "viewer"))
    browser.open("/model?name=none")
    assert browser.text("h1") == "Not here"
    assert all("404" in line for line in browser.complaints())
    assert all(line.startswith("404") for line in browser.strange())
    browser.click(".who button")
    assert browser.text("h1") == "Log in"
    browser.open("/")
    assert browser.text("h1") == "Log in"
