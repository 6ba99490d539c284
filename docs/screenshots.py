"""Takes docs/images/dashboard-*.png: a short story by tacit's own commands, looked at in Chromium.

Run: python docs/screenshots.py (`make screenshots`); about two minutes. It needs Debian's chromium
and chromium-driver, and no network.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

TARGET = Path(__file__).parent / "images"
TACIT = str(Path(sys.executable).parent / "tacit")
TRAINING = [
    *("mechanism=central", "aggregation=plain", "evaluation=federated", "evaluation.cap=6"),
    *("evaluation.noise_multiplier=3", "rounds=12", "budget.wait=0"),
]
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)
# Name, page, scheme and width.
PICTURES = (
    ("overview", "/", "light", 1180),
    ("budget", "/population?id=digits", "light", 1180),
    ("quality", "/quality/model?name=digits", "light", 1180),
    ("model", "/model?name=digits", "dark", 1180),
    ("leaf", "/ledger/{charge}", "light", 1180),
    ("phone", "/population?id=digits", "dark", 390),
)
HEIGHT, PHONE = 900, 844


def main() -> None:
    """Makes the home, serves it, takes the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        story(home, Path(folder))
        charge = next(
            leaf["index"]
            for leaf in told(home, "ledger", "show", "--json")["leaves"]
            if leaf["kind"] == "CHARGE" and leaf["body"]["round"] == 3
        )
        issued = told(home, "access", "token", "issue", "Ada", "--role", "operator", "--days", "1",
                      "--json")  # fmt: skip
        with serving(home) as address, browser(Path(folder) / "profile") as driver:
            log_in(driver, address, issued["token"])
            for name, page, scheme, width in PICTURES:
                path = TARGET / f"dashboard-{name}.png"
                take(driver, address + page.format(charge=charge), scheme, width, path)
                print(f"{path.name}: {path.stat().st_size // 1000} kB")


def story(home: Path, folder: Path) -> None:
    """A policy, two trainings, a gate that decides on a rollout, and a run that waits."""
    reviewer = tacit(home, "ledger", "keygen", str(folder / "rita.key"), "--name", "rita").strip()
    policy = ("ledger", "policy", "digits", "--epsilon", "12", "--delta", "1e-4")
    tacit(home, *policy, "--window-days", "90")
    tacit(home, "simulate", *TRAINING, "seed=1")
    tacit(home, "models", "promote", "digits@10", "--reason", "the best of the first run")
    tacit(home, "retrain", "digits", "seed=2")
    tacit(home, "models", "promote", "digits@24", "--alias", "challenger", "--reason",
          "newer data")  # fmt: skip
    tacit(home, "gate", "set", "digits", "--at-least", "0.6", "--windows", "8", "--reason",
          "as agreed in review 12")  # fmt: skip
    found = told(home, "rollout", "digits", "--challenger", "24", "--rounds", "16", "--json")
    evidence = [str(window["leaf"]) for window in found["rollout"]["arms"][1]["windows"]]
    named = [word for leaf in evidence for word in ("--evidence", leaf)]
    promote = ("models", "promote", "digits@24", "--reason", "better on the clients' own data")
    tacit(home, *promote, *named, fails=True)
    tacit(home, *policy, "--window-days", "90", "--review-epsilon", "2", "--reviewer", reviewer)
    tacit(home, "simulate", *TRAINING, "seed=3", "rounds=40", fails=True)


def tacit(home: Path, *words: str, fails: bool = False) -> str | None:
    """One of tacit's commands; what it printed, or None if it failed and may."""
    where = () if words[:2] == ("ledger", "keygen") else ("--home", str(home))
    print("tacit", *words)
    command = [TACIT, *words, *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return done.stdout
    if not fails:
        raise SystemExit(f"it failed: {done.stderr.strip()}")
    print("  refused:", " ".join(done.stderr.split())[-300:])
    return None


def told(home: Path, *words: str) -> Any:
    """What a command says in JSON."""
    return json.loads(tacit(home, *words) or "")


@contextlib.contextmanager
def serving(home: Path) -> Iterator[str]:
    """``tacit api`` on a free port of loopback; gives its address."""
    command = [TACIT, "api", "--port", "0", "--json", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        text = ""
        try:
            while True:
                text += process.stdout.readline()
                with contextlib.suppress(ValueError):
                    yield str(json.loads(text)["url"])
                    return
        finally:
            process.terminate()


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(
        service=Service(executable_path="/usr/bin/chromedriver"), options=options
    )
    try:
        yield driver
    finally:
        driver.quit()


def log_in(driver: webdriver.Chrome, address: str, token: str) -> None:
    """Begins a session, and waits until the ledger was checked once."""
    driver.get(f"{address}/login")
    driver.find_element(By.ID, "token").send_keys(token)
    driver.find_element(By.CSS_SELECTOR, "main button").click()
    for _ in range(20):
        driver.get(f"{address}/verification")
        if "under way" not in driver.find_element(By.TAG_NAME, "main").text:
            return
    raise SystemExit("the ledger wasn't checked in time")


def take(driver: webdriver.Chrome, url: str, scheme: str, width: int, path: Path) -> None:
    """One picture."""
    phone = width < 600
    size = {"width": width, "height": PHONE if phone else HEIGHT, "mobile": False}
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 2 if phone else 1}
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(url)
    data = base64.b64decode(driver.get_screenshot_as_base64())
    with Image.open(io.BytesIO(data)) as picture:
        picture.convert("RGB").save(path, optimize=True)


if __name__ == "__main__":
    main()
