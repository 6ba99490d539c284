"""Debian's Chromium, driven against a real server on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tacit.server.api.app import make_app
from tacit.server.api.settings import Limits, Settings

DRIVER = "/usr/bin/chromedriver"
_ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-prefers-reduced-motion"),
)
_LOGS = {"browser": "ALL", "performance": "ALL"}


@contextlib.contextmanager
def serving(root: Path, limits: Limits | None = None) -> Iterator[str]:
    """A server of a home on a free port of loopback; gives its address."""
    found = limits or Limits(rate=1e6, burst=1e6, strange_rate=1e6, strange_burst=1e6)
    app = make_app(root, Settings(limits=found))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


class Browser:
    """One browser with a profile of its own.

    Args:
        profile: a fresh folder.
        address: of the server.
    """

    def __init__(self, profile: Path, address: str) -> None:
        options = webdriver.ChromeOptions()
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", _LOGS)
        service = Service(executable_path=DRIVER)
        self.driver = webdriver.Chrome(service=service, options=options)
        self.address = address
        self._ours: dict[str, str] = {}
        self.driver.set_page_load_timeout(60)

    def close(self) -> None:
        """Ends it."""
        self.driver.quit()

    def open(self, path: str) -> None:
        """Goes to a page of the server."""
        self.driver.get(self.address + path)

    def log_in(self, token: str) -> None:
        """Begins a session."""
        self.open("/login")
        self.driver.find_element(By.ID, "token").send_keys(token)
        self.click("main button")

    @contextlib.contextmanager
    def turning(self) -> Iterator[None]:
        """Waits until what is done within has led to another page."""
        before = self.driver.find_element(By.TAG_NAME, "html")
        yield
        # Between two pages chromedriver may answer with an error of its own, not that it is stale.
        wait = WebDriverWait(self.driver, 60, ignored_exceptions=(WebDriverException,))
        wait.until(staleness_of(before))
        loaded = "return document.readyState"
        wait.until(lambda driver: driver.execute_script(loaded) == "complete")

    def click(self, css: str) -> None:
        """Clicks what leads to another page."""
        with self.turning():
            self.driver.find_element(By.CSS_SELECTOR, css).click()

    def text(self, css: str = "main") -> str:
        """What a part of the page says."""
        return self.driver.find_element(By.CSS_SELECTOR, css).text

    def size(self, width: int, height: int = 900, scale: float = 1.0) -> None:
        """Makes the window so large."""
        given = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", given)

    def scheme(self, scheme: str) -> None:
        """Asks for "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """What the console said since it was last asked, but for recommendations."""
        logged = self.driver.get_log("browser")
        return [e["message"] for e in logged if e["level"] not in ("DEBUG", "INFO")]

    def strange(self) -> list[str]:
        """Requests of our pages that went elsewhere or failed, since this was last asked.

        What the browser asks by itself, before it shows a page of ours, is not among them.
        """
        here, found = urlsplit(self.address).netloc, list[str]()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            said, number = message["params"], message["params"].get("requestId", "")
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(said["request"]["url"])
                if said["documentURL"].startswith(self.address):
                    self._ours[number] = url.geturl()
                    if url.netloc != here and url.scheme != "data":
                        found.append(f"asked {url.geturl()[:200]}")
            elif number not in self._ours:
                continue
            elif message["method"] == "Network.responseReceived":
                status = said["response"]["status"]
                if status >= 400:
                    found.append(f"{status} {self._ours[number][:200]}")
            elif message["method"] == "Network.loadingFailed" and not said.get("canceled"):
                found.append(f"{said.get('errorText')} {self._ours[number][:200]}")
        return found
